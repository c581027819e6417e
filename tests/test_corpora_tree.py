import io
import os

import pytest

from modeling_sim.data.corpora.tree import audio_files, file_key, visible_files
from modeling_sim.files import read_text
from modeling_sim.text import printable, say, say_once, utf8_name


@pytest.fixture(autouse=True)
def nothing_said():
    say_once.cache_clear()


def files_below(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def names_below(root, paths):
    return [path.relative_to(root).as_posix() for path in paths]


def test_what_is_hidden_is_skipped(tmp_path):
    visible = ["a.wav", "deep/b.WAV", "notes.txt"]
    dotted = [".git/c.wav", ".datalad/d.wav", ".ipynb_checkpoints/a-checkpoint.wav", "._a.wav"]
    hidden = ["__MACOSX/deep/b.wav", "@eaDir/a.wav/e.wav"]
    root = files_below(tmp_path / ".cache" / "set", *visible, *dotted, *hidden)
    assert names_below(root, visible_files(root)) == ["a.wav", "deep/b.WAV", "notes.txt"]
    assert names_below(root, audio_files(root, {".wav"})) == ["a.wav", "deep/b.WAV"]


def test_an_annex_gives_every_recording_once(tmp_path):
    root = files_below(tmp_path, ".git/annex/objects/K1/F/K1.wav", ".git/annex/objects/K2/F/K2.wav")
    for name, key in (("s1/one.wav", "K1"), ("s2/two.wav", "K2"), ("s2/same as one.wav", "K1"), ("s3/gone.wav", "K3")):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).symlink_to(f"../.git/annex/objects/{key}/F/{key}.wav")
    assert names_below(root, visible_files(root)) == ["s1/one.wav", "s2/two.wav", "s3/gone.wav"]


def test_a_file_with_several_names_counts_once_by_its_own(tmp_path, capsys):
    root = files_below(tmp_path / "root", "session/1.wav", "session/2.wav")
    (root / "a link").symlink_to("session")
    (root / "loop").symlink_to(root)
    (root / "first.wav").symlink_to("session/1.wav")
    os.link(root / "session" / "2.wav", root / "copy.wav")
    outside = files_below(tmp_path / "other", "x/3.wav")
    (root / "outside").symlink_to(outside)
    (root / "outside too").symlink_to(outside / "x")
    assert names_below(root, audio_files(root, {".wav"})) == ["copy.wav", "outside/x/3.wav", "session/1.wav"]
    assert capsys.readouterr().out.count("2 recordings") == 1
    assert file_key(root / "first.wav") == file_key(str(root / "session" / ".." / "session" / "1.wav"))
    assert file_key(root / "copy.wav") == file_key(root / "session" / "2.wav") != file_key(root / "session" / "1.wav")


def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "to a pipe.wav").symlink_to("pipe.wav")
    (tmp_path / "itself.wav").symlink_to("itself.wav")
    files_below(tmp_path, "folder.wav/a.wav")
    assert names_below(tmp_path, visible_files(tmp_path)) == ["folder.wav/a.wav", "itself.wav"]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        visible_files(tmp_path / "absent")


def test_kinds_that_are_not_read_are_counted(tmp_path, capsys):
    files_below(tmp_path, "a.wav", "b.M4A", "c.m4a", "d.aiff", ".e.sph", "f.txt")
    for _ in range(2):
        audio_files(tmp_path, {".wav", ".flac"})
    (line,) = capsys.readouterr().out.splitlines()
    assert "1 .aiff, 2 .m4a" in line
    assert "sph" not in line


def test_text_of_any_editor_is_read(tmp_path):
    path = tmp_path / "list.txt"
    for content in (
        b"a\xc3\xa9\nb\n",
        b"\xef\xbb\xbfa\xc3\xa9\r\nb\r\n",
        b"a\xc3\xa9\r\xef\xbb\xbfb\r",
        "a\xe9\nb\n".encode("utf-16"),
        b"\xfe\xff" + "a\xe9\r\nb\n".encode("utf-16-be"),
    ):
        path.write_bytes(content)
        assert read_text(path) == "a\xe9\nb\n"
    for content in (b"caf\xe9", "a\n".encode("utf-16-le"), "a\n".encode("utf-32")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"list\.txt.*UTF-8"):
            read_text(path)


def test_names_are_shown_in_one_line():
    assert printable("a\nforged\t\x1b[2Kred\x07 \u202e\udce9 \\ ünï 音") == (
        r"a\nforged\t\x1b[2Kred\x07 \u202e\udce9 \ ünï 音"
    )
    assert utf8_name(os.fsdecode(b"caf\xe9/\xc3\xbc.wav")) == r"caf\xe9/ü.wav"


def test_a_line_is_said_by_one_process_in_any_encoding(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setenv("RANK", "1")
    say("not here")
    monkeypatch.setenv("RANK", "0")
    say("über")
    assert out.buffer.getvalue() == b"\\xfcber\n"
