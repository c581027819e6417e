"""The analysis end to end on tiny models, and its parts where the answer is known."""

import csv
import io
import json
import re
import shutil
from argparse import Namespace
from functools import partial
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import soundfile
import torch
from datasets import Dataset

from modeling_sim import SimConfig, SimDecoder, SimDecoderConfig, SimFeatureExtractor, SimForPreTraining
from modeling_sim.analysis.scorecard import MEASURES, Row, compare
from modeling_sim.analysis.sound_properties import PROPERTIES, sound_properties
from modeling_sim.commands import evaluate
from modeling_sim.data.audio import read_audio
from modeling_sim.data.corpora import load_corpus
from modeling_sim.evaluation import cache as analysis_parts
from modeling_sim.evaluation import decoder_scores as decoder_measures
from modeling_sim.evaluation import module_scores as module_measures
from modeling_sim.evaluation.cache import Analysis
from modeling_sim.evaluation.clips import Media, decoded_in_parts, record, traversal_changes
from modeling_sim.evaluation.feature_store import Items
from modeling_sim.evaluation.models import (
    aligned_modules,
    attach_decoders,
    frames_of,
    load_representations,
    trimmed_waveforms,
)
from modeling_sim.evaluation.module_scores import measure_abx
from modeling_sim.evaluation.probe_scores import Subject
from modeling_sim.evaluation.representations import method_of
from modeling_sim.evaluation.settings import AnalysisArguments
from modeling_sim.evaluation.task import utterance_tokens
from modeling_sim.latents import encode
from modeling_sim.provenance import weights_fingerprint

CORPUS = {"num_train": 60, "num_test": 40, "num_speakers": 4, "num_syllables": 1}
SYLLABLES = ["--corpus", "synthetic_syllables", "--corpus_settings", json.dumps(CORPUS)]
FEW = "--factors vowel,consonant,f0 --modules 2,3 --num_utterances 6 --num_pairs 4 --steps 3 --max_frames 400"
SMALL = {"hidden_size": 8, "context_size": 4}


def save(folder, preset, seed):
    torch.manual_seed(seed)
    model = SimForPreTraining(SimConfig.preset(preset, **SMALL)).eval()
    model.save_pretrained(folder)
    SimFeatureExtractor().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", autouse=True)
