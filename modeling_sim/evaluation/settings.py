"""Settings and corpora of the measures."""

from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from huggingface_hub.constants import HF_HOME

from modeling_sim.data.corpora import load_corpus
from modeling_sim.settings import (
    FIGURE_FORMAT_HELP,
    CorpusArguments,
    FigureFormat,
    at_least,
    check_checkpoint,
    check_seed,
    chosen_numbers,
    setting,
)

if TYPE_CHECKING:
    from datasets import Dataset

FACTORS = ("vowel", "consonant", "f0", "vocal_tract_length", "gain")
"""Default columns for disentanglement, if a corpus has them."""

GROUPS = (
    "probes",
    "neighbors",
    "concentration",
    "disentanglement",
    "abx",
    "consistency",
    "distribution",
    "objective",
    "decoders",
)
"""Groups of measures; the last three are for SIM models only, and "consistency" for at least two models."""

AXES = {"principal": "PCA", "independent": "ICA", "temporal": "SOBI", "slow": "SFA"}
"""Axes other than a representation's own, and their names in results."""


@dataclass(kw_only=True)
class MeasuringArguments(CorpusArguments):
    """Models to measure, data, and output folder."""

    model: list[str] = setting(  # noqa: RUF009 - a field
        MISSING,
        "Models to compare, as folders or Hub ids: SIM, GIM and CPC, wav2vec2, HuBERT, WavLM, data2vec-audio, DAC, "
        "EnCodec and Mimi.",
        check=check_checkpoint,
    )
    label: str = setting("phones", "Label: a column of classes, such as phones, speaker_id or vowel.")
    modules: str = setting(
        "all", "Modules to measure: 'all', or a list such as '0,2,context'; for other encoders, layers: '0,6,12'."
    )
    device: str = setting("cpu", "Device, such as cpu or cuda:1.")
    batch_size: int = setting(8, "Utterances per batch.", check=at_least(1))
    seed: int = setting(0, "Seed of the untrained networks and of all random choices.", check=check_seed)
    cache_dir: str = setting(
        str(Path(HF_HOME) / "modeling_sim" / "features"),
        "Folder for cached features and partial results; anything in it can be deleted.",
    )
    output_dir: str = setting("runs/measures", "Folder for results and pictures.")
    overwrite_output_dir: bool = setting(False, "Replace earlier results of this command in `output_dir`.")
    figure_format: FigureFormat | None = setting("png", FIGURE_FORMAT_HELP)  # noqa: RUF009 - a field


@dataclass(kw_only=True)
class ProbeArguments(MeasuringArguments):
    """Settings of probes."""

    output_dir: str = setting("runs/probe", "Folder for results and pictures.")
    latents: Literal["mean", "sample"] = setting("mean", "Probe the 'mean' of each Gaussian, or a 'sample'.")
    pooling: Literal["frame", "chunk", "mean"] | None = setting(
        None,
        "Probe each 'frame', the mean over each short 'chunk', or the 'mean' over each utterance. Unset: 'frame' for "
        "labels of frames, otherwise 'mean'. Use 'chunk' for speakers: with one chapter per speaker, a mean over an "
        "utterance may identify the recording instead.",
    )
    chunk_seconds: float = setting(0.5, "Length of a chunk in seconds.", check=at_least(0.01))
    frame_step: int = setting(4, "Step between probed frames, in label frames of 10 ms.", check=at_least(1))
    max_items: int = setting(
        200_000, "Approximate number of items per split, drawn from all utterances; 0 for all.", check=at_least(0)
    )
    protocol: Literal["standard", "paper"] = setting(
        "standard",
        "'paper': probe as the code of the Smooth InfoMax paper does, without further controls; see "
        "modeling_sim/analysis/paper_probe.py.",
    )
    probe: Literal["linear", "mlp", "knn"] = setting("linear", "Type of classifier.")
    l2: float | None = setting(
        None, "L2 penalty of the linear probe; unset to choose it on a part of the training split.", check=at_least(0)
    )


@dataclass(kw_only=True)
class AbxArguments(MeasuringArguments):
    """Settings of ABX."""

    output_dir: str = setting("runs/abx", "Folder for results and pictures.")
    split: str = setting("test", "Split for ABX; 'all' for every utterance.")
    max_tokens: int = setting(
        5, "Maximum number of tokens per phone, speaker and context in ABX, which compares two.", check=at_least(2)
    )


