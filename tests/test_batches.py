import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from datasets import Dataset

from modeling_sim import SimFeatureExtractor
from modeling_sim.data.audio import AudioError
from modeling_sim.data.batches import ReaderError, crop_batches, utterance_batches
from modeling_sim.data.corpora.contract import make_dataset
from modeling_sim.data.corpora.scan import check_audio

CROP = 1_000


@pytest.fixture(scope="module")
def extractor():
    return SimFeatureExtractor()


@pytest.fixture(scope="module")
def make_corpus(tmp_path_factory):
    """A corpus whose sample t of utterance u is (t + 1) / 2**15 + u, so that a crop shows its start."""

    def make(lengths, rate=16_000) -> Dataset:
        folder = tmp_path_factory.mktemp("ramps")
        for number, length in enumerate(lengths):
            ramp = (np.arange(length) + 1) / 2**15
            soundfile.write(folder / f"{number}.wav", ramp.astype(np.float32), rate, subtype="FLOAT")
        return check_audio(
            make_dataset(
                {
                    "id": [f"utterance {number}" for number in range(len(lengths))],
                    "audio": [{"path": str(folder / f"{number}.wav")} for number in range(len(lengths))],
                    "speaker_id": [number % 2 for number in range(len(lengths))],
                    "text": [f"text {number}" for number in range(len(lengths))],
                },
                labels={"speaker_id": ["a", "b"]},
            )
        )

    return make


@pytest.fixture(scope="module")
def corpus(make_corpus):
    return make_corpus([1_500, 1_001, 3_000, 1_000, 600, 2_222, 5_000])


def take(loader, number):
    return list(itertools.islice(iter(loader), number))


def flat(batches):
    """Everything about every crop, by position."""
    return {
        int(position): (int(index), name, values.numpy().tobytes(), mask.numpy().tobytes())
        for batch in batches
        for position, index, name, values, mask in zip(
            batch["position"], batch["index"], batch["id"], batch["input_values"], batch["attention_mask"], strict=True
        )
    }


def first_sample(batch, row):
    return round(float(batch["input_values"][row, 0]) * 2**15) - 1


def test_a_batch_has_what_it_says(corpus, extractor):
    (batch,) = take(
        crop_batches(corpus, extractor, crop_samples=CROP, batch_size=4, seed=0, columns=["speaker_id", "text"]), 1
    )
    assert batch["input_values"].shape == (4, CROP)
    assert batch["input_values"].dtype == torch.float32
    assert batch["attention_mask"].shape == (4, CROP)
    assert batch["position"].tolist() == [0, 1, 2, 3]
    assert batch["id"] == [f"utterance {index}" for index in batch["index"]]
    assert batch["columns"] == [{"speaker_id": int(index) % 2, "text": f"text {index}"} for index in batch["index"]]
    assert batch["num_replaced"] == 0


def test_columns_of_any_name_leave_a_batch_as_it_is(corpus, extractor):
    """Positions, indices and ids are those of the batch, and integer ids become text."""
    names = ["position", "index", "start", "samples", "num_replaced", "input_values", "attention_mask", "length"]
    other = corpus.remove_columns("id").add_column("id", list(range(len(corpus))))
    for name in names:
        other = other.add_column(name, [100 + row for row in range(len(corpus))])
    settings = {"crop_samples": CROP, "batch_size": 4, "seed": 0}
    for loader in (
        crop_batches(other, extractor, columns=names, **settings),
        utterance_batches(other, extractor, columns=names),
    ):
        (batch,) = take(loader, 1)
        rows = batch["index"].tolist()
        assert batch["id"] == [str(row) for row in rows]
        assert batch["columns"] == [dict.fromkeys(names, 100 + row) for row in rows]
        assert batch["input_values"].shape == batch["attention_mask"].shape
    (plain,) = take(crop_batches(corpus, extractor, **settings), 1)
    (batch,) = take(crop_batches(other, extractor, columns=names, **settings), 1)
    for name in ("position", "index", "start", "input_values", "attention_mask"):
        assert torch.equal(plain[name], batch[name])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_no_sample(corpus, extractor, workers):
    settings = {"crop_samples": CROP, "batch_size": 3, "seed": 5}
    alone = flat(take(crop_batches(corpus, extractor, **settings), 6))
    assert flat(take(crop_batches(corpus, extractor, num_workers=workers, **settings), 6)) == alone