def few_rotations():
    """Random axes are most of the time of an analysis; two tell their scatter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder_measures, "_ROTATIONS", 2)
        patch.setattr(module_measures, "ROTATED", 2)
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return [save(root / "sim-0", "sim-small", 0), save(root / "sim-1", "sim-small", 1), save(root / "cpc-0", "cpc", 0)]


@pytest.fixture(scope="module")
def decoders(models, tmp_path_factory):
    """Untrained decoders of the third module of the first model, and of the one of CPC with noise."""
    folders = []
    for number, (model, module, noise) in enumerate(((models[0], 2, 0.0), (models[2], 0, 0.5))):
        (encoder,) = load_models([model])
        torch.manual_seed(number)
        decoder = SimDecoder(
            SimDecoderConfig.for_module(
                encoder.model.config, module, encoder_fingerprint=weights_fingerprint(encoder.model), noise=noise
            )
        )
        folder = tmp_path_factory.mktemp("decoder")
        decoder.save_pretrained(folder)
        folders.append(str(folder))
    return folders


def load_models(paths, modules="all"):
    """SIM models of folders, with the modules that see the same."""
    return load_representations(AnalysisArguments(model=paths, modules=modules), align=True)[1 + len(paths) :]


def run(models, decoders, cache_dir, output_dir, *flags):
    measured = ["--model", *models, *(["--decoder", *decoders] if decoders else []), *SYLLABLES, "--label", "vowel"]
    folders = ["--cache_dir", str(cache_dir), "--output_dir", str(output_dir)]
    evaluate.main([*measured, *FEW.split(), *folders, *flags])
    return json.loads((output_dir / "analysis.json").read_text())


@pytest.fixture(scope="module")
def output_dir(models, decoders, tmp_path_factory):
    folder = tmp_path_factory.mktemp("analysis")
    run(models, decoders, folder / "cache", folder)
    return folder


def test_every_trained_kind_is_next_to_its_controls(output_dir):
    results = json.loads((output_dir / "analysis.json").read_text())
    kinds = {kind["name"]: kind for kind in results["kinds"]}
    assert kinds["SIM"]["representations"] == ["sim-0", "sim-1"]
    assert [name for name, kind in kinds.items() if not kind["is_control"]] == ["SIM", "CPC"]
    assert {
        "log-mel",
        "SIM untrained",
        "CPC untrained",
        "SIM + PCA",
        "log-mel + SOBI",
        "CPC + SOBI",
        "CPC + noise",
    } <= set(kinds)
    assert results["factors"] == ["vowel", "consonant", "f0"]
    assert list(results["fingerprints"]) == ["sim-0", "sim-1", "cpc-0"]
    assert len(set(results["fingerprints"].values())) == 3
    with (output_dir / "analysis.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(results["rows"])
    assert (output_dir / "report.html").stat().st_size > 100_000


def test_every_measure_is_there_with_its_meaning(output_dir):
    results = json.loads((output_dir / "analysis.json").read_text())
    found = {row["measure"] for row in results["rows"]}
    assert found == {measure["key"] for measure in results["measures"]}
    of_frames = {"abx_within_triphone", "abx_across_triphone", "best_level", "best_F1", "best_F2", "best_phones"}
    of_frames |= {"linear_level"}
    of_other_columns = {"best_gain", "best_vocal_tract_length", "best_speaker_id"}
    of_other_columns |= {"linear_gain", "linear_vocal_tract_length"}
    expected = {measure.key for measure in MEASURES} - of_frames - of_other_columns - {"mlp_accuracy"}
    assert found == expected
    row = {"kind": "SIM", "module": "module 2", "representation": "sim-0"}
    of_module = [value for value in results["rows"] if row.items() <= value.items()]
    of_pairs = {"matched_correlation", "linear_agreement", "axis_consistency"}
    assert {value["measure"] for value in of_module} == found - of_pairs
    assert all(np.isfinite(value["value"]) for value in of_module if value["value"] is not None)


def test_there_is_something_to_hear_through_every_kind_of_decoder(output_dir):
    results = json.loads((output_dir / "analysis.json").read_text())
    with np.load(output_dir / "media.npz") as arrays:
        for item in results["media"]:
            assert all(np.isfinite(arrays[clip["array"]]).all() for clip in item["clips"])
    assert {item["kind"] for item in results["media"]} == {"SIM", "CPC + noise"}
    groups = {"reconstruction", "interpolation", "interpolation_k", "traversal", "prior"}
    assert {item["group"] for item in results["media"]} == groups


def refuse_to_measure(monkeypatch, *names):
    """Lets any of these functions fail, wherever it is called."""
    for name in names:
        refused = Mock(side_effect=AssertionError("measured again"))
        if name in module_measures.SCORES:
            monkeypatch.setitem(module_measures.SCORES, name, refused)
        else:
            monkeypatch.setattr(module_measures if hasattr(module_measures, name) else decoder_measures, name, refused)


def test_what_is_measured_is_not_measured_again(models, decoders, output_dir, tmp_path, monkeypatch, capsys):
    refuse_to_measure(monkeypatch, *module_measures.SCORES, "evaluate", "smoothness", "frames_of")
    results = run(models, decoders, output_dir / "cache", tmp_path)
    first = json.loads((output_dir / "analysis.json").read_text())
    assert {**results, "git": None} == {**first, "git": None}
    assert json.loads((tmp_path / "curves.json").read_text()) == json.loads((output_dir / "curves.json").read_text())
    with np.load(output_dir / "media.npz") as one, np.load(tmp_path / "media.npz") as other:
        assert one.files == other.files
        assert all((one[name] == other[name]).all() for name in one.files)
    assert (
        f"{len(list((output_dir / 'cache' / 'analysis').iterdir()))} parts measured before" in capsys.readouterr().out
    )
    with pytest.raises(AssertionError, match="measured again"):
        run(models, decoders, output_dir / "cache", tmp_path, "--seed", "1", "--overwrite_output_dir")


def test_other_versions_of_the_measures_measure_anew(models, decoders, output_dir, tmp_path, monkeypatch):
    refuse_to_measure(monkeypatch, "concentration")
    monkeypatch.setattr(analysis_parts, "MEASURES_VERSION", -1)
    with pytest.raises(AssertionError, match="measured again"):
        run(models, decoders, output_dir / "cache", tmp_path)


def test_waveforms_that_are_prepared_otherwise_are_measured_anew(models, output_dir, tmp_path, monkeypatch):
    refuse_to_measure(monkeypatch, "distribution")
    run(models[:1], [], output_dir / "cache", tmp_path)  # a module, which the spectrum is not, is found
    shutil.copytree(models[0], tmp_path / "sim-0")
    SimFeatureExtractor(do_normalize=not SimFeatureExtractor().do_normalize).save_pretrained(tmp_path / "sim-0")
    with pytest.raises(AssertionError, match="measured again"):
        run([str(tmp_path / "sim-0")], [], output_dir / "cache", tmp_path, "--overwrite_output_dir")


def test_other_predictors_have_another_objective(models, tmp_path, monkeypatch):
    """They are no part of the encoder, which is the same."""
    few = ["--modules", "2", "--measures", "concentration,objective"]
    run(models[:1], [], tmp_path / "cache", tmp_path / "a", *few)
    model = SimForPreTraining.from_pretrained(models[0])
    own = set(model.sim.state_dict())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.removeprefix("sim.") not in own:
                parameter.neg_()
    model.save_pretrained(tmp_path / "sim-0")
    SimFeatureExtractor().save_pretrained(tmp_path / "sim-0")
    refuse_to_measure(monkeypatch, "concentration", "evaluate")
    with pytest.raises(AssertionError, match="measured again"):
        run([str(tmp_path / "sim-0")], [], tmp_path / "cache", tmp_path / "b", *few)


def test_an_earlier_analysis_is_not_replaced_unless_asked(models, output_dir):
    before = (output_dir / "report.html").read_bytes()
    with pytest.raises(SystemExit, match="overwrite_output_dir"):
        run(models[:1], [], output_dir / "cache", output_dir)
    assert (output_dir / "report.html").read_bytes() == before


def test_an_analysis_that_was_killed_resumes(models, output_dir, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as killed:
        killed.setitem(module_measures.SCORES, "distribution", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(models[:1], [], tmp_path / "cache", tmp_path)
    assert not (tmp_path / "analysis.json").exists()
    measured = len(list((tmp_path / "cache" / "analysis").iterdir()))
    # Chance; by five groups spectra, untrained modules and a module; spectra in two other axes by two groups, and the
    # fits of these axes for spectra and for the model.
    assert measured == 1 + 5 * 2 + 5 * 2 + 5 + 2 * 2 * 2 + 2
    results = run(models[:1], [], tmp_path / "cache", tmp_path)
    assert f" {measured} parts " in capsys.readouterr().out
    first = json.loads((output_dir / "analysis.json").read_text())
    own = [row for row in results["rows"] if row["representation"] == "sim-0"]
    assert own == [row for row in first["rows"] if row in own]
    assert {row["measure"] for row in own} >= {"linear_accuracy", "gini", "mmd", "contrastive_accuracy"}


def test_a_factor_that_does_not_vary_in_both_parts_is_skipped_and_named(models, tmp_path, capsys):
    corpus = json.dumps({"num_train": 60, "num_test": 12, "num_speakers": 4, "num_syllables": 1})
    flags = ["--measures", "disentanglement", "--corpus_settings", corpus]
    results = run(models[:1], [], tmp_path / "cache", tmp_path, *flags)
    assert results["skipped_factors"] == ["consonant"]
    assert (tmp_path / "axes.safetensors").is_file()
    assert results["factors"] == ["vowel", "f0"]
    assert "factor 'consonant' is skipped" in capsys.readouterr().out
    assert "dci_disentanglement" in {row["measure"] for row in results["rows"]}


def test_a_decoder_knows_its_model_wherever_that_lies(models, decoders, tmp_path):
    shutil.copytree(models[0], tmp_path / "moved")
    (moved,) = load_models([str(tmp_path / "moved")])
    attach_decoders([moved], decoders[:1], "cpu")
    assert list(moved.decoders) == ["module 2"]
    with pytest.raises(ValueError, match="`model`"):
        load_models([models[0], str(tmp_path / "moved")])


def test_a_decoder_of_another_model_is_refused(models, decoders):
    with pytest.raises(ValueError, match="--model"):
        attach_decoders(load_models(models[1:2]), decoders[:1], "cpu")


def test_models_and_decoders_that_would_count_twice_are_refused(models, decoders):
    with pytest.raises(ValueError, match="`model`"):
        load_models([models[0], models[0]])
    with pytest.raises(ValueError, match="module 2"):
        attach_decoders(load_models(models[:1]), [decoders[0], decoders[0]], "cpu")


def test_decoders_of_one_kind_that_were_trained_in_two_ways_are_refused(models, decoders, tmp_path):
    (other,) = load_models(models[1:2])
    config = SimDecoderConfig.for_module(
        other.model.config, 2, encoder_fingerprint=weights_fingerprint(other.model), trained_on="sample"
    )
    SimDecoder(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`trained_on`"):
        attach_decoders(load_models(models[:2]), [decoders[0], str(tmp_path)], "cpu")


def decoded(decoder, config=None, with_clips=False, turn=None, latents=None, num_samples=4000, axes="own", **settings):
    """Measures a decoder of tones whose latents are pitch and level, on clips of it."""
    if latents is None:
        latents = 0.3 * torch.randn(12, 3, 3, generator=torch.Generator().manual_seed(0))
    spoken = _Tones()(latents, num_samples).waveforms
    latents = latents if turn is None else latents @ turn
    clips = Dataset.from_dict({"id": [str(number) for number in range(12)], "label": [0, 1] * 6})
    decoder.config = SimpleNamespace(
        **{
            "sampling_rate": 16_000,
            "architecture": "convolutions",
            "noise": 0.0,
            "loss": "stft",
            "trained_on": "mean",
            **(config or {}),
        }
    )
    arguments = AnalysisArguments(
        model=["m"], label="label", num_utterances=12, num_pairs=11, steps=2, axes=axes, **settings
    )
    analysis = Analysis(arguments)
    task = SimpleNamespace(
        arguments=arguments, of_frames=False, splits={"test": clips, "train": clips}, classes=["a", "b"]
    )
    of = SimpleNamespace(name="tones", modules={"m": 0}, extractor=SimFeatureExtractor(), model=Mock(device="cpu"))
    row = {"kind": "T", "representation": "tones", "module": "m"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder_measures, "trimmed_waveforms", lambda *_: (clips, spoken))
        patch.setattr(decoder_measures, "_latents", lambda *_: latents)
        patch.setattr(decoder_measures, "_classifier", lambda *_: lambda values: (values[:, 0, 0] > 0).long())
        decoder_measures._measure_decoder(analysis, task, of, row, decoder, with_clips)
    return analysis


@pytest.fixture(scope="module")
def tones():
    return decoded(_Tones())


def test_a_decoder_that_is_no_better_than_silence_has_its_quality_alone(capsys):
    class Silent(_Tones):
        def forward(self, latents, num_samples, **_):
            return SimpleNamespace(waveforms=0 * super().forward(latents, num_samples).waveforms)

    analysis = decoded(Silent())
    assert [row.measure for row in analysis.rows] == ["log_mel"]
    assert analysis.rows[0].value == pytest.approx(analysis.rows[0].null)
    assert analysis.quality[0]["kind"] == "T"
    assert "silence" in capsys.readouterr().out


def test_what_fails_of_a_decoder_takes_nothing_else_with_it(monkeypatch, capsys):
    def fails(*_, **__):
        raise ValueError("there are too few")

    monkeypatch.setattr(decoder_measures, "smoothness", fails)
    analysis = decoded(_Tones(), axes="own,temporal")
    found = {row.measure for row in analysis.rows}
    assert {"log_mel", "curve_area", "traversal_selectivity", "traversal_selectivity_temporal"} <= found
    assert "path_ratio" not in found
    said = capsys.readouterr()
    assert re.search("smoothness .*m of tones", said.out)
    assert said.err == ""  # no bar without a terminal


def test_samples_are_compared_only_where_a_decoder_was_trained_on_them(tones):
    assert tones.quality[0]["si_sdr"] is None
    assert np.isfinite(decoded(_Tones(), {"loss": "waveform"}).quality[0]["si_sdr"])


def test_transitions_of_latents_are_counted_once_and_not_again_for_a_decoder_with_noise(tones):
    assert "clean_transitions" in {row.measure for row in tones.rows}
    noisy = decoded(_Tones(), {"noise": 0.5})
    assert {row.measure for row in noisy.rows} == {row.measure for row in tones.rows} - {"clean_transitions"}


def test_a_folder_of_another_kind_is_refused(models, decoders):
    with pytest.raises(ValueError, match="sim-decoder"):
        load_models(decoders[:1], "cpu")
    with pytest.raises(ValueError, match="not a decoder"):
        attach_decoders(load_models(models[:1]), models[:1], "cpu")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--label", "color"], "color"),
        (["--label", "vowel", "--factors", "vowel,vowle"], "`factors` names 'vowle'"),
        (["--label", "vowel", "--factors", "phones"], "`factors` names 'phones'"),
        (["--label", "vowel", "--factors", "audio"], "`factors` names 'audio'"),
        (["--label", "phones", "--factors", "vowel"], "`factors`"),
    ],
)
def test_what_cannot_be_analysed_is_reported(flags, message, models, tmp_path):
    with pytest.raises(SystemExit, match=message):
        evaluate.main(["--model", models[0], *SYLLABLES, *flags, "--output_dir", str(tmp_path)])


# ---------------------------------------------------------------------- parts


def test_modules_of_other_architectures_are_next_to_those_that_see_the_same():
    sim = SimConfig.preset("sim")
    assert aligned_modules(SimConfig.preset("cpc"), sim) == {"module 2": 0, "context": 1}
    lowe = {"module 0": 1, "module 1": 3, "module 2": 4, "context": 5}
    assert aligned_modules(SimConfig.preset("gim-lowe"), sim) == lowe
    assert aligned_modules(sim, sim) == {"module 0": 0, "module 1": 1, "module 2": 2, "context": 3}


def test_modules_are_chosen_by_those_of_the_first_model(models):
    sim, cpc = load_models([models[0], models[2]], "2,context")
    assert sim.modules == {"module 2": 2, "context": 3}
    assert cpc.modules == {"module 2": 0, "context": 1}
    with pytest.raises(ValueError, match="`modules`"):
        load_models(models[:1], "7")


@pytest.mark.parametrize(
    ("preset", "fields", "name"),
    [
        ("sim", {}, "SIM"),
        ("sim", {"kl_weight": 0.0}, "SIM, beta 0"),
        ("sim", {"sample_latents": False}, "SIM, mean"),
        ("gim", {}, "GIM"),
        ("gim-lowe", {}, "GIM (Löwe)"),
        ("cpc", {}, "CPC"),
    ],
)
def test_kinds_have_names(preset, fields, name):
    assert method_of(SimConfig.preset(preset, **fields)) == name


@pytest.mark.parametrize("long_seconds", [60, 0.5], ids=["at once", "in chunks"])
def test_frames_are_the_models_own_and_silence_is_excluded(models, long_seconds, monkeypatch):
    monkeypatch.setattr("modeling_sim.modeling_sim.LONG_SECONDS", long_seconds)
    (of,) = load_models(models[:1])
    dataset = load_corpus("synthetic_syllables", "test", **CORPUS).select(range(1))
    frames = frames_of(of, dataset, max_frames=10**6, batch_size=2)[2].means
    waveform = torch.from_numpy(read_audio(dataset[0]["audio"]))[None]
    with torch.no_grad():
        assert of.model.takes_chunks(waveform) == (long_seconds < 1)
    expected = encode(of.model, waveform, module=2)[0, ::2].numpy()
    np.testing.assert_allclose(frames, expected, atol=1e-5)


def test_a_label_that_abx_cannot_ask_for_is_skipped_by_abx_alone(capsys):
    names = np.array([f"u{number}" for number in range(6)])

    def rows(labels, speakers, features):
        task = SimpleNamespace(
            of_frames=False, tokens=lambda items: utterance_tokens(items.labels, items.utterances, items.speakers)
        )
        analysis = Analysis(Namespace(seed=0, max_tokens=5))
        items = Items({"m": features}, labels, names, speakers, np.zeros(len(labels)))
        place = {"kind": "k", "representation": "r", "module": "m"}
        measure_abx(analysis, Subject(task, place, lambda: None, lambda: items, "m"))
        return analysis.rows

    speakers = np.arange(6) % 2
    assert rows(speakers, speakers, np.eye(6)) == []  # the label is the speaker: no other class within one
    assert "abx_within of r" in capsys.readouterr().out
    found = rows(np.arange(6) // 3, np.zeros(6, dtype=int), np.eye(6) + np.eye(6)[np.arange(6) // 3 * 3])
    assert [row.measure for row in found] == ["abx_within"]


def test_a_comparison_says_win_or_loss_by_the_direction_fixed_beforehand():
    def rows(measure, kind, values):
        return [Row(kind, f"{kind}-{seed}", "m", measure, value) for seed, value in enumerate(values)]

    values = [
        *rows("linear_accuracy", "A", [0.8, 0.81, 0.79]),
        *rows("linear_accuracy", "B", [0.5, 0.51, 0.49]),
        *rows("mmd", "A", [0.8, 0.81, 0.79]),
        *rows("mmd", "B", [0.5, 0.51, 0.49]),
        *rows("path_ratio", "A", [1.1, 1.11, 1.09]),
        *rows("path_ratio", "B", [1.5, 1.51, 1.49]),
        *rows("kl", "A", [8.0, 8.1, 7.9]),
        *rows("kl", "B", [5.0, 5.1, 4.9]),
        *rows("gini", "A", [0.5, 0.6, 0.4]),
        *rows("gini", "B", [0.5, 0.58, 0.4]),
        *rows("k95", "A", [1.0]),
        *rows("k95", "B", [5.0]),
    ]
    verdicts = {row.measure: row.verdict for row in compare(values, [("A", "B")])}
    assert verdicts == {
        "linear_accuracy": "win",
        "mmd": "loss",
        "path_ratio": "win",
        "gini": "undecided",
        "k95": "undecided",
    }


def test_ties_of_a_coarse_measure_decide_nothing():
    values = [
        Row(kind, f"{kind}-{seed}", "m", "k95", value + seed * 1e-17)
        for kind, value in (("A", 0.25), ("B", 0.5))
        for seed in range(3)
    ]
    values.append(Row("log-mel", "log-mel", "frame", "k95", 0.5))
    for row in compare(values, [("A", "B"), ("A", "log-mel")]):
        assert (row.low, row.high, row.verdict) == (None, None, "undecided")


def test_welchs_interval_is_scipys():
    from scipy import stats

    values = [
        Row(kind, f"{kind}{value}", "m", "gini", value)
        for kind, own in (("A", (0.1, 0.2, 0.35)), ("B", (0.4, 0.5, 0.9)))
        for value in own
    ]
    (row,) = compare(values, [("A", "B")])
    expected = stats.ttest_ind([0.1, 0.2, 0.35], [0.4, 0.5, 0.9], equal_var=False).confidence_interval()
    assert (row.low, row.high) == pytest.approx((expected.low, expected.high))


def test_a_model_counts_once_however_often_it_was_measured():
    values = [
        Row(kind, kind, "m", "gini", value) for kind, own in (("A", (0.8, 0.81)), ("B", (0.5, 0.51))) for value in own
    ]
    (row,) = compare(values, [("A", "B")])
    assert (row.low, row.verdict) == (None, "undecided")
    assert row.difference == pytest.approx(0.3)


def test_a_spectrum_is_next_to_every_module():
    values = [
        Row("A", f"A{value}", module, "gini", value)
        for module in ("module 0", "context")
        for value in (0.5, 0.51, 0.52)
    ]
    values.append(Row("log-mel", "log-mel", "frame", "gini", 0.3))
    rows = compare(values, [("A", "log-mel")])
    assert [(row.module, row.verdict) for row in rows] == [("module 0", "win"), ("context", "win")]
    assert rows[0].low == pytest.approx(0.21 - 4.303 * 0.01 / 3**0.5, abs=1e-4)


# ---------------------------------------------------------------------- sound


def test_properties_of_synthetic_syllables_are_their_factors():
    corpus = load_corpus("synthetic_syllables", "test", **CORPUS).select(range(20))
    found = np.array([sound_properties(read_audio(row["audio"]), 16000) for row in corpus])
    pitch = 2 ** (found[:, 0] / 12)
    assert np.median(np.abs(pitch / np.array(corpus["f0"][:]) - 1)) < 0.02
    formants = np.array([np.median(np.array(row["formants"])[:, :2], axis=0) for row in corpus])
    ratio = 2 ** (found[:, 3:5] / 12) / formants
    assert (np.abs(np.nanmedian(ratio, axis=0) - 1) < 0.06).all()
    assert np.corrcoef(found[:, 1], corpus["gain"][:])[0, 1] > 0.8


def test_a_louder_sound_is_louder_and_nothing_else():
    tone = sum(np.sin(2 * np.pi * 150 * harmonic * np.arange(8000) / 16000) / harmonic for harmonic in range(1, 20))
    change = sound_properties(0.2 * tone, 16000) - sound_properties(0.1 * tone, 16000)
    np.testing.assert_allclose(change, [0, 20 * np.log10(2), 0, 0, 0], atol=1e-3)
    assert 2 ** (sound_properties(tone, 16000)[0] / 12) == pytest.approx(150, rel=0.01)
    assert np.isnan(sound_properties(np.zeros(8000), 16000)).all()
    assert np.isnan(sound_properties(np.where(np.arange(8000) == 4000, np.nan, tone[:8000]), 16000)).all()


@pytest.mark.parametrize("kind", ["click", "ramp", "constant", "noise", "short"])
def test_any_sound_has_properties(kind):
    sounds = {
        "click": np.eye(1, 8000)[0],
        "ramp": np.linspace(-1, 1, 8000),
        "constant": np.full(8000, 0.5),
        "noise": np.random.default_rng(0).normal(size=8000),
        "short": np.sin(np.arange(200)),
    }
    assert sound_properties(sounds[kind], 16000).shape == (len(PROPERTIES),)


def padded_clips(spans, length=2000):
    """Clips at 16 kHz that are digital silence but for a span of samples each, which is loud from end to end."""
    clips = []
    for number, (start, end) in enumerate(spans):
        samples = np.zeros(length, dtype=np.float32)
        samples[start:end] = 0.5 - 0.001 * np.arange(end - start)
        file = io.BytesIO()
        soundfile.write(file, samples, 16_000, format="WAV", subtype="FLOAT")
        clips.append({"id": f"clip-{number}", "audio": {"path": None, "bytes": file.getvalue()}})
    return Dataset.from_list(clips)


def test_decoders_are_measured_on_what_is_heard_and_not_on_the_silence_of_padding():
    clips = padded_clips([(100, 700), (0, 650), (1400, 2000), (0, 0)])
    kept, waveforms = trimmed_waveforms(clips, SimFeatureExtractor())
    assert kept["id"][:] == ["clip-0", "clip-1", "clip-2"]  # the last is silence alone
    assert waveforms.shape == (3, 600)
    np.testing.assert_allclose(waveforms, np.tile(0.5 - 0.001 * np.arange(600), (3, 1)), atol=1e-6)
    assert trimmed_waveforms(clips, SimFeatureExtractor(), 640)[0]["id"][:] == ["clip-1"]


def test_one_short_clip_does_not_cut_all_others_to_its_length():
    kept, waveforms = trimmed_waveforms(
        padded_clips([(0, 40), *[(0, 900 + 10 * n) for n in range(30)]]), SimFeatureExtractor()
    )
    assert waveforms.shape == (30, 900)
    assert "clip-0" not in kept["id"][:]


def test_clips_are_prepared_as_the_model_reads_them():
    clips = padded_clips([(100, 1500), (0, 1400)])
    _, plain = trimmed_waveforms(clips, SimFeatureExtractor())
    _, normalized = trimmed_waveforms(clips, SimFeatureExtractor(do_normalize=True))
    expected = (plain - plain.mean(dim=1, keepdim=True)) / plain.std(dim=1, correction=0, keepdim=True)
    torch.testing.assert_close(normalized, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("num_samples", [None, 1000])
def test_clips_without_sound_are_reported(num_samples):
    with pytest.raises(ValueError, match="no utterance has"):
        trimmed_waveforms(padded_clips([(0, 0), (5, 5)]), SimFeatureExtractor(), num_samples)


class _Tones(torch.nn.Module):
    """A decoder whose first channel is the pitch in octaves, whose second is the level in bels, and no other counts."""

    class config:  # noqa: N801 - as a model's
        sampling_rate = 16_000

    def forward(self, latents, num_samples, **_):
        seconds = torch.arange(num_samples) / 16_000
        pitch = 130 * 2 ** latents[..., 0].mean(dim=1, keepdim=True)
        level = 0.05 * 10 ** (latents[..., 1].mean(dim=1, keepdim=True) / 2)
        harmonics = torch.arange(1, 15)[:, None, None]
        tone = (torch.sin(2 * torch.pi * harmonics * pitch * seconds) / harmonics).sum(dim=0)
        return type("Output", (), {"waveforms": level * tone})


def test_moving_the_channel_of_the_pitch_moves_the_pitch_and_nothing_else_does():
    latents = 0.2 * torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(0))
    changes = traversal_changes(_Tones(), latents, 0.1 * torch.eye(3), 8000)
    assert changes.shape == (3, 4, len(PROPERTIES))
    pitch, level = PROPERTIES.index("pitch, semitones"), PROPERTIES.index("level, dB")
    np.testing.assert_allclose(changes[0, :, pitch], 12 * 0.1, rtol=0.02)  # finer than samples of a period
    np.testing.assert_allclose(changes[1, :, level], 10 * 0.1, rtol=0.05)
    assert np.abs(changes[1, :, pitch]).max() < 0.01
    np.testing.assert_allclose(changes[2], 0, atol=1e-6)


class _TurnedTones(_Tones):
    """The same sounds of latents whose meaning lies along no dimension."""

    turn = torch.tensor([[2.0, -2.0, 1.0], [2.0, 1.0, -2.0], [1.0, 2.0, 2.0]]) / 3

    def forward(self, latents, num_samples, **_):
        return super().forward(latents @ self.turn.T, num_samples)


def selectivity_of(analysis):
    row = next(row for row in analysis.rows if row.measure == "traversal_selectivity")
    return row, analysis.curves["traversal_effects"][0]


def test_a_decoder_whose_dimensions_have_a_meaning_each_differs_from_random_axes(tones):
    """Pitch, level and nothing by channel; a tone's brightness and formants come and go with its pitch."""
    row, effects = selectivity_of(tones)
    dimension_of, share_of = (
        dict(zip(effects["targets"], effects[name], strict=True)) for name in ("dimensions", "selectivity")
    )
    assert dimension_of["pitch, semitones"] == 0
    assert dimension_of["level, dB"] == 1
    assert share_of["level, dB"] > 0.9
    assert row.null == pytest.approx(np.mean(effects["selectivity_of_random_axes"]))
    assert row.value > max(effects["selectivity_of_random_axes"])
    assert effects["conveyed"][:2] == pytest.approx([1, 1])


