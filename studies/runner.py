"""Runs the rows of a study: each trains one model, measures it, and writes one file of results.

A study is a list of rows, in an order that makes partial results useful, and a page with tables and pictures, which can
be made from partial results. Each row runs in a separate process. A row with results is not run again, and an
interrupted row resumes from its last checkpoint, so the same command can be rerun after any interruption.

Methods are compared at equal seconds of audio through the encoder: a row with two views of each crop has half of the
steps. Rows may be preceded by tuning rows, which train for a short time on a development split; the final rows of a
method use the settings of the best one.
"""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from argparse import SUPPRESS, ArgumentParser, Namespace
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from benchmarks.gpu import seconds_of
from modeling_sim.files import read_json, write_json
from modeling_sim.settings import HelpFormatter, errors_in_one_line, merged
from modeling_sim.text import counted, duration, in_one_line

ROOT = Path(__file__).resolve().parents[1]

# Seconds to wait for the lock of a row whose process was terminated, and between checks of a process' parent.
_LOCK_SECONDS, _LOOK_SECONDS = 120, 2.0

# Exit code of a row that another process runs.
_BUSY = os.EX_TEMPFAIL

# Version of the results; increase it when they are no longer comparable.
_SCHEMA = 1


@dataclass(frozen=True)
class Scale:
    """Sizes of a study.

    Args:
        hidden_size: Channels of the convolutions.
        context_size: Channels of the context.
        crop_samples: Samples per crop.
        batch_size: Crops per step.
        steps: Steps of a final row with one view of each crop.
        tuning_steps: Steps of such a tuning row.
        decoder_steps: Steps of a decoder.
        max_items: Items per split for probes.
        mixed_precision: Precision of training, on all machines.
        corpus_settings: Settings of corpora, by name of the corpus.
    """

    hidden_size: int
    context_size: int
    crop_samples: int
    batch_size: int
    steps: int
    tuning_steps: int
    decoder_steps: int
    max_items: int
    mixed_precision: str = "no"
    corpus_settings: dict[str, dict[str, Any]] = field(default_factory=dict)


_TINY_CORPUS = {"num_train": 16, "num_test": 12, "num_speakers": 2}
SCALES = {
    "small": Scale(128, 64, 10_240, 32, 1500, 300, 300, 5_000),
    # A third of the time of "small", for studies of many methods on a CPU.
    "narrow": Scale(64, 32, 10_240, 32, 1500, 300, 300, 5_000),
    "paper": Scale(512, 256, 20_480, 32, 100_000, 5_000, 5_000, 200_000, mixed_precision="bf16"),
    # For tests: seconds per row.
    "tiny": Scale(8, 4, 3_000, 3, 4, 2, 2, 400, corpus_settings={"synthetic_syllables": _TINY_CORPUS}),
}


@dataclass(frozen=True)
class Label:
    """A class column, and the settings of its measures.

    Args:
        name: The column.
        measures: Groups of measures, as in the setting `measures`.
        axes: Axes in which single dimensions are measured, as in the setting `axes`.
        settings: Further settings of the evaluation.
        corpus_settings: Further settings of the corpus.
    """

    name: str
    measures: str
    axes: str = "own"
    settings: dict[str, Any] = field(default_factory=dict)
    corpus_settings: dict[str, Any] = field(default_factory=dict)


_PHONES = Label("phones", "probes,concentration,disentanglement,abx,distribution", axes="own,temporal")
_SPEAKERS = Label("speaker_id", "probes", settings={"pooling": "chunk"})
LABELS = {
    "synthetic_syllables": (
        _PHONES,
        _SPEAKERS,
        Label("syllable", "probes", corpus_settings={"num_syllables": 1}),
        Label("vowel", "probes", corpus_settings={"num_syllables": 1}),
    ),
    "librispeech": (_PHONES, _SPEAKERS),
}
"""Labels of each corpus; tuning rows are compared by the linear probe of the first one."""