@pytest.mark.parametrize("workers", [0, 1])
def test_kept_recordings_change_no_sample_and_are_read_once(make_corpus, extractor, workers):
    corpus = make_corpus([1_500, 1_001, 600, 2_222])
    settings = {"crop_samples": CROP, "batch_size": 4, "seed": 5, "num_workers": workers}
    expected = flat(take(crop_batches(corpus, extractor, **settings), 5))
    batches = iter(crop_batches(corpus, extractor, keep_in_memory=True, **settings))
    first = next(batches)
    for audio in corpus["audio"]:
        Path(audio["path"]).unlink()
    assert flat([first, *itertools.islice(batches, 4)]) == expected


def test_processes_and_batch_sizes_read_one_stream(corpus, extractor):
    settings = {"crop_samples": CROP, "seed": 5}
    alone = flat(take(crop_batches(corpus, extractor, batch_size=1, **settings), 24))
    for processes, size in ((2, 3), (3, 4), (1, 12), (4, 2)):
        together = {}
        for process in range(processes):
            loader = crop_batches(
                corpus, extractor, batch_size=size, process_index=process, num_processes=processes, **settings
            )
            part = flat(take(loader, 24 // (processes * size)))
            assert not set(part) & set(together)
            together |= part
        assert together == alone


LAUNCHED = """
import hashlib, itertools, json, sys
from accelerate import Accelerator
from modeling_sim import SimFeatureExtractor
from modeling_sim.data.batches import crop_batches
from modeling_sim.data.corpora import load_corpus

folder, start, workers, batches = sys.argv[1], *map(int, sys.argv[2:])
accelerator = Accelerator()
corpus = load_corpus("folder", "all", data_dir=folder)
loader = crop_batches(
    corpus, SimFeatureExtractor(), crop_samples=1000, batch_size=3, seed=5, start_position=start, num_workers=workers,
    process_index=accelerator.process_index, num_processes=accelerator.num_processes,
)
crops = {}
for batch in itertools.islice(iter(loader), batches):
    for position, values in zip(batch["position"].tolist(), batch["input_values"], strict=True):
        crops[position] = hashlib.sha256(values.numpy().tobytes()).hexdigest()
with open(f"{folder}/{accelerator.process_index}.json", "w") as file:
    json.dump([accelerator.num_processes, crops], file)
accelerator.end_training()
"""


@pytest.mark.slow
def test_launched_processes_workers_and_a_resumed_run_read_one_stream(tmp_path):
    for number, length in enumerate((1_500, 1_001, 3_000, 1_000, 600, 2_222, 5_000)):
        noise = 0.1 * np.random.default_rng(number).standard_normal(length)
        soundfile.write(tmp_path / f"{number}.flac", noise, 16_000)
    (tmp_path / "read.py").write_text(LAUNCHED)
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}

    def crops(processes, start, workers, batches):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        settings = [str(tmp_path), str(start), str(workers), str(batches)]
        subprocess.run(
            [sys.executable, *(launcher if processes > 1 else []), str(tmp_path / "read.py"), *settings],
            cwd=Path(__file__).parents[1],
            env=environment,
            timeout=300,
            check=True,
        )
        parts = [json.loads((tmp_path / f"{process}.json").read_text()) for process in range(processes)]
        assert [number for number, _ in parts] == [processes] * processes
        assert sum(len(part) for _, part in parts) == processes * batches * 3
        return {position: crop for _, part in parts for position, crop in part.items()}

    alone = crops(1, 0, 0, 8)
    assert len(set(alone.values())) > 15
    assert crops(2, 0, 0, 4) == alone
    assert crops(2, 0, 2, 4) == alone
    # Two processes stop after two steps, and one resumes.
    assert crops(2, 0, 1, 2) | crops(1, 12, 2, 4) == alone


def test_a_resumed_run_continues_in_the_stream(corpus, extractor):
    settings = {"crop_samples": CROP, "seed": 1}
    whole = flat(take(crop_batches(corpus, extractor, batch_size=4, **settings), 8))
    before = flat(take(crop_batches(corpus, extractor, batch_size=4, **settings), 3))
    after = flat(take(crop_batches(corpus, extractor, batch_size=5, start_position=12, **settings), 4))
    assert before | after == whole


def test_every_epoch_has_every_utterance_once_in_an_order_of_its_own(corpus, extractor):
    crops = flat(take(crop_batches(corpus, extractor, crop_samples=CROP, batch_size=4, seed=0), 7))
    orders = [[crops[epoch * 7 + place][0] for place in range(7)] for epoch in range(4)]
    assert all(sorted(order) == list(range(7)) for order in orders)
    assert len({tuple(order) for order in orders}) > 1


def test_another_seed_gives_other_crops(corpus, extractor):
    one, other = (
        flat(take(crop_batches(corpus, extractor, crop_samples=CROP, batch_size=7, seed=seed), 1)) for seed in (0, 1)
    )
    assert one != other


def test_the_first_and_the_last_start_both_occur(make_corpus, extractor):
    corpus = make_corpus([CROP + 2])
    batches = take(crop_batches(corpus, extractor, crop_samples=CROP, batch_size=30, seed=0), 1)
    starts = [first_sample(batches[0], row) for row in range(30)]
    assert set(starts) == {0, 1, 2}


def test_a_crop_is_the_span_it_begins_at(corpus, extractor):
    (batch,) = take(crop_batches(corpus, extractor, crop_samples=CROP, batch_size=7, seed=3), 1)
    for row, index in enumerate(batch["index"]):
        start, length = first_sample(batch, row), min(CROP, corpus[int(index)]["num_samples"])
        expected = (start + np.arange(length) + 1) / 2**15
        np.testing.assert_allclose(batch["input_values"][row, :length], expected, atol=1e-7)


def test_short_utterances_are_padded_and_masked_never_dropped(corpus, extractor):
    (batch,) = take(crop_batches(corpus, extractor, crop_samples=CROP, batch_size=7, seed=0), 1)
    short = batch["id"].index("utterance 4")
    assert batch["attention_mask"].sum(dim=1).tolist() == [600 if row == short else CROP for row in range(7)]
    assert (batch["input_values"][short, 600:] == 0).all()


def test_an_utterance_below_the_models_minimum_is_lengthened_with_silence(make_corpus, extractor):
    corpus = make_corpus([30, 30])
    (crops,) = take(crop_batches(corpus, extractor, crop_samples=CROP, batch_size=2, seed=0), 1)
    (whole,) = utterance_batches(corpus, extractor)
    for batch in (crops, whole):
        assert batch["attention_mask"].sum(dim=1).tolist() == [extractor.min_samples] * 2
        assert (batch["input_values"][:, :30] != 0).all()
        assert (batch["input_values"][:, 30:] == 0).all()


def test_crops_of_another_rate_come_at_the_extractors(make_corpus, extractor):
    corpus = make_corpus([48_000], rate=48_000)
    (batch,) = take(crop_batches(corpus, extractor, crop_samples=CROP, batch_size=1, seed=0), 1)
    # The ramp rises three times as fast when every third sample is kept.
    slope = float(batch["input_values"][0, 800] - batch["input_values"][0, 200]) * 2**15 / 600
    assert slope == pytest.approx(3, rel=1e-3)


def test_loaders_leave_the_global_generators_alone(corpus, extractor):
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    take(crop_batches(corpus, extractor, crop_samples=CROP, batch_size=4, seed=0, num_workers=1), 2)
    list(utterance_batches(corpus, extractor))
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002


@pytest.fixture
def breaking_corpus(make_corpus):
    """Utterance 2 breaks after the scan."""
    corpus = make_corpus([1_500, 1_700, 1_900, 2_000])
    with open(corpus[2]["audio"]["path"], "wb") as file:  # noqa: PTH123
        file.write(b"broken")
    return corpus


def test_a_recording_that_breaks_stops_the_run_by_name(breaking_corpus, extractor):
    loader = crop_batches(breaking_corpus, extractor, crop_samples=CROP, batch_size=4, seed=0)
    with pytest.raises(AudioError, match=r"2\.wav"):
        take(loader, 1)


def test_a_recording_that_breaks_is_replaced_always_alike_and_counted(breaking_corpus, extractor):
    settings = {"crop_samples": CROP, "seed": 0, "on_bad_audio": "skip"}
    batches = take(crop_batches(breaking_corpus, extractor, batch_size=4, **settings), 5)
    assert [batch["num_replaced"] for batch in batches] == [1] * 5
    assert all(2 not in batch["index"] for batch in batches)
    again = take(crop_batches(breaking_corpus, extractor, batch_size=2, num_workers=1, **settings), 10)
    assert flat(again) == flat(batches)


@pytest.mark.parametrize("change", ["shorter", "gone"])
def test_a_recording_that_changes_while_it_is_read_is_a_broken_one(make_corpus, extractor, change):
    corpus = make_corpus([3_000, 3_000, 3_000])
    path = Path(corpus[1]["audio"]["path"])
    if change == "gone":
        path.unlink()
    else:
        soundfile.write(path, np.zeros(1_500, np.float32), 16_000, subtype="FLOAT")
    settings = {"crop_samples": CROP, "batch_size": 3, "seed": 0}
    batches = take(crop_batches(corpus, extractor, on_bad_audio="skip", **settings), 6)
    assert [batch["num_replaced"] for batch in batches] == [1] * 6
    with pytest.raises(AudioError, match=r"1\.wav"):
        take(crop_batches(corpus, extractor, **settings), 1)


def test_a_corpus_that_is_broken_throughout_stops_the_run_even_so(make_corpus, extractor):
    corpus = make_corpus([1_500])
    with open(corpus[0]["audio"]["path"], "wb") as file:  # noqa: PTH123
        file.write(b"broken")
    with pytest.raises(AudioError):
        take(crop_batches(corpus, extractor, crop_samples=CROP, batch_size=1, seed=0, on_bad_audio="skip"), 1)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_reader_process_that_is_killed_or_hangs_is_an_error(corpus, extractor, number):
    before = set(multiprocessing.active_children())
    batches = iter(
        crop_batches(corpus, extractor, crop_samples=CROP, batch_size=2, seed=0, num_workers=2, reader_timeout=1.5)
    )
    next(batches)
    readers = set(multiprocessing.active_children()) - before
    assert len(readers) == 2
    pid = min(reader.pid for reader in readers)
    os.kill(pid, number)
    time.sleep(0.1)  # the death of a reader does not interrupt the trainer
    with pytest.raises(ReaderError, match=f"{pid}.*SIGKILL" if number == signal.SIGKILL else "reader_timeout"):
        list(itertools.islice(batches, 20))
    for reader in readers:
        reader.join(timeout=10)
        assert not reader.is_alive()


def test_an_error_in_a_reader_process_keeps_its_type(breaking_corpus, extractor):
    with pytest.raises(AudioError, match=r"2\.wav"):
        take(crop_batches(breaking_corpus, extractor, crop_samples=CROP, batch_size=4, seed=0, num_workers=1), 1)


def test_readers_use_no_shared_memory(corpus, extractor):
    """A container has 64 MB of it, and a reader process that runs out of it would silently lose its batch."""
    for batch in utterance_batches(corpus, extractor, num_workers=1):
        tensors = [value for value in batch.values() if isinstance(value, torch.Tensor)]
        assert len(tensors) > 1
        assert not any(tensor.is_shared() for tensor in tensors)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop_samples": 100}, "`crop_samples`"),
        ({"batch_size": 0}, "`batch_size`"),
        ({"start_position": -1}, "`start_position`"),
        ({"num_workers": -1}, "`num_workers`"),
        ({"process_index": 2, "num_processes": 2}, "`process_index`"),
    ],
)
def test_settings_out_of_range_are_named(corpus, extractor, settings, message):
    with pytest.raises(ValueError, match=message):
        crop_batches(corpus, extractor, **{"crop_samples": CROP, "batch_size": 2, "seed": 0, **settings})


