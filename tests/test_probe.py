"""The probing command: features stand where the labels do, controls are what they say, bad requests are told."""

import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset

from modeling_sim import SimConfig, SimFeatureExtractor, SimModel
from modeling_sim.commands import probe
from modeling_sim.data.batches import utterance_batches
from modeling_sim.data.corpora import load_corpus
from modeling_sim.data.corpora.contract import make_dataset, with_same_classes
from modeling_sim.evaluation import AbxArguments, AnalysisArguments, ProbeArguments, Results, abx, evaluate
from modeling_sim.evaluation import probe as probe_of
from modeling_sim.evaluation.features import extract
from modeling_sim.evaluation.representations import SimModules, Spectra
from modeling_sim.evaluation.settings import load_split, load_splits
from modeling_sim.loading import module_numbers, names_of

SYLLABLES = "{num_train: 24, num_test: 8, num_speakers: 2}"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    SimModel(SimConfig.preset("sim-small", hidden_size=16, context_size=8)).save_pretrained(folder)
    SimFeatureExtractor().save_pretrained(folder)
    return folder


def run(checkpoint, output_dir, *flags):
    corpus = ["--corpus", "synthetic_syllables", "--corpus_settings", SYLLABLES]
    folders = ["--output_dir", str(output_dir), "--cache_dir", str(output_dir / "cache")]
    probe.main(["--model", str(checkpoint), *corpus, *folders, "--l2", "1e-3", *flags])
    return Results.read(output_dir / "probe.json")


@pytest.fixture(scope="module")
def corpus():
    return load_corpus("synthetic_syllables", "test", num_train=24, num_test=8, num_speakers=2)


def test_frames_of_every_module_are_the_nearest_to_the_labels(corpus, tmp_path):
    model = SimModel(SimConfig.preset("sim-small", hidden_size=16, context_size=8)).eval()
    extractor = SimFeatureExtractor()
    items = extract(
        corpus,
        SimModules("sim", model, extractor),
        label="phones",
        pooling="frame",
        frame_step=3,
        batch_size=3,
        cache_dir=tmp_path,
    )
    assert {features.shape for features in items.features.values()} == {(len(items.labels), 16), (len(items.labels), 8)}
    for batch in utterance_batches(corpus, extractor, batch_size=1, columns=("phones",)):
        mine = items.utterances == batch["id"][0]
        phones = batch["columns"][0]["phones"]
        np.testing.assert_array_equal(items.labels[mine], phones[::3])
        with torch.no_grad():
            states = model(batch["input_values"], output_hidden_states=True).hidden_states
        for module, name in enumerate(model.config.module_names):
            centers = model.config.frame_centers(states[module].shape[1], module)
            moments = 160 * np.arange(0, len(phones), 3) + 200  # of the labels' windows
            nearest = np.abs(centers - moments[:, None]).argmin(axis=1)
            got, wanted = items.features[name][mine], states[module][0, nearest].numpy()
            # a moment between two frames may go either way
            distance = np.abs(np.abs(centers - moments[:, None]) - np.abs(centers[nearest] - moments)[:, None])
            unique = (distance < 1).sum(axis=1) == 1
            np.testing.assert_allclose(got[unique], wanted[unique], atol=1e-5)
            assert unique.mean() > 0.5


def test_means_are_over_real_frames_alone(corpus, tmp_path):
    model = SimModel(SimConfig.preset("sim-small", hidden_size=16, context_size=8)).eval()
    extractor = SimFeatureExtractor()
    items = extract(
        corpus,
        SimModules("sim", model, extractor, [3]),
        label="speaker_id",
        pooling="mean",
        batch_size=8,
        cache_dir=tmp_path,
    )
    for batch in utterance_batches(corpus, extractor, batch_size=1):
        with torch.no_grad():
            expected = model(batch["input_values"]).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(
            items.features["context"][items.utterances == batch["id"][0]][0], expected.numpy(), atol=1e-5
        )
    chunks = extract(
        corpus,
        SimModules("sim", model, extractor, [3]),
        label="speaker_id",
        pooling="chunk",
        chunk_seconds=0.2,
        batch_size=8,
        cache_dir=tmp_path,
    )
    assert len(chunks.labels) > len(items.labels)


def test_the_spectrum_of_a_tone_is_where_it_sounds():
    seconds = torch.arange(16000) / 16000
    batch = {"input_values": torch.sin(2 * torch.pi * 1000 * seconds)[None], "attention_mask": torch.ones(1, 16000)}
    frames = Spectra().encode(batch)
    mel = frames["log-mel"].at(0, np.array([0.5]))[0]
    assert frames["log-mel"].lengths == [98]
    from transformers.audio_utils import hertz_to_mel, mel_to_hertz

    edges = mel_to_hertz(np.linspace(0, hertz_to_mel(8000, mel_scale="slaney"), 82), mel_scale="slaney")
    assert abs(edges[1:-1][mel.argmax()] - 1000) < 60
    assert frames["MFCC"].at(0, np.array([0.5])).shape == (1, 13)