@dataclass(frozen=True)
class StudyRow:
    """One model of a study.

    Args:
        name: Name of its files.
        kind: Method or setting, shared by rows that differ only by seed.
        settings: Settings of `modeling-sim pretrain`, or of `modeling-sim finetune` if they contain a `label`; those of
            the scale and the corpus are added.
        seed: Seed of the run.
        views: Number of views of each crop that pass through the encoder.
        tuning: Whether this is a tuning row: it trains for a short time, and only the first label's probe is measured.
        tuned_by: Names of the tuning rows; the row uses the settings of the best one.
        has_controls: Also measure the spectrum and the untrained network.
        decoders: Modules for which decoders are trained, for smoothness and reconstruction.
        decoder_settings: Settings of `modeling-sim train-decoder`, on top of those of the scale and the corpus.
    """

    name: str
    kind: str
    settings: dict[str, Any]
    seed: int = 0
    views: int = 1
    tuning: bool = False
    tuned_by: tuple[str, ...] = ()
    has_controls: bool = False
    decoders: tuple[int, ...] = ()
    decoder_settings: dict[str, Any] = field(default_factory=dict)


def _plain(row: StudyRow) -> dict[str, Any]:
    """A row as JSON types, for comparison with a file."""
    return json.loads(json.dumps(asdict(row)))


@dataclass(frozen=True)
class Study:
    """A study.

    Args:
        script: The file that calls `main` with this study.
        description: What the command does, for `--help`.
        rows: The rows, in order.
        write_page: Writes tables and pictures of the available results.
    """

    script: Path
    description: str
    rows: list[StudyRow]
    write_page: "Callable[[Place], None]"

    @property
    def name(self) -> str:
        """Name of the study: the name of its folder."""
        return self.script.parent.name


@dataclass(frozen=True)
class Place:
    """Folders of a study for one scale and corpus, and the common settings of its rows."""

    study: Study
    scale_name: str
    scale: Scale
    corpus: str
    data_dir: str | None
    device: str
    results: Path
    runs: Path
    _known: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def committed(cls, study: Study, scale_name: str, corpus: str) -> "Place":
        """The place with the results in the study's own folder, for reading."""
        folder = study.script.parent / "results" / f"{scale_name}_{corpus}"
        return cls(study, scale_name, SCALES[scale_name], corpus, None, "cpu", folder, folder)

    @property
    def common(self) -> dict[str, Any]:
        """The first fields of the results of all rows."""
        sizes = asdict(self.scale)
        del sizes["mixed_precision"]  # each result contains its own
        scale = {"scale": self.scale_name, "scale_settings": sizes}
        return {"schema": _SCHEMA, "study": self.study.name, **scale, "corpus": self.corpus}

    @property
    def rows(self) -> list[StudyRow]:
        """The rows, in order."""
        return self.study.rows

    def result(self, row: StudyRow) -> dict[str, Any] | None:
        """The results of a row, if it is finished; a damaged file counts as a failed row.

        Raises:
            ValueError: The results belong to other settings.
        """
        if row.name in self._known:
            return self._known[row.name]
        path = self.results / f"{row.name}.json"
        if not path.is_file():
            return None
        try:
            found = read_json(path)
        except ValueError as error:
            return {"error": in_one_line(error)}
        if not isinstance(found.get("row"), dict):
            return {"error": f"{path} has no settings of a row"}
        # A setting that did not exist when the row was measured counts as its default.
        stored = {**_plain(StudyRow(row.name, row.kind, row.settings)), **found["row"]}
        if stored != _plain(row) or any(found.get(name) != value for name, value in self.common.items()):
            raise ValueError(f"{path} has results of other settings; remove it, or change `--results`.")
        self._known[row.name] = found
        return found

    def forget(self, row: StudyRow) -> None:
        """Removes the results of a row."""
        (self.results / f"{row.name}.json").unlink()
        self._known.pop(row.name, None)

    @property
    def finished(self) -> set[str]:
        """Names of the rows that are finished or have failed."""
        return {row.name for row in self.rows if self.result(row) is not None}

    def done(self) -> list[dict[str, Any]]:
        """The results of all rows that are finished without an error, in order."""
        return [found for row in self.rows if (found := self.result(row)) and "error" not in found]


