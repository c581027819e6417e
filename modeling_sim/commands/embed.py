"""Writes embeddings of recordings: the frames of one module, or their mean.

    modeling-sim embed runs/sim-small recordings --module context --pool mean --output_dir embeddings

The data may be a folder of audio files, a manifest (.csv, .tsv or .jsonl with a column `file`), one audio file, a data
set that `save_to_disk` wrote or of Parquet files, an id on the Hub, or the name of a corpus of this package
(`modeling-sim corpora` lists them). `--streaming` reads a data set while it is downloaded.

The output folder gets Parquet files, which `datasets.load_dataset("parquet", data_files="embeddings/*.parquet")`
reads, with the columns `id`, `seconds` and `embedding`, and `manifest.json`, with the model's fingerprint, the module
and its frame rate. Files are written complete or not at all. After an interruption, the same command resumes, and
rewrites missing or damaged files. Long recordings are read in chunks; without pooling, their frames are stored in
several rows, and `start` is the number of a row's first frame. A folder with embeddings of another model, data set or
setting is an error; a stream counts as the same data set if its first 20 ids and lengths are equal.

`--axes temporal` returns temporal components instead of the model's channels, with the file that `modeling-sim axes`
writes: a linear map to dimensions that are easier to interpret, which only drops directions in which frames hardly
vary.

Recordings with another sampling rate are resampled. Stereo recordings are an error unless `--average_channels` is
given. `--on_bad_audio skip` lists recordings that cannot be read in `skipped.tsv` and continues without them.
"""

from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from typing import Literal

from modeling_sim.commands.command import command
from modeling_sim.data.corpora import check_corpus_settings, check_split, corpus_names
from modeling_sim.settings import CORPUS_SETTINGS_HELP, Mappings, YamlMapping, check_data, check_sim_checkpoint, setting
from modeling_sim.text import counted, duration


@dataclass
class EncodingArguments(Mappings):
    """A model and the recordings that it encodes."""

    model: str = setting(MISSING, "Folder or Hub id of a checkpoint.", check=check_sim_checkpoint)
    data: str = setting(
        MISSING, "Folder, manifest, audio file, data set, Hub id, or name of a corpus.", check=check_data
    )
    split: str = setting("all", "Split of the data.")
    data_dir: str | None = setting(None, "Folder of a corpus, or base folder of a manifest's paths.")
    corpus_settings: YamlMapping = setting("{}", CORPUS_SETTINGS_HELP)  # noqa: RUF009 - a field
    on_bad_audio: Literal["raise", "skip"] = setting("raise", "What to do with unreadable recordings.")
    device: str | None = setting(None, "Device, such as cpu or cuda:1; by default a GPU if available.")

    def validate(self) -> None:
        """Checks the settings and the split of a corpus.

        Raises:
            ValueError: The corpus has no such setting or split.
        """
        if self.data in corpus_names():
            check_corpus_settings(self.data, self.corpus_settings)
            check_split(self.data, self.split)


@dataclass
class EmbedArguments(EncodingArguments):
    """Settings of the embeddings, and the output folder."""

    output_dir: str = setting("embeddings", "Folder for the embeddings.")
    module: str = setting("context", "Module: 'context', or a number from 0.")
    pool: Literal["mean", "none"] = setting("mean", "Mean over the frames of a recording, or every frame.")
    axes: str = setting(
        "own", "'own', 'temporal' (axes of `modeling-sim axes` in the checkpoint), or another folder with such axes."
    )
    streaming: bool = setting(False, "Read a data set of the Hub or on disk as a stream.")
    batch_size: int = setting(16, "Recordings per batch, of 20 seconds on average.")
    precision: Literal["fp32", "bf16"] = setting("fp32", "Precision of the convolutions.")
    num_workers: int = setting(0, "Processes that read ahead.")
    average_channels: bool = setting(False, "Average the channels of stereo recordings instead of raising an error.")
    shard_seconds: float | None = setting(
        None, "Seconds of audio per file; by default 128 MB of frames, or two hours of audio for means."
    )
    overwrite_output_dir: bool = setting(False, "Replace the embeddings in `output_dir`.")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    with command("embed", __doc__, argv, EmbedArguments, positional=["model", "data"]) as (settings,):
        from modeling_sim.inference.embedding import SimEmbedder  # noqa: PLC0415 - imports torch
        from modeling_sim.inference.embedding_files import embed, open_data  # noqa: PLC0415
        from modeling_sim.trainer.log import disable_library_bars  # noqa: PLC0415

        disable_library_bars()
        embedder = SimEmbedder(
            settings.model,
            settings.module,
            settings.pool,
            device=settings.device,
            precision=settings.precision,
            average_channels=settings.average_channels,
            axes=settings.axes,
        )
        manifest = embed(
            embedder,
            lambda **bad_audio: open_data(
                settings.data,
                split=settings.split,
                data_dir=settings.data_dir,
                corpus_settings=settings.corpus_settings,
                streaming=settings.streaming,
                **bad_audio,
            ),
            settings.output_dir,
            batch_size=settings.batch_size,
            num_workers=settings.num_workers,
            on_bad_audio=settings.on_bad_audio,
            shard_seconds=settings.shard_seconds,
            overwrite_output_dir=settings.overwrite_output_dir,
        )
        skipped = f", {manifest['skipped']} skipped (skipped.tsv)" if manifest["skipped"] else ""
        resampled = f", {manifest['resampled']} resampled" if manifest["resampled"] else ""
        print(
            f"{counted(manifest['utterances'], 'recording')}, {duration(manifest['seconds'] / 60)}{resampled}"
            f"{skipped}; embeddings in {settings.output_dir}"
        )
