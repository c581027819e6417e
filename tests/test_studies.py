"""Studies: rows that are killed resume, tuning decides, and pages are made of whatever is done."""

import csv
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from filelock import FileLock

from modeling_sim import cli
from modeling_sim.evaluation import module_scores
from modeling_sim.evaluation.task import find_tokens
from modeling_sim.files import read_json
from modeling_sim.settings import merged
from studies import runner, tables
from studies.ablation import run as ablation
from studies.axes import agreement, measure
from studies.axes import page as axes_page
from studies.kl_weight import run as kl_weight
from studies.objectives import kept
from studies.objectives import run as objectives
from studies.pages import PAGE_NAME, results_of, write_page
from studies.release import run as release
from studies.runner import SCALES, Label, Place, Study, StudyRow

ROOT = Path(__file__).parents[1]
SIMCLR = {"preset": "gim-small", "objective": "simclr", "objective_settings": {"num_frames": 32}}


def tiny_rows():
    tuning = [
        StudyRow(f"simclr-tune{number}", "SimCLR", {**SIMCLR, "learning_rate": rate}, views=2, tuning=True)
        for number, rate in enumerate((1e-3, 3e-3))
    ]
    names = tuple(row.name for row in tuning)
    return [
        StudyRow("sim-0", "SIM", {"preset": "sim-small"}, has_controls=True),
        *tuning,
        StudyRow("simclr-0", "SimCLR", SIMCLR, views=2, tuned_by=names),
    ]


def tiny_page(place):
    write_page(place, "Tiny", "A page.", controls=("untrained", "log-mel"), drawn={"phones": ("linear_accuracy",)})


def place_of(study, folder, corpus="synthetic_syllables", scale="tiny"):
    results, runs = folder / "results", folder / "runs"
    results.mkdir()
    runs.mkdir()
    return Place(study, scale, SCALES[scale], corpus, None, "cpu", results, runs)


@pytest.fixture
def tiny(tmp_path):
    return place_of(Study(tmp_path / "tiny" / "run.py", "Tiny.", tiny_rows(), lambda _place: None), tmp_path)


def test_a_study_that_is_killed_resumes_and_gives_tables_and_pictures(tmp_path, monkeypatch, killed_at):
    def collapsed(*_):
        raise ValueError("module collapsed")

    label = Label("phones", "probes,concentration,distribution", axes="own,temporal")
    monkeypatch.setitem(runner.LABELS, "synthetic_syllables", (label,))
    monkeypatch.setitem(module_scores.SCORES, "distribution", collapsed)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")  # rows of all machines have that of their scale
    place = place_of(Study(tmp_path / "tiny" / "run.py", "Tiny.", tiny_rows(), tiny_page), tmp_path)
    rows = {row.name: row for row in place.rows}
    killed_at(3, lambda: runner.run_row(rows["sim-0"], place))
    assert place.result(rows["sim-0"]) is None
    tiny_page(place)
    assert "0 of 4 rows" in (place.results / PAGE_NAME).read_text()
    for row in place.rows:
        runner.run_row(row, place)
    found = {name: place.result(row) for name, row in rows.items()}
    assert found["sim-0"]["steps"] == 4
    assert found["sim-0"]["precision"] == "no"
    assert found["simclr-0"]["steps"] == 2
    assert found["sim-0"]["seconds_of_audio"] == found["simclr-0"]["seconds_of_audio"]
    scores = {name: runner.score_of(found[name]) for name in rows["simclr-0"].tuned_by}
    best = max(scores, key=scores.get)
    assert found["simclr-0"]["tuning"] == {"best": best, "rows": 2, "failed": 0}
    assert found["simclr-0"]["settings"]["learning_rate"] == rows[best].settings["learning_rate"]
    assert all(each.startswith("distribution of ") for each in found["sim-0"]["errors"]["phones"])
    kinds = {row["kind"] for row in found["sim-0"]["labels"]["phones"]}
    assert {"SIM", "SIM + SOBI", "untrained", "log-mel", "log-mel + SOBI"} <= kinds
    assert {row["kind"] for row in found["simclr-0"]["labels"]["phones"]} == {"SimCLR", "SimCLR + SOBI"}
    before = (place.results / "sim-0.json").read_bytes()
    runner.run_row(rows["sim-0"], place)  # is done
    assert (place.results / "sim-0.json").read_bytes() == before
    tiny_page(place)
    page = (place.results / PAGE_NAME).read_text()
    assert "4 of 4 rows" in page
    assert "sim-0, phones" in page
    assert "| | SIM | SimCLR | untrained | log-mel |" in page
    assert (place.results / "phones.png").stat().st_size > 3000


def test_results_without_a_newer_setting_are_those_of_its_default(tmp_path):
    row, place = tiny_rows()[0], place_of(ablation.STUDY, tmp_path)
    stored = asdict(row)
    del stored["decoder_settings"]
    (place.results / f"{row.name}.json").write_text(json.dumps({**place.common, "row": stored}))
    assert place.result(row)["row"]["name"] == row.name


