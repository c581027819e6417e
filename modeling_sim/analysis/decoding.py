"""Helpers of measures that use a decoder: features of decoded audio, decoding in batches, and pairs of items."""

from collections.abc import Callable

import numpy as np
import torch

# Latents `(batch, frames, channels)` to waveforms `(batch, samples)`, each item independently.
Decode = Callable[[torch.Tensor], torch.Tensor]
# Waveforms `(batch, samples)` to the features that are compared, `(batch, ...)`.
Features = Callable[[torch.Tensor], torch.Tensor]


class LogMel:
    """Differentiable log-mel spectra: natural logarithm of the power in triangular filters on the mel scale.

    Log-mel distances of sounds that differ only in phase, which is inaudible, are small, unlike distances of waveforms.

    Args:
        sampling_rate: Samples per second of the waveforms.
        num_mels: Number of bands, from 20 Hz to half the sampling rate.
        window: Length of the Hann window in seconds.
        hop: Distance between windows in seconds.
        floor: Power that is added to each band. White noise of variance 1 has a power near 1 in a frequency bin, so
            1e-6 is 60 dB below it: differences between silent parts do not dominate a distance.
    """

    def __init__(
        self,
        sampling_rate: int = 16_000,
        *,
        num_mels: int = 64,
        window: float = 0.025,
        hop: float = 0.01,
        floor: float = 1e-6,
    ) -> None:
        self.length, self.hop = round(window * sampling_rate), round(hop * sampling_rate)
        self.floor = floor
        hann = torch.hann_window(self.length, periodic=True, dtype=torch.float64)
        self.window = hann / hann.square().sum().sqrt()
        # At least twice the window, so that even the narrow lowest bands contain a frequency bin.
        self.size = 2 << (self.length - 1).bit_length()
        lowest, highest = _mel(torch.tensor([20.0, sampling_rate / 2], dtype=torch.float64)).tolist()
        edges = torch.linspace(lowest, highest, num_mels + 2, dtype=torch.float64)
        places = _mel(torch.fft.rfftfreq(self.size, 1 / sampling_rate, dtype=torch.float64))[:, None]
        rising = (places - edges[:-2]) / (edges[1:-1] - edges[:-2])
        falling = (edges[2:] - places) / (edges[2:] - edges[1:-1])
        self.filters = torch.minimum(rising, falling).clamp(min=0.0)
        self._copies: dict[tuple[torch.device, torch.dtype], tuple[torch.Tensor, torch.Tensor]] = {}

    def __call__(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Converts `(batch, samples)` to `(batch, windows, num_mels)`; windows lie completely within the signal.

        Raises:
            ValueError: The waveforms are shorter than a window.
        """
        if waveforms.shape[-1] < self.length:
            raise ValueError(f"waveforms have {waveforms.shape[-1]} samples, fewer than the {self.length} of a window.")
        place = waveforms.device, waveforms.dtype
        if place not in self._copies:  # cached: a copy to a GPU blocks the host
            self._copies[place] = self.window.to(waveforms), self.filters.to(waveforms)
        window, filters = self._copies[place]
        frames = waveforms.unfold(-1, self.length, self.hop) * window
        spectrum = torch.fft.rfft(frames, self.size)
        power = spectrum.real.square() + spectrum.imag.square()
        return (power @ filters + self.floor).log()


def _mel(frequency: torch.Tensor) -> torch.Tensor:
    """Converts a frequency in Hz to the mel scale: 2595 log10(1 + f / 700), O'Shaughnessy 1987."""
    return 2595.0 * torch.log10(1.0 + frequency / 700.0)


def decoded_features(
    decode: Decode, latents: torch.Tensor, features: Features | None, *, batch_size: int
) -> torch.Tensor:
    """Features `(items, ...)` of decoded latents, computed in batches and without gradients.

    Args:
        decode: The decoder, in evaluation mode.
        latents: `(items, frames, channels)`.
        features: Features of waveforms; `None` for the waveforms themselves.
        batch_size: Number of latents that are decoded at a time.

    Raises:
        ValueError: The decoder does not return `(batch, samples)`, or returns NaN or infinity.
    """
    parts = []
    with torch.no_grad():
        for batch in latents.split(batch_size):
            waveforms = decode(batch)
            if waveforms.ndim != 2 or len(waveforms) != len(batch):
                raise ValueError(
                    f"`decode` returned {tuple(waveforms.shape)} for {len(batch)} latents; expected (batch, samples)."
                )
            parts.append(waveforms if features is None else features(waveforms))
    decoded = torch.cat(parts)
    if not decoded.isfinite().all():
        raise ValueError("decoded audio contains NaN or infinity.")
    return decoded


def draw_pairs(num_items: int, num_pairs: int | None, seed: int | np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """First and second items, `(pairs,)` each, of distinct ordered pairs, sorted.

    Args:
        num_items: Number of items.
        num_pairs: Number of pairs to draw; all if `None` or more than there are.
        seed: Seed of the draw.

    Raises:
        ValueError: There are fewer than 2 items, or `num_pairs` is below 1.
    """
    if num_items < 2:
        raise ValueError(f"there is only {num_items} item and thus no pair; give at least 2.")
    if num_pairs is not None and num_pairs < 1:
        raise ValueError(f"`num_pairs` is {num_pairs}; give at least 1.")
    existing = num_items * (num_items - 1)
    if num_pairs is None or num_pairs >= existing:
        numbers = np.arange(existing)
    else:
        numbers = np.sort(np.random.default_rng(seed).choice(existing, num_pairs, replace=False))
    first, second = np.divmod(numbers, num_items - 1)
    # An item is not paired with itself: partners from its index on are shifted by one.
    return first, second + (second >= first)


def check_latents(latents: torch.Tensor) -> None:
    """Raises a ValueError unless latents are finite numbers of shape (items, frames, channels)."""
    if latents.ndim != 3 or not latents.numel():
        raise ValueError(f"`latents` has shape {tuple(latents.shape)}; give (items, frames, channels).")
    if latents.dtype not in (torch.float32, torch.float64) or not latents.isfinite().all():
        raise ValueError("`latents` must be float32 or float64, without NaN or infinity; convert them with `.float()`.")