def test_a_decoder_whose_dimensions_have_no_meaning_is_no_better_than_random_axes(tones, monkeypatch):
    monkeypatch.setattr(decoder_measures, "_ROTATIONS", 5)  # a range of two is easily left
    row, effects = selectivity_of(decoded(_TurnedTones(), turn=_TurnedTones.turn))
    turned = effects["selectivity_of_random_axes"]
    assert min(turned) <= row.value <= max(turned)
    plain, known = selectivity_of(tones)
    assert known["oracle"]["targets"] == effects["oracle"]["targets"]
    np.testing.assert_allclose(effects["oracle"]["values"], known["oracle"]["values"], rtol=0.1, atol=0.05)
    assert row.value < plain.value


def test_temporal_components_find_the_axes_of_rotated_channels_that_change_at_different_rates():
    noise = 0.1 * torch.randn(12, 60, 3, generator=torch.Generator().manual_seed(0))
    latents = torch.stack([noise[..., 0].cumsum(1) / 2, noise[..., 1] + noise[..., 1].roll(1, 1), noise[..., 2]], 2)
    found = decoded(_TurnedTones(), turn=_TurnedTones.turn, latents=latents, axes="own,temporal")
    rows = {row.measure: row for row in found.rows}
    own, _ = selectivity_of(decoded(_Tones(), latents=latents))
    assert rows["traversal_selectivity_temporal"].value == pytest.approx(own.value, abs=0.02)
    assert rows["traversal_selectivity_temporal"].value > rows["traversal_selectivity_temporal"].null + 0.05
    assert rows["traversal_selectivity"].value < own.value - 0.05