def test_the_table_has_every_control_next_to_the_model(checkpoint, tmp_path, capsys):
    results = run(checkpoint, tmp_path, "--label", "phones", "--modules", "0,context", "--frame_step", "8")
    rows, name = results.by_features(), checkpoint.name
    names = list(rows)
    assert names == [
        "chance: most frequent class",
        "log-mel",
        "MFCC",
        f"{name} untrained, module 0",
        f"{name} untrained, context",
        f"{name}, module 0",
        f"{name}, context",
    ]
    for row in rows.values():
        assert row["linear_accuracy"].low <= row["linear_accuracy"].value <= row["linear_accuracy"].high
        assert 0 <= row["macro_f1"].value <= 1
    assert {sum(map(sum, each["confusion"])) for each in results.details} == {results.test_items}
    assert results.by_features()["log-mel"]["linear_accuracy"].null == rows[names[0]]["linear_accuracy"].value
    accuracies = [row["linear_accuracy"].value for row in rows.values()]
    assert accuracies[1] > accuracies[0]  # the spectrum of synthetic syllables tells their phones
    assert [(each.against, each.module) for each in results.differences] == [
        (f"{name} untrained", "module 0"),
        (f"{name} untrained", "context"),
        ("log-mel", "module 0"),
        ("log-mel", "context"),
    ]
    assert results.differences[2].value == pytest.approx(
        rows[f"{name}, module 0"]["linear_accuracy"].value - rows["log-mel"]["linear_accuracy"].value
    )
    output = capsys.readouterr().out
    assert f"{name}, context - log-mel:" in output
    for name in ("probe.png", "confusion.png"):
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"
    with np.load(tmp_path / "weights.npz") as weights:
        assert weights[f"{checkpoint.name}, context"].shape == (len(results.classes), 8)


def test_results_hold_the_fingerprint_of_every_model_wherever_it_lies(checkpoint, tmp_path):
    other, moved = tmp_path / "other", tmp_path / "moved"
    torch.manual_seed(1)
    SimModel(SimConfig.preset("sim-small", hidden_size=16, context_size=8)).save_pretrained(other)
    SimFeatureExtractor().save_pretrained(other)
    shutil.copytree(other, moved)
    flags = ("--label", "phones", "--modules", "2", "--frame_step", "16")
    results = run(checkpoint, tmp_path / "a", *flags, "--model", str(checkpoint), str(other))
    assert results.corpus_settings == {"num_train": 24, "num_test": 8, "num_speakers": 2}
    found = results.fingerprints
    assert list(found) == results.models
    assert len(set(found.values())) == 2
    assert run(moved, tmp_path / "b", *flags).fingerprints["moved"] == found["other"]


@pytest.mark.parametrize("kind", ["mlp", "knn"])
def test_other_probes_run_too(checkpoint, tmp_path, kind):
    results = run(checkpoint, tmp_path, "--label", "phones", "--modules", "2", "--frame_step", "16", "--probe", kind)
    accuracy = {row.features: row.value for row in results.rows if row.measure == f"{kind}_accuracy"}
    assert accuracy["log-mel"] > accuracy["chance: most frequent class"]


def test_a_model_does_not_differ_from_itself(checkpoint, tmp_path):
    results = run(
        checkpoint, tmp_path, "--label", "phones", "--modules", "2", "--frame_step", "16", "--latents", "mean"
    )
    again = run(
        checkpoint, tmp_path, "--label", "phones", "--modules", "2", "--frame_step", "16", "--overwrite_output_dir"
    )
    assert results.rows == again.rows


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--label", "phone"], r"no column of classes.*phones"),
        (["--modules", "7"], "`modules` names '7'"),
        (["--device", "cuda:99"], "`device` is 'cuda:99', which cannot be used here"),
        (["--label", "vowel"], "it is not a label of frames"),
        (["--label", "phones", "--pooling", "mean"], "`pooling` must be 'frame'"),
        (
            ["--label", "speaker_id", "--corpus_settings", "{num_train: 8, num_test: 4, num_speakers: 1}"],
            "`labels`",
        ),
    ],
)
def test_what_cannot_be_probed_is_reported(checkpoint, tmp_path, flags, message):
    with pytest.raises(SystemExit, match=message):
        run(checkpoint, tmp_path, *flags)