def test_evaluation_has_every_complete_utterance_once(corpus, extractor):
    batches = list(utterance_batches(corpus, extractor, batch_size=3, columns=["text"]))
    assert [len(batch["id"]) for batch in batches] == [3, 3, 1]
    assert sorted(index for batch in batches for index in batch["index"].tolist()) == list(range(7))
    for batch in batches:
        lengths = [corpus[int(index)]["num_samples"] for index in batch["index"]]
        assert batch["attention_mask"].sum(dim=1).tolist() == lengths == sorted(lengths)
        assert batch["input_values"].shape[1] == max(lengths)


def test_evaluation_batches_are_bounded_in_samples(corpus, extractor):
    batches = list(utterance_batches(corpus, extractor, batch_size=8, max_samples=4_000))
    assert sum(len(batch["id"]) for batch in batches) == 7
    for batch in batches:
        assert batch["input_values"].numel() <= 4_000 or len(batch["id"]) == 1


def test_evaluation_cuts_long_utterances_into_equal_pieces(make_corpus, extractor, monkeypatch):
    monkeypatch.setattr("modeling_sim.data.batches.LONGEST_WHOLE", 0.2)
    monkeypatch.setattr("modeling_sim.data.batches.LONGEST_PIECE", 0.1)
    corpus = make_corpus([3_200, 3_201, 8_000])
    for cut, expected in (
        (False, {0: [3_200], 1: [3_201], 2: [8_000]}),
        (True, {0: [3_200], 1: [1_067] * 3, 2: [1_600] * 5}),
    ):
        samples = {}
        for batch in utterance_batches(corpus, extractor, batch_size=2, cut=cut):
            assert batch["input_values"].numel() <= 2 * 3_200 or not cut
            for row, index in enumerate(batch["index"].tolist()):
                values = batch["input_values"][row, batch["attention_mask"][row] == 1]
                samples.setdefault(index, {})[int(batch["start"][row])] = values
        for index, pieces in samples.items():
            assert [len(pieces[start]) for start in sorted(pieces)] == expected[index]
            whole = torch.cat([pieces[start] for start in sorted(pieces)])
            np.testing.assert_allclose(whole * 2**15, np.arange(len(whole)) + 1)


