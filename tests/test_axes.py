"""Axes of representations in an evaluation, where the answer is planted: sources, properties, moments, other models."""

import json

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from modeling_sim import SimFeatureExtractor
from modeling_sim.analysis import mean_correlation_coefficient, random_rotation
from modeling_sim.analysis.sound_properties import PROPERTIES, frame_pitch, frame_properties
from modeling_sim.commands import evaluate
from modeling_sim.data.audio import read_audio
from modeling_sim.evaluation.axes import _sounding, fit_axes, load_axes, save_axes
from modeling_sim.evaluation.cache import Analysis, AnalysisParts
from modeling_sim.evaluation.clips import record_moments
from modeling_sim.evaluation.consistency import measure_consistency, varying_components
from modeling_sim.evaluation.module_scores import measure_representation
from modeling_sim.evaluation.representations import Representation, Spectra, TimedFrames
from modeling_sim.evaluation.results import Results
from modeling_sim.evaluation.settings import AnalysisArguments
from modeling_sim.evaluation.task import LabelTask
from modeling_sim.report.html import read_media
from tests.test_evaluate import save

CORPUS = {"num_train": 24, "num_test": 24, "num_speakers": 4}
RHO = np.array([0.97, 0.9, 0.75, 0.3])


class Planted(Representation):
    """Sources of known time scales at 100 frames per second, the same for every mix, in 4 dimensions."""

    def __init__(self, mix, name="planted"):
        super().__init__(name, name, SimFeatureExtractor())
        self.mix = mix

    def places(self):
        return {"own": self._place("m")}

    def fingerprint(self):
        return [type(self).__name__, self.mix.tolist()]

    @staticmethod
    def sources(utterance, count):
        noise = np.random.default_rng(int(utterance.rsplit("-")[-1])).standard_normal((count + 200, len(RHO)))
        found = [lfilter([(1 - rho**2) ** 0.5], [1, -rho], of) for rho, of in zip(RHO, noise.T, strict=True)]
        return np.stack(found, axis=1)[200:]

    def encode(self, batch):
        counts = batch["attention_mask"].sum(dim=1).numpy() // 160
        frames = [
            (self.sources(name, count) @ self.mix + 4).astype(np.float32)
            for name, count in zip(batch["id"], counts, strict=True)
        ]
        return {"own": TimedFrames.padded(frames, 0.005, 0.01)}


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return LabelTask(
        AnalysisArguments(
            model=["planted"],
            corpus="synthetic_syllables",
            corpus_settings=CORPUS,
            label="phones",
            measures="disentanglement,consistency",
            axes="all",
            cache_dir=str(tmp_path_factory.mktemp("cache")),
        )
    )


TURN = random_rotation(4, np.random.default_rng(3))


def test_sources_are_found_by_their_time_scales_and_kept_in_a_file(task, tmp_path):
    representation, analysis = Planted(TURN), Analysis(task.arguments)
    fit_axes(analysis, task, representation, ["principal", "temporal"])
    save_axes(tmp_path / "axes.safetensors", analysis.transforms)
    loaded = load_axes(tmp_path / "axes.safetensors")
    assert list(loaded) == ["planted + PCA, m", "planted + SOBI, m"]
    for name, transform in loaded.items():
        for part, tensor in vars(transform).items():
            assert torch.equal(tensor, getattr(analysis.transforms[name], part))
    sources = Planted.sources("x-1000", 5000)
    frames = (sources @ TURN + 4).astype(np.float32)
    match = {
        name[10:-3]: mean_correlation_coefficient(sources, transform.apply(frames))
        for name, transform in loaded.items()
    }
    assert match["SOBI"].value > 0.97
    assert match["SOBI"].second.tolist() == [0, 1, 2, 3]  # the slowest first
    assert match["PCA"].value < 0.9


def test_silence_around_speech_is_not_part_of_the_axes():
    timed = TimedFrames(np.arange(20.0).reshape(2, 10, 1), [10, 7], 0.005, 0.01)
    assert _sounding(timed, 0, np.array([0.021, 0.05, 0.069]))[:, 0].tolist() == [2, 3, 4, 5, 6]
    assert _sounding(timed, 1, np.array([0.0, 0.2]))[:, 0].tolist() == list(range(10, 17))  # no padded frames
    assert _sounding(timed, 0, np.empty(0)).shape == (0, 1)


