"""`--dataset_name`, which stands for a corpus' setting `dataset_id` in every command."""

import pytest

from training.arguments import as_dict, parse_arguments
from training.corpora import load_corpus
from training.measuring import load_split, measuring_parser


def parsed(*flags):
    return as_dict(parse_arguments("", flags))["corpus_settings"]


def test_a_data_set_may_be_named_by_a_flag_of_its_own():
    assert parsed("--corpus", "librispeech", "--dataset_name", "org/mini") == {"dataset_id": "org/mini"}
    more = ["--corpus_settings", "{streaming: true, dataset_id: org/mini}"]
    assert parsed("--corpus", "hub", "--dataset_name", "org/mini", *more) == {
        "streaming": True, "dataset_id": "org/mini"
    }  # fmt: skip
    assert parsed("--corpus", "librispeech") == {}


def test_a_data_set_may_be_named_in_a_file(tmp_path):
    (tmp_path / "run.yaml").write_text("corpus: librispeech\ndataset_name: org/mini\n")
    assert parsed("--config", str(tmp_path / "run.yaml")) == {"dataset_id": "org/mini"}


WRONG = [
    (["--corpus", "synthetic_syllables"], "for the corpora hub and librispeech; 'synthetic_syllables' takes no"),
    (["--corpus", "librispeech", "--corpus_settings", "{dataset_id: a/b}"], "`dataset_id` in .* is 'a/b'; give one"),
    (["--corpus", "librispeech", "--data_dir", "x"], "`data_dir` is 'x'; give the data set or the folder"),
    (["--corpus", "librispech"], "there is no corpus 'librispech'"),
]


@pytest.mark.parametrize(("flags", "message"), WRONG)
def test_a_data_set_that_does_not_fit_is_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        parsed("--dataset_name", "org/mini", *flags)
    arguments = measuring_parser("", output_dir="x").parse_args(["--model", "m", "--dataset_name", "org/mini", *flags])
    with pytest.raises(ValueError, match=message):
        load_split(arguments, "train")


def test_measuring_commands_read_the_data_set_that_is_named(tmp_path):
    load_corpus("synthetic_syllables", num_train=3, num_speakers=2, cache=False).to_parquet(tmp_path / "x.parquet")
    flags = ["--model", "m", "--corpus", "hub", "--dataset_name", str(tmp_path)]
    assert len(load_split(measuring_parser("", output_dir="x").parse_args(flags), "train")) == 3
