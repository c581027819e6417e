"""Studies: rows that are killed resume, tuning decides, and pages are made of whatever is done."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from modeling_sim.files import read_json
from studies import runner
from studies.ablation import run as ablation
from studies.axes import agreement
from studies.axes import page as axes_page
from studies.kl_weight import run as kl_weight
from studies.objectives import run as objectives
from studies.pages import PAGE_NAME, write_page
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


def test_a_study_that_is_killed_resumes_and_gives_tables_and_pictures(tmp_path, monkeypatch, killed_at):
    monkeypatch.setitem(
        runner.LABELS, "synthetic_syllables", (Label("phones", "probes,concentration", axes="own,temporal"),)
    )
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
    assert found["simclr-0"]["steps"] == 2
    assert found["sim-0"]["seconds_of_audio"] == found["simclr-0"]["seconds_of_audio"]
    scores = {name: runner.score_of(found[name]) for name in rows["simclr-0"].tuned_by}
    best = max(scores, key=scores.get)
    assert found["simclr-0"]["settings"]["learning_rate"] == rows[best].settings["learning_rate"]
    kinds = {row["kind"] for row in found["sim-0"]["labels"]["phones"]}
    assert {"SIM", "SIM + SOBI", "untrained", "log-mel", "log-mel + SOBI"} <= kinds
    assert {row["kind"] for row in found["simclr-0"]["labels"]["phones"]} == {"SimCLR", "SimCLR + SOBI"}
    before = (place.results / "sim-0.json").read_bytes()
    runner.run_row(rows["sim-0"], place)  # is done
    assert (place.results / "sim-0.json").read_bytes() == before
    tiny_page(place)
    page = (place.results / PAGE_NAME).read_text()
    assert "4 of 4 rows" in page
    assert "| | SIM | SimCLR | untrained | log-mel |" in page
    assert (place.results / "phones.png").stat().st_size > 3000


def test_results_without_a_newer_setting_are_those_of_its_default(tmp_path):
    row, place = tiny_rows()[0], place_of(ablation.STUDY, tmp_path)
    stored = asdict(row)
    del stored["decoder_settings"]
    (place.results / f"{row.name}.json").write_text(json.dumps({"row": stored, "corpus": place.corpus}))
    assert place.result(row)["row"]["name"] == row.name


@pytest.mark.parametrize("other", [{"seed": 7}, {"removed_setting": 1}])
def test_results_of_other_settings_are_refused(other, tmp_path):
    study = Study(tmp_path / "tiny" / "run.py", "Tiny.", tiny_rows(), tiny_page)
    place = place_of(study, tmp_path)
    row = place.rows[0]
    (place.results / "sim-0.json").write_text(json.dumps({"row": {**asdict(row), **other}, "corpus": place.corpus}))
    with pytest.raises(ValueError, match=r"sim-0\.json"):
        place.result(row)


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
            "row": asdict(row),
            "corpus": place.corpus,
            "settings": row.settings,
            "steps": 1500,
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


def test_a_page_counts_the_models_without_temporal_components(tmp_path):
    place = place_of(ablation.STUDY, tmp_path, scale="small")
    fill(place, kinds={"SIM", "GIM"})
    path = place.results / f"{next(row.name for row in place.rows if row.kind == 'GIM')}.json"
    result = read_json(path)
    result["labels"]["phones"] = [each for each in result["labels"]["phones"] if "SOBI" not in each["kind"]]
    path.write_text(json.dumps(result))
    ablation.page(place)
    assert ": GIM (1)." in (place.results / PAGE_NAME).read_text()


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


def test_seeds_agree_on_slow_dimensions_that_both_have_and_not_on_turned_fast_ones():
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


# ---------------------------------------------------------------------- pages


def test_every_measured_model_has_a_line_with_its_own_numbers():
    rows = read_json(axes_page.RESULTS / "syllables.json")["rows"]
    lines = axes_page.lines_of_syllables()
    shown = [row for line in lines for row in (*line.own, *line.rotated)]
    assert len(shown) == len([row for row in rows if row["axes"] != "PCA"])
    for line in lines:
        assert [row["model"] for row in line.own] == [row["model"] for row in line.rotated]
        values = [row["best_pitch"] for row in line.own]
        assert line.both("best_pitch").split(" / ")[0] == f"{sum(values) / len(values):.2f}"


def test_pictures_of_axes_show_the_numbers_of_the_results():
    pitch = axes_page.draw_syllables().axes[0]
    drawn = {float(x) for line in pitch.lines if line.get_marker() != "None" for x in line.get_xdata()}
    rows = read_json(axes_page.RESULTS / "syllables.json")["rows"]
    assert drawn == {row["best_pitch"] for row in rows if row["axes"] != "PCA"}