def test_a_run_of_other_settings_is_refused_until_it_is_removed(tiny, monkeypatch):
    def train(words):
        Path(words[words.index("--output_dir") + 1]).mkdir(exist_ok=True)
        commands.append(words[0])

    commands = []
    monkeypatch.setattr(cli, "main", train)
    row, folder, file = tiny.rows[0], tiny.runs / "sim-0", tiny.runs / "sim-0-settings.json"

    def run(rate):
        runner._train(row, {**row.settings, "learning_rate": rate}, {}, folder, tiny)
        runner._train_decoder(0, row, {}, folder, tiny)

    run(1e-3)
    run(1e-3)
    with pytest.raises(ValueError, match=rf"{re.escape(str(folder))} .*{re.escape(str(file))}"):
        run(3e-3)
    folder.rmdir()
    file.unlink()
    with pytest.raises(ValueError, match=r"sim-0-decoder0-settings\.json"):  # it belongs to the removed model
        run(3e-3)
    assert commands == [*["pretrain", "train-decoder"] * 2, "pretrain"]


def test_a_row_needs_all_of_its_tuning_rows(tiny):
    for name in ("simclr-tune0", "simclr-tune1"):
        with pytest.raises(ValueError, match="simclr-tune1"):
            runner.run_row(tiny.rows[-1], tiny)
        write_result(tiny, name)


@pytest.mark.parametrize("other", [{"seed": 7}, {"removed_setting": 1}])
def test_results_of_other_settings_are_refused(other, tmp_path):
    study = Study(tmp_path / "tiny" / "run.py", "Tiny.", tiny_rows(), tiny_page)
    place = place_of(study, tmp_path)
    row = place.rows[0]
    (place.results / "sim-0.json").write_text(json.dumps({**place.common, "row": {**asdict(row), **other}}))
    with pytest.raises(ValueError, match=r"sim-0\.json"):
        place.result(row)


@pytest.mark.parametrize(
    "other", [{"scale": "small"}, {"scale_settings": asdict(SCALES["small"])}, {"schema": 0}, {"corpus": "librispeech"}]
)
def test_results_of_another_scale_or_corpus_are_refused(other, tiny):
    path = tiny.results / "sim-0.json"
    path.write_text(json.dumps({**tiny.common, "row": asdict(tiny.rows[0]), **other}))
    with pytest.raises(ValueError, match=r"sim-0\.json"):
        tiny.result(tiny.rows[0])
    with pytest.raises(SystemExit, match=r"sim-0\.json"):
        runner.main(tiny.study, ["--scale", "tiny", "--results", str(tiny.results), "--runs", str(tiny.runs), "--plan"])


@pytest.mark.parametrize("study", [objectives.STUDY, kl_weight.STUDY, ablation.STUDY], ids=lambda study: study.name)
def test_committed_results_count_as_done(study):
    for folder in (study.script.parent / "results").iterdir():
        place = Place.committed(study, *folder.name.split("_", 1))
        assert place.finished == {path.stem for path in folder.glob("*.json") if path.name != kept.FILE_NAME}


# ---------------------------------------------------------------------- rows in processes


def write_result(place, name):
    """Results of a row as if it had been measured."""
    row = next(row for row in place.rows if row.name == name)
    found = {"labels": {"phones": []}, "settings": row.settings, "seconds": 1.0}
    costs = {"precision": "no", "steps": 4, "training_seconds": 1.0, "seconds_of_audio": 1.0}
    runner._write(row, place, **found, **costs)


def run_command(place, monkeypatch, code_of, *flags):
    """Runs the command with rows that exit with a code or write results if it is 0; returns the names of the rows."""
    started = []

    def start(row, *_):
        started.append(row.name)
        code = code_of(row.name)
        if code == 0:
            write_result(place, row.name)
        (place.runs / f"{row.name}.log").write_text("the last line")
        end = f"os.kill(os.getpid(), {-code})" if code < 0 else f"os._exit({code})"
        return subprocess.Popen([sys.executable, "-S", "-c", f"import os; {end}"])

    monkeypatch.setattr(runner, "_start", start)
    folders = ["--results", str(place.results), "--runs", str(place.runs)]
    runner.main(place.study, ["--scale", "tiny", *folders, *flags])
    return started


def test_a_row_that_another_process_runs_is_skipped_with_those_that_wait_for_it(tiny, monkeypatch):
    monkeypatch.setattr(runner, "_LOCK_SECONDS", 0)
    with FileLock(tiny.runs / ".simclr-tune0.lock"), pytest.raises(SystemExit) as busy:
        runner.run_row(tiny.rows[1], tiny)
    started = run_command(tiny, monkeypatch, lambda name: busy.value.code if name == "simclr-tune0" else 0)
    assert started == ["sim-0", "simclr-tune0", "simclr-tune1"]
    assert {path.stem for path in tiny.results.glob("*.json")} == {"sim-0", "simclr-tune1"}