# ---------------------------------------------------------------------- the command


def main(study: Study, argv: Sequence[str] | None = None) -> None:
    """Runs a study's command."""
    parser = ArgumentParser(description=study.description, formatter_class=HelpFormatter)
    parser.add_argument("--scale", choices=SCALES, default="small", help="sizes of models and runs")
    parser.add_argument("--corpus", choices=LABELS, default="synthetic_syllables", help="data")
    parser.add_argument("--data_dir", help="folder of the corpus, if it is read from disk")
    parser.add_argument("--budget", type=seconds_of, help="time limit, such as '8h' or '30m'")
    parser.add_argument("--processes", type=int, default=1, help="rows that run at the same time, one GPU each if any")
    parser.add_argument("--device", default="cpu", help="device of the measures; trainings use a GPU if there is one")
    parser.add_argument("--results", type=Path, help="folder of results; by default in the study's folder")
    parser.add_argument("--runs", type=Path, help="folder of models and logs; by default runs/studies/...")
    parser.add_argument("--page", action="store_true", help="only write tables and pictures of the available results")
    parser.add_argument("--plan", action="store_true", help="only list the rows and their state")
    parser.add_argument("--retry", action="store_true", help="rerun failed rows")
    parser.add_argument("--only", help="run this row in this process")
    parser.add_argument("--parent", type=int, help=SUPPRESS)  # id of the process that `--only` ends with
    given = parser.parse_args(argv)
    if given.processes < 1:
        parser.error(f"`--processes` is {given.processes}; it must be at least 1.")
    key = f"{given.scale}_{given.corpus}"
    place = Place(
        study,
        given.scale,
        SCALES[given.scale],
        given.corpus,
        given.data_dir,
        given.device,
        given.results or study.script.parent / "results" / key,
        given.runs or Path("runs") / "studies" / study.name / key,
    )
    place.results.mkdir(parents=True, exist_ok=True)
    place.runs.mkdir(parents=True, exist_ok=True)
    if given.only:
        row = next((row for row in place.rows if row.name == given.only), None)
        if row is None:
            parser.error(f"`--only` is {given.only!r}, which is not a row; see `--plan`.")
        end_with_parent(given.parent or os.getppid())
        run_row(row, place)
        return
    with errors_in_one_line(f"{study.name}/{study.script.name}"):
        _ = place.finished  # raises an error early for results of other settings
    if given.plan:
        _print_plan(place)
        return
    if not given.page:
        with errors_in_one_line(f"{study.name}/{study.script.name}"):
            _check_data(place)
        _run_all(place, given)
    study.write_page(place)
    print(f"tables and pictures in {place.results}")


def _check_data(place: Place) -> None:
    """Finds the corpus before any row starts, as each row without it would be recorded as failed.

    Raises:
        ValueError: `data_dir` is missing or not a folder, or has nothing to train or to test on.
        OSError: The data cannot be read.
    """
    if place.corpus == "synthetic_syllables" or len(place.done()) == len(place.rows):
        return
    from modeling_sim.data.corpora import load_corpus  # noqa: PLC0415 - slow to import

    for split in ("train", "test"):
        load_corpus(place.corpus, split, data_dir=place.data_dir, **place.scale.corpus_settings.get(place.corpus, {}))


def _print_plan(place: Place) -> None:
    """Prints the rows, and which are finished or have failed."""
    for row in place.rows:
        found = place.result(row)
        error = (found or {}).get("error")
        print(f"{'failed' if error else 'done' if found else '-':7} {row.name}{f': {error}' if error else ''}")


