"""The part of the scorecard that needs a decoder: quality, smoothness, replaced and changed dimensions."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm

from modeling_sim import SimDecoder
from modeling_sim.analysis import (
    LabeledClassifier,
    bootstrap_statistic,
    fit_linear_probe,
    most_telling,
    oracle_directions,
    principal_components,
    rank_correlations,
    reconstruction_controls,
    reconstruction_curve,
    smoothness,
    traversal,
)
from modeling_sim.analysis.reconstruction_loss import multi_resolution_stft, reconstruction_loss, si_sdr
from modeling_sim.analysis.sound_properties import PROPERTIES
from modeling_sim.evaluation.cache import Analysis, AnalysisParts
from modeling_sim.evaluation.clips import (
    decoded_in_parts,
    properties_of,
    record,
    rotated_moves,
    temporal_moves,
    traversal_changes,
)
from modeling_sim.evaluation.models import decoder_kind, trimmed_waveforms
from modeling_sim.evaluation.representations import SimModules
from modeling_sim.evaluation.task import LabelTask
from modeling_sim.latents import encode
from modeling_sim.provenance import model_fingerprint
from modeling_sim.text import inner_bar

# Number of utterances that are encoded at a time: on a CPU, whose cache is small, and on other devices.
_ENCODED_ON_CPU, _ENCODED_TOGETHER = 4, 32


# Number of training utterances for choosing the best dimension for each property of the sound: with fewer, the best of
# hundreds of dimensions fits by chance.
_KNOWN = 256


# Maximum number of utterances for traversals.
_TRAVERSED = 16


# Seconds of speech that are enough for pairs, and for traversals: a long utterance averages over more frames, so fewer
# utterances are needed. At least `_CORRELATED` utterances are used.
_PAIRED_SECONDS, _TRAVERSED_SECONDS = 60, 40


# Number of random rotations: the mean over five still varies by a few hundredths.
_ROTATIONS = 5


# Minimum number of utterances for a correlation.
_CORRELATED = 8


# Properties whose best dimensions are played.
_PLAYED_PROPERTIES = ("pitch, semitones", "F1, semitones")


# Minimum number of utterances for clips, with interpolations between two pairs.
_FEWEST_PLAYED = 4


# Parts of the measures of a decoder: quality, smoothness, curve, traversal and sounds.
_STAGES = 5


# Maximum number of training utterances for the classifier of transitions.
_CLASSIFIED = 2000


def measure_decoder(
    parts: AnalysisParts, task: LabelTask, of: SimModules, module: str, decoder: SimDecoder, *, with_clips: bool
) -> bool:
    """Measures a decoder: quality, smoothness, reconstruction from few dimensions, and effects of changing one.

    Args:
        parts: Collects the results.
        task: The label and its data.
        of: The decoder's model.
        module: Name of its module, one of `of.modules`.
        decoder: The decoder, in evaluation mode.
        with_clips: Also decode clips for the report.

    Returns:
        Whether the decoder could be measured.
    """
    row = {"kind": decoder_kind(of, decoder), "representation": of.name, "module": module}
    arguments = task.arguments
    key = {"measured": "decoder", **row, **of.key, "decoder": model_fingerprint(decoder), "heard": with_clips}
    key |= {"dims": arguments.chosen_dims(), "utterance": arguments.utterance, "range": arguments.range}
    key["temporal"] = "temporal" in arguments.other_axes()
    measure = partial(_measure_decoder, task=task, of=of, row=row, decoder=decoder, with_clips=with_clips)
    return parts.add(f"decoder of {module} of {of.name}", key, measure)


def _measure_decoder(
    analysis: Analysis, task: LabelTask, of: SimModules, row: dict[str, Any], decoder: SimDecoder, with_clips: bool
) -> None:
    arguments, module = analysis.arguments, of.modules[row["module"]]
    chosen = _drawn(task, "test", arguments.num_utterances)
    dataset, waveforms = trimmed_waveforms(chosen, of.extractor)
    waveforms, num_samples = waveforms.to(of.model.device), waveforms.shape[1]
    latents = _latents(of, module, waveforms)
    seconds = num_samples / of.extractor.sampling_rate
    pairs = _as_many(arguments.num_pairs, _PAIRED_SECONDS, seconds)
    bar = inner_bar(total=_STAGES, desc=f"decoder of {row['module']}")

    def decode(values: torch.Tensor) -> torch.Tensor:
        return decoded_in_parts(decoder, values, num_samples)

    order = (
        (latents / latents.std(dim=(0, 1)).clamp(min=1e-12)).mean(dim=1).var(dim=0).argsort(descending=True).tolist()
    )
    with torch.no_grad():
        decoded = decode(latents)
    labels = None if task.of_frames else np.array(dataset[arguments.label][:])
    played = dict.fromkeys(order[: len(_PLAYED_PROPERTIES)], "differs most between utterances")
    chosen_dims = [dim for dim in arguments.chosen_dims() if dim < latents.shape[2]]
    played = dict.fromkeys(chosen_dims, "was chosen") or played
    bar.update()
    if _quality(analysis, row, decoder, decoded, waveforms):

        def attempt(what: str, measure: Callable[[], Any]) -> Any:
            bar.set_postfix_str(what)
            try:
                return measure()
            except ValueError as error:
                tqdm.write(f"{what} of the decoder of {row['module']} of {of.name} is skipped: {error}")
                return None
            finally:
                bar.update()

        def classifier() -> LabeledClassifier | None:
            if labels is None or decoder.config.noise:  # a decoder with noise has the same latents as the one without
                return None
            return LabeledClassifier(_classifier(task, of, module, num_samples), labels)

        def traversals() -> dict[int, str]:
            known = _properties_of_training(task, of, module, num_samples)
            return _traversals(analysis, row, decoder, latents, waveforms, decoded, known, chosen_dims, seconds=seconds)

        rate = of.extractor.sampling_rate
        attempt("smoothness", lambda: _smoothness(analysis, row, decode, latents, rate, classifier(), pairs))
        attempt("the curve", lambda: _curves(analysis, row, decode, latents, decoded, rate, pairs))
        played = attempt("the traversal", traversals) or played
    else:
        tqdm.write(f"the decoder of {row['module']} of {of.name} is no better than silence: only quality is measured")
    if with_clips and len(latents) >= _FEWEST_PLAYED:
        bar.set_postfix_str("sounds")
        names = dataset["id"][:] if labels is None else [task.classes[label] for label in labels]
        if arguments.utterance:
            waveforms, latents, names = _with_chosen(task, of, module, waveforms, latents, names)
        record(
            analysis.media,
            decoder,
            waveforms,
            latents,
            names,
            order,
            played,
            deviations=arguments.range,
            seed=arguments.seed,
            **row,
        )
    bar.close()


def _as_many(most: int, seconds: float, seconds_of_each: float) -> int:
    """Number of items that last `seconds` in total: at most `most`, and at least `_CORRELATED` if `most` allows it."""
    return min(most, max(_CORRELATED, round(seconds / seconds_of_each)))


def _with_chosen(
    task: LabelTask, of: SimModules, module: int, waveforms: torch.Tensor, latents: torch.Tensor, names: Sequence[str]
) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Inserts the utterance of the setting `utterance` before the others, cut to their length.

    If it is shorter, it is skipped with a message; the others are still measured.

    Returns:
        Waveforms, latents and names.
    """
    data, name = task.splits["test"], task.arguments.utterance
    chosen = data.select([data["id"][:].index(name)])
    try:
        _, waveform = trimmed_waveforms(chosen, of.extractor, waveforms.shape[1])
    except ValueError as error:
        tqdm.write(f"`utterance` {name!r} is not played, as it is too short: {error}")
        return waveforms, latents, list(names)
    waveform = waveform.to(waveforms)
    latent = _latents(of, module, waveform)
    return torch.cat([waveform, waveforms]), torch.cat([latent, latents]), [name, *names]


