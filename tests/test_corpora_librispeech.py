import io
import shutil

import datasets
import numpy as np
import pytest
import soundfile
from datasets import Dataset

from modeling_sim import SimFeatureExtractor
from modeling_sim.data.audio import read_audio
from modeling_sim.data.batches import crop_batches
from modeling_sim.data.corpora import load_corpus
from modeling_sim.data.corpora.alignments import num_label_frames
from modeling_sim.data.corpora.scan import BadAudioError
from modeling_sim.text import say_once

UTTERANCES = {
    f"{speaker}-{chapter}-{number:04d}": speaker
    for speaker, chapter in (("19", "198"), ("19", "227"), ("100", "1"), ("1034", "121"), ("26", "495"))
    for number in range(5)
}


def waveform(name: str) -> np.ndarray:
    generator = np.random.default_rng(list(name.encode()))
    return 0.1 * generator.standard_normal(int(generator.integers(8_000, 12_000)))


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A miniature of the corpus: two parts, four speakers, five chapters of five utterances."""
    root = tmp_path_factory.mktemp("corpus") / "LibriSpeech"
    for name, speaker in UTTERANCES.items():
        chapter = root / ("dev-clean" if speaker == "26" else "train-clean-100") / speaker / name.split("-")[1]
        chapter.mkdir(parents=True, exist_ok=True)
        soundfile.write(chapter / f"{name}.flac", waveform(name), 16_000)
        with (chapter / f"{'-'.join(name.split('-')[:2])}.trans.txt").open("a") as file:
            file.write(f"{name} TEXT OF {name}\n")
    (root / "SPEAKERS.TXT").write_text(
        ";ID |SEX| SUBSET |MINUTES| NAME\n19 | F | train-clean-100 | 1 | A | B\n"
        "100 | M | x | 1 | C\n1034 | M | x | 1 | D\n26  | F | dev-clean | 1 | E\n"
    )
    return root.parent


@pytest.fixture(scope="module")
def hub_copy(tmp_path_factory):
    """The same utterances in the form of the Hub: Parquet, configurations, dotted splits."""
    folder = tmp_path_factory.mktemp("librispeech_asr")
    splits = {"train.100": ("19", "100", "1034"), "validation": ("26",)}
    for split, speakers in splits.items():
        rows = []
        for name, speaker in UTTERANCES.items():
            if speaker in speakers:
                file = io.BytesIO()
                soundfile.write(file, waveform(name), 16_000, format="FLAC")
                rows.append(
                    {
                        "file": f"{name}.flac",
                        "audio": {"bytes": file.getvalue(), "path": f"{name}.flac"},
                        "text": f"TEXT OF {name}",
                        "speaker_id": int(speaker),
                        "chapter_id": int(name.split("-")[1]),
                        "id": name,
                    }
                )
        (folder / "clean").mkdir(exist_ok=True)
        Dataset.from_list(rows).cast_column("audio", datasets.Audio(decode=False)).to_parquet(
            folder / "clean" / f"{split}-00000.parquet"
        )
    files = "".join(f"  - split: {split}\n    path: clean/{split}-*.parquet\n" for split in splits)
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: clean\n  data_files:\n{files}---\n")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture(params=["tree", "hub"])
def source(request, tree, hub_copy):
    """Arguments that load the training part from either source."""
    return {
        "tree": {"data_dir": tree, "parts": "train-clean-100"},
        "hub": {"dataset_id": str(hub_copy), "parts": "train.100"},
    }[request.param]


def names_of(corpus, column="speaker_id"):
    return [corpus.features[column].int2str(value) for value in corpus[column]]


def test_an_utterance_has_its_audio_speaker_chapter_and_text(source):
    corpus = load_corpus("librispeech", "all", **source)
    assert len(corpus) == 20
    assert corpus.features["speaker_id"].names == ["19", "100", "1034"]
    for row, speaker in zip(corpus, names_of(corpus), strict=True):
        assert speaker == UTTERANCES[row["id"]]
        assert row["chapter_id"] == row["id"].split("-")[1]
        assert row["text"] == f"TEXT OF {row['id']}"
        assert row["sampling_rate"] == 16_000
        assert row["num_samples"] == len(waveform(row["id"]))
        np.testing.assert_allclose(read_audio(row["audio"]), waveform(row["id"]), atol=2**-15)


def test_both_sources_have_the_same_columns(tree, hub_copy):
    local = load_corpus("librispeech", "all", data_dir=tree, parts="train-clean-100")
    hub = load_corpus("librispeech", "all", dataset_id=str(hub_copy))
    assert local.features == hub.features
    assert set(names_of(local, "sex")) == {"F", "M"}
    assert set(hub["sex"]) == {None}


def test_parts_are_chosen_joined_and_named(tree, hub_copy):
    assert len(load_corpus("librispeech", "all", data_dir=tree, parts="train-clean-100+dev-clean")) == 25
    assert len(load_corpus("librispeech", "train.100", data_dir=tree)) == 20
    assert len(load_corpus("librispeech", "dev-clean", dataset_id=str(hub_copy))) == 5
    assert len(load_corpus("librispeech", "dev-clean", data_dir=tree)) == 5
    assert len(load_corpus("librispeech", "validation", dataset_id=str(hub_copy))) == 5
    assert len(load_corpus("librispeech", "train.100+validation", dataset_id=str(hub_copy))) == 25
    with pytest.raises(ValueError, match=r"dev-other.*dev-clean, train-clean-100"):
        load_corpus("librispeech", "dev-other", data_dir=tree)


def test_without_parts_train_clean_100_is_taken_and_said(tree, hub_copy, capsys):
    say_once.cache_clear()
    for source in ({"data_dir": tree}, {"dataset_id": str(hub_copy)}):
        train, test = (load_corpus("librispeech", split, **source) for split in ("train", "test"))
        assert {*names_of(train), *names_of(test)} == {"19", "100", "1034"}
        assert not set(train["id"]) & set(test["id"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("librispeech:")]
    assert [line.count("train-clean-100") + line.count("train.100") for line in lines] == [1] * 4
    assert "dev-clean" in lines[0]


def test_the_only_part_is_taken_and_of_several_others_none(tree, tmp_path):
    shutil.copytree(tree / "LibriSpeech" / "dev-clean", tmp_path / "dev-clean")
    assert len(load_corpus("librispeech", "all", data_dir=tmp_path)) == 5
    shutil.copytree(tree / "LibriSpeech" / "dev-clean", tmp_path / "test-clean")
    with pytest.raises(ValueError, match=r"`parts`.*dev-clean, test-clean"):
        load_corpus("librispeech", "train", data_dir=tmp_path)
    assert len(load_corpus("librispeech", "test-clean", data_dir=tmp_path)) == 5


def test_a_copy_in_another_encoding_has_the_same_utterances(tree, tmp_path):
    shutil.copytree(tree, tmp_path / "copy")
    for path in (tmp_path / "copy").rglob("*.flac"):
        soundfile.write(path.with_suffix(".ogg"), *soundfile.read(path), format="OGG", subtype="VORBIS")
        path.unlink()
    original, copy = (load_corpus("librispeech", "all", data_dir=folder) for folder in (tree, tmp_path / "copy"))
    assert copy.remove_columns("audio")[:] == original.remove_columns("audio")[:]
    assert copy[0]["audio"]["path"].endswith(".ogg")


def test_a_part_of_another_configuration_is_named(hub_copy):
    with pytest.raises(ValueError, match="'test-other'"):
        load_corpus("librispeech", "test-other", dataset_id=str(hub_copy))


def test_hidden_files_are_skipped(tree, tmp_path):
    shutil.copytree(tree / "LibriSpeech", tmp_path / "LibriSpeech")
    part = tmp_path / "LibriSpeech" / "train-clean-100"
    for path in list(part.rglob("*.flac")):
        (path.parent / f"._{path.name}").write_bytes(b"not audio")
    (tmp_path / "LibriSpeech" / ".git" / "1" / "2").mkdir(parents=True)
    shutil.copy(next(part.rglob("1*.flac")), tmp_path / "LibriSpeech" / ".git" / "1" / "2")
    shutil.copytree(part / "19" / "198", part / "19" / ".ipynb_checkpoints")
    assert len(load_corpus("librispeech", "all", data_dir=tmp_path)) == 20


def test_the_lists_of_cpc_are_found_under_their_published_names(tree, tmp_path):
    shutil.copytree(tree / "LibriSpeech", tmp_path / "LibriSpeech")
    (tmp_path / "train_split.txt").write_text("1034-121-0004\n19-198-0000\n")
    (tmp_path / "test_split.txt").write_text("100-1-0002\n")
    frames = {name: num_label_frames(len(waveform(name))) for name in UTTERANCES}
    (tmp_path / "converted_aligned_phones.txt").write_text(
        "".join(f"{name} {' '.join(['3'] * count)}\n" for name, count in frames.items())
    )
    train, test = (load_corpus("librispeech", split, data_dir=tmp_path) for split in ("train", "test"))
    assert sorted(train["id"]) == ["1034-121-0004", "19-198-0000"]
    assert test["id"] == ["100-1-0002"]
    assert set(test[0]["phones"]) == {3}
    # With one list missing, the other split is not drawn from the utterances of the existing list.
    (tmp_path / "test_split.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"test\.txt"):
        load_corpus("librispeech", "test", data_dir=tmp_path)


def test_by_default_every_speaker_is_in_both_splits_and_no_utterance_is(source):
    train, test = (load_corpus("librispeech", split, **source) for split in ("train", "test"))
    assert sorted([*train["id"], *test["id"]]) == sorted(load_corpus("librispeech", "all", **source)["id"])
    assert (len(train), len(test)) == (16, 4)
    assert set(names_of(train)) == set(names_of(test)) == {"19", "100", "1034"}
    assert train.features == test.features


def test_the_draw_is_the_same_from_both_sources_and_follows_the_seed(tree, hub_copy):
    def drawn(seed, **arguments):
        return sorted(load_corpus("librispeech", "test", split_by="utterance", seed=seed, **arguments)["id"])

    local = drawn(0, data_dir=tree, parts="train-clean-100")
    assert local == drawn(0, dataset_id=str(hub_copy))
    assert local != drawn(1, dataset_id=str(hub_copy))
    # Additional parts do not affect the speakers of the others.
    assert set(local) <= set(drawn(0, data_dir=tree))


def test_speakers_can_be_kept_apart(source):
    train, test = (load_corpus("librispeech", split, split_by="speaker", **source) for split in ("train", "test"))
    assert len(train) + len(test) == 20
    assert not set(names_of(train)) & set(names_of(test))
    assert train.features == test.features


def test_the_test_speakers_are_of_both_sexes_where_they_are_known(tree):
    parts = "train-clean-100+dev-clean"
    test = load_corpus("librispeech", "test", data_dir=tree, parts=parts, split_by="speaker", test_fraction=0.5)
    assert set(names_of(test, "sex")) == {"F", "M"}


def test_lists_divide_by_utterance(source, tmp_path):
    (tmp_path / "train.txt").write_text("1034-121-0004\n19-198-0000\n\n")
    (tmp_path / "test.txt").write_text("100-1-0002\n")
    assert sorted(load_corpus("librispeech", "train", lists=tmp_path, **source)["id"]) == [
        "1034-121-0004",
        "19-198-0000",
    ]
    assert load_corpus("librispeech", "test", lists=tmp_path, **source)["id"] == ["100-1-0002"]


def test_any_other_list_is_a_split_too(source, tmp_path):
    lists = {"train": "1034-121-0004", "test": "100-1-0002", "development": "19-198-0000"}
    for name, utterance in lists.items():
        (tmp_path / f"{name}.txt").write_text(utterance)
        loaded = load_corpus("librispeech", name, split_by="list", lists=tmp_path, **source)
        assert loaded["id"] == [utterance]
    (tmp_path / "development.txt").write_text("19-198-0000\n100-1-0002\n")
    with pytest.raises(ValueError, match="100-1-0002"):
        load_corpus("librispeech", "development", split_by="list", lists=tmp_path, **source)


def test_a_listed_utterance_that_is_not_there_is_named(tree, hub_copy, tmp_path):
    (tmp_path / "train.txt").write_text("19-198-0000\n19-198-0099\n")
    with pytest.raises(BadAudioError, match="19-198-0099"):
        load_corpus("librispeech", "train", data_dir=tree, lists=tmp_path)
    kept = load_corpus("librispeech", "train", data_dir=tree, lists=tmp_path, on_bad_audio="skip")
    assert kept["id"] == ["19-198-0000"]
    with pytest.raises(ValueError, match="'19-198-0099'"):
        load_corpus("librispeech", "train", dataset_id=str(hub_copy), lists=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"test\.txt"):
        load_corpus("librispeech", "test", data_dir=tree, lists=tmp_path)


def test_a_stream_and_a_table_give_the_same_samples(hub_copy):
    table = load_corpus("librispeech", "all", dataset_id=str(hub_copy), parts="train.100+validation")
    stream = load_corpus("librispeech", "all", dataset_id=str(hub_copy), parts="train.100+validation", streaming=True)
    rows = list(stream)
    assert [row["id"] for row in rows] == table["id"]
    for streamed, row, speaker in zip(rows, table, names_of(table), strict=True):
        np.testing.assert_array_equal(read_audio(streamed["audio"]), read_audio(row["audio"]))
        assert streamed["speaker_id"] == speaker
        for name in ("text", "chapter_id", "num_samples", "sampling_rate"):
            assert streamed[name] == row[name]


def test_crops_of_a_stream_are_read(hub_copy):
    stream = load_corpus("librispeech", "train.100", dataset_id=str(hub_copy), streaming=True)
    batches = iter(crop_batches(stream, SimFeatureExtractor(), crop_samples=4_000, batch_size=6, seed=0))
    ids = [name for _ in range(4) for name in next(batches)["id"]]
    assert ids[:20] == [name for name in UTTERANCES if UTTERANCES[name] != "26"]
    assert ids[20:] == ids[:4]


def test_a_stream_is_divided_by_lists_alone(hub_copy, tmp_path):
    (tmp_path / "train.txt").write_text("19-198-0003\n1034-121-0004\n")
    stream = load_corpus("librispeech", "train", dataset_id=str(hub_copy), streaming=True, lists=tmp_path)
    assert [row["id"] for row in stream] == ["19-198-0003", "1034-121-0004"]
    with pytest.raises(ValueError, match="`split_by`"):
        load_corpus("librispeech", "train", dataset_id=str(hub_copy), streaming=True)


def test_phones_come_with_either_source_and_are_null_without_an_alignment(source, tmp_path):
    lines = [
        f"{name} " + " ".join(["1"] * num_label_frames(len(waveform(name)))) for name in UTTERANCES if "-0000" in name
    ]
    (tmp_path / "aligned_phones.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "phones.txt").write_text("SIL 0\nAA 1\n")
    corpus = load_corpus("librispeech", "all", alignments=tmp_path, **source)
    assert corpus.features["phones"].feature.names == ["SIL", "AA"]
    for row in corpus:
        assert (row["phones"] is not None) == ("-0000" in row["id"])


def test_phones_come_with_a_stream(hub_copy, tmp_path):
    frames = num_label_frames(len(waveform("19-198-0000")))
    (tmp_path / "aligned_phones.txt").write_text("19-198-0000 " + " ".join(["0"] * frames) + "\n")
    stream = load_corpus("librispeech", "train.100", dataset_id=str(hub_copy), streaming=True, alignments=tmp_path)
    assert {row["id"]: row["phones"] for row in stream}["19-198-0000"] == [0] * frames


def test_labels_of_the_wrong_length_are_named(tree, tmp_path):
    (tmp_path / "aligned_phones.txt").write_text("19-198-0000 0 0 0\n")
    with pytest.raises(BadAudioError, match="19-198-0000"):
        load_corpus("librispeech", "all", data_dir=tree, alignments=tmp_path)


def test_two_files_of_one_id_are_named(tmp_path):
    for part in ("train-clean-100", "train-clean-360"):
        chapter = tmp_path / part / "19" / "198"
        chapter.mkdir(parents=True)
        soundfile.write(chapter / "19-198-0000.flac", waveform("19-198-0000"), 16_000)
    both = "train-clean-100+train-clean-360"
    with pytest.raises(BadAudioError, match="train-clean-360"):
        load_corpus("librispeech", both, data_dir=tmp_path)
    assert len(load_corpus("librispeech", both, data_dir=tmp_path, on_bad_audio="skip")) == 1


@pytest.mark.parametrize("line", ["33", "33 | X | train-clean-100"])
def test_a_wrong_line_of_the_speakers_is_named(tree, tmp_path, line):
    shutil.copytree(tree / "LibriSpeech", tmp_path / "LibriSpeech")
    with (tmp_path / "LibriSpeech" / "SPEAKERS.TXT").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=r"SPEAKERS\.TXT"):
        load_corpus("librispeech", data_dir=tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        load_corpus("librispeech", data_dir=tmp_path / "absent")
    with pytest.raises(ValueError, match=r"has no PART/SPEAKER/CHAPTER/\*\.flac"):
        load_corpus("librispeech", data_dir=tmp_path)


def test_the_corpus_passes_through_datasets(source, tmp_path):
    corpus = load_corpus("librispeech", "all", **source)
    shuffled = corpus.shuffle(seed=0).filter(lambda row: row["chapter_id"] != "1").select(range(6))
    shuffled.save_to_disk(tmp_path / "saved")
    restored = datasets.load_from_disk(tmp_path / "saved")
    assert restored.features == corpus.features
    for row in restored:
        np.testing.assert_allclose(read_audio(row["audio"]), waveform(row["id"]), atol=2**-15)
    restored.set_transform(lambda rows: {"length": [len(read_audio(audio)) for audio in rows["audio"]]})
    assert restored[0]["length"] == shuffled[0]["num_samples"]


def test_the_feature_extractor_maps_over_it(source):
    extractor = SimFeatureExtractor()
    corpus = load_corpus("librispeech", "test", **source)

    def extract(rows):
        waveforms = [read_audio(audio) for audio in rows["audio"]]
        return extractor(waveforms, sampling_rate=16_000, padding="max_length", max_length=12_000)

    inputs = corpus.map(extract, batched=True, batch_size=3, remove_columns=corpus.column_names)
    assert set(inputs.column_names) == {"input_values", "attention_mask"}
    for row, source_row in zip(inputs, corpus, strict=True):
        assert sum(row["attention_mask"]) == source_row["num_samples"]
        np.testing.assert_allclose(
            row["input_values"][: source_row["num_samples"]], waveform(source_row["id"]), atol=2**-15
        )


@pytest.mark.real_data
def test_the_real_utterances(data_dir):
    train, test = (load_corpus("librispeech", split, data_dir=data_dir / "librispeech") for split in ("train", "test"))
    assert (len(train), len(test)) == (432, 108)
    assert len(set(train["id"]) | set(test["id"])) == 540
    hours = (sum(train["num_samples"]) + sum(test["num_samples"])) / 16_000 / 3_600
    assert hours == pytest.approx(1.74, abs=0.005)
    for corpus in (train, test):
        assert len(set(corpus["speaker_id"])) == 20
        assert all(corpus["text"])
        assert set(corpus["sampling_rate"]) == {16_000}
        for phones, length in zip(corpus["phones"], corpus["num_samples"], strict=True):
            assert len(phones) == num_label_frames(length)
    assert train.features == test.features
    assert len(train.features["phones"].feature.names) == 41
    sexes = dict(zip(names_of(train), names_of(train, "sex"), strict=True))
    assert sorted(sexes.values()) == ["F"] * 10 + ["M"] * 10


@pytest.mark.real_data
def test_the_real_speakers_can_be_kept_apart(data_dir):
    train, test = (
        load_corpus("librispeech", split, data_dir=data_dir / "librispeech", split_by="speaker")
        for split in ("train", "test")
    )
    assert not set(train["speaker_id"]) & set(test["speaker_id"])
    assert len(set(test["speaker_id"])) == 4
    assert sorted(set(names_of(test, "sex"))) == ["F", "M"]
    assert len(train) + len(test) == 540