def test_the_dimensions_of_pitch_and_formant_are_heard_alone_where_they_are_known(monkeypatch):
    def titles():
        items = decoded(_Tones(), with_clips=True).media.items
        return [item["title"] for item in items if item["group"] == "traversal"]

    assert any(re.search("dimension 0, .*pitch", title) for title in titles())
    monkeypatch.setattr(decoder_measures, "most_telling", lambda *_: (np.full(5, 1), np.ones(5)))
    (title,) = titles()
    assert re.search("dimension 1, .*pitch and F1$", title)
    monkeypatch.setattr(decoder_measures, "_properties_of_training", Mock(side_effect=ValueError("no such utterance")))
    assert len(titles()) == 2
    assert all("differs most between utterances" in title for title in titles())


def test_chosen_dimensions_are_moved_and_played_as_far_as_asked_on_the_chosen_utterance():
    far = {"range": 1.5}
    analysis = decoded(_Tones(), with_clips=True, dims="2, 1,99", utterance="7", **far)
    (row, effects), (row_without, without) = map(selectivity_of, (analysis, decoded(_Tones(), **far)))
    added = len(effects["dimensions"]) - len(without["dimensions"])
    assert effects["dimensions"] == [*without["dimensions"], 2, 1]
    assert effects["targets"][-1] == "level, dB"
    assert abs(effects["correlations"][-1]) > 0.9
    np.testing.assert_allclose(effects["values"][:-added], without["values"])
    np.testing.assert_allclose(effects["values"][-2], 0, atol=1e-6)  # the third channel does nothing
    assert row.value == row_without.value
    moved = [item for item in analysis.media.items if item["group"] == "traversal"]
    assert [item["title"].split(",")[:2] for item in moved] == [["7", f" dimension {dim}"] for dim in (2, 1)]
    assert [clip["label"] for clip in moved[0]["clips"]] == ["-1.5 SD", "-0.75 SD", "mean", "+0.75 SD", "+1.5 SD"]
    silent, loud = (
        [analysis.media.arrays[clip["array"]] for clip in item["clips"]] for item in moved
    )  # of a channel that does nothing, and of the level
    np.testing.assert_allclose(silent[0], silent[4], atol=1e-6)
    assert np.abs(loud[4]).max() > 1.2 * np.abs(loud[0]).max()


