"""Settings of commands: from files and flags, and `--dataset_name`, which sets a corpus' `dataset_id` in every one."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile

from modeling_sim.commands.axes import AxesArguments
from modeling_sim.commands.command import check
from modeling_sim.commands.corpora import CorporaArguments
from modeling_sim.commands.embed import EmbedArguments
from modeling_sim.data.corpora import load_corpus
from modeling_sim.data.corpora.scan import BadAudioError
from modeling_sim.evaluation.settings import (
    AbxArguments,
    AnalysisArguments,
    ProbeArguments,
    claim_output_dir,
    load_split,
)
from modeling_sim.explore.settings import ExploreArguments
from modeling_sim.hub.settings import HubArguments, PublishArguments
from modeling_sim.inference.embedding_files import open_data
from modeling_sim.settings import as_dict, parse_arguments
from modeling_sim.trainer.settings import PRETRAINING, DataArguments, ModelArguments, PretrainingArguments

CHECKPOINT = Path(__file__).parents[1] / "checkpoints" / "sim-small-librispeech"


def parsed(*flags):
    return as_dict(parse_arguments("", flags, PRETRAINING))["corpus_settings"]


def measuring(*flags, kind=ProbeArguments):
    (settings,) = parse_arguments("", flags, (kind,))
    return settings


@pytest.mark.parametrize("kind", [ProbeArguments, AbxArguments, AnalysisArguments])
def test_measuring_commands_read_a_settings_file(kind, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "model: [a, b]\ncorpus: synthetic_syllables\nlabel: vowel\nbatch_size: 3\ncorpus_settings: {num_train: 8}\n"
    )
    settings = measuring("--config", str(path), "--corpus_settings", "{num_test: 4}", kind=kind)
    assert settings == kind(
        model=["a", "b"],
        corpus="synthetic_syllables",
        label="vowel",
        batch_size=3,
        corpus_settings={"num_train": 8, "num_test": 4},
    )
    assert measuring("--config", str(path), "--model", "c", kind=kind).model == ["c"]
    path.write_text("model: runs/sim\nfigure_format: gif\n")
    with pytest.raises(ValueError, match="figure_format"):
        measuring("--config", str(path), kind=kind)


def test_a_measure_needs_a_model_and_a_choice_that_there_is(capsys):
    for flags, name in ((["--label", "vowel"], "--model"), (["--model", "m", "--probe", "svm"], "--probe")):
        with pytest.raises(SystemExit):
            measuring(*flags)
        assert name in capsys.readouterr().err


def test_a_data_set_may_be_named_by_a_flag_of_its_own():
    assert parsed("--corpus", "librispeech", "--dataset_name", "org/mini") == {"dataset_id": "org/mini"}
    more = ["--corpus_settings", "{streaming: true, dataset_id: org/mini}"]
    both = {"streaming": True, "dataset_id": "org/mini"}
    assert parsed("--corpus", "hub", "--dataset_name", "org/mini", *more) == both
    assert parsed("--corpus", "librispeech") == {}


def test_commands_have_the_same_corpus_unless_one_is_given():
    settings = [measuring("--model", "m", kind=kind) for kind in (ProbeArguments, AbxArguments, AnalysisArguments)]
    assert {each.corpus for each in settings} == {DataArguments().corpus, ExploreArguments(model="m").corpus}
    assert {each.label for each in settings} == {"phones"}


def test_a_data_set_may_be_named_in_a_file(tmp_path):
    (tmp_path / "run.yaml").write_text("corpus: librispeech\ndataset_name: org/mini\n")
    assert parsed("--config", str(tmp_path / "run.yaml")) == {"dataset_id": "org/mini"}


WRONG = [
    (["--corpus", "synthetic_syllables"], "`dataset_name` .*'synthetic_syllables'"),
    (["--corpus", "librispeech", "--corpus_settings", "{dataset_id: a/b}"], "`dataset_id` .*'a/b'"),
    (["--corpus", "librispeech", "--data_dir", "x"], "`data_dir` .*'x'"),
    (["--corpus", "librispech"], "'librispech'"),
]


@pytest.mark.parametrize(("flags", "message"), WRONG)
def test_a_data_set_that_does_not_fit_is_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        parsed("--dataset_name", "org/mini", *flags)
    with pytest.raises(ValueError, match=message):
        load_split(measuring("--model", "m", "--dataset_name", "org/mini", *flags), "train")


def test_measuring_commands_read_the_data_set_that_is_named(tmp_path):
    load_corpus("synthetic_syllables", num_train=3, num_speakers=2, cache=False).to_parquet(tmp_path / "x.parquet")
    flags = ["--model", "m", "--corpus", "hub", "--dataset_name", str(tmp_path)]
    assert len(load_split(measuring(*flags), "train")) == 3


def _write_recordings(folder):
    """Three recordings: one is intact, one is empty, and of one only decoding shows that it cannot be used."""
    sound = 0.1 * np.sin(np.arange(8_000, dtype=np.float32))
    soundfile.write(folder / "intact.wav", sound, 16_000)
    (folder / "empty.wav").write_bytes(b"")
    sound[4_000] = np.nan
    soundfile.write(folder / "nan.wav", sound, 16_000, subtype="FLOAT")


def test_measuring_commands_skip_recordings_that_cannot_be_read(tmp_path):
    _write_recordings(tmp_path)
    flags = ["--model", "m", "--corpus", "folder", "--data_dir", str(tmp_path)]
    with pytest.raises(BadAudioError):
        load_split(measuring(*flags), "all")
    assert load_split(measuring(*flags, "--on_bad_audio", "skip"), "all")["id"][:] == ["intact"]


def test_a_stream_cannot_be_measured(tmp_path):
    load_corpus("synthetic_syllables", num_train=3, num_speakers=2, cache=False).to_parquet(tmp_path / "x.parquet")
    flags = [
        "--model",
        "m",
        "--corpus",
        "hub",
        "--dataset_name",
        str(tmp_path),
        "--corpus_settings",
        "{streaming: true}",
    ]
    with pytest.raises(ValueError, match="streaming"):
        load_split(measuring(*flags), "train")


def test_all_commands_that_read_a_corpus_can_skip_recordings():
    kinds = (DataArguments, ProbeArguments, AbxArguments, AnalysisArguments, ExploreArguments, CorporaArguments)
    for kind in (*kinds, EmbedArguments, AxesArguments):
        assert "on_bad_audio" in {field.name for field in dataclasses.fields(kind)}


def test_a_single_file_has_no_settings_of_a_corpus(tmp_path):
    _write_recordings(tmp_path)
    assert open_data(str(tmp_path / "intact.wav"))["id"][:] == ["intact"]
    with pytest.raises(ValueError, match="corpus_settings"):
        open_data(str(tmp_path / "intact.wav"), corpus_settings={"num_train": 3})


@pytest.mark.parametrize("empty", ["{}", {}, None])
def test_mappings_are_the_same_from_python_and_from_the_command_line(empty):
    names = ("model_settings", "corpus_settings", "objective_settings")
    groups = [kind(**{name: empty for name in names if hasattr(kind, name)}) for kind in PRETRAINING]
    assert as_dict(groups) == as_dict(parse_arguments("", [], PRETRAINING)) == as_dict([kind() for kind in PRETRAINING])
    assert DataArguments(corpus_settings="{num_train: 8}").corpus_settings == {"num_train": 8}
    with pytest.raises(ValueError, match="corpus_settings"):
        DataArguments(corpus_settings="num_train")


@pytest.mark.parametrize("more", [{}, {"dataset_name": "org/mini"}])
def test_results_of_python_are_those_of_the_same_command(tmp_path, more):
    settings = {"model": ["m"], "corpus": "hub", "output_dir": str(tmp_path), **more}
    claim_output_dir(ProbeArguments(**settings), "probe", ["probe.json"], [])
    (tmp_path / "probe.json").write_text("{}")
    flags = [word for name, value in more.items() for word in (f"--{name}", value)]
    again = measuring("--model", "m", "--corpus", "hub", "--output_dir", str(tmp_path), *flags)
    claim_output_dir(again, "probe", ["probe.json"], [])


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("mixed_precision: no", "mixed_precision", "no"),
        ("resume: off", "resume", "off"),
        ("output_dir: 007", "output_dir", "007"),
        ("output_dir: 1.10", "output_dir", "1.10"),
        ("output_dir: 12:30:45", "output_dir", "12:30:45"),
        ("output_dir: 2026-02-01", "output_dir", "2026-02-01"),
        ("repo_id: 'null'", "repo_id", "null"),
        ("repo_id: ~", "repo_id", None),
        ("seed: 1_000", "seed", 1000),
        ("learning_rate: 1e-3", "learning_rate", 1e-3),
        ("push_to_hub: on", "push_to_hub", True),
        ("push_to_hub: Off", "push_to_hub", False),
        ("push_to_hub: yes", "push_to_hub", True),
        ("corpus: hub\ncorpus_settings: {streaming: no}", "corpus_settings", {"streaming": False}),
        ("\ufeffseed: 3", "seed", 3),
        ("<<: {seed: 4}", "seed", 4),
    ],
)
def test_values_of_a_file_are_read_as_flags_are(tmp_path, text, name, value):
    (tmp_path / "run.yaml").write_text(text, "utf-8")
    groups = parse_arguments("", ["--config", str(tmp_path / "run.yaml")], (*PRETRAINING, HubArguments))
    assert as_dict(groups)[name] == value


def test_a_file_on_top_of_another_keeps_its_words(tmp_path):
    (tmp_path / "base.yaml").write_text("mixed_precision: no\nseed: 2\n")
    (tmp_path / "run.yaml").write_text("extends: base.yaml\nseed: 3\n")
    settings = as_dict(parse_arguments("", ["--config", str(tmp_path / "run.yaml")], PRETRAINING))
    assert (settings["mixed_precision"], settings["seed"]) == ("no", 3)


@pytest.mark.parametrize(
    ("kind", "flags"),
    [(AnalysisArguments, []), (AxesArguments, ["--data", "synthetic_syllables"]), (ExploreArguments, [])],
)
@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_refused_by_its_name(kind, flags, seed):
    settings = measuring("--model", str(CHECKPOINT), "--seed", str(seed), *flags, kind=kind)
    with pytest.raises(ValueError, match="`seed`"):
        check([settings])


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (PretrainingArguments(output_dir=""), "output_dir"),
        (ModelArguments(init_from=""), "init_from"),
        (DataArguments(data_dir=""), "data_dir"),
        (EmbedArguments(model=str(CHECKPOINT), data=""), "data"),
        (AnalysisArguments(model=[str(CHECKPOINT), ""]), "model"),
        (PublishArguments(checkpoint=""), "checkpoint"),
    ],
)
def test_an_empty_path_model_or_data_set_is_refused_by_its_name(settings, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        check([settings])


def test_a_setting_that_is_empty_by_default_may_be_empty():
    check([AnalysisArguments(model=[str(CHECKPOINT)], utterance="", dims="")])


@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (PretrainingArguments, "num_train_epochs"),
        (PretrainingArguments, "learning_rate"),
        (DataArguments, "reader_timeout"),
        (ExploreArguments, "max_megabytes"),
        (EmbedArguments, "shard_seconds"),
    ],
)
def test_numbers_that_are_not_finite_are_refused_by_their_names(settings, name, value):
    needed = {"model": str(CHECKPOINT), "data": "synthetic_syllables"}
    own = {field.name for field in dataclasses.fields(settings)}
    group = settings(**{key: needed[key] for key in needed.keys() & own}, **{name: value})
    with pytest.raises(ValueError, match=f"`{name}`"):
        check([group])


@pytest.mark.parametrize(("name", "value"), [("num_train_epochs", math.inf), ("weight_decay", -1.0), ("seed", 2**32)])
def test_a_run_from_python_refuses_numbers_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"`{name}`"):
        PretrainingArguments(**{name: value}).validate()


@pytest.mark.parametrize("port", [-1, 70000])
def test_a_port_that_cannot_be_is_refused(port):
    with pytest.raises(ValueError, match="`port`"):
        check([ExploreArguments(model=str(CHECKPOINT), port=port)])


@pytest.mark.parametrize("name", ["model_settings", "corpus_settings", "objective_settings"])
def test_keys_of_mappings_are_text(name, tmp_path):
    (tmp_path / "run.yaml").write_text(f"{name}: {{1: 2}}\n")
    for flags in (["--config", str(tmp_path / "run.yaml")], [f"--{name}", "{1: 2}"]):
        with pytest.raises((ValueError, SystemExit), match=f"`{name}`"):
            parse_arguments("", flags, PRETRAINING)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("seed: 1\nseed: 2", "seed"),
        ("extends: base.yaml\nextends: base.yaml", "extends"),
        ("model_settings: {hidden_size: 8, 'hidden_size': 16}", "hidden_size"),
    ],
)
def test_a_key_that_is_given_twice_is_refused(text, key, tmp_path):
    (tmp_path / "base.yaml").write_text("seed: 0\n")
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ValueError, match=rf"run\.yaml .*'{key}'"):
        parse_arguments("", ["--config", str(tmp_path / "run.yaml")], PRETRAINING)


def test_a_settings_file_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "run.yaml").write_bytes(b"output_dir: caf\xe9\n")
    with pytest.raises(ValueError, match=r"run\.yaml"):
        parse_arguments("", ["--config", str(tmp_path / "run.yaml")], PRETRAINING)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("l2", -0.001),
        ("l2", math.nan),
        ("frame_step", 0),
        ("max_items", -1),
        ("chunk_seconds", 0.0),
        ("max_tokens", 1),
        ("batch_size", 0),
    ],
)
def test_measures_refuse_numbers_out_of_range(name, value):
    settings = AnalysisArguments(model=[str(CHECKPOINT)], corpus="synthetic_syllables", **{name: value})
    with pytest.raises(ValueError, match=f"`{name}`"):
        check([settings])


@pytest.mark.parametrize("minutes", [0.0, math.nan])
def test_minutes_of_axes_are_positive(minutes):
    with pytest.raises(ValueError, match="`axes_minutes`"):
        AnalysisArguments(model=["a"], axes_minutes=minutes).validate()


@pytest.mark.parametrize("text", ["data_dir: 2026-02-31", "max_steps: [1", "seed: yes"])
def test_values_that_are_none_are_refused(tmp_path, text):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises((ValueError, SystemExit)):
        parse_arguments("", ["--config", str(tmp_path / "run.yaml")], PRETRAINING)


@pytest.mark.parametrize("flag", ["--init_from", "--init-from"])
def test_a_checkpoint_to_start_from_keeps_its_model(flag):
    settings = as_dict(parse_arguments("", ["--corpus", "sprites", flag, "runs/films"], PRETRAINING))
    assert settings["model_settings"] == {}
    assert settings["crop_samples"] == 640