def _run_all(place: Place, given: Namespace) -> None:
    """Runs the unfinished rows, several at a time; rows with tuning rows start after these."""
    started, running, busy, kills = time.monotonic(), dict[str, _Running](), set[str](), Counter[str]()
    if given.retry:
        for row in place.rows:
            if "error" in (place.result(row) or {}):
                place.forget(row)
    with _passing_signals(running):
        while True:
            for row in _ready(place, given, {*running, *busy}, started)[: given.processes - len(running)]:
                slot = min({*range(given.processes)} - {each.slot for each in running.values()})
                running[row.name] = _Running(row, _start(row, place, given, slot), slot)
                print(f"{row.name} starts; log in {place.runs / row.name}.log", flush=True)
            if not running:
                break
            time.sleep(0.5)
            for each in [each for each in running.values() if each.process.poll() is not None]:
                del running[each.row.name]
                outcome = _finish(each.row, each.process.returncode, place, busy, kills)
                print(_progress(each.row, outcome, place, running, given, started), flush=True)
    left = [row.name for row in place.rows if place.result(row) is None]
    if left:
        print(f"{counted(len(left), 'row')} left, {left[0]} first; rerun the same command to run them")


class _Running(NamedTuple):
    """A row that runs."""

    row: StudyRow
    process: "subprocess.Popen[bytes]"
    slot: int


def _ready(place: Place, given: Namespace, taken: Collection[str], started: float) -> list[StudyRow]:
    """Rows that are neither finished nor running, whose tuning rows are finished, and for which there is time."""
    left = given.budget - (time.monotonic() - started) if given.budget is not None else math.inf
    rate, finished = _rate(place), place.finished
    return [
        row
        for row in place.rows
        if row.name not in {*taken, *finished} and {*row.tuned_by} <= finished and left > rate * _work(row, place.scale)
    ]


def _work(row: StudyRow, scale: Scale) -> float:
    """Estimated work of a row: its steps, plus the steps of a tuning row for measuring."""
    return _steps(row, scale) * row.views + scale.tuning_steps


def _rate(place: Place) -> float:
    """Seconds per unit of `_work` in the finished rows."""
    found = [(row, result) for row in place.rows if (result := place.result(row)) and "error" not in result]
    work = sum(_work(row, place.scale) for row, _ in found)
    return sum(result["seconds"] for _, result in found) / work if work else 0.0