def _quality(
    analysis: Analysis,
    row: dict[str, str],
    decoder: SimDecoder,
    decoded: torch.Tensor,
    waveforms: torch.Tensor,
) -> bool:
    """Measures the distance from decoded to original speech; returns whether it is smaller than that of silence."""
    log_mel = reconstruction_loss("log_mel", decoder.config.sampling_rate)
    silence = torch.zeros_like(waveforms)
    found = {
        "log_mel": log_mel(decoded, waveforms),
        "spectral": multi_resolution_stft(decoded, waveforms),
        "log_mel_of_silence": log_mel(silence, waveforms),
        "spectral_of_silence": multi_resolution_stft(silence, waveforms),
    }
    means = {name: float(values.mean()) for name, values in found.items()}
    own = found["log_mel"].cpu().numpy()
    interval = vars(bootstrap_statistic(lambda items: float(own[items].mean()), np.arange(len(own))))
    analysis.add(row, "log_mel", **interval, null=means["log_mel_of_silence"])
    # A loss on spectra does not determine phases, so for other decoders this ratio is meaningless.
    ratio = float(si_sdr(decoded, waveforms).mean()) if decoder.config.loss == "waveform" else None
    noise = f", noise {decoder.config.noise:g}" if decoder.config.noise else ""
    described = f"{decoder.config.architecture.replace('_', '-')}, trained on {decoder.config.trained_on}s{noise}"
    analysis.quality.append({**row, "decoder": described, **means, "log_mel": interval, "si_sdr": ratio})
    return means["log_mel"] < means["log_mel_of_silence"]