def test_a_row_that_is_killed_resumes_once_and_then_fails_while_others_run(tiny, monkeypatch):
    kills = iter([-9, 143, -9, 0])
    started = run_command(tiny, monkeypatch, lambda name: next(kills) if name in ("sim-0", "simclr-0") else 0)
    assert started == ["sim-0", "sim-0", "simclr-tune0", "simclr-tune1", "simclr-0", "simclr-0"]
    assert "error" in tiny.result(tiny.rows[0])
    assert len(tiny.done()) == 3
    assert run_command(tiny, monkeypatch, lambda _: 0, "--retry") == ["sim-0"]


def test_a_row_has_a_session_of_its_own(tiny):
    tiny.study.script.parent.mkdir()
    tiny.study.script.write_text("import os\nraise SystemExit(os.getsid(0) != os.getpid())")
    given = SimpleNamespace(processes=1)
    assert runner._start(tiny.rows[0], tiny, given, 0).wait() == 0


@pytest.mark.parametrize("damage", ["{", "[]", "{}", "\xff"])
def test_a_damaged_results_file_is_a_failed_row(damage, tiny, monkeypatch, capsys):
    assert run_command(tiny, monkeypatch, lambda _: 0) == [row.name for row in tiny.rows]
    path = tiny.results / "sim-0.json"
    path.write_bytes(damage.encode("latin-1"))
    capsys.readouterr()
    assert run_command(tiny, monkeypatch, lambda _: 0, "--plan") == []
    lines = capsys.readouterr().out.splitlines()
    assert [str(path) in line for line in lines] == [True, False, False, False]
    tiny_page(tiny)
    page = (tiny.results / PAGE_NAME).read_text()
    assert str(path) in page
    assert "3 of 4 rows" in page
    assert run_command(tiny, monkeypatch, lambda _: 0, "--retry") == ["sim-0"]


def test_a_budget_of_zero_starts_no_row(tiny, monkeypatch):
    assert run_command(tiny, monkeypatch, lambda _: 0, "--budget", "0s") == []