def _start(row: StudyRow, place: Place, given: Namespace, slot: int) -> "subprocess.Popen[bytes]":
    """Starts the process of a row."""
    environment = {**os.environ, "TQDM_DISABLE": "1"}
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // given.processes)))
    if given.processes > 1 and (gpus := _num_gpus()):
        inherited = environment.get("CUDA_VISIBLE_DEVICES")
        names = inherited.split(",") if inherited else [str(number) for number in range(gpus)]
        environment["CUDA_VISIBLE_DEVICES"] = names[slot % gpus]
    paths = [str(ROOT), *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    flags = ["--scale", place.scale_name, "--corpus", place.corpus, "--device", place.device, "--only", row.name]
    flags += ["--results", str(place.results), "--runs", str(place.runs), "--parent", str(os.getpid())]
    flags += ["--data_dir", place.data_dir] if place.data_dir else []
    with (place.runs / f"{row.name}.log").open("ab") as log:
        # In a separate session, so that it only receives Ctrl-C through this process.
        return subprocess.Popen(
            [sys.executable, str(place.study.script), *flags],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _num_gpus() -> int:
    import torch  # noqa: PLC0415 - slow to import

    return torch.cuda.device_count()


def _finish(row: StudyRow, code: int, place: Place, busy: set[str], kills: Counter[str]) -> str:
    """Describes how a row has ended; records its error if it has failed or was killed for the second time."""
    if place.result(row) is None:
        killed = code < 0 or code > 128
        kills[row.name] += killed
        if code == _BUSY:
            busy.add(row.name)
            return "skipped, as another process runs it"
        if killed and kills[row.name] == 1:
            return f"killed (exit code {code}); it will resume once"
        lines = (place.runs / f"{row.name}.log").read_text(encoding="utf-8", errors="replace").splitlines()
        error = next((line for line in reversed(lines) if line.strip()), f"exit code {code}")
        _write(row, place, error=in_one_line(ValueError(f"killed twice (exit code {code}); {error}" * killed or error)))
    own = place.result(row) or {}
    return f"failed: {own['error']}" if "error" in own else duration(own["seconds"] / 60)


def _write(row: StudyRow, place: Place, **more: Any) -> None:
    write_json(place.results / f"{row.name}.json", {**place.common, "row": asdict(row), **more})


def _progress(
    row: StudyRow, outcome: str, place: Place, running: Mapping[str, _Running], given: Namespace, started: float
) -> str:
    """Prints one line after a row: how it ended, and the estimated remaining time."""
    left = [each for each in place.rows if place.result(each) is None]
    remaining = _rate(place) * sum(_work(each, place.scale) for each in left) / given.processes
    parts = [
        f"[{len(place.rows) - len(left)} of {len(place.rows)}] {row.name}: {outcome}",
        f"about {duration(remaining / 60)} left",
    ]
    if given.budget is not None:
        parts.append(f"{duration(max(0.0, given.budget + started - time.monotonic()) / 60)} of the budget")
    if running:
        parts.append(f"running: {', '.join(running)}")
    return "; ".join(parts)


@contextlib.contextmanager
def _passing_signals(running: Mapping[str, _Running]) -> Iterator[None]:
    """Ends all rows if this process ends for any reason; their training runs save first."""

    def stop(number: int, _frame: Any) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for each in running.values():
            each.process.terminate()
        for each in running.values():
            each.process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_parent(parent: int) -> None:
    """Ends this process like SIGTERM when its parent has ended without stopping it.

    Args:
        parent: Process id, given by the parent itself, because it may have ended while this process started.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


# ---------------------------------------------------------------------- one row


def _steps(row: StudyRow, scale: Scale) -> int:
    """Steps of a row, for equal seconds of audio through the encoder in all rows."""
    return max(1, (scale.tuning_steps if row.tuning else scale.steps) // row.views)


def run_row(row: StudyRow, place: Place) -> None:
    """Trains and measures a row in this process, and writes its results.

    Raises:
        SystemExit: Another process runs the row.
    """
    try:
        lock = FileLock(place.runs / f".{row.name}.lock").acquire(timeout=_LOCK_SECONDS)
    except Timeout:
        print(f"{row.name} is skipped, as another process runs it")
        raise SystemExit(_BUSY) from None
    with lock:
        if place.result(row) is not None:
            return
        corpus_settings = {**place.scale.corpus_settings.get(place.corpus, {})}
        if row.tuning:
            corpus_settings |= development_split(place)
        settings, tuning = _with_best(row, place)
        folder = place.runs / row.name
        since = time.perf_counter()
        _train(row, settings, corpus_settings, folder, place)
        trained = read_json(folder / "results.json")
        decoders = [_train_decoder(module, row, corpus_settings, folder, place) for module in row.decoders]
        measured_since = time.perf_counter()
        labels = LABELS[place.corpus][:1] if row.tuning else LABELS[place.corpus]
        measured = {}
        for label in labels:
            own = {**corpus_settings, **label.corpus_settings}
            own_decoders = decoders if label == labels[0] else []
            measured[label.name] = measure(row, label, own, folder, own_decoders, place)
        now = time.perf_counter()
        _write(
            row,
            place,
            settings=settings,
            **tuning,
            precision=trained["precision"],
            steps=trained["steps"],
            seconds_of_audio=trained["crops"] * row.views * place.scale.crop_samples / 16_000,
            training_seconds=trained["seconds"],
            measuring_seconds=round(now - measured_since, 1),
            seconds=round(max(now - since, trained["seconds"] + now - measured_since), 1),
            hardware=trained["hardware"],
            labels={name: rows for name, (rows, _) in measured.items()},
            errors={name: errors for name, (_, errors) in measured.items() if errors},
        )


def development_split(place: Place) -> dict[str, Any]:
    """Settings of a corpus whose test split does not overlap with that of the study.

    Synthetic syllables are generated with another seed; for other corpora every tenth training utterance is held out.
    """
    if place.corpus == "synthetic_syllables":
        return {"seed": 1000}
    from modeling_sim.data.corpora import load_corpus  # noqa: PLC0415 - slow to import

    folder = place.runs / "development"
    with FileLock(place.runs / ".development.lock"):
        if not (folder / "train.txt").is_file():
            ids = sorted(load_corpus(place.corpus, "train", data_dir=place.data_dir)["id"][:])
            folder.mkdir(exist_ok=True)
            held_out = set(ids[::10])
            for name, chosen in (("test", held_out), ("train", {*ids} - held_out)):
                (folder / f"{name}.txt").write_text("".join(f"{each}\n" for each in sorted(chosen)), encoding="utf-8")
    return {"lists": str(folder.resolve())}


def _with_best(row: StudyRow, place: Place) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of a row on top of those of its best tuning row, and facts about the choice.

    Raises:
        ValueError: Some tuning rows are unfinished, or all have failed.
    """
    if not row.tuned_by:
        return row.settings, {}
    tuning = {each.name: each for each in place.rows if each.name in row.tuned_by}
    results = {name: place.result(each) for name, each in tuning.items()}
    if missing := [name for name in row.tuned_by if results.get(name) is None]:
        raise ValueError(f"{row.name} needs tuning rows that are not finished: {', '.join(missing)}")
    scores = {name: score_of(result) for name, result in results.items() if result}
    best = max(scores, key=lambda name: scores[name])
    if scores[best] < 0:
        raise ValueError(f"{row.name}: all of its tuning rows have failed; see their logs in {place.runs}")
    found = {"best": best, "rows": len(scores), "failed": sum(score < 0 for score in scores.values())}
    return merged(tuning[best].settings, row.settings), {"tuning": found}


def score_of(result: dict[str, Any]) -> float:
    """Score of a tuning row: the best module's linear probe of the first label; -1 after an error."""
    if "error" in result:
        return -1.0
    rows = next(iter(result["labels"].values()))
    own = [each for each in rows if each["measure"] == "linear_accuracy" and each["kind"] == result["row"]["kind"]]
    return max((each["value"] for each in own if each["value"] is not None), default=-1.0)


def _flags(settings: dict[str, Any]) -> list[str]:
    """Settings as flags of a command."""
    words = []
    for name, value in settings.items():
        if value is not None:
            text = json.dumps(value) if isinstance(value, (dict, list, bool)) else str(value)
            words += [f"--{name}", text]
    return words


def _common(row: StudyRow, corpus_settings: dict[str, Any], place: Place) -> dict[str, Any]:
    """Common settings of all training runs."""
    return {
        "corpus": place.corpus,
        "corpus_settings": corpus_settings,
        "data_dir": place.data_dir,
        "crop_samples": place.scale.crop_samples,
        "batch_size": place.scale.batch_size,
        "mixed_precision": place.scale.mixed_precision,
        "keep_in_memory": place.corpus == "synthetic_syllables",
        "seed": row.seed,
        "save_total_limit": 1,
        "disable_tqdm": True,
    }


def _train(
    row: StudyRow, settings: dict[str, Any], corpus_settings: dict[str, Any], folder: Path, place: Place
) -> None:
    """Trains the row's model, or resumes."""
    steps = _steps(row, place.scale)
    sizes = {"hidden_size": place.scale.hidden_size, "context_size": place.scale.context_size}
    own = {
        "model_settings": sizes,
        "max_steps": steps,
        "warmup_steps": max(1, steps // 30),
        **_common(row, corpus_settings, place),
    }
    command = "finetune" if "label" in settings else "pretrain"
    _run(command, merged(own, settings), folder)


def _run(command: str, settings: dict[str, Any], folder: Path, **more: Any) -> None:
    """Runs or resumes a training command; its settings and dependencies are stored next to its folder.

    Raises:
        ValueError: The folder has a run of other settings.
    """
    from modeling_sim import cli  # noqa: PLC0415 - imports torch with its command

    path = _settings_file(folder)
    # The data may be in another folder.
    wanted = json.loads(json.dumps({"command": command, **settings, "data_dir": None, **more}))
    if folder.exists() and path.is_file() and read_json(path) != wanted:
        raise ValueError(f"{folder} has a run of other settings, which are in {path}; remove both")
    write_json(path, wanted)
    cli.main([command, *_flags({**settings, "output_dir": str(folder)})])


def _settings_file(folder: Path) -> Path:
    """The file with the settings of a run."""
    return folder.with_name(f"{folder.name}-settings.json")


def _train_decoder(module: int, row: StudyRow, corpus_settings: dict[str, Any], folder: Path, place: Place) -> str:
    """Trains a decoder of a module of the row's model, or resumes, and returns its folder."""
    output_dir = folder.with_name(f"{row.name}-decoder{module}")
    own = {
        "model": str(folder),
        "module": module,
        "loss": "log_mel",
        "max_steps": place.scale.decoder_steps,
        **_common(row, corpus_settings, place),
        **row.decoder_settings,
    }
    _run("train-decoder", own, output_dir, settings_of_model=read_json(_settings_file(folder)))
    return str(output_dir)


def measure(
    row: StudyRow, label: Label, corpus_settings: dict[str, Any], folder: Path, decoders: Sequence[str], place: Place
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of the scorecard for the row's model, and its controls if it has any; and measures that failed."""
    from modeling_sim.analysis.scorecard import Row  # noqa: PLC0415 - imports torch
    from modeling_sim.evaluation.cache import Analysis, AnalysisParts  # noqa: PLC0415
    from modeling_sim.evaluation.decoder_scores import measure_decoder  # noqa: PLC0415
    from modeling_sim.evaluation.models import attach_decoders, load_representations  # noqa: PLC0415
    from modeling_sim.evaluation.module_scores import measure_representation  # noqa: PLC0415
    from modeling_sim.evaluation.representations import SimModules  # noqa: PLC0415
    from modeling_sim.evaluation.settings import AnalysisArguments  # noqa: PLC0415
    from modeling_sim.evaluation.task import LabelTask  # noqa: PLC0415

    arguments = AnalysisArguments(
        model=[str(folder)],
        corpus=place.corpus,
        data_dir=place.data_dir,
        corpus_settings=corpus_settings,
        label=label.name,
        measures="probes" if row.tuning else label.measures,
        axes="own" if row.tuning else label.axes,
        max_items=place.scale.max_items,
        device=place.device,
        seed=row.seed,
        decoder=list(decoders),
        cache_dir=str(place.runs / "cache"),
        output_dir=str(folder),
        **label.settings,
    )
    task, analysis = LabelTask(arguments), Analysis(arguments)
    parts = AnalysisParts(analysis, task.fingerprint())
    representations = load_representations(arguments)
    for representation in representations:
        if row.has_controls or not representation.control:
            measure_representation(parts, task, representation, with_clips=False)
    for model in (each for each in representations if isinstance(each, SimModules) and not each.control):
        attach_decoders([model], list(decoders), place.device)
        for module, own in model.decoders.items():
            for decoder in own:
                measure_decoder(parts, task, model, module, decoder, with_clips=False)
    if not analysis.rows:
        raise SystemExit(f"{row.name}: nothing could be measured: {parts.errors[:1]}")
    trained = {each.kind for each in representations if not each.control}
    found = []
    for each in analysis.rows:
        kind, plus, axes = each.kind.partition(" + ")
        if kind in trained:
            renamed = {"kind": row.kind + plus + axes, "representation": row.name + plus + axes}
        elif kind.endswith(" untrained"):
            renamed = {"kind": "untrained", "representation": f"untrained-{row.seed}"}
        else:
            renamed = {"kind": each.kind, "representation": each.representation}
        found.append(asdict(Row(**{**asdict(each), **renamed})))
    return found, parts.errors