def _drawn(task: LabelTask, split: str, most: int) -> Dataset:
    """Utterances of a split that have a label; a random draw if there are more than `most`."""
    data, arguments = task.splits[split], task.arguments
    labeled = [
        number
        for number, label in enumerate(data[arguments.label][:])
        if task.of_frames or (label is not None and label >= 0)
    ]
    return data.select(np.sort(np.random.default_rng(arguments.seed).permutation(labeled)[:most]))


def _latents(of: SimModules, module: int, waveforms: torch.Tensor) -> torch.Tensor:
    """Means `(utterances, frames, channels)` of a module for waveforms of equal length."""
    together = _ENCODED_ON_CPU if waveforms.device.type == "cpu" else _ENCODED_TOGETHER
    return torch.cat([encode(of.model, part, module=module) for part in waveforms.split(together)])


def _classifier(
    task: LabelTask, of: SimModules, module: int, num_samples: int
) -> Callable[[torch.Tensor], torch.Tensor]:
    """A linear classifier of the label on latents averaged over time, for utterances of `num_samples`."""
    utterances, waveforms = trimmed_waveforms(_drawn(task, "train", _CLASSIFIED), of.extractor, num_samples)
    features = _latents(of, module, waveforms.to(of.model.device)).mean(dim=1).cpu().numpy()
    probe = fit_linear_probe(features, np.array(utterances[task.arguments.label][:]), len(task.classes), l2=1e-3)
    return lambda values: torch.from_numpy(probe.predict(values.mean(dim=1).cpu().numpy()))