@pytest.mark.parametrize("preset", ["sim-small", "gim-lowe", "cpc"])
def test_matrix_products_decode_as_transposed_convolutions_do_and_have_their_gradients(preset):
    config = SimConfig.preset(preset, **SMALL)
    for module in range(config.num_modules):
        torch.manual_seed(module)
        decoder = SimDecoder(SimDecoderConfig.for_module(config, module, hidden_size=6)).eval()
        latents = torch.randn(5, 7, decoder.config.latent_size, requires_grad=True)
        for num_samples in (decoder.config.num_samples(7) - 3, decoder.config.num_samples(7) + 3):
            expected = decoder(latents, num_samples).waveforms
            found = decoded_in_parts(decoder, latents, num_samples)
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
            gradients = [torch.autograd.grad(each.square().sum(), latents)[0] for each in (found, expected)]
            torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)

            direction = torch.randn_like(latents)
            decode = partial(decoded_in_parts, decoder, num_samples=num_samples)
            with torch.no_grad():
                derivative = torch.func.linearize(decode, latents)[1](direction)
            forward = partial(decoder, num_samples=num_samples, return_dict=False)
            expected = torch.func.jvp(forward, (latents,), (direction,))[1][0]
            torch.testing.assert_close(derivative, expected, atol=1e-6, rtol=1e-4)


