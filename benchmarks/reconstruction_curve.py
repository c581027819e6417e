"""Compares the time of `reconstruction_curve` with the same measure computed pair by pair, in one run.

    python benchmarks/reconstruction_curve.py

The plain loop computes the measure like the code of the Smooth InfoMax paper: for every number of dimensions and every
ordered pair it builds and decodes the ten steps of an interpolation, of which it uses the first, and decodes the second
item, pair by pair. Both decode with the same small network, and their numbers must agree. Time can be saved by fewer
decodings, whose number is printed, and by less overhead per call, which depends on decoder and machine.
"""

import json
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from modeling_sim.analysis import reconstruction_curve
from modeling_sim.analysis.decoding import Decode
from modeling_sim.settings import HelpFormatter

# Number of steps of the interpolation in the loop.
_STEPS = 10


# (kernel, stride, padding, output padding) of transposed convolutions from 64 latent frames to 10240 samples.
_LAYERS = ((4, 2, 1, 1), (4, 2, 2, 0), (4, 2, 2, 1), (8, 4, 2, 3), (10, 5, 2, 4))


def pair_by_pair(latents: torch.Tensor, decode: Decode, ks: Sequence[int]) -> np.ndarray:
    """Relative errors `(ks,)` of the paper's measure, by a plain loop.

    Args:
        latents: `(items, frames, dims)`.
        decode: `(batch, frames, dims)` to `(batch, samples)`.
        ks: Numbers of dimensions.
    """

    def error(first: torch.Tensor, second: torch.Tensor, k: int, step: int) -> torch.Tensor:
        difference = (first.mean(dim=0) - second.mean(dim=0)) ** 2
        dims = torch.argsort(difference, descending=True)[:k]
        path = torch.zeros(_STEPS, *first.shape, dtype=first.dtype)
        for number in range(_STEPS):
            share = number / (_STEPS - 1)
            path[number] = first
            path[number][:, dims] = first[:, dims] * share + second[:, dims] * (1 - share)
        return ((decode(path)[step] - decode(second[None])[0]) ** 2).mean()

    pairs = [(i, j) for i in range(len(latents)) for j in range(len(latents)) if i != j]
    with torch.no_grad():
        # The last step of the interpolation is the first item, the first step has the dimensions of the second.
        largest = sum(float(error(latents[i], latents[j], latents.shape[2], _STEPS - 1)) for i, j in pairs)
        return np.array(
            [
                sum(float(error(latents[i], latents[j], k, 0)) for i, j in pairs) / largest
                for k in tqdm(ks, desc="pair by pair", leave=False)
            ]
        )


def small_decoder(dims: int, hidden_size: int, seed: int) -> Decode:
    """A decoder of transposed convolutions with random weights, 160 samples per latent frame.

    Args:
        dims: Number of dimensions of the latents.
        hidden_size: Channels of hidden layers.
        seed: Seed of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[torch.nn.Module] = []
        channels = [dims, *[hidden_size] * (len(_LAYERS) - 1), 1]
        for inputs, outputs, (kernel, stride, padding, output_padding) in zip(
            channels[:-1], channels[1:], _LAYERS, strict=True
        ):
            layers += [
                torch.nn.ConvTranspose1d(inputs, outputs, kernel, stride, padding, output_padding),
                torch.nn.ReLU(),
            ]
    network = torch.nn.Sequential(*layers[:-1]).eval()
    return lambda latents: network(latents.transpose(1, 2))[:, 0]


def compare(*, items: int, dims: int, hidden_size: int, batch_size: int, seed: int) -> dict[str, Any]:
    """Seconds of both, their ratios, and the largest difference of their results.

    Quote the ratio of CPU time if other programs run, because they slow down many small calls.

    Args:
        items: Number of items; all ordered pairs are used.
        dims: Number of dimensions of the latents.
        hidden_size: Channels of the decoder.
        batch_size: Number of latents that are decoded at a time.
        seed: Seed of latents and decoder.
    """
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(items, 1, dims, generator=generator) + torch.randn(items, 64, dims, generator=generator)
    decode = small_decoder(dims, hidden_size, seed)
    ks = [2**power for power in range(1, dims.bit_length())]
    start = np.array([time.perf_counter(), time.process_time()])
    plain = pair_by_pair(latents, decode, ks)
    middle = np.array([time.perf_counter(), time.process_time()])
    curve = reconstruction_curve(
        latents, decode, ks, ranking="pair", standardize=False, distance="mse", num_pairs=None, batch_size=batch_size
    )
    end = np.array([time.perf_counter(), time.process_time()])
    loop, batched = middle - start, end - middle
    pairs = items * (items - 1)
    return {
        "pairs": pairs,
        "threads": torch.get_num_threads(),
        "loop_seconds": float(loop[0]),
        "batched_seconds": float(batched[0]),
        "ratio": float(loop[0] / batched[0]),
        "ratio_of_processor_time": float(loop[1] / batched[1]),
        "loop_decodings": (_STEPS + 1) * pairs * (len(ks) + 1),
        "batched_decodings": pairs * sum(k < dims for k in ks) + items,
        "largest_difference": float(np.abs(plain - curve.error).max()),
    }


def main() -> None:
    """Entry point."""
    parser = ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0], formatter_class=HelpFormatter)
    parser.add_argument("--items", type=int, default=20, help="Number of items; all ordered pairs are used.")
    parser.add_argument("--dims", type=int, default=512, help="Dimensions of the latents.")
    parser.add_argument("--hidden_size", type=int, default=16, help="Channels of the decoder.")
    parser.add_argument("--batch_size", type=int, default=32, help="Latents that are decoded at a time.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of latents and decoder.")
    print(json.dumps(compare(**vars(parser.parse_args())), indent=2))


if __name__ == "__main__":
    main()
