"""Loads the representations of the settings: kinds with their seeds, matching modules, decoders, latents."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel, set_seed

from modeling_sim import SimConfig, SimDecoder, SimModel
from modeling_sim.data.audio import read_audio
from modeling_sim.data.batches import utterance_batches
from modeling_sim.data.corpora.alignments import LABEL_RATE
from modeling_sim.evaluation.representations import AudioEncoder, Representation, SimModules, Spectra, method_of
from modeling_sim.evaluation.results import ModelFacts
from modeling_sim.evaluation.settings import MeasuringArguments
from modeling_sim.files import read_json
from modeling_sim.loading import (
    check_device,
    feature_extractor_of,
    is_classifier,
    load_audio_encoder,
    load_decoder,
    module_numbers,
    names_of,
)
from modeling_sim.provenance import own_settings, weights_fingerprint
from modeling_sim.settings import chosen_numbers
from modeling_sim.text import inner_bar
from modeling_sim.trainer.checkpoints import STATE_NAME
from modeling_sim.trainer.run_folder import RESULTS_NAME


def load_representations(
    arguments: MeasuringArguments, *, align: bool = False, sample: bool = False, controls: bool = True
) -> list[Representation]:
    """Loads spectra, an untrained network for every model, then the models, all in evaluation mode.

    Models with equal configurations count as one kind with several seeds; so do their untrained networks.

    Args:
        arguments: Settings of the measures.
        align: For SIM models after the first, use the modules with the receptive field and hop of a module of the first
            model, under its name. Otherwise use the modules of the settings.
        sample: Use samples of the latents of SIM models instead of their means.
        controls: Include spectra and untrained networks.

    Raises:
        ValueError: A model is not an audio encoder, has no such module or layer, or is given twice.
        OSError: A model cannot be found.
    """
    check_device(arguments.device)
    names = names_of(arguments.model)
    models = [load_audio_encoder(path) for path in arguments.model]
    if len({weights_fingerprint(model) for model in models}) < len(models):
        raise ValueError("`model` names one checkpoint twice; give each of them once.")
    extractors = [feature_extractor_of(path) for path in arguments.model]
    kinds = _kinds(models)
    reference = next((model.config for model in models if isinstance(model, SimModel)), None) if align else None
    fresh: list[PreTrainedModel] = []
    for number, model in enumerate(models if controls else []):  # one seed each, since seeds are compared with seeds
        set_seed(arguments.seed + number)
        fresh.append(type(model)(model.config))
    representations: list[Representation] = [Spectra()] if controls else []
    for ending, networks in ((" untrained", fresh), ("", models)) if controls else (("", models),):
        for name, kind, model, extractor in zip(names, kinds, networks, extractors, strict=True):
            network = model.to(arguments.device).eval()  # type: ignore[arg-type]
            common: dict[str, Any] = {"kind": kind + ending, "control": bool(ending)}
            if isinstance(network, SimModel):
                modules = _modules(network.config, arguments.modules, reference)
                if not modules and not ending:
                    tqdm.write(f"{name} is skipped: no module has the receptive field and hop of one of {names[0]}")
                common |= {"sample": sample, "seed": arguments.seed}
                representations.append(SimModules(name + ending, network, extractor, modules, **common))
            else:
                count = len(AudioEncoder.feature_names(network.config))
                layers = chosen_numbers({str(layer): layer for layer in range(count)}, arguments.modules)
                representations.append(AudioEncoder(name + ending, network, extractor, layers, **common))
    return representations


def _kinds(models: Sequence[PreTrainedModel]) -> list[str]:
    """The kind of every model: its method, numbered if there are several configurations of it."""
    known: list[tuple[str, dict[str, Any]]] = []
    kinds = []
    for model in models:
        finetuned = is_classifier(model.config)
        fields = {"classifier": finetuned, "type": model.config.model_type, **own_settings(model.config)}
        kind = next((name for name, own in known if own == fields), None)
        if kind is None:
            kind = method_of(model.config) if isinstance(model, SimModel) else model.config.model_type
            kind += " finetuned" * finetuned
            same = sum(name.split(" #")[0] == kind for name, _ in known)
            kind += f" #{same + 1}" * bool(same)
            known.append((kind, fields))
        kinds.append(kind)
    return kinds


def facts_of(path: str, of: SimModules | AudioEncoder) -> ModelFacts:
    """Facts about a model, and about its training if files in its folder record it."""
    config = of.model.config
    found: dict[str, Any] = {}
    for name, read in (
        (RESULTS_NAME, lambda run: {"corpus": run["corpus"], "hours": run["train_hours"], "steps": run["steps"]}),
        (STATE_NAME, lambda state: {"steps": state["counts"]["step"]}),
    ):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # an id of the Hub, or files of others
            found = {**read(read_json(Path(path) / name)), **found}
    if isinstance(of, SimModules):
        last = config.num_conv_modules - 1
        found |= {"modules": config.num_modules, "dims": config.num_latents, "frame_rate": config.frame_rate(last)}
    else:
        found["modules"] = len(AudioEncoder.feature_names(config))
    return ModelFacts(of.name, of.model.num_parameters(), **found)


def _modules(config: SimConfig, chosen: str, reference: SimConfig | None) -> dict[str, int]:
    """Numbers of the modules of a setting, by name; raises like `module_numbers`."""
    if reference is None:
        return {config.module_names[number]: number for number in module_numbers(config, chosen)}
    wanted = [reference.module_names[number] for number in module_numbers(reference, chosen)]
    return {name: number for name, number in aligned_modules(config, reference).items() if name in wanted}


def aligned_modules(config: SimConfig, reference: SimConfig) -> dict[str, int]:
    """Modules with the same receptive field and hop as one of the reference model, by the name of the latter.

    For example, the only module of CPC is compared with the third of SIM. Modules without a counterpart are skipped.
    """
    aligned = {}
    for number, name in enumerate(reference.module_names):
        is_context = number == reference.num_conv_modules
        for own in range(config.num_modules):
            if (
                (own == config.num_conv_modules) == is_context
                and config.receptive_field(own) == reference.receptive_field(number)
                and config.hop_length(own) == reference.hop_length(number)
            ):
                aligned[name] = own
    return aligned


def attach_decoders(models: Sequence[SimModules], paths: Sequence[str], device: str) -> None:
    """Finds the model of each decoder, and the name of its module; decoders of modules not measured are skipped.

    Raises:
        ValueError: A decoder belongs to none of the models, a module has two decoders, or decoders of one kind have
            different settings.
    """
    by_fingerprint = {weights_fingerprint(of.model): of for of in models}
    alike: dict[tuple[str, str], SimDecoder] = {}
    for path in paths:
        decoder = load_decoder(path).to(device)  # type: ignore[arg-type]
        of = by_fingerprint.get(decoder.config.encoder_fingerprint)
        if of is None:
            raise ValueError(f"decoder {path} was trained on none of the given models; give its model with `--model`.")
        name = next((name for name, number in of.modules.items() if number == decoder.config.module), None)
        if name is None:
            tqdm.write(f"decoder {path} is skipped: its module is not measured")
            continue
        others = of.decoders.setdefault(name, [])
        if any(decoder_kind(of, other) == decoder_kind(of, decoder) for other in others):
            raise ValueError(
                f"decoder {path} is the second one for module {decoder.config.module} of {of.name} "
                f"{'with' if decoder.config.noise else 'without'} noise; give one: two would count as two models."
            )
        others.append(decoder)
        _check_alike(path, decoder, alike.setdefault((decoder_kind(of, decoder), name), decoder))


def _check_alike(path: str, decoder: SimDecoder, first: SimDecoder) -> None:
    """Raises if the training settings differ from those of the first decoder of the same kind and module."""
    for name in ("architecture", "trained_on", "loss", "noise", "hidden_size"):
        own, other = getattr(decoder.config, name), getattr(first.config, name)
        if own != other:
            raise ValueError(
                f"decoder {path} has `{name}` {own!r}, but one of the same kind and module has {other!r}; decoders of "
                "models that count as seeds of one kind must have equal settings."
            )


def decoder_kind(of: SimModules, decoder: SimDecoder) -> str:
    """Kind of a decoder's measures in results; decoders trained with noise are a separate kind."""
    return f"{of.kind} + noise" if decoder.config.noise else of.kind


