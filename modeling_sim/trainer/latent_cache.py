"""`sequential` execution: one module after the other, optionally with latents of finished modules cached on disk.

Each utterance has one crop, that of its first epoch. The cache stores mean and log-variance in float32, and latents are
sampled whenever they are read; latents of lower modules were sampled once, when the cache was written.
"""

import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import SequenceFeatureExtractor

from modeling_sim import SimConfig, SimForPreTraining
from modeling_sim.data.batches import Place, first_crops, place_batches
from modeling_sim.modeling_sim import draw_latents
from modeling_sim.trainer.devices import send
from modeling_sim.trainer.greedy import Placement, module_generator
from modeling_sim.trainer.log import bars_are_shown
from modeling_sim.trainer.task import Schedule

_FOLDER = ".latents-{module}"


class Sequential(Schedule):
    """One stage per module, each with all steps, on the finished modules below.

    Args:
        num_rows: Number of modules.
        placement: All modules, and the data of this process.
        output_dir: Folder of the run, for the caches.
        write: `write_cache` for a `module`, given the cache of the module `below`; `None` for no caches.
        notes: Messages about the caches to print when a run starts.
    """

    def __init__(
        self,
        num_rows: int,
        placement: Placement,
        output_dir: Path,
        write: "Callable[..., LatentCache] | None" = None,
        notes: Iterable[str] = (),
    ) -> None:
        super().__init__(num_rows, placement)
        self.num_stages, self.output_dir, self.write = num_rows, output_dir, write
        self._notes = list(notes)
        self._cache: LatentCache | None = None
        self._cached = -1

    def notes(self) -> list[str]:
        """Disk space of the caches."""
        return self._notes

    def rows_of_stage(self, stage: int) -> range:
        """One module."""
        return range(stage, stage + 1)

    def check_resumable(self, settings: dict[str, Any]) -> None:
        """A run of any execution can be resumed."""

    def latents(self, trained: range, **share: int) -> Iterable[dict[str, Any]] | None:
        """Cached latents of the module below, written when the stage starts."""
        if self.write is None or trained.start == 0:
            return None
        for module in range(self._cached + 1, trained.start):
            self._cache, self._cached = self.write(self._cache, module=module), module
        batches: Iterable[dict[str, Any]] | None = None if self._cache is None else self._cache.batches(**share)
        return batches

    def close(self) -> None:
        """Removes the caches."""
        if self.placement.replica == 0:
            remove_caches(self.output_dir)


def cache_bytes(config: SimConfig, *, num_utterances: int, crop_samples: int) -> int:
    """Peak disk usage in bytes: the latents of a module, and those of the next one that are computed from them."""
    tensors = 2 if draws(config) else 1
    sizes = [
        4 * num_utterances * config.num_frames(crop_samples, module) * config.num_latents * tensors
        for module in range(config.num_modules - 1)
    ]
    return max(below + own for below, own in zip([0, *sizes], sizes, strict=False))


def require_space(folder: Path, needed: int) -> str:
    """Describes the disk space of the cache.

    Raises:
        OSError: There is not enough space.
    """
    free = shutil.disk_usage(folder).free
    estimate = f"cached latents take up to {needed / 1e9:.2f} GB in {folder}, which has {free / 1e9:.2f} GB free"
    if needed > 0.98 * free:
        raise OSError(f"{estimate}; train without `cache_latents`, or choose an `output_dir` on a larger disk.")
    return estimate


def draws(config: SimConfig) -> bool:
    """Whether latents are sampled from Gaussians."""
    return config.latent_distribution == "gaussian" and config.sample_latents


