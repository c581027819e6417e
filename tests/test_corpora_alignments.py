import gzip
import re

import numpy as np
import pytest
import soundfile

from modeling_sim import SimConfig
from modeling_sim.data.audio import log_mel, read_audio
from modeling_sim.data.corpora import load_corpus
from modeling_sim.data.corpora.alignments import (
    label_centers,
    labels_at_frames,
    labels_from_segments,
    num_label_frames,
    read_alignments,
    read_phone_names,
    read_textgrid_phones,
    with_phones,
)
from modeling_sim.data.corpora.contract import IGNORED

LONG_GRID = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 0.5
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 0.5
        intervals: size = 1
        intervals [1]:
            xmin = 0
            xmax = 0.5
            text = "a ""word"" 7"
    item [2]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 0.5
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 0.1
            text = ""
        intervals [2]:
            xmin = 0.1
            xmax = 0.3
            text = "AH0"
        intervals [3]:
            xmin = 0.4
            xmax = 0.5
            text = "spn"
"""
SHORT_GRID = """File type = "ooTextFile"
Object class = "TextGrid"

0
0.5
<exists>
2
"TextTier"
"events"
0
0.5
1
0.25
"click"
"IntervalTier"
"phones"
0
0.5
3
0
0.1
"sil"
0.1
0.3
"AH1"
0.4
0.5
"spn"
"""
# 0.5 s are 8000 samples and 48 frames; frame i is centered at 12.5 + 10 i ms.
GRID_PHONES = ["SIL"] * 9 + ["AH"] * 20 + ["SIL"] * 10 + ["SPN"] * 9


def test_label_frames_are_whole_windows():
    assert [num_label_frames(samples) for samples in (0, 399, 400, 559, 560, 16_000)] == [0, 0, 1, 1, 2, 98]
    np.testing.assert_array_equal(label_centers(3), [200, 360, 520])


def test_a_label_frame_has_the_segment_at_its_centre():
    # Centers at 200, 360, 520, 680, 840; a border belongs to what follows.
    labels = labels_from_segments(np.array([360, 681, 1_040]), np.array([7, 8, 9]), 1_040)
    assert labels.tolist() == [7, 8, 8, 8, 9]


def test_labels_read_where_they_are_come_back_unchanged():
    labels = np.arange(50)
    np.testing.assert_array_equal(labels_at_frames(labels, label_centers(50)), labels)


@pytest.mark.parametrize("preset", ["sim", "gim-lowe", "cpc"])
@pytest.mark.parametrize("module", [0, -1])
def test_every_frame_of_a_model_has_the_nearest_label(preset, module):
    config = SimConfig.preset(preset)
    centers = config.frame_centers(config.num_frames(20_480, module), module)
    labels = np.arange(num_label_frames(20_480))
    placed = labels_at_frames(labels, centers)
    for center, label in zip(centers, placed, strict=True):
        distances = np.abs(label_centers(len(labels)) - center)
        if label == IGNORED:
            assert distances.min() >= 80
        else:
            assert distances[label] == distances.min() <= 80


def test_only_frames_beyond_the_first_and_last_label_are_ignored():
    config = SimConfig.preset("sim")
    placed = labels_at_frames(np.zeros(num_label_frames(20_480), int), config.frame_centers(128))
    assert (placed == IGNORED).nonzero()[0].tolist() == [0, 127]


def test_the_last_modules_frame_t_reads_label_t_less_1():
    """Frames are centered 160 t + 20.5 and labels 160 t + 200 samples, so cutting either end would be a frame off."""
    config = SimConfig.preset("sim")
    placed = labels_at_frames(np.arange(100), config.frame_centers(50))
    np.testing.assert_array_equal(placed[1:], np.arange(49))


def test_an_offset_reads_later_labels():
    labels = np.arange(50)
    np.testing.assert_array_equal(labels_at_frames(labels, label_centers(48), label_offset=0.02), labels[2:])
    late = labels_at_frames(labels, label_centers(50), label_offset=-0.01)
    assert late[0] == IGNORED
    np.testing.assert_array_equal(late[1:], labels[:-1])


def test_centres_at_another_rate_are_the_same_instants():
    labels = np.arange(50)
    np.testing.assert_array_equal(labels_at_frames(labels, label_centers(50) / 2, sampling_rate=8_000), labels)


@pytest.mark.parametrize("text", [LONG_GRID, SHORT_GRID], ids=["long", "short"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_grids(tmp_path, text, encoding):
    path = tmp_path / "1-2-3.TextGrid"
    path.write_text(text, encoding=encoding)
    assert read_textgrid_phones(path) == GRID_PHONES


def test_wrong_times_are_named(tmp_path):
    head = (
        'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n1\n<exists>\n1\n"IntervalTier"\n"phones"\n0\n1\n1\n'
    )
    (tmp_path / "a.TextGrid").write_text(head + '0.5\n0.2\n"AH"\n')
    with pytest.raises(ValueError, match=r"a\.TextGrid.*0\.5.*0\.2"):
        read_alignments(tmp_path / "a.TextGrid")
    for start, count in ((-1, 5), (0, -5), (0, 10**12)):
        (tmp_path / "segments.tsv").write_text(
            f"utt\ttier\tstart_frame\tn_frames\tlabel\na\tphone\t{start}\t{count}\tAH\n"
        )
        with pytest.raises(ValueError, match=rf"segments\.tsv, line 2: .*{start}.* {count} "):
            read_alignments(tmp_path / "segments.tsv")


def test_packed_segments_are_text_of_any_editor(tmp_path):
    text = "utt\ttier\tstart_frame\tn_frames\tlabel\r\na\tphone\t0\t3\tAH\r\n"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "segments.tsv.gz").write_bytes(gzip.compress(text.encode(encoding)))
        assert read_alignments(tmp_path / "segments.tsv.gz").labels["a"].tolist() == [1, 1, 1]


def test_a_folder_of_text_grids(tmp_path):
    (tmp_path / "speaker").mkdir()
    (tmp_path / "speaker" / "1-2-3.TextGrid").write_text(LONG_GRID)
    names, labels = read_alignments(tmp_path)
    assert names == ["SIL", "AH", "SPN"]
    assert [names[label] for label in labels["1-2-3"]] == GRID_PHONES
    (tmp_path / "phones.txt").write_text("SPN 2\nSIL 0\nAH 1\nB 3\n")
    assert read_alignments(tmp_path).names == ["SIL", "AH", "SPN", "B"]
    (tmp_path / "phones.txt").write_text("SIL 0\nAH 1\n")
    with pytest.raises(ValueError, match="SPN"):
        read_alignments(tmp_path)


def two_speakers(ann, bob, names=("ann - phones", "bob - phones")):
    """A TextGrid of half a second; each speaker's intervals are `(start, end, phone)`."""
    lines = ['"ooTextFile"', '"TextGrid"', "0", "0.5", "<exists>", "4"]
    for name, tier in ((names[0], ann), ("ann - words", []), (names[1], bob), ("bob - words", [])):
        lines += ['"IntervalTier"', f'"{name}"', "0", "0.5", str(len(tier))]
        lines += [str(value) if isinstance(value, float) else f'"{value}"' for row in tier for value in row]
    return "\n".join(lines)