def test_a_source_filter_decoder_decodes_in_parts():
    torch.manual_seed(0)
    decoder = SimDecoder(SimDecoderConfig(latent_size=4, hidden_size=6, architecture="source_filter")).eval()
    latents = torch.randn(40, 7, 4)
    torch.testing.assert_close(decoded_in_parts(decoder, latents, 1000), decoder(latents, 1000).waveforms)


def test_long_utterances_need_fewer_pairs():
    as_many = decoder_measures._as_many
    assert [as_many(60, 120, seconds) for seconds in (0.5, 2, 5, 30)] == [60, 60, 24, 8]
    assert as_many(4, 120, 30) == 4


def test_what_is_recorded_begins_and_ends_where_it_says():
    media, latents = Media(), torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    decoder = SimDecoder(SimDecoderConfig(latent_size=6, hidden_size=4)).eval()
    waveforms = torch.randn(4, 400)
    record(
        media,
        decoder,
        waveforms,
        latents,
        list("abcd"),
        range(6),
        {2: "counts"},
        kind="K",
        representation="M",
        module="0",
    )
    way = next(item for item in media.items if item["group"] == "interpolation")
    assert way["title"] == "a to b, all dimensions"
    for place, item in ((0, 0), (-1, 1)):
        expected = decoder(latents[item : item + 1], 400).waveforms[0].detach().numpy()
        np.testing.assert_allclose(media.arrays[way["clips"][place]["array"]], expected, atol=1e-6)


