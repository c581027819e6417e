"""What README and documentation show works: their Python runs, their commands parse, their links and numbers hold."""

import contextlib
import doctest
import functools
import importlib
import io
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import torch
import yaml

import modeling_sim
from docs import make
from modeling_sim import SimConfig, SimForPreTraining, cli
from modeling_sim.commands import export, pretrain, train_decoder

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [path for path in PAGES if "templates" not in path.parts]
EXTEND = ROOT / "docs" / "extend.md"
BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"\n]*)\")?\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
NAME = {path: str(path.relative_to(ROOT)) for path in PAGES}
TEXT = {path: path.read_text(encoding="utf-8") for path in PAGES}


def blocks(path, language):
    return [(title, code) for found, title, code in BLOCK.findall(TEXT[path]) if found == language]


PYTHON = [
    pytest.param(path, code, id=f"{NAME[path]}-{number}")
    for path in PAGES
    if path != EXTEND
    for number, (_, code) in enumerate(blocks(path, "python"))
]
COMMANDS = [
    pytest.param(line.split("  #")[0].strip(), id=f"{NAME[path]}: {line[:50]}")
    for path in PAGES
    if path != EXTEND
    for _, code in blocks(path, "bash")
    for line in code.replace("\\\n", " ").splitlines()
    if re.match(r"([A-Z_]+=\S+ )?(modeling-sim|accelerate|torchrun|python training/)", line)
]
EXAMPLES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((ROOT / "modeling_sim").rglob("*.py"))
    if "    >>> " in path.read_text(encoding="utf-8")
]