@pytest.mark.parametrize("names", [("ann - phones", "bob - phones"), ("phones", "phones"), ("Phones", "b-phone")])
def test_a_frame_has_the_phone_of_whoever_speaks(tmp_path, names):
    path = tmp_path / "u.TextGrid"
    path.write_text(two_speakers([(0.0, 0.2, "AA1")], [(0.2, 0.3, ""), (0.3, 0.5, "T")], names))
    assert read_textgrid_phones(path) == ["AA"] * 19 + ["SIL"] * 10 + ["T"] * 19
    path.write_text(two_speakers([(0.0, 0.3, "AA1")], [(0.2, 0.5, "T"), (0.5, 0.5, "AA1")], names))
    assert read_textgrid_phones(path) == ["AA"] * 19 + ["SPN"] * 10 + ["T"] * 19


def test_text_grids_of_one_name_in_several_folders_are_kept_apart(tmp_path):
    recordings, grids = tmp_path / "recordings", tmp_path / "alignments"
    for speaker, phone in (("ann", "AA"), ("bob", "T")):
        (recordings / speaker).mkdir(parents=True)
        (grids / speaker).mkdir(parents=True)
        soundfile.write(recordings / speaker / "1.wav", 0.1 * np.sin(np.arange(8_000)), 16_000)
        (grids / speaker / "1.TextGrid").write_text(two_speakers([(0.0, 0.5, phone)], []))
    (grids / "ann" / "._1.TextGrid").write_bytes(b"\x00\x05\x16\x07\xb0\xff")
    assert set(read_alignments(grids).labels) == {"ann/1", "bob/1"}
    corpus = load_corpus("folder", "all", data_dir=recordings, alignments=grids)
    names = corpus.features["phones"].feature.names
    assert {row["id"]: {names[label] for label in row["phones"]} for row in corpus} == {"ann/1": {"AA"}, "bob/1": {"T"}}
    (grids / "bob" / "1.TextGrid").unlink()
    with pytest.raises(ValueError, match=r"'ann/1' .*'bob/1'"):
        with_phones(corpus, grids)
    plain = corpus.remove_columns(["id", "phones"]).add_column("id", ["1", "2"])
    (grids / "bob" / "1.TextGrid").write_text(two_speakers([], []))
    with pytest.raises(ValueError, match=r"'ann/1' .*'bob/1'"):
        with_phones(plain, grids)


