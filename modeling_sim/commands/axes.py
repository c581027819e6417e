"""Finds temporal axes of a model, which are easier to interpret than its own, and adds them to its checkpoint.

    modeling-sim axes runs/sim-small recordings
    modeling-sim axes runs/sim-small librispeech --data_dir LibriSpeech --split train
    modeling-sim embed runs/sim-small recordings --axes temporal

The channels of a model are arbitrary mixtures of the properties that it encodes. Temporal components (SOBI) are linear
combinations of the channels of a module that are uncorrelated with each other, also at lags of 1 to 64 frames. They
only drop directions in which frames hardly vary, and need no labels. The data may be anything that `modeling-sim embed`
accepts; 20 minutes are enough. Give `--split train` to measure anything on the test split later. `--on_bad_audio skip`
skips recordings whose headers show that they cannot be read.

The file `axes.safetensors` holds the axes of every module. `modeling-sim embed`, `explore` and `publish` find it in the
folder of the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modeling_sim.commands.command import command
from modeling_sim.commands.embed import EncodingArguments
from modeling_sim.settings import at_least, check_seed, setting
from modeling_sim.text import counted, duration

# Lag in seconds of the autocorrelations that are printed: every module has one near it.
_SHOWN_LAG = 0.08

# Axes found on fewer minutes of recordings cause a warning.
_FEW_MINUTES = 5


@dataclass
class AxesArguments(EncodingArguments):
    """Settings of the axes, and the output folder."""

    output_dir: str | None = setting(None, "Folder for axes.safetensors; by default that of the model.")
    minutes: float = setting(20.0, "Approximate minutes of recordings to draw.")
    seed: int = setting(0, "Seed of the draw.", check=check_seed)
    batch_size: int = setting(8, "Recordings per batch, of 20 seconds on average.", check=at_least(1))
    overwrite_output_dir: bool = setting(False, "Replace axes.safetensors in `output_dir`.")

    def validate(self) -> None:
        """Sets `output_dir` if it is not given, and checks the data.

        Raises:
            ValueError: The corpus has no such setting or split, or a model on the Hub has no `output_dir`.
        """
        super().validate()
        if self.output_dir is None:
            if not Path(self.model).is_dir():
                raise ValueError(f"`output_dir` is missing, as `model` {self.model} is not a local folder.")
            self.output_dir = self.model


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    with command("axes", __doc__, argv, AxesArguments, positional=["model", "data"]) as (settings,):
        import numpy as np  # noqa: PLC0415 - imports seconds of libraries

        from modeling_sim.evaluation.axes import AXES_NAME, read_axes, save_axes, starts_like_axes  # noqa: PLC0415
        from modeling_sim.inference.axes import find_temporal_axes  # noqa: PLC0415
        from modeling_sim.inference.embedding_files import data_name, open_data  # noqa: PLC0415
        from modeling_sim.loading import default_device, feature_extractor_of, load_encoder  # noqa: PLC0415
        from modeling_sim.trainer.log import disable_library_bars  # noqa: PLC0415
        from modeling_sim.trainer.run_folder import make_folder  # noqa: PLC0415

        disable_library_bars()
        path = Path(settings.output_dir) / AXES_NAME
        make_folder(path.parent)
        if path.exists():
            if not settings.overwrite_output_dir:
                raise FileExistsError(f"`output_dir` has {path}; set `overwrite_output_dir` to replace it.")
            try:
                read_axes(path)
            except ValueError as error:
                if not starts_like_axes(path):  # other files are not replaced
                    raise
                print(f"replacing a damaged file: {error}")
        source = {"data_dir": settings.data_dir, "corpus_settings": settings.corpus_settings}
        model = load_encoder(settings.model).to(default_device(settings.device))  # type: ignore[arg-type]
        found, facts = find_temporal_axes(
            model,
            feature_extractor_of(settings.model),
            open_data(settings.data, split=settings.split, on_bad_audio=settings.on_bad_audio, **source),
            data=data_name(settings.data, **source) + ("" if settings.split == "all" else f" ({settings.split})"),
            minutes=settings.minutes,
            batch_size=settings.batch_size,
            seed=settings.seed,
        )
        if facts["minutes"] < _FEW_MINUTES:
            print(f"warning: only {duration(facts['minutes'])} of audio; 20 minutes give more reliable axes")
        save_axes(path, {name: axes.transform for name, axes in found.items()}, facts)
        for name, axes in found.items():
            near = int(np.abs(np.subtract(axes.lags, _SHOWN_LAG)).argmin())
            first = ", ".join(f"{value:.2f}" for value in axes.autocorrelations[:5, near])
            print(
                f"{name}: {counted(len(axes.autocorrelations), 'component')}; autocorrelation of the first at a lag of "
                f"{1000 * axes.lags[near]:g} ms: {first}"
            )
        print(f"found on {duration(facts['minutes'])} of {facts['data']}; axes in {path}")