def test_pieces_leave_the_evaluation_of_short_utterances_as_it_is(corpus, extractor, monkeypatch):
    monkeypatch.setattr("modeling_sim.data.batches.LONGEST_WHOLE", 5_000 / 16_000)  # the longest has 5000 samples
    monkeypatch.setattr("modeling_sim.data.batches.LONGEST_PIECE", 2_500 / 16_000)
    settings = {"batch_size": 2, "max_samples": 10_000}
    cut, whole = (list(utterance_batches(corpus, extractor, cut=cut, **settings)) for cut in (True, False))
    assert len(cut) == len(whole)
    for batch, other in zip(cut, whole, strict=True):
        assert batch.keys() == other.keys()
        for name, value in batch.items():
            assert torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]


def test_crops_far_beyond_the_data_are_refused(corpus, extractor):
    with pytest.raises(ValueError, match="`crop_samples`"):
        crop_batches(corpus, extractor, crop_samples=1_000_000, batch_size=2, seed=0)


@pytest.mark.parametrize(("batch_size", "max_samples"), [(2, None), (3, None), (1, None), (8, 1_000)])
def test_no_evaluation_batch_is_smaller_than_asked(corpus, extractor, batch_size, max_samples):
    batches = utterance_batches(corpus, extractor, batch_size=batch_size, max_samples=max_samples, min_utterances=2)
    sizes = [len(batch["id"]) for batch in batches]
    assert sum(sizes) == 7
    assert min(sizes) >= 2
    assert max(sizes) <= batch_size + 2