def test_utterances_without_an_alignment_are_counted(tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", np.ones(8_000) / 2, 16_000)
    (tmp_path / "labels.txt").write_text("b\t1 2\n")
    corpus = with_phones(load_corpus("folder", "all", data_dir=tmp_path), tmp_path / "labels.txt")
    assert corpus["phones"] == [None]
    assert "1 of 1 utterance," in capsys.readouterr().out


@pytest.mark.parametrize("name", ["u.TextGrid", "converted_aligned_phones.txt", "segments.tsv", "phones.txt"])
def test_what_is_not_utf8_is_named(tmp_path, name):
    (tmp_path / "u.TextGrid").write_text(LONG_GRID)
    (tmp_path / name).write_bytes("é 1\n".encode("latin-1"))
    with pytest.raises(ValueError, match=re.escape(name)):
        read_alignments(tmp_path)


def test_byte_order_marks_and_tabs_are_no_part_of_an_id(tmp_path):
    path = tmp_path / "converted_aligned_phones.txt"
    path.write_text("\ufeff84-1-0\t3 3\t5\r\n\n84-1-1  4 4\n84-1-2\n")
    labels = {name: row.tolist() for name, row in read_alignments(path).labels.items()}
    assert labels == {"84-1-0": [3, 3, 5], "84-1-1": [4, 4], "84-1-2": []}
    for wrong, line in (
        ("84-1-0 -1", 1),
        ("84-1-0 1.5", 1),
        ("84-1-0 1\n84-1-0 2", 2),
        ("84-1-0 99999999999999999999", 1),
    ):
        path.write_text(wrong + "\n")
        with pytest.raises(ValueError, match=rf"phones\.txt, line {line}"):
            read_alignments(path)
    path.write_text("84-1-0 0 2\n")
    (tmp_path / "phones.txt").write_text("SIL 0\nAA 1\n")
    with pytest.raises(ValueError, match=r"converted_aligned_phones.*label 2"):
        read_alignments(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"utt\tlabel\nu\tA\n", "tier .*start_frame .*n_frames; .*utt, label"),
        (b"utt\ttier\tstart_frame\tn_frames\tlabel\nu\tphone\tx\t1\tA\n", "line 2: start_frame"),
        (gzip.compress(b"utt\ttier\n" * 99, mtime=0)[:-9], "gzip"),
        (b"not compressed", "gzip"),
    ],
)
def test_segments_of_another_layout_are_named(tmp_path, content, reason):
    name = "segments.tsv" if content[:3] == b"utt" else "segments.tsv.gz"
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(name) + f".*{reason}"):
        read_alignments(tmp_path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LONG_GRID.replace("xmax = 0.5\ntiers", 'xmax = "x"\ntiers'), '"x"'),
        (LONG_GRID.replace("xmax = 0.5\ntiers", "xmax = 1e30\ntiers"), r"1e\+30"),
        ("hello", "truncated"),
        ('"ooTextFile" "Pitch"', "not a TextGrid"),
        (LONG_GRID.replace('"phones"', '"tones"'), "'phones'.* tones"),
        (LONG_GRID[:-60], "truncated"),
    ],
)
def test_a_file_that_is_no_text_grid_is_named(tmp_path, text, reason):
    path = tmp_path / "bad.TextGrid"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"bad\.TextGrid.*{reason}"):
        read_textgrid_phones(path)