@pytest.mark.parametrize("data_dir", ["nothing", "empty"])
def test_data_that_is_not_there_fails_no_row(data_dir, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(runner, "_start", lambda *_: pytest.fail("a row was started"))
    study = Study(tmp_path / "tiny" / "run.py", "Tiny.", tiny_rows(), lambda _place: None)
    flags = ["--scale", "tiny", "--corpus", "librispeech", "--runs", str(tmp_path / "runs")]
    flags += ["--results", str(tmp_path / "results"), "--data_dir", str(tmp_path / data_dir)]
    with pytest.raises(SystemExit, match=data_dir):
        runner.main(study, flags)
    assert not [*(tmp_path / "results").iterdir()]


@pytest.mark.parametrize(("inherited", "seen"), [(None, "1"), ("2,5,7", "5"), ("GPU-a,GPU-b", "GPU-b")])
def test_rows_share_the_gpus_of_the_command(inherited, seen, tiny, monkeypatch):
    monkeypatch.setattr(runner, "_num_gpus", lambda: 2)
    if inherited is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", inherited)
    started = {}
    monkeypatch.setattr(subprocess, "Popen", lambda _, **settings: started.update(settings["env"]))
    runner._start(tiny.rows[0], tiny, SimpleNamespace(processes=3), 3)
    assert started["CUDA_VISIBLE_DEVICES"] == seen


def test_a_row_ends_if_its_parent_ended_while_it_started(tiny, monkeypatch):
    killed = threading.Event()
    monkeypatch.setattr(os, "kill", lambda *_: killed.set())
    monkeypatch.setattr(runner, "run_row", lambda *_: killed.wait(10))
    folders = ["--results", str(tiny.results), "--runs", str(tiny.runs)]
    runner.main(tiny.study, ["--scale", "tiny", *folders, "--only", "sim-0", "--parent", str(2**22 + 1)])
    assert killed.is_set()


@pytest.mark.slow
def test_a_killed_command_leaves_no_process_and_resumes(tmp_path):
    script = tmp_path / "tiny" / "run.py"
    script.parent.mkdir()
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        f"sys.path.insert(0, {str(ROOT / 'tests')!r})\n"
        "from test_studies import tiny_page, tiny_rows\n"
        "from studies.runner import Study, main\n"
        "main(Study(Path(__file__), 'Tiny.', tiny_rows(), tiny_page))\n"
    )
    folders = ["--results", str(tmp_path / "results"), "--runs", str(tmp_path / "runs")]
    command = [sys.executable, str(script), "--scale", "tiny", *folders]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 300
        while not list((tmp_path / "runs").glob("*/log.jsonl")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(timeout=120) != 0
    done = subprocess.run(
        [*command, "--processes", "2"], env=environment, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "[4 of 4]" in done.stdout
    assert (tmp_path / "results" / PAGE_NAME).is_file()


# ---------------------------------------------------------------------- plans and pages of the studies


@pytest.mark.parametrize("study", [objectives.STUDY, kl_weight.STUDY, ablation.STUDY], ids=lambda study: study.name)
def test_plans_have_unique_names_and_equal_tuning(study):
    rows = study.rows
    assert len({row.name for row in rows}) == len(rows)
    by_name = {row.name: row for row in rows}
    for number, row in enumerate(rows):
        tuning = [by_name[name] for name in row.tuned_by]
        assert not row.tuned_by or len(tuning) == 8
        assert all(rows.index(each) < number and each.tuning and each.seed == 0 for each in tuning)
    final = [row for row in rows if not row.tuning]
    work = {runner._steps(row, SCALES["small"]) * row.views for row in final}
    assert work == {1500}
    if study is objectives.STUDY:
        assert {sum(row.kind == kind for row in final) for kind in {row.kind for row in final}} == {3}


def test_greedy_rows_differ_from_end_to_end_rows_in_where_losses_and_gradients_are():
    by_name = {row.name: row for row in objectives.STUDY.rows}
    greedy = {name: row for name, row in by_name.items() if "-greedy-" in name}
    assert len(greedy) == 6 * len(objectives.SEEDS)
    for name, row in greedy.items():
        own = by_name[name.replace("-greedy", "")]
        assert row.tuned_by == own.tuned_by
        best = by_name[row.tuned_by[-1]].settings
        settings, end_to_end = (merged(best, each.settings) for each in (row, own))
        assert settings.pop("model_settings") == {"gradient_isolation": True, "contrastive_modules": "all"}
        assert end_to_end.pop("model_settings") == {"gradient_isolation": False, "contrastive_modules": "context"}
        assert settings == end_to_end


def test_methods_whose_momentum_rises_are_tuned_with_networks_that_follow_within_a_short_run():
    rows = [row for row in objectives.STUDY.rows if row.tuning and row.settings.get("objective") in ("byol", "dino")]
    steps = runner._steps(rows[0], SCALES["small"])
    for kind in {row.kind for row in rows}:
        momenta = [row.settings["objective_settings"]["momentum"] for row in rows if row.kind == kind]
        assert sorted(momenta) == [0.96] * 4 + [0.99] * 4
        progress = np.arange(1, steps + 1) / steps
        kept = np.prod(1 - (1 - min(momenta)) * (np.cos(np.pi * progress) + 1) / 2)
        assert kept < 0.1


def fill(place, kinds=None):
    """Results of every row, or of those of some kinds, as if they had been measured: a larger weight, less accuracy."""
    for number, row in enumerate(place.rows):
        if kinds is not None and row.kind not in kinds:
            continue
        modules = [
            {
                "kind": row.kind + axes,
                "representation": row.name + axes,
                "module": module,
                "measure": measure,
                "value": value,
            }
            for module, height in (("module 0", 0.5), ("module 2", 0.8))
            for measure, axes, value in (
                ("linear_accuracy", "", height - 0.01 * number),
                ("best_dimension_gap", "", 0.01 * number * height),
                ("best_dimension_gap", " + SOBI", 0.3),
            )
        ]
        result = {
            **place.common,
            "row": asdict(row),
            "settings": row.settings,
            "steps": 1500,
            "precision": "no",
            "seconds": 60.0,
            "seconds_of_audio": 30_720.0,
            "training_seconds": 50.0,
            "labels": {"phones": modules},
        }
        (place.results / f"{row.name}.json").write_text(json.dumps(result))


@pytest.mark.parametrize("study", [objectives.STUDY, kl_weight.STUDY, ablation.STUDY], ids=lambda study: study.name)
def test_pages_are_made_from_a_part_and_say_what_is_missing(study, tmp_path):
    place = place_of(study, tmp_path, scale="small")
    final = [row for row in place.rows if not row.tuning]
    fill(place, kinds={final[0].kind, next(row.kind for row in final if row.kind != final[0].kind)})
    study.write_page(place)
    page = (place.results / PAGE_NAME).read_text()
    missing = sum(row.kind == final[-1].kind for row in final)
    assert f"{final[-1].kind} ({missing})" in next(line for line in page.splitlines() if line.startswith("Missing: "))
    assert f"| | {final[0].kind} |" in page
    assert "| hours of audio |" in page
    assert (place.results / "phones.png").is_file()


def test_a_page_has_a_dash_and_a_note_for_what_could_not_be_measured(tmp_path):
    place = place_of(ablation.STUDY, tmp_path, scale="small")
    fill(place, kinds={"SIM", "GIM"})
    for row in [row for row in place.rows if row.kind == "SIM"]:
        path = place.results / f"{row.name}.json"
        result = read_json(path)
        rows = [each for each in result["labels"]["phones"] if each["measure"] != "linear_accuracy"]
        path.write_text(json.dumps({**result, "labels": {"phones": rows}, "errors": {"phones": ["collapsed"]}}))
    ablation.page(place)
    lines = (place.results / PAGE_NAME).read_text().splitlines()
    assert [line for line in lines if "collapsed" in line and "sim-0" in line]
    assert [line for line in lines if line.startswith("| Linear probe") and " | - | " in line]


def test_a_page_counts_the_models_without_temporal_components(tmp_path):
    place = place_of(ablation.STUDY, tmp_path, scale="small")
    fill(place, kinds={"SIM", "GIM"})
    path = place.results / f"{next(row.name for row in place.rows if row.kind == 'GIM')}.json"
    result = read_json(path)
    result["labels"]["phones"] = [each for each in result["labels"]["phones"] if "SOBI" not in each["kind"]]
    path.write_text(json.dumps(result))
    ablation.page(place)
    assert ": GIM (1)." in (place.results / PAGE_NAME).read_text()


def test_controls_are_hollow_and_spectra_are_averaged_over_seeds(tmp_path):
    place = place_of(ablation.STUDY, tmp_path, scale="small")
    fill(place, kinds={"SIM"})
    row = {"representation": "log-mel", "module": "frame", "measure": "linear_accuracy"}
    for path, value in zip(sorted(place.results.glob("sim-*.json")), (0.2, 0.3, 0.7), strict=True):
        result = read_json(path)
        result["labels"]["phones"] += [{**row, "kind": kind, "value": value} for kind in ("log-mel", "SIM + more")]
        path.write_text(json.dumps(result))
    kinds = ["SIM", "SIM + more", "log-mel"]
    results = results_of(place, "phones", kinds, ["log-mel"])
    assert np.mean(tables.values_of(results, "linear_accuracy", "module 0", "log-mel")) == pytest.approx(0.4)
    colors = {"SIM": "red", "SIM + more": "green", "log-mel": "blue"}
    figure = tables.draw(results, "", colors=colors, measures=["linear_accuracy"], modules=["module 0"])
    inside = {line.get_color(): line.get_markerfacecolor() for line in figure.axes[0].lines}
    assert inside == {"red": "red", "green": "green", "blue": "white"}


def test_the_page_of_kl_weights_says_where_accuracy_and_readability_part(tmp_path):
    place = place_of(kl_weight.STUDY, tmp_path, scale="small")
    fill(place)
    kl_weight.page(place)
    lines, temporal, control = kl_weight.curves(place)
    assert control is None  # no row has components of log-mel frames
    assert [weight for weight, _, _ in lines["all modules", "module 2"]] == sorted(kl_weight.WEIGHTS)
    assert len({name for name, _ in lines}) == 6
    figure = kl_weight.draw(lines, temporal, (0.8, 0.4))
    assert [len(axis.lines) for axis in figure.axes] == [5] * 6
    page = (place.results / PAGE_NAME).read_text()
    assert "- module 2: accuracy stays within" in page
    assert (place.results / "accuracy_and_readability.png").stat().st_size > 3000


# ---------------------------------------------------------------------- the release


def test_the_picture_of_the_documentation_is_replaced_only_by_one_of_all_models(tmp_path, monkeypatch, capsys):
    picture = tmp_path / "docs" / "release_steps.png"
    picture.parent.mkdir()
    picture.write_bytes(b"kept")
    monkeypatch.setattr(release, "PICTURE", picture)
    names = ["checkpoint-14000 untrained", "checkpoint-2000", "checkpoint-6000", "checkpoint-14000"]
    at = {"measure": "linear_accuracy", "value": 0.4, "low": 0.3, "high": 0.5}
    rows = [SimpleNamespace(kind="log-mel", module="", representation="log-mel", **at)]
    rows += [
        SimpleNamespace(kind="SIM", module=module, representation=name, **at)
        for module in ("module 2", "context")
        for name in names
    ]
    measured = SimpleNamespace(rows=rows, probe_measure="linear_accuracy")
    monkeypatch.setattr(release.Results, "read", lambda _path: measured)
    for number, name in enumerate(release.PRESETS):
        assert picture.read_bytes() == b"kept"
        (tmp_path / f"{name}-steps").mkdir()
        (tmp_path / f"{name}-steps" / "probe.json").write_text("{}")
        release.draw_steps(tmp_path, replace=True)
        said = capsys.readouterr().out
        assert [each for each in release.PRESETS if each in said] == list(release.PRESETS)[number + 1 :]
        assert (tmp_path / picture.name).is_file()
    assert picture.read_bytes() != b"kept"


# ---------------------------------------------------------------------- agreement of seeds


def test_a_misspelled_module_is_refused_once_the_model_is_loaded():
    path = str(ROOT / "checkpoints" / "sim-readable-small-librispeech")
    with pytest.raises(ValueError, match=r"`modules`.*'modul 2'.*module 2"):
        measure.encoder(path, ["context", "modul 2"])
    with pytest.raises(ValueError, match=r"`module`.*'modul 2'.*module 2"):
        agreement.frames_of(path, None, "modul 2")


def test_seeds_agree_on_slow_dimensions_that_both_have_and_not_on_rotated_fast_ones():
    generator = np.random.default_rng(0)
    lengths, persistence = [300, 500, 200], np.array([0.99, 0.97, 0.9, 0.0, 0.0, 0.0, 0.0, 0.0])
    shocks = generator.standard_normal((1000, 8))
    sources = np.zeros_like(shocks)
    for start, length in zip(np.cumsum([0, *lengths[:-1]]), lengths, strict=True):
        sources[start] = shocks[start]
        for frame in range(start + 1, start + length):
            sources[frame] = persistence * sources[frame - 1] + np.sqrt(1 - persistence**2) * shocks[frame]
    turn = np.linalg.qr(generator.standard_normal((5, 5)))[0]
    other = np.concatenate([-sources[:, 2:3], sources[:, :2], sources[:, 3:] @ turn], axis=1)
    pair = agreement.of_pair(sources, other, lengths)
    dimensions = {name: np.array(values) for name, values in pair["dimensions"].items()}
    np.testing.assert_allclose(dimensions["matched"][:3], 1, atol=1e-3)
    np.testing.assert_allclose(dimensions["linear"], 1, atol=1e-3)
    assert dimensions["matched"][3:].max() < 0.95
    # Against means over pairs of frames of one utterance.
    centered, lags = sources - sources.mean(axis=0), (1, 2, 4, 8, 16, 32, 64)
    parts = np.split(centered, np.cumsum(lengths)[:-1])
    products = [np.concatenate([part[lag:] * part[:-lag] for part in parts]).mean(axis=0) for lag in lags]
    naive = np.mean(products, axis=0) / np.square(centered).mean(axis=0)
    np.testing.assert_allclose(dimensions["autocorrelation"], np.sort(naive)[::-1], atol=1e-3)


# ---------------------------------------------------------------------- pages of axes


def cells_of(table, *starts):
    """Cells of the first row of a Markdown table whose first cells start so."""
    rows = [[cell.strip(" *`") for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return next(row for row in rows if all(cell.startswith(start) for cell, start in zip(row, starts, strict=False)))


def rows_of(name):
    with (axes_page.RESULTS / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_of_syllables_has_each_axes_next_to_their_own_control():
    rows = read_json(axes_page.RESULTS / "syllables.json")["rows"]

    def mean(model, axes, key):
        return np.mean([row[key] for row in rows if row["model"].startswith(model) and row["axes"] == axes])

    lines = axes_page.syllables_table().splitlines()
    for start, axes, line in (("GIM, 3", "own", 0), ("GIM, 3", "SOBI", 1)):
        found = lines[next(number for number, row in enumerate(lines) if row.startswith(f"| {start}")) + line]
        turned = "rotated" if axes == "own" else "SOBI, rotated"
        pitch, completeness = (
            f"{mean('gim-small-seed', axes, key):.2f} / {mean('gim-small-seed', turned, key):.2f}"
            for key in ("best_pitch", "dci_completeness")
        )
        assert [found.split(" | ")[2], found.split(" | ")[6]] == [pitch, completeness]
    measured = {row["model"] for row in rows}
    assert measured == {row["model"] for line in axes_page.lines_of_syllables() for row in line.own}


def test_thresholds_are_bold_where_all_seeds_reach_them():
    rows = read_json(axes_page.RESULTS / "syllables.json")["rows"]
    table = axes_page.thresholds_table()

    def of_seeds(axes, key):
        return [row[key] for row in rows if row["model"].startswith("sim-small-seed") and row["axes"] == axes]

    for title, key, threshold in (("pitch", "best_pitch", 0.75), ("gain", "best_gain", 0.7)):
        low, high = min(of_seeds("SOBI", key)), max(of_seeds("SOBI", key))
        assert [cells_of(table, title)[number] for number in (1, 3)] == [f"{threshold:.2f}", f"{low:.2f} to {high:.2f}"]
        line = next(line for line in table.splitlines() if line.startswith(f"| {title} "))
        assert line.split(" | ")[3].startswith("**") == (low >= threshold)
    gaps = np.subtract(*(of_seeds(axes, "dci_completeness") for axes in ("SOBI", "SOBI, rotated")))
    assert cells_of(table, "gap of DCI completeness")[3] == f"{min(gaps):.2f} to {max(gaps):.2f}"
    vowels = 100 * np.mean(of_seeds("own", "vowel_accuracy")) - 1
    assert cells_of(table, "vowels")[1] == f"{vowels:.1f}"


def test_the_linear_decoder_keeps_what_changes_its_output_most():
    generator = np.random.default_rng(0)
    codes, asked = generator.normal(size=(4000, 6)), generator.normal(size=(3000, 6))
    mixing = np.diag([3.0, 2.0, 1.0, 0.0, 0.0, 0.0]) @ np.linalg.qr(generator.normal(size=(6, 6)))[0]
    # Dimensions are independent, so that the share of the dropped ones is that of their squares: 1 of 9 + 4 + 1.
    assert measure.error_of_few(codes, asked, codes @ mixing, kept=2) == pytest.approx(1 / 14, abs=0.01)
    assert measure.error_of_few(codes * 5 + 2, asked * 5 + 2, codes @ mixing, kept=1) == pytest.approx(5 / 14, abs=0.02)
    assert measure.error_of_few(codes, asked, codes @ mixing, kept=6) == 0.0
    rows = read_json(axes_page.RESULTS / "syllables.json")["rows"]
    found = {row["axes"]: row["error_of_few"] for row in rows if row["model"] == "sim-small-kl-0.01-seed0"}
    expected = [f"{found[axes]:.2f}" for axes in ("own", "rotated", "SOBI", "SOBI, rotated", "PCA")]
    assert cells_of(axes_page.linear_decoder_table(), "SIM, KL weight 0.01, 1")[2:] == expected


@pytest.mark.parametrize(("number", "marker", "axes"), [(0, "o", "own"), (1, "s", "SOBI")])
def test_the_picture_of_syllables_shows_axes_and_their_controls(number, marker, axes):
    panel = axes_page.draw_syllables().axes[1]
    first = [line for line in panel.lines if line.get_marker() != "None"][2 * number : 2 * number + 2]
    assert first[0].get_marker() == marker
    rows = [
        row for row in read_json(axes_page.RESULTS / "syllables.json")["rows"] if row["model"][:-1] == "sim-small-seed"
    ]
    for line, chosen in zip(first, (axes, "rotated" if axes == "own" else "SOBI, rotated"), strict=True):
        assert list(line.get_xdata()) == [row["best_tract"] for row in rows if row["axes"] == chosen]


def test_tables_of_librispeech_are_those_of_the_results():
    rows = {(row["kind"], row["module"], row["measure"]): row for row in rows_of("librispeech_temporal")}
    found = [rows[kind, "module 2", "best_F1"] for kind in ("SIM", "SIM + SOBI", "GIM")]
    expected = [f"{float(row['value']):.2f} / {float(row['null']):.2f}" for row in found]
    assert cells_of(axes_page.librispeech_table(), "F1")[1:4] == expected
    price = {
        (row["representation"], row["measure"]): row
        for row in rows_of("librispeech_price")
        if row["module"] == "module 2"
    }
    gap = float(price["latents64-kl0.01", "dci_disentanglement_gap"]["value"])
    assert cells_of(axes_page.price_table(), "KL weight 0.01")[6] == f"{gap:.2f}"
    drawn = axes_page.draw_librispeech().axes[1].lines[1]
    assert drawn.get_xdata()[0] == float(rows["SIM", "module 2", "best_F1"]["value"])


def test_tables_of_decoded_sound_are_those_of_the_results():
    decoders = read_json(axes_page.RESULTS / "decoded_pitch.json")["decoders"]
    found = decoders["sim-small sim-stft"]
    replaced = {row["dimensions"]: row for row in found["replaced"]}
    cells = cells_of(axes_page.pitch_table(), "SIM", "convolutions, `stft")
    assert cells[2] == f"{100 * found['decoded_within_a_semitone']:.0f} %"
    assert cells[5] == f"{replaced[0]['pitch_of_utterance']} / {replaced[8]['pitch_of_utterance']}"
    moved = decoders["sim-readable-small readable-source_filter"]["moves"]["own"]
    cells = cells_of(axes_page.pitch_table(), "sim-readable-small", "source-filter")
    assert cells[3] == f"{abs(moved['semitones'][0]):.1f} / {moved['random_axes']['semitones'][0]:.1f}"
    cells = cells_of(axes_page.changes_table(), "own dimension of `sim-readable-small")
    assert cells[6:] == [f"{moved['share'][0]:.2f}", f"{moved['random_axes']['share'][0]:.2f}"]
    bars = [bar.get_width() for bar in axes_page.draw_pitch().axes[0].patches]
    assert sorted(bars[::2]) == sorted(100 * each["decoded_within_a_semitone"] for each in decoders.values())
    selectivity = {
        (row["decoder"], row["representation"], row["measure"]): row for row in rows_of("syllables_decoders")
    }["source_filter", "sim-small-kl-0.001-seed0", "traversal_selectivity_temporal"]
    cells = cells_of(axes_page.selectivity_table("syllables_decoders"), "SIM", "source-filter")
    assert cells[4].startswith(f"{float(selectivity['value']):.2f} ({float(selectivity['low']):.2f} to")
    assert cells[5] == f"{float(selectivity['null']):.2f}"


def test_tables_of_agreement_are_those_of_the_results():
    pairs = [
        pair
        for pair in read_json(axes_page.RESULTS / "agreement_syllables.json")["pairs"]
        if pair["model"].startswith("sim-readable-small")
    ]
    matched, linear = (np.mean([pair["dimensions"][name][8:16] for pair in pairs]) for name in ("matched", "linear"))
    cells = cells_of(axes_page.fixed_table(), "9 to 16")
    assert [cells[2], cells[4]] == [f"{matched:.2f}", f"{linear:.2f}"]
    pairs = [
        pair
        for pair in read_json(axes_page.RESULTS / "agreement_temporal.json")["pairs"]
        if pair["model"].startswith("gim-small")
    ]
    expected = f"{np.mean([pair['matched_correlation_rotated'] for pair in pairs]):.2f}"
    assert cells_of(axes_page.temporal_agreement_table(), "GIM")[3] == expected


def test_what_is_kept_of_the_phone_before():
    # Three consonants 0 to 2 and three vowels 3 to 5 in turn, 4 frames each, 40 utterances of 10 phones.
    generator = np.random.default_rng(0)
    phones = generator.integers(3, size=(40, 10)) + np.array([0, 3] * 5)
    labels, utterances = phones.repeat(4, axis=1).ravel(), np.arange(40).repeat(40).astype(str)
    speakers = np.arange(40).repeat(40) % 2  # as in the corpus, the speaker follows from the number of the utterance
    tokens = find_tokens(labels, utterances, speakers, list("ptkaiu"))
    is_vowel = np.arange(6) >= 3
    # Each speaker has dimensions of its own, so that a probe of one speaker alone knows nothing about the other.
    now = np.eye(12)[labels + 6 * speakers] + 0.01 * generator.standard_normal((len(labels), 12))
    before = np.roll(now, 4, axis=0)

    previous, consonants = np.array([phone for phone, _ in tokens.contexts]), ~is_vowel[tokens.phones]
    where = (tokens, previous, consonants, utterances[tokens.starts])
    assert kept._phone_before(before, *where) == 1
    assert kept._phone_before(now, *where) == pytest.approx(1 / 3, abs=0.15)
    assert kept._score(before, tokens, previous, consonants).error == 0
    assert kept._score(now, tokens, previous, consonants).error == pytest.approx(0.5, abs=0.1)
    # Frames of the phone tell all phones apart. Those of the phone before tell consonants from vowels alone: the phone
    # before a consonant is a vowel.
    assert kept._errors(now, tokens, is_vowel) == pytest.approx({"vowels": 0, "consonants": 0, "mixed": 0}, abs=1e-9)
    of_before = kept._errors(before, tokens, is_vowel)
    assert of_before["vowels"] == pytest.approx(0.5, abs=0.1)
    assert of_before["consonants"] == pytest.approx(0.5, abs=0.1)
    # As in a naive count over all triples of two consonants or vowels A and X and one B of the other sort.
    assert of_before["mixed"] == pytest.approx(_naive_mixed(before, tokens, is_vowel), abs=0.03)


def _naive_mixed(features, tokens, is_vowel):
    """ABX error of mixed pairs from the first frame of each token, over all triples of each speaker."""
    frames = features[tokens.starts] / np.linalg.norm(features[tokens.starts], axis=1, keepdims=True)
    distances = 1 - frames @ frames.T
    errors = []
    for first, second in itertools.permutations(range(len(is_vowel)), 2):
        if is_vowel[first] != is_vowel[second]:
            for speaker in np.unique(tokens.speakers):
                own, others = (
                    np.flatnonzero((tokens.phones == phone) & (tokens.speakers == speaker)) for phone in (first, second)
                )
                same = distances[np.ix_(own, own)][:, :, None]  # X by A
                other = distances[np.ix_(own, others)][:, None, :]  # X by B
                wrong = (same > other) + 0.5 * (same == other)
                errors.append(wrong[~np.eye(len(own), dtype=bool)].mean())
    return np.mean(errors)


def test_table_of_what_is_kept(tmp_path):
    scores = {"phone_before": 0.5, "distance_before": 0.75, "vowels": 0.125, "consonants": 0.25, "mixed": 0.5}
    models = [
        {
            "kind": "sim",
            "model": f"sim-{seed}",
            "modules": {"context": {"R2": dict.fromkeys(kept._PROPERTIES, r2), **scores}},
        }
        for seed, r2 in enumerate((0.25, 0.75))
    ]
    path = tmp_path / kept.FILE_NAME
    path.write_text(json.dumps({"models": models}))
    assert kept.table(path, {"sim": "SIM"}).splitlines()[2:] == [
        "| SIM, context | 2 | " + "0.50 | " * 4 + "50.0 | 75.0 | 12.5 | 25.0 | 50.0 |"
    ]