@dataclass(kw_only=True)
class AnalysisArguments(ProbeArguments, AbxArguments):
    """Everything that `evaluate` measures; probe and abx are presets of it."""

    output_dir: str = setting("runs/evaluation", "Folder for results and report.")
    figure_format: FigureFormat | None = setting(  # noqa: RUF009 - a field
        None, "Also write each figure of the report to a file in this format."
    )
    max_items: int = setting(50_000, "Approximate number of items per split, for probes; 0 for all.", check=at_least(0))
    measures: str = setting("all", f"Groups of measures: 'all', or some of {', '.join(GROUPS)}, separated by commas.")
    axes: str = setting(
        "own,principal,temporal",
        "Axes in which single dimensions are measured: 'own' (always included), "
        f"{', '.join(f'{name} ({short})' for name, short in AXES.items())}, separated by commas, or 'all'. Other axes "
        "than the model's own are found on training utterances.",
    )
    axes_minutes: float = setting(20.0, "Approximate minutes of training utterances that axes are found on.")
    align_modules: bool = setting(
        True,
        "Of models with another architecture than the first one, measure only modules with the receptive field and "
        "hop of a module of the first, under its name; otherwise, measure all modules under their own names.",
    )
    decoder: list[str] = setting(  # noqa: RUF009 - a field
        [], "Decoders of these models, trained by `modeling-sim train-decoder`.", check=check_checkpoint
    )
    factors: str = setting(
        "", f"Factors for disentanglement; by default those of {', '.join(FACTORS)} that the corpus has."
    )
    max_frames: int = setting(20_000, "Approximate number of frames per module, for distributions.")
    num_utterances: int = setting(64, "Number of utterances to decode.")
    num_pairs: int = setting(
        60, "Pairs of these utterances for smoothness and curves; fewer if they are longer than 1 s on average."
    )
    steps: int = setting(12, "Steps of a path between two utterances.")
    dims: str = setting(
        "",
        "Dimensions to change, play and draw in each module: '3,17'. By default those that correlate most with a "
        "property of the sound, and for histograms those that vary most.",
    )
    utterance: str = setting("", "Id of the test utterance to play; by default a random one.")
    range: float = setting(3.0, "Largest change of dimensions in both directions, in standard deviations.")

    def validate(self) -> None:
        """Checks `axes_minutes` and the names in `measures` and `axes`.

        Raises:
            ValueError: Minutes are not positive, or a name is unknown.
        """
        if not self.axes_minutes > 0:  # NaN as well
            raise ValueError(f"`axes_minutes` is {self.axes_minutes}; it must be above 0.")
        self.groups()
        self.other_axes()

    def groups(self) -> list[str]:
        """The groups of measures in `measures`.

        Raises:
            ValueError: A group is unknown.
        """
        numbers = chosen_numbers({name: number for number, name in enumerate(GROUPS)}, self.measures, "measures")
        return [GROUPS[number] for number in sorted(numbers)]

    def chosen_dims(self) -> list[int]:
        """The numbers in `dims`.

        Raises:
            ValueError: One is not a number from 0.
        """
        names = [name.strip() for name in self.dims.split(",") if name.strip()]
        if wrong := [name for name in names if not name.isdecimal()]:
            raise ValueError(f"`dims` names {wrong[0]!r}; give numbers of dimensions from 0, separated by commas.")
        return list(dict.fromkeys(map(int, names)))

    def other_axes(self) -> list[str]:
        """The names of `AXES` in `axes`.

        Raises:
            ValueError: Axes are unknown.
        """
        names = ["own", *AXES]
        numbers = chosen_numbers({name: number for number, name in enumerate(names)}, self.axes, "axes")
        return [names[number] for number in sorted(numbers) if number]


# Settings that may differ when a command is rerun.
_CHANGE_NO_RESULT = ("batch_size", "cache_dir", "device", "figure_format", "output_dir", "overwrite_output_dir")


def claim_output_dir(arguments: MeasuringArguments, kind: str, names: Sequence[str], pictures: Sequence[str]) -> None:
    """Creates the output folder, or raises if results in it would be replaced.

    Call it before measuring. The same command may be rerun, and only measures what has changed.

    Args:
        arguments: Settings of the command.
        kind: What the command writes, for messages.
        names: Files that it writes, the last one last.
        pictures: Pictures that it writes, without their endings.

    Raises:
        FileExistsError: The folder has results of this kind with other settings and `overwrite_output_dir` is not set,
            or files of another program.
        NotADirectoryError: The folder is a file, or inside of one.
    """
    from modeling_sim.trainer.run_folder import claim_folder  # noqa: PLC0415 - imports torch

    output_dir = Path(arguments.output_dir)
    compared = {**vars(arguments), "corpus_settings": arguments.with_dataset()}
    drawn = [f"{picture}.{ending}" for picture in pictures for ending in get_args(FigureFormat)]
    claim_folder(
        output_dir,
        kind,
        [*names, *drawn],
        overwrite_output_dir=arguments.overwrite_output_dir,
        resume=not (output_dir / names[-1]).exists(),
        settings={name: value for name, value in compared.items() if name not in _CHANGE_NO_RESULT},
    )


def load_split(arguments: MeasuringArguments, split: str) -> "Dataset":
    """A split of the corpus of the settings.

    With `on_bad_audio` "skip", every recording is decoded, since measures cannot replace a recording that turns out to
    be unreadable later.

    Raises:
        ValueError: It is a stream, or has no audio.
    """
    if arguments.corpus_settings.get("streaming"):
        raise ValueError("a stream cannot be measured; remove `streaming` from `corpus_settings`.")
    skip = arguments.on_bad_audio == "skip"
    data = load_corpus(
        arguments.corpus, split, on_bad_audio=arguments.on_bad_audio, decode_all=skip, **arguments.for_loading()
    )
    if "audio" not in data.column_names:
        raise ValueError(f"`corpus` is {arguments.corpus!r}, which has no audio, only {', '.join(data.column_names)}.")
    return data


def load_splits(arguments: MeasuringArguments) -> "dict[str, Dataset]":
    """Both splits of the corpus of the settings, with the same class numbers.

    Prints a warning if they share recordings, or speakers (unless the label is the speaker).
    """
    from modeling_sim.data.corpora.contract import with_same_classes  # noqa: PLC0415 - imports datasets
    from modeling_sim.data.corpora.overlap import say_shared_recordings, say_shared_speakers  # noqa: PLC0415

    train, test = (load_split(arguments, split) for split in ("train", "test"))
    say_shared_recordings(train, test)
    if arguments.label != "speaker_id":
        say_shared_speakers(train, test)
    return dict(zip(("train", "test"), with_same_classes(train, test), strict=True))