def test_cpc_labels_with_and_without_names(tmp_path):
    path = tmp_path / "converted_aligned_phones.txt"
    path.write_text("1-2-3 0 0 4 4\n1-2-4 1\n")
    names, labels = read_alignments(tmp_path)
    assert names == ["0", "1", "2", "3", "4"]
    assert labels["1-2-3"].tolist() == [0, 0, 4, 4]
    (tmp_path / "phones.txt").write_text("".join(f"P{number} {number}\n" for number in range(5)))
    assert read_alignments(path).names == ["P0", "P1", "P2", "P3", "P4"]
    path.write_text("1-2-3 0 x\n")
    with pytest.raises(ValueError, match=r"converted_aligned_phones\.txt, line 1"):
        read_alignments(path)


def test_segments_fill_their_frames_and_gaps_are_silence(tmp_path):
    rows = "utt\ttier\tstart_frame\tn_frames\tlabel\nu\tword\t0\t5\tb\nu\tphone\t1\t2\tB\nu\tphone\t4\t1\t+NSN+\n"
    with gzip.open(tmp_path / "segments.tsv.gz", "wt") as file:
        file.write(rows)
    names, labels = read_alignments(tmp_path)
    assert [names[label] for label in labels["u"]] == ["SIL", "B", "B", "SIL", "SPN"]
    (tmp_path / "segments.tsv").write_text(rows + "u\tphone\t4\t1\tD\n")
    with pytest.raises(ValueError, match=r"segments\.tsv, line 5.* 4$"):
        read_alignments(tmp_path)


def test_missing_alignments_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="aligned_phones"):
        read_alignments(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"absent\.txt"):
        read_alignments(tmp_path / "absent.txt")


def test_phone_numbers_have_no_gaps(tmp_path):
    path = tmp_path / "phones.txt"
    path.write_text("SIL 0\nAA 2\n")
    with pytest.raises(ValueError, match=r"phones\.txt.* 0 to 1 "):
        read_phone_names(path)


@pytest.mark.real_data
def test_two_layouts_of_the_same_alignments_agree(data_dir):
    frames = read_alignments(data_dir / "librispeech" / "alignments")
    segments = read_alignments(data_dir / "librispeech" / "alignments" / "segments.tsv.gz")
    assert segments.names == frames.names
    assert segments.labels.keys() == frames.labels.keys()
    for utterance, labels in frames.labels.items():
        # The aligner counts a last, partial frame in some utterances.
        assert 0 <= len(segments.labels[utterance]) - len(labels) <= 1
        np.testing.assert_array_equal(segments.labels[utterance][: len(labels)], labels)


@pytest.mark.real_data
def test_a_probe_of_log_mel_frames_is_best_without_an_offset(data_dir):
    """Labels are at the right time: shifting them either way makes a linear probe of single frames worse."""
    corpus = load_corpus("librispeech", "test", data_dir=data_dir / "librispeech")
    rows = [corpus[row] for row in range(0, 108, 4)]
    spectra = [log_mel(read_audio(row["audio"]), num_mels=40) for row in rows]
    spectra = [np.c_[(mels - mels.mean(0)) / mels.std(0), np.ones(len(mels))] for mels in spectra]
    classes = np.eye(41)

    def accuracy(offset):
        labels = [
            labels_at_frames(np.array(row["phones"]), label_centers(len(mels)), label_offset=offset)
            for row, mels in zip(rows, spectra, strict=True)
        ]
        kept = [(mels[place != IGNORED], place[place != IGNORED]) for mels, place in zip(spectra, labels, strict=True)]
        train, test = kept[:20], kept[20:]
        inputs = np.concatenate([mels for mels, _ in train])
        targets = classes[np.concatenate([place for _, place in train])]
        weights = np.linalg.solve(inputs.T @ inputs + 10 * np.eye(41), inputs.T @ targets)
        return np.mean(np.concatenate([(mels @ weights).argmax(1) == place for mels, place in test]))

    curve = {offset: accuracy(offset) for offset in (-0.04, -0.015, 0.0, 0.015, 0.04)}
    assert max(curve, key=curve.get) == 0.0
    values = list(curve.values())
    assert values[:3] == sorted(values[:3])
    assert values[2:] == sorted(values[2:], reverse=True)
