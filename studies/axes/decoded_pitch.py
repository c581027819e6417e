"""Where a decoder takes the pitch from: the dimension that follows the pitch, or fast dimensions.

    python studies/axes/decoded_pitch.py runs/sim runs/decoder runs/sim runs/decoder-stft --output decoded_pitch.json

Utterances are synthetic syllables of the test split. Four questions are asked of a decoder of a convolutional module:
is the pitch of the decoded sound that of the utterance; how many semitones does it change when the dimension that
follows the pitch most is moved by 3 standard deviations; whose pitch is heard when the slowest dimensions are
replaced by their means in another utterance, that of the utterance or that of the other one; and is the pitch still
there when all but the slowest dimensions are constant?
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modeling_sim import SimDecoder
from modeling_sim.analysis.axes.transforms import FrameMoments, lag_profiles
from modeling_sim.analysis.sound_properties import PROPERTIES
from modeling_sim.analysis.traversal import rank_correlations
from modeling_sim.data.batches import utterance_batches
from modeling_sim.data.corpora import load_corpus
from modeling_sim.evaluation.clips import decoded_properties, properties_of, traversal_changes
from modeling_sim.files import write_json
from modeling_sim.loading import feature_extractor_of, load_encoder

_PITCH = PROPERTIES.index("pitch, semitones")
# Semitones up to which two pitches are the same, and from which two utterances have different ones.
_SAME, _DIFFERENT = 1.0, 3.0
_DEVIATIONS = 3.0
# Numbers of the slowest dimensions that are replaced, and of those that alone are kept.
_REPLACED, _KEPT = (0, 1, 4, 8, 16, 32), 8


@torch.no_grad()
def measured(model: str, decoder: SimDecoder, utterances: int) -> dict[str, Any]:
    """The answers for a model and a decoder of one of its modules."""
    encoder, extractor, module = load_encoder(model), feature_extractor_of(model), decoder.config.module
    hop = encoder.config.hop_length(module)
    dataset = load_corpus("synthetic_syllables", "test").select(range(utterances))
    latents, true = [], []
    for batch in utterance_batches(dataset, extractor, batch_size=1):
        found = properties_of(batch["input_values"].numpy(), decoder.config.sampling_rate)[0, _PITCH]
        if np.isfinite(found):
            outputs = encoder(batch["input_values"], batch["attention_mask"], sample=False, output_hidden_states=True)
            latents.append(outputs.hidden_states[module][0])
            true.append(found)

    def heard(frames: torch.Tensor) -> float:
        return float(decoded_properties(decoder, frames[None], len(frames) * hop)[0, _PITCH])

    pitch, scale = np.array(true), torch.cat(latents).std(dim=0)
    moments = FrameMoments().add(torch.cat(latents).numpy(), [len(frames) for frames in latents])
    slowest = np.argsort(-lag_profiles(moments)[1].mean(axis=1))
    means = torch.stack([frames.mean(dim=0) for frames in latents]).numpy()
    correlations = rank_correlations(means, pitch)
    best = int(np.abs(correlations).argmax())
    move = torch.zeros_like(scale)
    move[best] = _DEVIATIONS * scale[best]
    decoded = np.array([heard(frames) for frames in latents])
    moved = [
        traversal_changes(decoder, frames[None], move[None], len(frames) * hop)[0, 0, _PITCH] for frames in latents
    ]
    voiced = np.isfinite(decoded)
    pairs = [(first, first + 1) for first in np.flatnonzero(np.abs(np.diff(pitch)) >= _DIFFERENT)]
    replaced = []
    for count in _REPLACED:
        own = other = 0
        for first, second in pairs:
            frames = latents[first].clone()
            frames[:, slowest[:count]] = latents[second][:, slowest[:count]].mean(dim=0)
            found = heard(frames)
            own += abs(found - pitch[first]) <= _SAME
            other += abs(found - pitch[second]) <= _SAME
        replaced.append({"dimensions": count, "pitch_of_utterance": int(own), "pitch_of_other": int(other)})
    kept = []
    for frames in latents:
        constant = frames.mean(dim=0).repeat(len(frames), 1)
        constant[:, slowest[:_KEPT]] = frames[:, slowest[:_KEPT]]
        kept.append(heard(constant))
    return {
        "loss": decoder.config.loss,
        "utterances": len(latents),
        "decoded_within_a_semitone": float((np.abs(decoded - pitch) <= _SAME).mean()),
        "correlation_of_pitches": float(rank_correlations(decoded[voiced, None], pitch[voiced])[0]),
        "best_dimension": best,
        "rank_correlation": float(correlations[best]),
        "rank_among_the_slowest": int(np.flatnonzero(slowest == best)[0]) + 1,
        "median_change_semitones": float(np.nanmedian(np.abs(moved))),
        "decoded_hz": np.round(2 ** (decoded / 12), 1).tolist(),
        "true_hz": np.round(2 ** (pitch / 12), 1).tolist(),
        "within_a_semitone_by_slowest_8": float((np.abs(np.array(kept) - pitch) <= _SAME).mean()),
        "pairs": len(pairs),
        "replaced": replaced,
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
        found = measured(model, SimDecoder.from_pretrained(path).eval(), arguments.utterances)
        rows[f"{Path(model).name}-{found['loss']}"] = found
        print(model, found, sep=": ", flush=True)
    if arguments.output:
        write_json(arguments.output, {"schema": 1, "decoders": rows})


if __name__ == "__main__":
    main()