class LatentCache(torch.utils.data.Dataset[dict[str, Any]]):
    """Latents of one module for one crop of every utterance.

    Args:
        folder: Folder written by `write_cache`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.latents = np.load(folder / "latents.npy", mmap_mode="r")  # (utterances, tensors, frames, channels)
        self.lengths = np.load(folder / "lengths.npy")

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, places: Sequence[Place]) -> dict[str, Any]:
        return self.batch([place.index for place in places])

    def batch(self, indices: Sequence[int]) -> dict[str, Any]:
        """Means and log-variances of crops, `(batch, frames, channels)`, and lengths, `None` without padding."""
        latents = torch.from_numpy(self.latents[indices])
        lengths = torch.from_numpy(self.lengths[indices])
        return {
            "mean": latents[:, 0].contiguous(),
            "log_variance": latents[:, 1].contiguous() if latents.shape[1] == 2 else None,
            "lengths": None if bool((lengths == latents.shape[2]).all()) else lengths,
            "id": [str(index) for index in indices],
            "num_replaced": 0,
        }

    def batches(
        self, *, batch_size: int, seed: int, start_position: int, process_index: int, num_processes: int
    ) -> Any:
        """Endless batches in the order of `crop_batches`."""
        return DataLoader(
            self,
            batch_size=None,
            sampler=place_batches(
                len(self),
                batch_size=batch_size,
                seed=seed,
                start_position=start_position,
                process_index=process_index,
                num_processes=num_processes,
            ),
        )

    def remove(self) -> None:
        """Deletes the files."""
        shutil.rmtree(self.folder)


def drawn(batch: dict[str, Any], generator: torch.Generator, device: torch.device) -> tuple[torch.Tensor, Any]:
    """Samples latents `(batch, frames, channels)` of a batch of the cache; returns them and their lengths."""
    tensors: list[Any] = [
        None if batch[name] is None else send(batch[name], device) for name in ("mean", "log_variance", "lengths")
    ]
    mean, log_variance, lengths = tensors
    return draw_latents(mean, log_variance, lengths, generator), lengths


@torch.no_grad()
def write_cache(
    model: SimForPreTraining,
    accelerator: Accelerator,
    dataset: Dataset,
    extractor: SequenceFeatureExtractor,
    output_dir: Path,
    below: LatentCache | None,
    *,
    module: int,
    crop_samples: int,
    batch_size: int,
    seed: int,
    num_workers: int,
    reader_timeout: float,
) -> LatentCache:
    """Computes a finished module's latents from the cache of the module below, if any, and removes the latter.

    All processes must call it, and each computes its share; the module must be in evaluation mode.
    """
    config, device = model.config, accelerator.device
    folder = output_dir / _FOLDER.format(module=module)
    tensors = 2 if draws(config) else 1
    shape = (len(dataset), tensors, config.num_frames(crop_samples, module), config.num_latents)
    if accelerator.is_main_process:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        np.lib.format.open_memmap(folder / "latents.npy", mode="w+", dtype=np.float32, shape=shape).flush()
        np.lib.format.open_memmap(folder / "lengths.npy", mode="w+", dtype=np.int64, shape=shape[:1]).flush()
    accelerator.wait_for_everyone()
    latents = np.load(folder / "latents.npy", mmap_mode="r+")
    all_lengths = np.load(folder / "lengths.npy", mmap_mode="r+")
    share = {"process_index": accelerator.process_index, "num_processes": accelerator.num_processes}
    if below is None:
        source: Any = first_crops(
            dataset,
            extractor,
            crop_samples=crop_samples,
            batch_size=batch_size,
            seed=seed,
            num_workers=num_workers,
            reader_timeout=reader_timeout,
            **share,
        )
    else:
        starts = range(accelerator.process_index * batch_size, len(below), accelerator.num_processes * batch_size)
        source = [range(start, min(start + batch_size, len(below))) for start in starts]
    for batch in tqdm(source, desc=f"latents of module {module}", leave=False, disable=not bars_are_shown(accelerator)):
        if below is None:
            indices = batch["index"].tolist()
            mask = batch["attention_mask"]
            hidden_states, lengths = model.sim.prepare_inputs(
                batch["input_values"].to(device), None if mask.all() else mask.to(device)
            )
        else:
            indices = list(batch)
            # Keyed by the first utterance instead of a step, as these latents are drawn once.
            generator = module_generator(seed, 0, module - 1, indices[0], device)
            hidden_states, lengths = drawn(below.batch(indices), generator, device)
        with accelerator.autocast():
            mean, log_variance, lengths = model.sim.encode_module(module, hidden_states, lengths)
        latents[indices, 0] = mean.float().cpu().numpy()
        if tensors == 2:
            latents[indices, 1] = log_variance.float().cpu().numpy()
        all_lengths[indices] = mean.shape[1] if lengths is None else lengths.cpu().numpy()
    latents.flush()
    all_lengths.flush()
    accelerator.wait_for_everyone()
    if below is not None and accelerator.is_main_process:
        below.remove()
    return LatentCache(folder)


def remove_caches(output_dir: Path) -> None:
    """Removes all caches of a run, which are recognized by their contents."""
    for folder in output_dir.glob(_FOLDER.format(module="[0-9]*")):
        if {path.name for path in folder.iterdir()} <= {"latents.npy", "lengths.npy"}:
            shutil.rmtree(folder, ignore_errors=True)
