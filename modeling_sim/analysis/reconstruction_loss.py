"""Distances between decoded and original waveforms: losses of decoders, and scores of their quality."""

from collections.abc import Callable

import torch

from modeling_sim.analysis.decoding import LogMel

LOSSES = ("waveform", "stft", "log_mel")


# Window lengths of the multi-resolution distance in samples, 16 to 128 ms at 16 kHz; hops are a quarter of them.
_WINDOWS = (256, 512, 1024, 2048)


_FLOOR = 1e-5


def reconstruction_loss(name: str, sampling_rate: int) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """A function of decoded and true waveforms `(batch, samples)` that returns one number per utterance, `(batch,)`.

    Args:
        name: "waveform": mean squared error, the paper's. "stft": `multi_resolution_stft`. "log_mel": mean absolute
            difference of log-mel spectra.
        sampling_rate: Samples per second.

    Raises:
        ValueError: The name is unknown.
    """
    if name == "waveform":
        return lambda decoded, true: (decoded - true).square().mean(dim=-1)
    if name == "stft":
        return multi_resolution_stft
    if name == "log_mel":
        spectrum = LogMel(sampling_rate)
        return lambda decoded, true: (spectrum(decoded) - spectrum(true)).abs().mean(dim=(1, 2))
    raise ValueError(f"`loss` is {name!r}; choose {', '.join(LOSSES)}.")


def multi_resolution_stft(decoded: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Spectral convergence plus mean absolute difference of log magnitudes, averaged over four windows, `(batch,)`.

    Yamamoto et al. (2020, Parallel WaveGAN). Windows longer than the waveform are skipped, except the shortest.

    Args:
        decoded: `(batch, samples)`.
        true: Original waveforms, of the shape of `decoded`.
    """
    windows = [window for window in _WINDOWS if window <= true.shape[-1]] or [_WINDOWS[0]]
    total = decoded.new_zeros(len(decoded))
    for length in windows:
        window = torch.hann_window(length, device=decoded.device)
        spectra = (
            torch.stft(waveforms.float(), length, length // 4, window=window, pad_mode="constant", return_complex=True)
            for waveforms in (decoded, true)
        )
        magnitudes = [spectrum.abs().clamp(min=_FLOOR) for spectrum in spectra]
        difference = (magnitudes[0] - magnitudes[1]).square().sum(dim=(1, 2)).sqrt()
        # Avoid a division by 0 for silence.
        norm = magnitudes[1].square().sum(dim=(1, 2)).sqrt()
        convergence = torch.where(norm > 2 * _FLOOR * magnitudes[1][0].numel() ** 0.5, difference / norm, 1.0)
        total = total + convergence + (magnitudes[0].log() - magnitudes[1].log()).abs().mean(dim=(1, 2))
    return total / len(windows)


def si_sdr(decoded: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Scale-invariant signal-to-distortion ratio in dB, `(batch,)`; Le Roux et al. (2019).

    It compares samples, so it is only meaningful for decoders that were trained on waveforms: spectral losses do not
    determine the phase.
    """
    decoded = decoded - decoded.mean(dim=-1, keepdim=True)
    true = true - true.mean(dim=-1, keepdim=True)
    factor = (decoded * true).sum(-1, keepdim=True) / true.square().sum(-1, keepdim=True).clamp(min=1e-12)
    signal, noise = (factor * true).square().sum(-1), (decoded - factor * true).square().sum(-1)
    return 10 * torch.log10(signal.clamp(min=1e-12) / noise.clamp(min=1e-12))
