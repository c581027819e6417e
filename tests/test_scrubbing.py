import importlib
import json
import time
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from modeling_sim.data import corpora
from modeling_sim.hub.scrubbing import scrub, scrub_file


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("/home/someone/LibriSpeech", "LibriSpeech"),
        ("/home/someone/LibriSpeech/", "LibriSpeech"),
        ("/home/some one/Libri Speech", "Libri Speech"),
        ("--data_dir=/data/a", "a"),
        (r"C:\Users\someone\data", "data"),
        ("file:///home/someone/x.wav", "x.wav"),
        ("server:/export/someone/data", "data"),
        ("someone@server.org:data/x.wav", "x.wav"),
        ("someone@server.org:x.wav", "x.wav"),
        ("ssh://someone@server/home/x.wav", "x.wav"),
        ("/home/someone/bin:/opt/y", "y"),
        ("where path = '/home/someone/x'", "x'"),
        ("../someone/x", "x"),
        ("./x", "x"),
        ("~/someone/x", "x"),
        ("~someone/data/x", "x"),
        (r"\\server\someone\x", "x"),
        ("org/name", "org/name"),
        ("train.100+train.360", "train.100+train.360"),
        ("24/11/2026 12:30", "24/11/2026 12:30"),
        ("hf://datasets/org/name", "hf://datasets/org/name"),
        ("https://arxiv.org/abs/2408.12936", "https://arxiv.org/abs/2408.12936"),
        ("speaker/id", "speaker/id"),
        ("/a/", "/a/"),
        ("</s>", "</s>"),
        ("", ""),
        (3, 3),
        (None, None),
    ],
)
def test_only_local_paths_are_cut_from_settings(before, after):
    for name in ("settings", "corpus_settings", "model_settings"):
        assert scrub({name: {"anything": before}}) == {name: {"anything": after}}
        assert scrub({name: {"anything": [[before]]}}) == {name: {"anything": [[after]]}}
        assert scrub({name: {"a": {str(before): 1}}}) == {name: {"a": {str(after): 1}}}


@pytest.mark.parametrize("name", ["/a/", "</s>", "~", "./", "/t/ or /d/", "/home/someone/x", "C:\\a\\b", "settings"])
def test_nothing_that_a_model_means_is_changed(name):
    config = {"id2label": {"0": name, "1": "a"}, "label2id": {name: 0, "a": 1}, "probe_module": -1}
    measure = {"label": name, "classes": [name, "a"], "rows": [{"name": f"run, {name}"}]}
    assert scrub(config) == config
    assert scrub(measure) == measure


def test_settings_that_name_places_are_cut_even_where_they_are_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "first").mkdir(parents=True)
    settings = {"output_dir": "../runs/x", "data_dir": "a/b", "resume": "auto", "init_from": "org/name"}
    cut = {"output_dir": "x", "data_dir": "b", "resume": "auto", "init_from": "org/name"}
    assert scrub(settings) == cut
    assert scrub({"settings": settings}) == {"settings": cut}
    assert scrub({"init_from": "runs/first"}) == {"init_from": "first"}
    assert scrub({"init_from": None}) == {"init_from": None}


def test_settings_as_text_are_cut_too():
    text = "{manifest: a/b.csv, label_columns: [word]}"
    cut = scrub({"settings": {"corpus_settings": text}})["settings"]["corpus_settings"]
    assert json.loads(cut) == {"manifest": "b.csv", "label_columns": ["word"]}
    assert scrub({"settings": {"corpus_settings": "{a: 1}"}}) == {"settings": {"corpus_settings": "{a: 1}"}}
    assert scrub({"corpus_settings": "{manifest: a/b.csv}"}) == {"corpus_settings": '{"manifest": "b.csv"}'}
    assert scrub({"corpus_settings": "{manifest: /home/someone/b.csv"}) == {"corpus_settings": "b.csv"}


def test_a_file_without_paths_stays_as_it_is_to_the_byte(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a":   1.50}')
    assert scrub_file(path) == b'{"a":   1.50}'
    path.write_text(json.dumps({"settings": {"a": str(tmp_path / "x")}}))
    assert json.loads(scrub_file(path)) == {"settings": {"a": "x"}}
    lines = tmp_path / "a.jsonl"
    lines.write_text(f'{{"data_dir": "{tmp_path}/x"}}\n{{"a": 1}}\n')
    assert scrub_file(lines) == b'{"data_dir": "x"}\n{"a": 1}\n'


def test_a_file_that_is_not_json_is_named(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json"):
        scrub_file(tmp_path / "a.json")


def test_places_that_other_commands_name_are_cut_too():
    settings = {"model": "../alice/run", "corpus_settings": {"alignments": "../alice-secret/align"}}
    assert scrub(settings) == {"model": "run", "corpus_settings": {"alignments": "align"}}
    assert scrub({"model": "org/name"}) == {"model": "org/name"}
    assert scrub({"model": ["org/name", "../alice/run"]}) == {"model": ["org/name", "run"]}
    assert scrub({"_name_or_path": "/home/alice/run"}) == {"_name_or_path": "run"}


def test_a_data_set_is_an_id_of_the_hub_or_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alice" / "mini").mkdir(parents=True)
    for name in ("dataset_id", "dataset_name"):
        for given, kept in (("org/mini", "org/mini"), ("alice/mini", "mini"), ("alice/a/mini", "mini")):
            assert scrub({"corpus_settings": {name: given}}) == {"corpus_settings": {name: kept}}


def test_any_setting_that_is_a_place_here_is_cut(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alice").mkdir()
    (tmp_path / "alice" / "labels.tsv").touch()
    settings = {"labels": "alice/labels.tsv", "more": ["alice/labels.tsv"], "label": "speaker/id", "parts": "alice"}
    assert scrub({"corpus_settings": {"label": "a/" + 999 * "b"}}) == {"corpus_settings": {"label": "a/" + 999 * "b"}}
    cut = {"labels": "labels.tsv", "more": ["labels.tsv"], "label": "speaker/id", "parts": "alice"}
    assert scrub({"corpus_settings": settings}) == {"corpus_settings": cut}


def test_a_long_text_takes_no_time():
    started = time.perf_counter()
    for text in ("a" * 100_000, "a." * 50_000, "~" * 50_000, "/" * 50_000, "'/" * 50_000, "a /" * 50_000):
        scrub({"settings": {"a": f"x {text}"}})
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("corpus", corpora.corpus_names())
def test_a_corpus_names_its_settings_that_are_paths(corpus):
    """A setting that takes a `Path` and no id of the Hub is one of `path_settings`, so that it is shortened."""
    hints = get_type_hints(importlib.import_module(f"modeling_sim.data.corpora.{corpus}").load)
    paths = {name for name, kind in hints.items() if Path in get_args(kind)} - {"dataset_id"}
    assert set(corpora.corpus_info(corpus).path_settings) == paths
    for name in paths:
        assert scrub({"corpus_settings": {name: "a/b"}}) == {"corpus_settings": {name: "b"}}