def test_components_are_measured_next_to_own_axes(task):
    analysis = Analysis(task.arguments)
    parts = AnalysisParts(analysis, {"test": "components"})
    measure_representation(parts, task, Planted(TURN), with_clips=True)
    kinds = [f"planted{ending}" for ending in ("", " + PCA", " + ICA", " + SOBI", " + SFA")]
    assert list(dict.fromkeys(row.kind for row in analysis.rows)) == kinds
    rows = {(row.kind, row.measure): row for row in analysis.rows}
    has_gaps = ["planted", "planted + SOBI"]
    assert [kind for kind in kinds if rows[kind, "best_pitch"].null is not None] == has_gaps
    assert [kind for kind in kinds if (kind, "dci_completeness_gap") in rows] == has_gaps
    for entry in analysis.curves["best_dimensions"]:
        expected = [5 if entry["kind"] in has_gaps else None] * len(entry["properties"])
        assert [None if rotated is None else len(rotated) for rotated in entry["rotated"]] == expected
    assert {item["group"] for item in analysis.media.items} == {"moments"}
    again = AnalysisParts(Analysis(task.arguments), {"test": "components"})
    measure_representation(again, task, Planted(TURN), with_clips=True)
    assert again.found == len(list(again.folder.iterdir()))
    assert again.analysis.rows == analysis.rows
    for name, transform in again.analysis.transforms.items():
        assert torch.equal(transform.matrix, analysis.transforms[name].matrix)


def test_a_turn_of_one_code_agrees_linearly_and_a_permutation_on_axes(task):
    models = [
        Planted(np.eye(4), "a"),
        Planted(np.eye(4)[[2, 0, 3, 1]] * np.array([1, -2, 3, -1]), "b"),
        Planted(TURN, "c"),
    ]
    analysis = Analysis(task.arguments)
    parts = AnalysisParts(analysis, {"test": "consistency"})
    for model in models:
        fit_axes(analysis, task, model, ["temporal"])
    measure_consistency(parts, task, models)
    rows = {(row.representation, row.measure): row.value for row in analysis.rows}
    for pair in ("a & b", "a & c", "b & c"):
        assert rows[pair, "linear_agreement"] == pytest.approx(1, abs=1e-3)
        # What time tells of axes is the same whatever axes a model has.
        assert rows[f"{pair} + SOBI", "matched_correlation"] > 0.95
    assert rows["a & b", "matched_correlation"] == pytest.approx(1, abs=1e-3)
    assert rows["a & b", "axis_consistency"] == pytest.approx(1, abs=1e-3)
    assert rows["a & c", "matched_correlation"] < 0.9
    null = next(
        row.null for row in analysis.rows if (row.representation, row.measure) == ("a & b", "matched_correlation")
    )
    assert null < 0.9


def test_components_of_noise_are_not_compared(noise):
    components = noise(5000, 4).numpy() * [0.05, 3, 0.01, 2]
    assert np.array_equal(varying_components(components), components[:, [1, 3]])
    assert np.array_equal(varying_components(components[:, 1:2]), components[:, 1:2])


def test_properties_of_voiced_moments_are_those_that_speech_was_made_with(task):
    _, test = task.items(Spectra())
    factors = task.factors(test)
    assert list(factors.values) == ["pitch", "phones", "gain", "vocal_tract_length"]
    assert list(factors.properties) == ["level", "F1", "F2", "speaker_id"]
    rows = {row["id"]: row for row in task.splits["test"].remove_columns("audio")}
    frame = np.rint(100 * (test.seconds - 0.0125)).astype(int)[factors.items]
    names = test.utterances[factors.items]
    known = np.array([rows[name]["f0_track"][number] for name, number in zip(names, frame, strict=True)])
    assert (known > 0).mean() > 0.97
    error = 12 * np.log2(known[known > 0]) - factors.values["pitch"][known > 0]
    assert np.abs(np.median(error)) < 0.1
    assert (np.abs(error) < 0.5).mean() > 0.9
    np.testing.assert_array_equal(factors.values["gain"], [rows[name]["gain"] for name in names])
    assert (factors.values["phones"] == test.labels[factors.items]).all()
    assert "SIL" not in {task.classes[number] for number in factors.values["phones"]}


