import numpy as np
import pytest
import soundfile

from modeling_sim.data.corpora.contract import make_dataset
from modeling_sim.data.corpora.scan import BadAudioError, check_audio, check_streamed_audio


@pytest.fixture
def corpus(tmp_path):
    """Good recordings `good0` to `good3`, and one of each type of unusable one."""
    generator = np.random.default_rng(0)

    def write(name, samples, **options):
        soundfile.write(tmp_path / name, samples, 16_000, **options)
        return tmp_path / name

    rows = {f"good{number}": write(f"good{number}.flac", 0.1 * generator.standard_normal(8_000)) for number in range(4)}
    rows["missing"] = tmp_path / "missing.flac"
    rows["empty"] = tmp_path / "empty.wav"
    rows["empty"].touch()
    rows["text"] = tmp_path / "text.mp3"
    rows["text"].write_text("not audio")
    rows["silent"] = write("no_samples.wav", np.zeros(0))
    for suffix in ("wav", "flac"):
        path = write(f"truncated.{suffix}", 0.1 * generator.standard_normal(16_000))
        path.write_bytes(path.read_bytes()[:9_000])
        rows[f"truncated_{suffix}"] = path
    # The middle second of a file of floats is checked.
    rows["nan"] = write("nan.wav", np.array([np.nan] + [0.1] * 39_999), subtype="FLOAT")
    rows["whole_numbers"] = write("whole_numbers.wav", 9_000 * generator.standard_normal(8_000), subtype="FLOAT")
    ids = [*rows, "good0", "labels"]
    paths = [*rows.values(), rows["good1"], rows["good2"]]
    # 8000 samples are 48 label frames, 40000 are 248.
    phones = [[0] * {"labels": 30, "nan": 248}.get(name, 48) for name in ids]
    return make_dataset(
        {"id": ids, "audio": [{"path": str(path)} for path in paths], "speaker_id": [0] * len(ids), "phones": phones},
        labels={"speaker_id": ["a"]},
        sequence_labels={"phones": ["SIL"]},
    )


REASONS = {
    "missing": "no such file",
    "empty": "empty",
    "text": "not decodable",
    "silent": "no samples",
    "truncated_wav": "truncated",
    "truncated_flac": "truncated",
    "whole_numbers": "[-1, 1]",
    "good0": "second recording",
    "labels": "30 phone labels, but 8000 samples at 16000 Hz have 48 frames",
}


def test_every_bad_recording_is_named_with_its_reason(corpus):
    with pytest.raises(BadAudioError) as error:
        check_audio(corpus)
    assert {recording.id for recording in error.value.recordings} == set(REASONS)
    for recording in error.value.recordings:
        assert REASONS[recording.id] in recording.reason
        assert f"  {recording.id}" in str(error.value)
    assert "9 of 14 recordings" in str(error.value)
    assert "'skip'" in str(error.value)


def test_decoding_everything_finds_what_headers_do_not_show(corpus):
    with pytest.raises(BadAudioError) as error:
        check_audio(corpus, decode_all=True)
    assert {recording.id for recording in error.value.recordings} == {*REASONS, "nan"}


def test_skip_that_leaves_nothing_reports_why_once(corpus, capsys):
    with pytest.raises(BadAudioError) as error:
        check_audio(corpus.filter(lambda row: row["id"] in {*REASONS} - {"good0"}), on_bad_audio="skip")
    assert len(error.value.recordings) == len(REASONS) - 1
    assert "'skip'" not in str(error.value)
    assert capsys.readouterr().out == ""


def test_skip_leaves_them_out_and_writes_the_list(corpus, tmp_path, capsys):
    listed = tmp_path / "run" / "bad_audio.tsv"
    kept = check_audio(corpus, on_bad_audio="skip", bad_audio_list=listed)
    assert kept["id"] == ["good0", "good1", "good2", "good3", "nan"]
    assert kept["num_samples"] == [8_000] * 4 + [40_000]
    assert kept["sampling_rate"] == [16_000] * 5
    fields = [line.split("\t") for line in listed.read_text().splitlines()]
    assert {name for name, _, _ in fields} == set(REASONS)
    assert all(REASONS[name] in reason for name, _, reason in fields)
    assert list(listed.parent.iterdir()) == [listed]
    assert "9 of 14 recordings" in capsys.readouterr().out


def test_the_table_shows_20_and_counts_the_rest(tmp_path):
    ids = [f"u{number:02d}" for number in range(25)]
    corpus = make_dataset(
        {"id": ids, "audio": [{"path": str(tmp_path / name)} for name in ids], "speaker_id": [0] * 25},
        labels={"speaker_id": ["a"]},
    )
    with pytest.raises(BadAudioError) as error:
        check_audio(corpus)
    message = str(error.value)
    assert message.count("no such file") == 20
    assert "... and 5 more" in message
    # It is an error even with "skip" if no recording is left.
    with pytest.raises(BadAudioError):
        check_audio(corpus, on_bad_audio="skip")


def test_a_clean_corpus_writes_an_empty_list(corpus, tmp_path):
    clean = corpus.select([0, 1, 2])
    listed = tmp_path / "bad_audio.tsv"
    assert len(check_audio(clean, on_bad_audio="skip", bad_audio_list=listed)) == 3
    assert listed.read_text() == ""


def test_a_stream_is_checked_as_it_passes(corpus, capsys):
    stream = corpus.to_iterable_dataset()
    rows = list(check_streamed_audio(stream, on_bad_audio="skip"))
    # A stream does not check that ids are unique.
    assert [row["id"] for row in rows] == ["good0", "good1", "good2", "good3", "nan", "good0"]
    assert [row["num_samples"] for row in rows] == [8_000] * 4 + [40_000, 8_000]
    assert "missing" in capsys.readouterr().out
    with pytest.raises(BadAudioError, match="missing"):
        list(check_streamed_audio(stream))


def test_a_stream_lists_what_it_skips_once(corpus, tmp_path):
    """Decoding every recording finds the one that is corrupt in the middle; a second epoch adds nothing to the list."""
    listed = tmp_path / "run" / "bad_audio.tsv"
    stream = corpus.to_iterable_dataset()
    checked = check_streamed_audio(stream, on_bad_audio="skip", bad_audio_list=listed, decode_all=True)
    assert listed.read_text() == ""
    first = [row["id"] for row in checked]
    assert first == ["good0", "good1", "good2", "good3", "good0"]
    lines = listed.read_text(encoding="utf-8").splitlines()
    assert {line.split("\t")[0] for line in lines} == set(corpus["id"]) - set(first)
    assert any(line.startswith("nan\t") for line in lines)
    assert [row["id"] for row in checked] == first
    assert listed.read_text(encoding="utf-8").splitlines() == lines
