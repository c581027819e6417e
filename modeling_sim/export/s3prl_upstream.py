"""An upstream for s3prl, which evaluates speech encoders on the tasks of SUPERB; `examples/s3prl` registers it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from modeling_sim.loading import feature_extractor_of, load_encoder
from modeling_sim.modeling_sim import real_frames


class UpstreamExpert(nn.Module):
    """An encoder with the interface that s3prl's tasks expect; latents are means.

    Args:
        ckpt: Folder or Hub id of a checkpoint.
        model_config: Ignored, because a checkpoint contains its configuration.
        kwargs: Further arguments that s3prl passes to every upstream; ignored.

    Raises:
        ValueError: The checkpoint is not an encoder.
        FileNotFoundError: The checkpoint cannot be found.
    """

    def __init__(self, ckpt: str, model_config: str | None = None, **kwargs: Any) -> None:
        super().__init__()
        self.model = load_encoder(ckpt)
        self.normalize = bool(getattr(feature_extractor_of(ckpt), "do_normalize", False))

    def get_downsample_rates(self, key: str) -> int:
        """Samples from one frame of an output to the next."""
        config = self.model.config
        return config.hop_length(int(key.removeprefix("module_")) if key.startswith("module_") else -1)

    def forward(self, wavs: Sequence[torch.Tensor]) -> dict[str, torch.Tensor | list[torch.Tensor]]:
        """Encodes waveforms `(samples,)` in [-1, 1], without padding.

        Returns:
            `hidden_states`: for s3prl's weighted sum, the latents of each convolutional module, and the context if it
            has as many channels: `(batch, frames, channels)` each, at the frame rate of the last module (lower modules
            are averaged). `last_hidden_state`: the context. `module_0`, ...: the latents of a module at its own frame
            rate.
        """
        config = self.model.config
        waveforms = [_normalized(wav) for wav in wavs] if self.normalize else list(wavs)
        padded = pad_sequence(waveforms, batch_first=True)
        padded = nn.functional.pad(padded, (0, max(0, config.receptive_field() - padded.shape[1])))
        lengths = torch.tensor([len(wav) for wav in waveforms], device=padded.device)
        mask = real_frames(lengths, padded.shape[1]).long()
        outputs = self.model(padded, mask, sample=False)
        frames = outputs.last_hidden_state.shape[1]
        states = [self._at_last_rate(means, module, frames) for module, means in enumerate(outputs.means)]
        if config.context_size == config.num_latents:
            states.append(outputs.last_hidden_state)
        own_rates = {f"module_{module}": means for module, means in enumerate(outputs.means)}
        return {"hidden_states": states, "last_hidden_state": outputs.last_hidden_state, **own_rates}

    def _at_last_rate(self, means: torch.Tensor, module: int, frames: int) -> torch.Tensor:
        """Averages a module's frames to `frames` frames at the frame rate of the last module."""
        config = self.model.config
        span = config.hop_length() // config.hop_length(module)
        offset = (config.frame_centers(1)[0] - config.frame_centers(1, module)[0]) / config.hop_length(module)
        first = round(offset - (span - 1) / 2)
        places = first + torch.arange(frames * span, device=means.device)
        return means[:, places.clamp(0, means.shape[1] - 1)].unflatten(1, (frames, span)).mean(dim=2)


def _normalized(wav: torch.Tensor) -> torch.Tensor:
    """Normalizes to mean 0 and variance 1, like `SimFeatureExtractor`."""
    return (wav - wav.mean()) / (wav.var(correction=0) + 1e-7).sqrt()


__all__ = ["UpstreamExpert"]