def _smoothness(
    analysis: Analysis,
    row: dict[str, str],
    decode: Callable[[torch.Tensor], torch.Tensor],
    latents: torch.Tensor,
    sampling_rate: int,
    classifier: LabeledClassifier | None,
    num_pairs: int,
) -> None:
    """Measures paths between utterances, and whether a classifier of the label changes its answer once on them."""
    arguments = analysis.arguments
    settings: dict[str, Any] = {
        "sampling_rate": sampling_rate,
        "num_pairs": min(num_pairs, len(latents) - 1),
        "steps": arguments.steps,
        "seed": arguments.seed,
    }
    derived = min(24, max(4, num_pairs // 2))
    outcome = smoothness(decode, latents, lipschitz_pairs=derived, classifier=classifier, **settings)
    on_the_shell = smoothness(decode, latents, path="norm_corrected", lipschitz_pairs=0, **settings)
    found = {
        "path_ratio": outcome.path_ratio,
        "jump_ratio": outcome.jump_ratio,
        "path_ratio_norm_corrected": on_the_shell.path_ratio,
        "jump_ratio_norm_corrected": on_the_shell.jump_ratio,
        "lipschitz_median": outcome.lipschitz_median,
        "lipschitz_95": outcome.lipschitz_95,
    }
    if outcome.transitions is not None:
        found["clean_transitions"] = outcome.transitions.rate
    for measure, interval in found.items():
        analysis.add(row, measure, **vars(interval))


def _curves(
    analysis: Analysis,
    row: dict[str, str],
    decode: Callable[[torch.Tensor], torch.Tensor],
    latents: torch.Tensor,
    decoded: torch.Tensor,
    sampling_rate: int,
    num_pairs: int,
) -> None:
    """Measures the reconstruction error by the number of replaced dimensions: as defined here, and as in the paper."""
    settings: dict[str, Any] = {"num_pairs": num_pairs, "seed": analysis.arguments.seed}
    curves = reconstruction_controls(latents, decode, sampling_rate=sampling_rate, oracle_pairs=2, **settings)
    for name, transform in (("paper", None), ("paper_pca", principal_components(latents, standardize=False))):
        curves[name] = reconstruction_curve(
            latents,
            decode,
            ranking="pair",
            standardize=False,
            distance="mse",
            transform=transform,
            decoded=decoded,
            **settings,
        )
    for name, curve in curves.items():
        analysis.curve(
            "reconstruction", row, control=name, ks=list(curve.ks), values=curve.error.tolist(), area=curve.area
        )
    for name, ending in (
        ("dimensions", ""),
        *((name, f"_{name}") for name in ("rotation", "pca", "temporal", "paper", "paper_pca")),
    ):
        null = None if ending else curves["rotation"].area
        analysis.add(row, f"curve_area{ending}", **vars(curves[name].area_interval), null=null)


@dataclass(frozen=True)
class _Known:
    """Properties of training utterances, and their latents.

    Args:
        properties: `(utterances, properties)`, each of `PROPERTIES`; NaN if an utterance does not have the property.
        spread: `(properties,)`, standard deviations of the properties; NaN for a property that no utterance has.
        means: `(utterances, dims)`, latents averaged over time, in units of `scale`; 0 for a constant dimension.
        scale: `(dims,)`, standard deviations of latents over all frames.
        latents: `(utterances, frames, dims)`.
    """

    properties: np.ndarray
    spread: np.ndarray
    means: torch.Tensor
    scale: torch.Tensor
    latents: torch.Tensor


def _properties_of_training(task: LabelTask, of: SimModules, module: int, num_samples: int) -> _Known:
    """Measures the properties of training utterances of the same length as those that are decoded."""
    _, waveforms = trimmed_waveforms(_drawn(task, "train", _KNOWN), of.extractor, num_samples)
    properties = properties_of(waveforms.numpy(), of.extractor.sampling_rate)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a property that no utterance has is NaN
        spread = np.nanstd(properties, axis=0)
    if not (spread > 0).any():
        raise ValueError(f"{len(waveforms)} training utterances of {num_samples} samples are equal in every property.")
    latents = _latents(of, module, waveforms.to(of.model.device))
    scale = latents.std(dim=(0, 1))
    means = torch.where(scale > 0, latents.mean(dim=1) / scale.clamp(min=1e-30), 0.0)
    return _Known(properties, spread, means, scale, latents)


def _traversals(
    analysis: Analysis,
    row: dict[str, str],
    decoder: SimDecoder,
    latents: torch.Tensor,
    waveforms: torch.Tensor,
    decoded: torch.Tensor,
    known: _Known,
    chosen: Sequence[int],
    *,
    seconds: float,
) -> dict[int, str]:
    """Measures how changing the best dimension for each property changes the sound, compared with random rotations.

    Dimensions of the setting `dims` are also changed, each for the property that it correlates with most.

    Returns:
        Dimensions to play, and the reason for each choice.
    """
    seed, num_samples = analysis.arguments.seed, waveforms.shape[1]
    moved = latents[: _as_many(_TRAVERSED, _TRAVERSED_SECONDS, seconds)]
    deviations = analysis.arguments.range

    def choose_and_move(
        coordinates: torch.Tensor, moves: torch.Tensor
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The best axis for each property, the properties, their correlations, and the changes along the axes.

        Args:
            coordinates: `(utterances, axes)`, of training utterances.
            moves: `(axes, channels)`, directions of one standard deviation of each axis.
        """
        best, correlations = most_telling(coordinates.double().cpu().numpy(), known.properties)
        targets = np.flatnonzero((best >= 0) & (known.spread > 0))
        directions = deviations * moves[torch.from_numpy(best[targets])]
        changes = traversal_changes(decoder, moved, directions, num_samples)
        return best[targets], targets, correlations[targets], changes

    def of_random_axes(coordinates: torch.Tensor, moves: torch.Tensor) -> list[float]:
        """Selectivity of random rotations of the axes."""
        found = []
        for number in inner_bar(range(_ROTATIONS), desc="moves of random axes"):
            _, targets, _, changes = choose_and_move(*rotated_moves(coordinates, moves, seed + number))
            found.append(traversal(changes, known.spread, targets, resamples=1).selectivity.value)
        return found

    own = known.means, torch.diag(known.scale)
    dimensions, targets, correlations, changes = choose_and_move(*own)
    outcome = traversal(changes, known.spread, targets, seed=seed)
    random_axes = of_random_axes(*own)
    analysis.add(row, "traversal_selectivity", **vars(outcome.selectivity), null=float(np.mean(random_axes)))
    of_chosen = [_followed(known, dim) for dim in chosen]
    if chosen:
        directions = deviations * torch.diag(known.scale)[list(chosen)]
        changes = np.concatenate([changes, traversal_changes(decoder, moved, directions, num_samples)])
    analysis.curve(
        "traversal_effects",
        row,
        deviations=deviations,
        dimensions=[*dimensions.tolist(), *chosen],
        targets=[PROPERTIES[number] for number in (*targets, *(target for target, _ in of_chosen))],
        correlations=[*correlations.tolist(), *(correlation for _, correlation in of_chosen)],
        utterances=len(known.properties),
        factors=list(PROPERTIES),
        values=_median_changes(changes),
        spread=known.spread.tolist(),
        selectivity=outcome.selectivity_of_directions.tolist(),
        selectivity_of_random_axes=random_axes,
        conveyed=_conveyed(waveforms, decoded, decoder.config.sampling_rate),
        oracle=_oracle(analysis, row, decoder, moved, num_samples, known),
    )
    temporal = _temporal_axes(known) if "temporal" in analysis.arguments.other_axes() else None
    if temporal is not None:
        _, of_targets, _, of_changes = choose_and_move(*temporal)
        selectivity = traversal(of_changes, known.spread, of_targets, seed=seed).selectivity
        null = float(np.mean(of_random_axes(*temporal)))
        analysis.add(row, "traversal_selectivity_temporal", **vars(selectivity), null=null)
    if chosen:
        return {
            dim: f"was chosen and follows {PROPERTIES[target].split(',')[0]} most ({correlation:+.2f})"
            for dim, (target, correlation) in zip(chosen, of_chosen, strict=True)
        }
    played: dict[int, list[str]] = {}
    for dimension, target in zip(dimensions.tolist(), targets, strict=True):
        if PROPERTIES[target] in _PLAYED_PROPERTIES:
            played.setdefault(dimension, []).append(PROPERTIES[target].split(",")[0])
    return {dimension: f"is best for {' and '.join(names)}" for dimension, names in played.items()}


def _temporal_axes(known: _Known) -> tuple[torch.Tensor, torch.Tensor] | None:
    """`temporal_moves` of training utterances; `None` if there are no temporal components."""
    lengths = [known.latents.shape[1]] * len(known.latents)
    try:
        return temporal_moves(known.latents.flatten(0, 1), lengths, known.means * known.scale)
    except ValueError as error:
        tqdm.write(f"traversal along temporal components is skipped: {error}")
        return None


def _followed(known: _Known, dim: int) -> tuple[int, float]:
    """The property whose ranks a dimension correlates with most over training utterances, and the correlation."""
    _, correlations = most_telling(known.means[:, [dim]].double().cpu().numpy(), known.properties)
    target = int(np.nanargmax(np.where(known.spread > 0, np.abs(correlations), np.nan)))
    return target, float(correlations[target])


def _oracle(
    analysis: Analysis,
    row: dict[str, str],
    decoder: SimDecoder,
    latents: torch.Tensor,
    num_samples: int,
    known: _Known,
) -> dict[str, Any] | None:
    """Measures traversals along the regression direction of each property, which do not depend on axes."""
    try:
        directions, targets = oracle_directions(known.means.double().cpu().numpy(), known.properties)
    except ValueError as error:
        tqdm.write(f"traversal along regression directions is skipped: {error}")
        return None
    moves = analysis.arguments.range * known.scale * torch.from_numpy(directions).to(latents)
    changes = traversal_changes(decoder, latents, moves, num_samples)
    outcome = traversal(changes, known.spread, targets, seed=analysis.arguments.seed)
    analysis.add(row, "traversal_selectivity_oracle", **vars(outcome.selectivity))
    return {
        "targets": [PROPERTIES[number] for number in targets],
        "values": _median_changes(changes),
        "selectivity": outcome.selectivity_of_directions.tolist(),
    }


def _median_changes(changes: np.ndarray) -> list[list[float]]:
    """Medians over items, `(directions, properties)`; NaN for a property that no item has."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        medians: list[list[float]] = np.nanmedian(changes, axis=1).tolist()
    return medians


def _conveyed(waveforms: torch.Tensor, decoded: torch.Tensor, sampling_rate: int) -> list[float]:
    """Rank correlation of each property before and after decoding, over utterances; NaN if too few have it in both."""
    before, after = (properties_of(sounds.cpu().numpy(), sampling_rate) for sounds in (waveforms, decoded))
    correlations = []
    for of_spoken, of_decoded in zip(before.T, after.T, strict=True):
        both = np.isfinite(of_spoken) & np.isfinite(of_decoded)
        enough = both.sum() >= _CORRELATED
        correlations.append(float(rank_correlations(of_decoded[both, None], of_spoken[both])[0]) if enough else np.nan)
    return correlations