@dataclass(frozen=True)
class Frames:
    """Frames of a module: means and log-variances, `(frames, dims)`; log-variances are `None` if deterministic."""

    means: np.ndarray
    log_variances: np.ndarray | None


@torch.no_grad()
def frames_of(of: SimModules, dataset: Dataset, *, max_frames: int, batch_size: int) -> dict[int, Frames]:
    """Frames of every module for complete utterances, at regular steps of at least 2 frames.

    Frames of pure digital silence, such as padding, are excluded: they are all equal.
    """
    config = of.model.config
    lengths = np.asarray(dataset["num_samples"][:]) * config.sampling_rate / np.asarray(dataset["sampling_rate"][:])
    collected: dict[int, tuple[list[np.ndarray], list[np.ndarray]]] = {
        module: ([], []) for module in of.modules.values()
    }
    for hidden, audible, steps in _batches(of, dataset, lengths, max_frames, batch_size):
        for module, (mean, log_variance) in hidden.items():
            chosen = audible[module]
            chosen[:, np.arange(chosen.shape[1]) % steps[module] != 0] = False
            collected[module][0].append(mean[chosen])
            if log_variance is not None:
                collected[module][1].append(log_variance[chosen])
    return {
        module: Frames(np.concatenate(means), np.concatenate(log_variances) if log_variances else None)
        for module, (means, log_variances) in collected.items()
    }