def test_processes_divide_the_evaluation(corpus, extractor):
    parts = [
        [
            name
            for batch in utterance_batches(corpus, extractor, batch_size=2, process_index=r, num_processes=3)
            for name in batch["id"]
        ]
        for r in range(3)
    ]
    assert sorted(itertools.chain(*parts)) == sorted(corpus["id"])


def test_a_stream_gives_the_crops_of_its_rows_to_any_number_of_processes(corpus, extractor):
    stream = corpus.to_iterable_dataset()
    settings = {"crop_samples": CROP, "seed": 0}
    alone = flat(take(crop_batches(stream, extractor, batch_size=4, **settings), 6))
    assert [alone[position][0] for position in range(24)] == [position % 7 for position in range(24)]
    # The same utterance has another crop in another epoch, and the same as from the map-style data set.
    mapped = flat(take(crop_batches(corpus, extractor, batch_size=7, **settings), 3))
    assert {crop[1:] for crop in mapped.values()} == {alone[position][1:] for position in range(21)}
    halves = {}
    for process in range(2):
        loader = crop_batches(
            stream, extractor, batch_size=4, process_index=process, num_processes=2, num_workers=process, **settings
        )
        halves |= flat(take(loader, 3))
    assert halves == alone
    resumed = flat(take(crop_batches(stream, extractor, batch_size=4, start_position=12, **settings), 3))
    assert resumed == {position: alone[position] for position in range(12, 24)}


def test_a_shuffled_stream_has_another_order_each_epoch(corpus, extractor):
    stream = corpus.to_iterable_dataset().shuffle(seed=0, buffer_size=7)
    crops = flat(take(crop_batches(stream, extractor, crop_samples=CROP, batch_size=7, seed=0), 2))
    first, second = ([crops[position][1] for position in range(start, start + 7)] for start in (0, 7))
    assert sorted(first) == sorted(second)
    assert first != second


def test_a_stream_takes_one_worker_at_most(corpus, extractor):
    with pytest.raises(ValueError, match="`num_workers`"):
        crop_batches(corpus.to_iterable_dataset(), extractor, crop_samples=CROP, batch_size=2, seed=0, num_workers=2)