def test_a_part_that_cannot_be_read_is_measured_again(models, output_dir, tmp_path, capsys):
    shutil.copytree(output_dir / "cache", tmp_path / "cache")
    for path in sorted((tmp_path / "cache" / "analysis").iterdir())[::5]:  # a part of them, which is faster
        path.write_bytes(path.read_bytes()[:100])
    results = run(models[:1], [], tmp_path / "cache", tmp_path / "again")
    assert str(tmp_path / "cache" / "analysis") in capsys.readouterr().out
    first = json.loads((output_dir / "analysis.json").read_text())
    assert next(row for row in results["rows"] if row["representation"] == "sim-0") in first["rows"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--steps", "0"], "`steps`"),
        (["--max_frames", "1"], "`max_frames`"),
        (["--dims", "3,x"], "`dims` names 'x'"),
        (["--dims", "8"], "`dims` names 8"),
        (["--range", "0"], "`range`"),
        (["--utterance", "test-00000"], "`utterance` 'test-00000'"),
        (["--corpus_settings", "hello"], "`corpus_settings`"),
        (["--corpus_settings", "{num_train: "], "`corpus_settings`"),
        (["--model", "runs/sim-9"], "runs/sim-9"),
    ],
)
def test_flags_that_mean_nothing_are_reported_in_a_line(models, tmp_path, monkeypatch, flags, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    output = ["--output_dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=message) as raised:
        evaluate.main(["--model", models[0], *SYLLABLES, "--label", "vowel", *output, *flags])
    assert "\n" not in str(raised.value)