def test_modules_have_names():
    config = SimConfig.preset("sim-small")
    assert module_numbers(config, "all") == [0, 1, 2, 3]
    assert module_numbers(config, "context, 0") == [3, 0]


def test_the_papers_protocol_tests_whole_batches_and_says_so(checkpoint, tmp_path):
    settings = "{num_train: 130, num_test: 70, num_speakers: 2, num_syllables: 1}"
    flags = ["--label", "vowel", "--modules", "2,context", "--protocol", "paper", "--corpus_settings", settings]
    results = run(checkpoint, tmp_path, *flags)
    assert results.probe_name == "the paper's linear"
    assert results.test_items == 64
    assert all(sum(map(sum, each["confusion"])) == 64 for each in results.details)


def test_a_class_that_training_lacks_counts_as_an_error_and_is_reported(checkpoint, tmp_path, monkeypatch, capsys):
    def without_a_vowel(arguments):
        splits = load_splits(arguments)
        return {**splits, "train": splits["train"].filter(lambda vowel: vowel != 2, input_columns="vowel")}

    monkeypatch.setattr("modeling_sim.evaluation.task.load_splits", without_a_vowel)
    settings = "{num_train: 40, num_test: 20, num_speakers: 2, num_syllables: 1}"
    results = run(checkpoint, tmp_path, "--label", "vowel", "--modules", "2", "--corpus_settings", settings)
    assert "classes [2] of the test split have no item in the training split" in capsys.readouterr().out
    assert all(each["confusion"][2][2] == 0 for each in results.details)


def test_too_few_groups_for_an_interval_are_reported(checkpoint, tmp_path):
    flags = ["--label", "phones", "--modules", "2", "--corpus_settings", "{num_train: 1, num_test: 1}"]
    with pytest.raises(SystemExit, match="groups"):
        run(checkpoint, tmp_path, *flags)


def test_one_new_speaker_is_probed_over_utterances(checkpoint, tmp_path, monkeypatch):
    def with_one_new_speaker(arguments):
        speakers = {"train": (0, 1), "test": (2,)}
        return {
            split: data.filter(lambda speaker, own=speakers[split]: speaker in own, input_columns="speaker_id")
            for split, data in load_splits(arguments).items()
        }

    monkeypatch.setattr("modeling_sim.evaluation.task.load_splits", with_one_new_speaker)
    settings = "{num_train: 40, num_test: 40, num_speakers: 3, num_syllables: 1}"
    results = run(checkpoint, tmp_path, "--label", "vowel", "--modules", "2", "--corpus_settings", settings)
    assert "utterances" in results.intervals_over
    assert {row.representation for row in results.rows} >= set(results.models)


def test_a_model_that_gives_no_numbers_is_reported(checkpoint, tmp_path):
    """Also next to one that does: then the pictures show that one."""
    broken = tmp_path / "broken"
    model = SimModel.from_pretrained(checkpoint)
    with torch.no_grad():
        model.conv_modules[0].layers[1].conv.weight.fill_(1e38)  # finite, unlike the frames
    model.save_pretrained(broken)
    SimFeatureExtractor().save_pretrained(broken)
    flags = [
        "--label",
        "vowel",
        "--modules",
        "2",
        "--corpus_settings",
        "{num_train: 12, num_test: 8, num_syllables: 1}",
    ]
    with pytest.raises(SystemExit):
        run(broken, tmp_path / "alone", *flags)
    assert not (tmp_path / "alone" / "probe.json").exists()
    results = run(broken, tmp_path / "both", "--model", str(broken), str(checkpoint), *flags)
    assert results.models == [checkpoint.name]


def test_a_corpus_without_audio_is_named(checkpoint, tmp_path):
    with pytest.raises(SystemExit, match="`corpus`"):
        probe.main(
            ["--model", str(checkpoint), "--corpus", "sprites", "--label", "shape", "--output_dir", str(tmp_path)]
        )


def test_splits_that_were_numbered_apart_get_the_same_classes():
    """As the official splits of a data set on the Hub are, whose classes are texts."""
    train, test = (
        make_dataset(
            {
                "id": [f"{split}{n}" for n in range(len(words))],
                "audio": [{"path": "x"}] * len(words),
                "word": words,
                "phones": [[word] for word in words],
            },
            labels={"word": sorted(set(words))},
            sequence_labels={"phones": sorted(set(words))},
        )
        for split, words in (("a", ["low", "mid", "high"]), ("b", ["mid", "new", "low"]))
    )
    assert train[1]["word"] != test[0]["word"]
    train, test = with_same_classes(train, test)
    names = train.features["word"].names
    assert test.features["word"].names == names == ["high", "low", "mid", "new"]
    assert [names[number] for number in test["word"]] == ["mid", "new", "low"]
    assert [names[number] for number in train["word"]] == ["low", "mid", "high"]
    assert test["phones"][:] == [[number] for number in test["word"]]


