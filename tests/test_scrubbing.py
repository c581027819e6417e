import json

import pytest

from training.scrubbing import scrub, scrub_file


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("/home/someone/LibriSpeech", "LibriSpeech"),
        ("/home/someone/LibriSpeech/", "LibriSpeech"),
        ("/home/some one/Libri Speech", "Libri Speech"),
        ("read /data/a/x.wav, then ~/b/y.wav", "read x.wav, then y.wav"),
        ("--data_dir=/data/a", "--data_dir=a"),
        (r"C:\Users\someone\data", "data"),
        (r"at C:\Users\someone\data now", "at data now"),
        ("org/name", "org/name"),
        ("runs/sim-small", "runs/sim-small"),
        ("https://arxiv.org/abs/2408.12936", "https://arxiv.org/abs/2408.12936"),
        ("2 / 3 of 10/20", "2 / 3 of 10/20"),
        (3, 3),
        (None, None),
    ],
)
def test_only_local_paths_are_cut(before, after):
    assert scrub(before) == after
    assert scrub({"a": [before]}) == {"a": [after]}


def test_settings_that_name_places_are_cut_even_where_they_are_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "first").mkdir(parents=True)
    settings = {"output_dir": "../runs/x", "data_dir": "a/b", "resume": "auto", "init_from": "org/name"}
    assert scrub(settings) == {"output_dir": "x", "data_dir": "b", "resume": "auto", "init_from": "org/name"}
    assert scrub({"init_from": "runs/first"}) == {"init_from": "first"}
    assert scrub({"init_from": None}) == {"init_from": None}


def test_a_file_without_paths_stays_as_it_is_to_the_byte(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a":   1.50}')
    assert scrub_file(path) == b'{"a":   1.50}'
    path.write_text(json.dumps({"a": str(tmp_path / "x")}))
    assert json.loads(scrub_file(path)) == {"a": "x"}
    lines = tmp_path / "a.jsonl"
    lines.write_text(f'{{"a": "{tmp_path}/x"}}\n{{"a": 1}}\n')
    assert scrub_file(lines) == b'{"a": "x"}\n{"a": 1}\n'


def test_a_file_that_is_not_json_is_named(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json is not JSON"):
        scrub_file(tmp_path / "a.json")


def test_places_that_other_commands_name_are_cut_too():
    settings = {"model": "../alice/run", "corpus_settings": {"alignments": "../alice-secret/align"}}
    assert scrub(settings) == {"model": "run", "corpus_settings": {"alignments": "align"}}
    assert scrub({"model": "org/name"}) == {"model": "org/name"}