def _batches(
    of: SimModules, dataset: Dataset, lengths: np.ndarray, max_frames: int, batch_size: int
) -> Iterator[tuple[dict[int, tuple[np.ndarray, np.ndarray | None]], dict[int, np.ndarray], dict[int, int]]]:
    """Means and log-variances of each module of a batch, a mask of frames with sound, and the step between frames."""
    model, config = of.model, of.model.config
    steps = {
        module: max(2, int(np.ceil(lengths.sum() / config.hop_length(module) / max_frames)))
        for module in of.modules.values()
    }
    batches = utterance_batches(dataset, of.extractor, batch_size=batch_size, max_samples=batch_size * 20 * LABEL_RATE)
    for batch in inner_bar(batches, desc=f"frames of {of.name}"):
        inputs, mask = (batch[name].to(model.device) for name in ("input_values", "attention_mask"))
        if model.takes_chunks(inputs):
            latents = model.latents_in_chunks(inputs, mask, steps)
        else:
            latents = {
                number: each for number, each in enumerate(model.module_latents(inputs, mask)) if number in steps
            }
        nonzero = np.cumsum(np.pad(batch["input_values"].numpy() != 0, ((0, 0), (1, 0))), axis=1)
        hidden, audible = {}, {}
        for module, each in latents.items():
            count = each.mean.shape[1]
            half = config.receptive_field(module) / 2
            centers = config.frame_centers(count, module)
            low, high = (
                np.clip(np.rint(edge), 0, nonzero.shape[1] - 1).astype(int) for edge in (centers - half, centers + half)
            )
            real = np.arange(count) < each.lengths.cpu().numpy()[:, None]
            audible[module] = real & (nonzero[:, high] > nonzero[:, low])
            hidden[module] = (
                each.mean.float().cpu().numpy(),
                None if each.log_variance is None else each.log_variance.float().cpu().numpy(),
            )
        yield hidden, audible, steps


def trimmed_waveforms(dataset: Dataset, extractor: Any, num_samples: int | None = None) -> tuple[Dataset, torch.Tensor]:
    """Utterances, and their waveforms cut to one length from the first sound on, `(utterances, samples)`.

    Digital silence at both ends, as in padded syllables, is removed: on a logarithmic scale even the faintest noise of
    a decoder is far from it, and would dominate every distance.

    Args:
        dataset: The utterances.
        extractor: The model's feature extractor.
        num_samples: Number of samples; by default the length that 95 % of the utterances reach. Shorter ones are
            excluded.

    Raises:
        ValueError: No utterance is long enough, or none has sound.
    """
    sounds = []
    for row in dataset:
        samples = read_audio(row["audio"], sampling_rate=extractor.sampling_rate)
        nonzero = np.flatnonzero(samples)
        sounds.append(samples[nonzero[0] : nonzero[-1] + 1] if len(nonzero) else samples[:0])
    lengths = np.array([len(samples) for samples in sounds])
    if num_samples is None:
        num_samples = int(np.quantile(lengths[lengths > 0], 0.05, method="lower")) if lengths.any() else 1
    kept = np.flatnonzero(lengths >= num_samples)
    if not len(kept):
        raise ValueError(f"no utterance has {num_samples} samples from its first sound to its last.")
    cut = [sounds[number][:num_samples] for number in kept]
    inputs = extractor(cut, sampling_rate=extractor.sampling_rate, return_tensors="pt")["input_values"]
    return dataset.select(kept), inputs