@pytest.fixture(scope="module")
def folder_with_a_demo(tmp_path_factory):
    """A folder with a model and a decoder of its module 0, as the quickstart leaves them, trained for one step."""
    folder = tmp_path_factory.mktemp("docs")
    step = ["--crop_samples", "6000", "--batch_size", "4", "--max_steps", "1"]
    few = ["--corpus_settings", "{num_train: 8, num_test: 4}"]
    demo, decoder = str(folder / "runs/demo"), str(folder / "runs/decoder")
    pretrain.main(["--model_settings", "{context_size: 8}", *few, *step, "--output_dir", demo])
    train_decoder.main(["--model", demo, "--module", "0", *few, *step, "--output_dir", decoder])
    pytest.importorskip("onnxruntime", reason="the pages show exported encoders")
    export.main([demo, str(folder / "exported/demo")])
    for name in ("examples", "checkpoints"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.mark.trains
@pytest.mark.parametrize(("path", "code"), PYTHON)
def test_python_runs(path, code, folder_with_a_demo, monkeypatch):
    monkeypatch.chdir(folder_with_a_demo)
    exec(compile(code, NAME[path], "exec"), {"__name__": "page"})  # noqa: S102 - our own pages


@pytest.mark.parametrize("module", EXAMPLES)
def test_examples_of_docstrings_run(module):
    assert not doctest.testmod(importlib.import_module(module)).failed


def command_of(line):
    """Name and flags of the command of `modeling-sim` that a line runs."""
    words = [word for word in shlex.split(line) if not re.match(r"[A-Z_]+=", word)]
    script = next(
        number
        for number, word in enumerate(words)
        if re.search(r"(^modeling-sim|modeling_sim\.cli|training/\w+\.py)$", word)
    )
    if words[script].endswith(".py"):
        return Path(words[script]).stem.replace("_", "-").replace("analyze", "evaluate"), words[script + 1 :]
    return words[script + 1], words[script + 2 :]


@functools.cache
def help_of(command):
    with contextlib.redirect_stdout(io.StringIO()) as printed, pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert not ended.value.code
    return printed.getvalue()


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_has_the_flags_it_is_given(line):
    command, flags = command_of(line)
    if command.startswith("--"):
        return
    assert command in cli.COMMANDS
    for flag in flags:
        if flag.startswith("--") and flag != "--help":
            assert re.search(rf"{flag}\b", help_of(command)), f"{command} has no {flag}"
    for flag, value in itertools.pairwise(flags):
        if flag.endswith("_settings"):
            assert isinstance(yaml.safe_load(value), dict)


# What makes a command of the README small enough for a test.
SPEECH = "--corpus synthetic_syllables --corpus_settings '{num_train: 24, num_test: 16, num_speakers: 2}'"
STEP = "--crop_samples 6000 --batch_size 4 --max_steps 1 --eval_steps 0"
SMALLER = {
    "pretrain": f"{SPEECH} {STEP} --model_settings '{{hidden_size: 8, context_size: 4}}' --output_dir runs/demo",
    "train-decoder": f"{SPEECH} {STEP}",
    "evaluate": "--corpus_settings '{num_train: 24, num_test: 16, num_speakers: 2, num_syllables: 1}' "
    "--num_utterances 6 --num_pairs 4 "
    "--steps 3 --max_frames 400",
    "publish": "",
}


@pytest.mark.trains
def test_commands_of_the_readme_run_one_after_another(hub, tmp_path, monkeypatch):
    assert hub is not None  # that publish looks at
    monkeypatch.chdir(tmp_path)
    ran = []
    for parameter in COMMANDS:
        line = re.sub(r"--config \S+|--data_dir \S+", "", parameter.values[0])
        command, flags = command_of(line)
        if parameter.id.startswith("README.md") and command in SMALLER:
            cli.main([command, *flags, *shlex.split(SMALLER[command])])
            ran.append(command)
    assert ran == list(SMALLER)
    assert (tmp_path / "runs" / "evaluation" / "report.html").stat().st_size > 10_000


def test_no_launcher_hides_a_package_from_the_scripts_next_to_it():
    launchers = {path.stem for path in (ROOT / "training").glob("*.py")} - {"__init__"}
    assert launchers
    assert not launchers & {*packages_distributions(), *sys.stdlib_module_names}


def test_there_is_something_to_test():
    assert len(PYTHON) >= 8
    assert len(EXAMPLES) >= 9
    assert len(COMMANDS) >= 40


# ---------------------------------------------------------------------- extend.md


def applied(text, difference):
    """A file's text with a difference, whose context and removed lines must be found once, in this order."""
    lines = [(line[:1], line[1:]) for line in difference.splitlines()]
    old = "".join(f"{line}\n" for sign, line in lines if sign != "+")
    new = "".join(f"{line}\n" for sign, line in lines if sign != "-")
    assert f"\n{text}".count(f"\n{old}") == 1, f"not found once:\n{old}"
    return f"\n{text}".replace(f"\n{old}", f"\n{new}")[1:]


def install(folder):
    """Writes the metadata that pip would, so that Python finds the entry points of a folder's `pyproject.toml`."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    metadata = folder / f"{project['name']}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n", encoding="utf-8"
    )
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")


@pytest.mark.trains
@pytest.mark.slow
def test_the_walk_throughs_of_extend_work(tmp_path):
    package = shutil.copytree(
        ROOT / "modeling_sim", tmp_path / "modeling_sim", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(ROOT / "CITATION.cff", tmp_path)  # a part of the wheel
    program = ["import shlex", "from modeling_sim import cli"]
    for language, title, code in BLOCK.findall(TEXT[EXTEND]):
        place = package.parent / title.partition(", ")[0]
        if language == "diff":
            place.write_text(applied(place.read_text(encoding="utf-8"), code), encoding="utf-8")
        elif title.endswith("at the end"):
            place.write_text(place.read_text(encoding="utf-8") + code, encoding="utf-8")
        elif title:
            assert not place.exists()
            place.parent.mkdir(exist_ok=True)
            place.write_text(code, encoding="utf-8")
        elif language == "python":
            program.append(code)
        elif language == "bash":
            program += [f"cli.main(shlex.split({line!r})[1:])" for line in code.splitlines()]
    install(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(program)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for result in (
        "tone.png",
        "runs/tones-probe/probe.json",
        "runs/tones-report/report.html",
        "runs/sparse/config.json",
        "runs/pulled/config.json",
    ):
        assert (tmp_path / result).is_file()


# ---------------------------------------------------------------------- the README, links, numbers


def test_the_readme_counts_the_parameters_of_the_presets():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.+?`) \|.*\| ([\d,; ]+) \|$", text, re.MULTILINE)
    counted = {}
    for names, numbers in rows:
        counted |= zip(
            re.findall(r"`(.+?)`", names), [int(n.replace(",", "")) for n in numbers.split(";")], strict=True
        )
    assert set(counted) == set(SimConfig.preset_names())
    with torch.device("meta"):
        for name, number in counted.items():
            assert SimForPreTraining(SimConfig.preset(name)).num_parameters() == number, name


def test_the_readme_is_read_in_two_minutes():
    text = TEXT[ROOT / "README.md"]
    assert len(text.splitlines()) <= 130
    assert len(text.split()) <= 800


@pytest.mark.parametrize("path", PAGES, ids=NAME.get)
def test_links_pictures_and_named_files_are_there(path):
    prose = re.sub(r"```.*?```", "", TEXT[path], flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", make.with_address(prose, None)):
        if not link.startswith(("http", "#")):
            target = (path.parent / link.partition("#")[0]).resolve()
            assert target.exists(), f"{NAME[path]}: {link}"
            # The site has no other files.
            assert target.is_relative_to(make.DOCS) or not path.is_relative_to(make.DOCS), f"{NAME[path]}: {link}"
    for name in re.findall(r"`((?:benchmarks|docs|examples|model_cards|studies|tests|training)/[\w./-]+)`", prose):
        assert (ROOT / name).exists() or name.isupper() or "NAME" in name, f"{NAME[path]}: {name}"


def test_pages_of_results_are_what_the_results_give():
    make.main(["--check"])


def test_a_stale_page_is_named(monkeypatch):
    monkeypatch.setattr(make, "claims_page", lambda: "stale")
    with pytest.raises(SystemExit, match=r"paper_claims\.md"):
        make.main(["--check"])


def test_pictures_of_studies_are_those_of_their_results():
    for name, path in make.STUDY_PICTURES.items():
        assert (make.DOCS / "images" / name).read_bytes() == (ROOT / "studies" / path).read_bytes(), name


def test_pictures_hold_what_the_results_hold():
    figure = make.draw_results()
    left, right = figure.axes
    assert [label.get_text() for label in right.get_yticklabels()][-4:] == ["SIM", "GIM", "CPC", "supervised"]
    assert sum(len(line.get_xdata()) for line in right.lines) == 3 + 4 * 3  # one value of each control, three seeds
    assert len(left.get_yticklabels()) == 3 + 4  # controls, modules
    scores = make.Scores()
    results = scores.results["syllables"]
    cells = make.draw_verdicts(results, "t").axes[0].collections[0].get_array()
    drawn = {verdict: int((cells == number - 1).sum()) for number, verdict in enumerate(("loss", "undecided", "win"))}
    known = [
        c for c in results.comparisons if c.first == "SIM" and c.measure in make.CLAIMS and c.second in make.RIVALS
    ]
    assert drawn == {verdict: sum(c.verdict == verdict for c in known) for verdict in drawn}


def test_what_the_page_of_the_explorer_says_is_what_the_results_say():
    """The words of docs/templates/explorer.md that no template fills in."""
    modules = make.read_explorer("labels")["trained"]["modules"]
    of_seeds = [row for row in modules if row["module"] == "module 2" and "-seed" in row["model"]]
    assert {len(row["labels"]) for row in of_seeds} == {4, 5}
    wrong = [each["label"] for row in modules for each in row["labels"] if not each["right"]]
    assert sorted(each for each in wrong if "loudness" in each) == [
        "loudness, |rho| = .50; random axes .34",
        "loudness, |rho| = .52; random axes .36",
    ]
    silent = [end for end in make.read_explorer("moments_readable_own")["ends"] if end["dimension"] == 34]
    assert {end["best"] for end in silent} == {"pitch"}
    for end in silent:
        phone = end["properties"]["phone"]
        assert (phone["classes"], phone["share"] > 0.9) == (["SIL"], True)
    ends = make.read_explorer("moments_sim_temporal")["ends"]
    of_pitch = [end["words"] for end in ends if end["best"] == "pitch"]
    assert {end["dimension"] for end in ends if end["best"] == "pitch"} == {0, 4}
    assert not any(of_pitch)
    assert all(end["properties"]["phone"]["classes"][0] == "S" for end in ends if end["dimension"] == 18)


def test_what_the_pages_say_of_claims_is_what_the_counts_say():
    """The words of docs/templates/paper_claims.md and of the README, which no template can fill in."""
    scores = make.Scores()

    def counts(measure, rival):
        found = scores.verdicts(measure, rival)
        return found["win"], found["loss"]

    better, worse = counts("wasserstein", "GIM")
    assert better > 0
    assert worse == 0
    assert counts("mmd_whitened", "GIM")[0] == 0
    assert counts("curve_area_paper", "GIM") == (0, 0)
    assert counts("curve_area_paper", "GIM (Löwe)")[0] == 0
    assert counts("lipschitz_95", "GIM + noise") == (0, 0)
    assert counts("total_correlation", "GIM")[1] > counts("total_correlation", "GIM")[0]
    assert counts("linear_accuracy", "GIM")[1] == 0
    assert counts("abx_within", "log-mel")[0] == 0
    assert abs(scores.average("traversal_selectivity") - scores.average("traversal_selectivity", "null")) < 0.01
    data = make.probes_of_artificial_speech()["published syllable"]
    mean = {name: sum(values) / len(values) for name, values in data.items()}
    assert mean["log-mel"] > mean["CPC"] > max(mean["SIM"], mean["GIM"])


def test_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "version" not in project  # it is that of the package
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == modeling_sim.__version__


def test_links_of_the_readme_are_absolute_once_the_repository_has_an_address():
    text = "[![License](https://img.shields.io/x)](LICENSE) ![a](docs/a.png) [b](docs/b.md#c) [d](https://doi.org/1)"
    moved = make.with_address(text, "https://example.org/me/sim")
    assert re.findall(r"\]\(([^)]+)\)", moved) == [
        "https://img.shields.io/x",
        "https://example.org/me/sim/blob/main/LICENSE",
        "https://example.org/me/sim/raw/main/docs/a.png",
        "https://example.org/me/sim/blob/main/docs/b.md#c",
        "https://doi.org/1",
    ]
    assert make.with_address(moved, "https://example.org/me/sim") == moved
    assert make.with_address(moved, None) == text


def test_the_lock_agrees_with_the_constraints_and_names_no_address():
    lock = (ROOT / "constraints-lock.txt").read_text(encoding="utf-8")
    assert "://" not in lock
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", lock, flags=re.MULTILINE))
    constraints = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert constraints
    assert {name: pins.get(name) for name, _ in constraints} == dict(constraints)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    names = {re.match(r"[\w-]+", each).group().lower() for each in wanted} - {"modeling_sim"}
    assert names <= set(pins)


@pytest.mark.slow
def test_the_site_builds_and_no_link_is_dead(tmp_path):
    pytest.importorskip("zensical")
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    (tmp_path / "modeling_sim").symlink_to(ROOT / "modeling_sim")
    (tmp_path / "mkdocs.yml").write_text((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), encoding="utf-8")
    build = [sys.executable, "-m", "zensical", "build", "--strict"]
    subprocess.run(build, cwd=tmp_path, check=True, capture_output=True)
    assert "SimConfig" in (tmp_path / config["site_dir"] / "api" / "models" / "index.html").read_text(encoding="utf-8")
    with (tmp_path / "docs" / "index.md").open("a", encoding="utf-8") as page:
        page.write("\n[dead](nowhere.md)\n")
    assert subprocess.run(build, cwd=tmp_path, check=False, capture_output=True).returncode != 0


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(ROOT / "examples" / "notebook.ipynb", as_version=4)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    nbclient.NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = {kind for cell in notebook.cells for output in cell.get("outputs", []) for kind in output.get("data", {})}
    assert {"image/png", "text/html"} <= shown
    assert list(tmp_path.rglob("*.wav"))
