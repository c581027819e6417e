"""Changes latents and decodes them: single dimensions, interpolation of two utterances, exchange of a group."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from modeling_sim.analysis.sound_properties import PROPERTIES, sound_properties
from modeling_sim.data.audio import log_mel
from modeling_sim.explore.explorer import Explorer, Utterance
from modeling_sim.latents import decode, interpolate

_WINDOW = 400


class Moved(NamedTuple):
    """A decoded sound before and after a change of the latents, and what changed.

    Args:
        before: Samples `(samples,)` decoded from the original latents.
        after: Samples `(samples,)` decoded from the changed latents.
        rate: Sampling rate.
        changes: Name of each of `PROPERTIES`, its value before and after; `None` if the sound does not have the
            property.
    """

    before: np.ndarray
    after: np.ndarray
    rate: int
    changes: list[tuple[str, float | None, float | None]]

    def spectrograms(self) -> tuple[np.ndarray, np.ndarray]:
        """Spectrograms of both, `(frames, bands)` in dB."""
        first, second = (
            log_mel(np.pad(samples, (0, max(0, _WINDOW - len(samples)))), sampling_rate=self.rate)
            for samples in (self.before, self.after)
        )
        return first, second


def move(
    explorer: Explorer, utterance: Utterance, model: str, feature: str, axes: str, shifts: Mapping[int, float]
) -> Moved:
    """Adds values to dimensions in all frames of an utterance.

    Args:
        explorer: The explorer, with a decoder of the feature.
        utterance: The utterance.
        model: Name of the model.
        feature: Name of the feature.
        axes: A key of `AXES`.
        shifts: Standard deviations over the corpus to add, by dimension.

    Raises:
        KeyError: The feature has no decoder.
    """
    latents = _latents(explorer, utterance, model, feature)
    evidence, transform = explorer.evidence(model, feature, axes), explorer.transform(model, feature, axes)
    direction = torch.zeros(latents.shape[1])
    for dim, shift in shifts.items():
        amount = shift * evidence.deviations[dim]
        if transform is None:
            direction[dim] += amount
        else:
            direction += amount * transform.inverse[dim].float()
    return _decoded(explorer, model, feature, latents, latents + direction, len(utterance.samples) / utterance.rate)


def mix(
    explorer: Explorer,
    first: Utterance,
    second: Utterance,
    model: str,
    feature: str,
    axes: str,
    share: float,
    dims: Sequence[int] | None,
) -> Moved:
    """Changes dimensions of one utterance towards their values in another; a share of 1 exchanges them.

    Both utterances are cut to the length of the shorter one.

    Args:
        explorer: The explorer, with a decoder of the feature.
        first: The utterance that is changed.
        second: The utterance with the target values.
        model: Name of the model.
        feature: Name of the feature.
        axes: A key of `AXES`.
        share: Size of the change, from 0 to 1.
        dims: Dimensions to change; `None` for all.

    Raises:
        KeyError: The feature has no decoder.
    """
    latents = [_latents(explorer, utterance, model, feature) for utterance in (first, second)]
    frames = min(map(len, latents))
    transform = explorer.transform(model, feature, axes)
    coded = [each[:frames] if transform is None else transform.apply(each[:frames]) for each in latents]
    start, end = interpolate(*coded, steps=2, dims=dims)
    moved = (1 - share) * start + share * end
    before = latents[0][:frames]
    # Axes with fewer components do not span the latents; the rest of the latents is unchanged.
    after = moved if transform is None else before + (moved - start) @ transform.inverse.float()
    return _decoded(explorer, model, feature, before, after, min(first.seconds, second.seconds))


def _latents(explorer: Explorer, utterance: Utterance, model: str, feature: str) -> torch.Tensor:
    return torch.from_numpy(np.array(explorer.frames(utterance, model, feature).values, dtype=np.float32))


def _decoded(
    explorer: Explorer, model: str, feature: str, before: torch.Tensor, after: torch.Tensor, seconds: float
) -> Moved:
    decoder = explorer.decoders(model)[feature]
    rate = decoder.config.sampling_rate
    both = torch.stack([before, after]).to(decoder.device)
    sounds = decode(decoder, both, round(seconds * rate)).cpu().numpy()
    of_before, of_after = (
        [float(value) if np.isfinite(value) else None for value in sound_properties(sound, rate)] for sound in sounds
    )
    changes = list(zip(PROPERTIES, of_before, of_after, strict=True))
    return Moved(sounds[0], sounds[1], rate, changes)