def test_a_dimension_that_holds_the_pitch_is_the_best_for_it_and_a_rotated_one_is_not(task):
    class Pitch(Planted):
        """Pitch in the first dimension, noise in the others, then mixed."""

        def encode(self, batch):
            timed = super().encode(batch)["own"]
            for row, samples in enumerate(batch["input_values"].numpy()):
                seconds = timed.start + timed.hop * np.arange(timed.lengths[row])
                pitch = frame_properties(samples, 16_000, seconds)[:, 0]
                codes = self.sources(batch["id"][row], len(pitch))
                codes[:, 0] = (np.nan_to_num(pitch, nan=85) - 85) / 5
                timed.values[row, : len(pitch)] = codes @ self.mix
            return {"own": timed}

    found = {}
    for name, mix in (("own", np.eye(4)), ("turned", TURN)):
        analysis = Analysis(task.arguments)
        parts = AnalysisParts(analysis, {"test": name})
        measure_representation(parts, task, Pitch(mix, name), with_clips=False)
        found |= {(row.kind, row.measure): row for row in analysis.rows}
    assert found["own", "best_pitch"].value > 0.9
    assert found["own", "best_pitch"].value > found["own", "best_pitch"].null + 0.1
    assert found["turned", "best_pitch"].value < found["own", "best_pitch"].value - 0.05
    assert found["own", "linear_pitch"].value > 0.85
    assert found["turned", "linear_pitch"].value == pytest.approx(found["own", "linear_pitch"].value, abs=1e-4)


def test_moments_are_cut_from_the_speech_around_them_and_marked(task, tmp_path):
    representation, analysis = Spectra(), Analysis(task.arguments)
    _, test = task.items(representation)
    dataset = task.splits["test"]
    peak = int(
        np.flatnonzero((test.utterances == test.utterances[len(test.utterances) // 2]) & (test.seconds > 0.4))[0]
    )
    values = np.zeros(len(test.labels))
    values[peak] = 5
    place = {"kind": "k", "representation": "r", "module": "m"}
    record_moments(analysis.media, values, test, dataset, "dimension 0", 16_000, **place)
    (item,) = analysis.media.items
    clip = item["clips"][0]
    row = dataset["id"][:].index(test.utterances[peak])
    waveform = read_audio(dataset[row]["audio"])
    start = round((test.seconds[peak] - clip["mark"]) * 16_000)
    samples = analysis.media.arrays[clip["array"]]
    np.testing.assert_array_equal(samples, waveform[start : start + len(samples)])
    assert clip["mark"] == pytest.approx(0.35)
    assert [each["label"].split(",")[0] for each in item["clips"]] == ["largest"] * 4 + ["smallest"] * 3
    np.savez(tmp_path / "media.npz", **analysis.media.arrays)
    results = Results(corpus="c", corpus_license="mit", kinds=[], measures=[], rows=[], media=analysis.media.items)
    (sounds,) = read_media(tmp_path, results)
    assert sounds.anchor == "moments"


def test_the_command_measures_pairs_of_models_and_writes_their_axes(tmp_path):
    models = [save(tmp_path / name, "sim-small", seed) for seed, name in enumerate(("one", "two"))]
    corpus = ["--corpus", "synthetic_syllables", "--corpus_settings", json.dumps(CORPUS), "--label", "phones"]
    measures = ["--measures", "consistency", "--axes", "slow", "--modules", "2"]
    folders = ["--cache_dir", str(tmp_path / "cache"), "--output_dir", str(tmp_path / "out")]
    evaluate.main(["--model", *models, *corpus, *measures, *folders])
    results = Results.read(tmp_path / "out" / "analysis.json")
    pairs = {row.representation: row for row in results.rows if row.measure == "matched_correlation"}
    assert set(pairs) == {"one & two", "one & two + SFA"}
    assert set(load_axes(tmp_path / "out" / "axes.safetensors")) >= {"one + SFA, module 2", "log-mel + SFA"}
    with pytest.raises(SystemExit, match="axes"):
        evaluate.main(["--model", *models, "--axes", "diagonal", "--output_dir", str(tmp_path / "other")])


def test_properties_of_frames_are_those_of_the_window_around_each():
    seconds = np.arange(16_000) / 16_000
    low, high = (sum(np.sin(2 * np.pi * pitch * k * seconds) / k for k in range(1, 10)) for pitch in (100, 200))
    waveform = np.concatenate([low, high, np.zeros(16_000)]).astype(np.float32)
    values = frame_properties(waveform, 16_000, np.array([0.5, 1.5, 2.5, 9.0]))
    pitch = PROPERTIES.index("pitch, semitones")
    np.testing.assert_allclose(values[:2, pitch], 12 * np.log2([100, 200]), atol=0.1)
    assert np.isnan(values[2:]).all()
    assert frame_properties(waveform, 16_000, np.empty(0)).shape == (0, len(PROPERTIES))
    np.testing.assert_array_equal(frame_pitch(waveform, 16_000, np.array([0.5, 1.5, 2.5, 9.0])), values[:, pitch])
    assert frame_pitch(waveform, 16_000, np.empty(0)).shape == (0,)