def test_models_are_named_by_what_tells_them_apart(tmp_path):
    folders = [tmp_path / "a" / "sim", tmp_path / "b" / "sim", tmp_path / "c"]
    for folder in folders:
        folder.mkdir(parents=True)
    assert names_of([str(folders[0]), str(folders[1])]) == ["a/sim", "b/sim"]
    assert names_of([str(folders[0]), "org/name"]) == ["sim", "org/name"]


def test_samples_do_not_depend_on_what_was_encoded_before(corpus, tmp_path):
    model = SimModel(SimConfig.preset("sim-small", hidden_size=8, context_size=4)).eval()
    settings = {"label": "phones", "pooling": "frame"}
    drawn = [
        extract(
            part,
            SimModules("sim", model, SimFeatureExtractor(), [2], sample=True),
            cache_dir=tmp_path / name,
            **settings,
        )
        for name, part in (("whole", corpus), ("again", corpus))
    ]
    encoder = SimModules("sim", model, SimFeatureExtractor(), [2], sample=True)
    extract(corpus.select(range(2)), encoder, cache_dir=tmp_path / "first", **settings)
    drawn.append(extract(corpus, encoder, cache_dir=tmp_path / "then", **settings))
    for items in drawn[1:]:
        np.testing.assert_array_equal(items.features["module 2"], drawn[0].features["module 2"])


def test_results_of_an_earlier_probe_are_not_replaced_unless_asked(checkpoint, tmp_path):
    flags = ("--label", "phones", "--modules", "2", "--frame_step", "16", "--probe", "knn")
    run(checkpoint, tmp_path, *flags)
    before = (tmp_path / "probe.json").read_bytes()
    with pytest.raises(SystemExit, match="overwrite_output_dir"):
        run(checkpoint, tmp_path, *flags, "--seed", "1")
    assert (tmp_path / "probe.json").read_bytes() == before
    run(checkpoint, tmp_path, *flags, "--figure_format", "svg")  # the same command
    assert (tmp_path / "confusion.svg").read_bytes().startswith(b"<?xml")
    run(checkpoint, tmp_path, *flags, "--seed", "1", "--overwrite_output_dir")
    assert not (tmp_path / "confusion.svg").exists()  # it showed earlier numbers
    (tmp_path / "probe.json").unlink()  # as of one that was killed before its last file
    run(checkpoint, tmp_path, *flags)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "weights.npz").write_bytes(b"another program's")
    for more in ((), ("--overwrite_output_dir",)):
        with pytest.raises(SystemExit, match=r"weights\.npz"):
            run(checkpoint, tmp_path / "theirs", *flags, *more)
    assert (tmp_path / "theirs" / "weights.npz").read_bytes() == b"another program's"


def test_evaluating_the_measure_of_a_preset_gives_its_rows(checkpoint, tmp_path):
    settings = {
        "model": [str(checkpoint)],
        "corpus": "synthetic_syllables",
        "corpus_settings": SYLLABLES,
        "l2": 1e-3,
        "label": "phones",
        "modules": "2",
        "frame_step": 16,
        "cache_dir": str(tmp_path / "cache"),
    }
    separate = [
        *probe_of(ProbeArguments(**settings, output_dir=str(tmp_path / "probe"))).rows,
        *abx(
            AbxArguments(
                **{name: value for name, value in settings.items() if name not in ("l2", "frame_step")},
                output_dir=str(tmp_path / "abx"),
            )
        ).rows,
    ]
    together = evaluate(AnalysisArguments(**settings, measures="abx, probes", output_dir=str(tmp_path / "both"))).rows
    assert len(separate) == len(set(separate)) == len(together)
    assert set(together) == set(separate)
    assert Results.read(tmp_path / "both" / "analysis.json").rows == together
    with pytest.raises(ValueError, match="`measures` names 'probe'"):
        evaluate(AnalysisArguments(**settings, measures="probe"))


def test_reading_a_split_leaves_the_recorded_settings_alone(monkeypatch):
    read = {}

    def load(*_, **given):
        read.update(given)
        return Dataset.from_dict({"audio": []})

    monkeypatch.setattr("modeling_sim.evaluation.settings.load_corpus", load)
    arguments = ProbeArguments(model=["model"], corpus="librispeech", data_dir="here", corpus_settings={"seed": 1})
    load_split(arguments, "test")
    assert read.items() >= {"seed": 1, "data_dir": "here"}.items()
    assert arguments.corpus_settings == {"seed": 1}
