"""Which latents determine the pitch of decoded sound, and what else changes when a dimension changes the pitch.

    python studies/axes/decoded_pitch.py runs/sim runs/decoder runs/sim runs/decoder-stft --output decoded_pitch.json

Utterances are synthetic syllables of the test split. Four questions are asked of a decoder of a convolutional module:
is the pitch of the decoded sound that of the utterance; how do the properties of the sound change when the axis that
correlates most with the pitch is changed by 1 and by 3 standard deviations; if the slowest dimensions are replaced by
their means in another utterance, is the pitch that of the utterance or of the other one; and is the pitch preserved if
all but the slowest dimensions are constant? The axes are the model's own, its temporal components, and random rotations
of both.

The synthesizer of the syllables knows the answer to the second question: it synthesizes the same utterances with
another pitch and nothing else changed. This is needed because the estimates of the properties are not independent of
each other.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from modeling_sim import SimDecoder
from modeling_sim.analysis.axes.transforms import FrameMoments, lag_profiles
from modeling_sim.analysis.sound_properties import PROPERTIES
from modeling_sim.analysis.traversal import rank_correlations
from modeling_sim.data.audio import read_audio
from modeling_sim.data.batches import utterance_batches
from modeling_sim.data.corpora import load_corpus, synthetic_syllables
from modeling_sim.evaluation.clips import (
    decoded_properties,
    properties_of,
    rotated_moves,
    temporal_moves,
    traversal_changes,
)
from modeling_sim.files import write_json
from modeling_sim.loading import feature_extractor_of, load_decoder, load_encoder

_PITCH = PROPERTIES.index("pitch, semitones")
# Semitones up to which two pitches count as equal, and from which the pitches of two utterances count as different.
_SAME, _DIFFERENT = 1.0, 3.0
# Changes of an axis in standard deviations, and number of random rotations for comparison.
_DEVIATIONS, _ROTATIONS = (1.0, 3.0), 10
# Number of training utterances for choosing the axis that correlates most with the pitch.
_KNOWN = 256
# Numbers of slowest dimensions that are replaced, and that are kept alone.
_REPLACED, _KEPT = (0, 1, 4, 8, 16, 32), 8


@torch.no_grad()
def measured(model: str, decoder: SimDecoder, utterances: int) -> dict[str, Any]:
    """The answers for a model and a decoder of one of its modules."""
    encoder, extractor, module = load_encoder(model), feature_extractor_of(model), decoder.config.module
    hop = encoder.config.hop_length(module)

    def spoken(split: str, count: int) -> tuple[list[torch.Tensor], np.ndarray]:
        """Latents `(frames, channels)` of voiced utterances, and their `PROPERTIES`, `(utterances, properties)`."""
        latents, properties = [], []
        for batch in utterance_batches(_utterances(split, count), extractor, batch_size=1):
            found = properties_of(batch["input_values"].numpy(), decoder.config.sampling_rate)[0]
            if np.isfinite(found[_PITCH]):
                outputs = encoder(
                    batch["input_values"], batch["attention_mask"], sample=False, output_hidden_states=True
                )
                latents.append(outputs.hidden_states[module][0])
                properties.append(found)
        return latents, np.array(properties)

    latents, properties = spoken("test", utterances)
    known, of_known = spoken("train", _KNOWN)

    def heard(frames: torch.Tensor) -> float:
        return float(decoded_properties(decoder, frames[None], len(frames) * hop)[0, _PITCH])

    spread = np.nanstd(properties, axis=0)
    pitch, known_pitch = properties[:, _PITCH], of_known[:, _PITCH]
    lengths = [len(frames) for frames in latents]
    moments = FrameMoments().add(torch.cat(latents).numpy(), lengths)
    slowest = np.argsort(-lag_profiles(moments)[1].mean(axis=1))
    means, known_means = (torch.stack([frames.mean(dim=0) for frames in each]) for each in (latents, known))
    scale = torch.cat(known).std(dim=0)
    correlations = rank_correlations(known_means.numpy(), known_pitch)
    best = int(np.abs(correlations).argmax())
    decoded = np.array([heard(frames) for frames in latents])
    voiced = np.isfinite(decoded)

    def moves(coordinates: torch.Tensor, directions: torch.Tensor) -> dict[str, Any]:
        """Changes when the axis that correlates most with the pitch is changed; see `_changes`.

        Args:
            coordinates: `(training utterances, axes)`, in standard deviations.
            directions: `(axes, channels)`, a standard deviation of each axis.
        """
        followed = rank_correlations(coordinates.numpy(), known_pitch)
        direction = directions[int(np.abs(followed).argmax())]
        changes = [
            [traversal_changes(decoder, each[None], move * direction[None], len(each) * hop)[0, 0] for each in latents]
            for move in _DEVIATIONS
        ]
        return {"rank_correlation": float(np.abs(followed).max()), **_changes(np.array(changes), spread)}

    axes = {
        "own": (known_means / scale, torch.diag(scale)),
        "temporal": temporal_moves(torch.cat(known), [len(frames) for frames in known], known_means),
    }
    of_axes: dict[str, Any] = {}
    for name, (coordinates, directions) in axes.items():
        of_axes[name] = moves(coordinates, directions)
        random = [moves(*rotated_moves(coordinates, directions, seed)) for seed in range(_ROTATIONS)]
        of_axes[name]["random_axes"] = {
            "share": np.mean([each["share"] for each in random], axis=0).tolist(),
            "semitones": np.mean([np.abs(each["semitones"]) for each in random], axis=0).tolist(),
        }

    return {
        "architecture": decoder.config.architecture,
        "loss": decoder.config.loss,
        "utterances": len(latents),
        "decoded_within_a_semitone": float((np.abs(decoded - pitch) <= _SAME).mean()),
        "correlation_of_pitches": float(rank_correlations(decoded[voiced, None], pitch[voiced])[0]),
        "best_dimension": best,
        "rank_correlation": float(correlations[best]),
        "rank_among_the_slowest": int(np.flatnonzero(slowest == best)[0]) + 1,
        "spread": dict(zip(PROPERTIES, spread.tolist(), strict=True)),
        "moves": of_axes,
        "decoded_hz": np.round(2 ** (decoded / 12), 1).tolist(),
        "true_hz": np.round(2 ** (pitch / 12), 1).tolist(),
        **_mixed(latents, means, pitch, slowest, heard),
    }


def _mixed(
    latents: Sequence[torch.Tensor],
    means: torch.Tensor,
    pitch: np.ndarray,
    slowest: np.ndarray,
    heard: Callable[[torch.Tensor], float],
) -> dict[str, Any]:
    """Pitch if the slowest dimensions are those of another utterance, or if all others are constant."""
    pairs = [(first, first + 1) for first in np.flatnonzero(np.abs(np.diff(pitch)) >= _DIFFERENT)]
    replaced = []
    for count in _REPLACED:
        own = other = 0
        for first, second in pairs:
            frames = latents[first].clone()
            frames[:, slowest[:count]] = means[second][slowest[:count]]
            found = heard(frames)
            own += abs(found - pitch[first]) <= _SAME
            other += abs(found - pitch[second]) <= _SAME
        replaced.append({"dimensions": count, "pitch_of_utterance": int(own), "pitch_of_other": int(other)})
    kept = []
    for frames, mean in zip(latents, means, strict=True):
        constant = mean.repeat(len(frames), 1)
        constant[:, slowest[:_KEPT]] = frames[:, slowest[:_KEPT]]
        kept.append(heard(constant))
    return {
        "within_a_semitone_by_slowest_8": float((np.abs(np.array(kept) - pitch) <= _SAME).mean()),
        "pairs": len(pairs),
        "replaced": replaced,
    }


def of_synthesizer(utterances: int) -> dict[str, Any]:
    """Changes of the properties when the synthesizer raises or lowers the pitch by its standard deviation."""
    speaker = synthetic_syllables._speaker  # noqa: SLF001 - nobody else changes a factor

    def properties(semitones: float) -> np.ndarray:
        def moved(*arguments: Any) -> tuple[float, tuple[float, float]]:
            length, (low, high) = speaker(*arguments)
            return length, (low * 2 ** (semitones / 12), high * 2 ** (semitones / 12))

        with patch.object(synthetic_syllables, "_speaker", moved):
            rows = _utterances("test", utterances, cache=False)
        return np.array([properties_of(read_audio(row["audio"])[None], 16_000)[0] for row in rows])

    spread = np.nanstd(properties(0.0), axis=0)
    there, back = properties(spread[_PITCH]), properties(-spread[_PITCH])
    return _changes((there - back)[None] / 2, spread)


def _utterances(split: str, count: int, **settings: Any) -> Any:
    return load_corpus("synthetic_syllables", split, **settings).select(range(count))


def _changes(changes: np.ndarray, spread: np.ndarray) -> dict[str, Any]:
    """Median change of each property, and the pitch's share of all changes (in units of `spread`).

    Args:
        changes: `(moves, utterances, properties)`, NaN if a sound does not have a property.
        spread: `(properties,)`.
    """
    medians = np.nanmedian(changes, axis=1)
    relative = np.abs(medians / spread)
    return {
        "semitones": medians[:, _PITCH].tolist(),
        "changes": [dict(zip(PROPERTIES, each, strict=True)) for each in medians.tolist()],
        "share": (relative[:, _PITCH] / relative.sum(axis=1)).tolist(),
    }


def main() -> None:
    """Measures the pairs of model and decoder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="+", help="folders: an encoder, its decoder, the next encoder, its decoder, ...")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--utterances", type=int, default=40)
    arguments = parser.parse_args()
    if len(arguments.pairs) % 2:
        parser.error("`pairs` has an encoder without a decoder.")
    rows = {}
    for model, path in zip(arguments.pairs[::2], arguments.pairs[1::2], strict=True):
        found = measured(model, load_decoder(path), arguments.utterances)
        rows[f"{Path(model).name} {Path(path).name}"] = found
        print(model, found, sep=": ", flush=True)
    if arguments.output:
        synthesizer = of_synthesizer(arguments.utterances)
        write_json(arguments.output, {"schema": 2, "decoders": rows, "synthesizer": synthesizer})


if __name__ == "__main__":
    main()
