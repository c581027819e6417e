"""Objectives of two views: losses against naive versions, runs that resume, models that are the same as SIM's."""

import importlib
import inspect
import json
import math

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from datasets import Image
from processes import launch
from safetensors.torch import load_file
from transformers import AutoModel

from modeling_sim import SimConfig, SimModel
from modeling_sim.commands import pretrain
from modeling_sim.data.augmentation import AUGMENTATIONS, augmentation_names, augmented
from modeling_sim.data.corpora import load_corpus
from modeling_sim.hub.card import render_card
from modeling_sim.objectives_sim import ACTIVE_UNIT_VARIANCE
from modeling_sim.trainer.objectives.byol import cosine_distance
from modeling_sim.trainer.objectives.contract import (
    OBJECTIVES,
    Objective,
    ObjectiveOutput,
    Range,
    View,
    chosen_frames,
    load_objective,
)
from modeling_sim.trainer.objectives.dino import distillation
from modeling_sim.trainer.objectives.lejepa import sigreg
from modeling_sim.trainer.objectives.moco import queue_info_nce
from modeling_sim.trainer.objectives.simclr import nt_xent
from modeling_sim.trainer.objectives.vicreg import vicreg_terms

RATE = 16_000
TINY = {
    "--model_settings": "{hidden_size: 12, context_size: 8}",
    "--corpus_settings": "{num_train: 12, num_test: 5, num_speakers: 2}",
    "--crop_samples": "3000",
    "--batch_size": "3",
    "--max_steps": "4",
    "--logging_steps": "1",
    "--save_steps": "2",
    "--warmup_steps": "1",
}


def train(output_dir, **flags):
    settings = TINY | {f"--{name}": str(value) for name, value in flags.items()}
    pretrain.main([word for pair in settings.items() for word in pair] + ["--output_dir", str(output_dir)])


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def two_views(count=7, size=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(count, size, generator=generator)
    return first, first + 0.3 * torch.randn(count, size, generator=generator)


# ---------------------------------------------------------------------- losses


def cosine(left, right):
    return float(left @ right / left.norm() / right.norm())


def naive_nt_xent(first, second, temperature):
    rows, losses, hits = [*first, *second], [], []
    for number, row in enumerate(rows):
        others = [other for other in range(len(rows)) if other != number]
        scores = {other: math.exp(cosine(row, rows[other]) / temperature) for other in others}
        positive = (number + len(first)) % len(rows)
        losses.append(-math.log(scores[positive] / sum(scores.values())))
        hits.append(scores[positive] == max(scores.values()))
    return np.mean(losses), np.mean(hits)


def naive_moco(queries, keys, queue, temperature):
    losses = []
    for query, key in zip(queries, keys, strict=True):
        scores = [math.exp(cosine(query, other) / temperature) for other in [key, *queue]]
        losses.append(-math.log(scores[0] / sum(scores)))
    return np.mean(losses)


def naive_vicreg(first, second):
    views = [first.double().numpy(), second.double().numpy()]
    invariance = np.mean((views[0] - views[1]) ** 2)
    variance = np.mean([np.maximum(0, 1 - np.sqrt(view.var(axis=0, ddof=1) + 1e-4)) for view in views])
    covariance = 0.0
    for view in views:
        table = np.cov(view.T)
        covariance += sum(table[i, j] ** 2 for i in range(len(table)) for j in range(len(table)) if i != j) / len(table)
    return invariance, variance, covariance


def naive_sigreg(embeddings, directions, knots=17, largest=3.0):
    t = np.linspace(-largest, largest, 2 * knots - 1)
    statistics = []
    for direction in directions.double().numpy().T:
        projected = embeddings.double().numpy() @ direction
        empirical = np.array([np.exp(1j * value * projected).mean() for value in t])
        error = np.abs(empirical - np.exp(-(t**2) / 2)) ** 2 * np.exp(-(t**2) / 2)
        statistics.append(len(projected) * np.sum((error[1:] + error[:-1]) / 2 * np.diff(t)))
    return np.mean(statistics)


@pytest.mark.parametrize("channels", [8, 64, 256])
def test_collapsed_frames_are_found_in_the_queue_by_guessing(channels):
    frames = torch.randn(1, channels).expand(6, channels)
    keys = torch.nn.functional.normalize(frames, dim=1)
    accuracy = queue_info_nce(frames, keys, keys[:1].expand(99, channels), 0.1)[1]
    assert float(accuracy) == pytest.approx(1 / 100)


def test_losses_are_those_of_naive_versions():
    first, second = two_views()
    queue = torch.nn.functional.normalize(torch.randn(9, 5, generator=torch.Generator().manual_seed(1)), dim=1)
    directions = torch.nn.functional.normalize(torch.randn(5, 6, generator=torch.Generator().manual_seed(2)), dim=0)
    ours = [float(value) for value in nt_xent(first, second, 0.1)]
    assert ours == pytest.approx(naive_nt_xent(first, second, 0.1), rel=1e-4)
    keys = torch.nn.functional.normalize(second, dim=1)
    loss = queue_info_nce(first, keys, queue, 0.1)[0]
    assert float(loss) == pytest.approx(naive_moco(first, keys, queue, 0.1), rel=1e-4)
    hits = [
        all(cosine(query, key) >= cosine(query, entry) for entry in queue)
        for query, key in zip(first, keys, strict=True)
    ]
    assert float(queue_info_nce(first, keys, queue, 0.1)[1]) == pytest.approx(np.mean(hits))
    expected = np.mean([2 - 2 * cosine(*pair) for pair in zip(first, second, strict=True)])
    assert float(cosine_distance(first, second)) == pytest.approx(expected, rel=1e-4)
    assert [float(term) for term in vicreg_terms(first, second)] == pytest.approx(naive_vicreg(first, second), rel=1e-4)
    assert float(sigreg(first, directions)) == pytest.approx(naive_sigreg(first, directions), rel=1e-4)
    wanted = torch.softmax(second, dim=1)
    naive = []
    for target, row in zip(wanted.tolist(), (first / 0.1).tolist(), strict=True):
        total = sum(math.exp(score) for score in row)
        naive.append(-sum(share * math.log(math.exp(score) / total) for share, score in zip(target, row, strict=True)))
    assert float(distillation(first, wanted, 0.1)) == pytest.approx(np.mean(naive), rel=1e-4)


def test_a_single_frame_does_not_vary():
    first, second = (view[:1] for view in two_views())
    terms = vicreg_terms(first, second)
    expected = [float((first - second).square().mean()), 1 - 1e-2, 0]
    assert [float(term) for term in terms] == pytest.approx(expected, rel=1e-5)
    objective = load_objective("vicreg", {0: 5}, {})
    views = [View(view[None], None) for view in (first, second)]
    with pytest.raises(ValueError, match="batch_size"):
        objective.loss(0, views, None, torch.Generator())
    assert objective.eval().loss(0, views, None, torch.Generator()).loss.isfinite()


def test_losses_are_those_of_lightly():
    loss = pytest.importorskip("lightly.loss")
    first, second = two_views(64, 16)
    assert nt_xent(first, second, 0.1)[0] == pytest.approx(float(loss.NTXentLoss(0.1)(first, second)), rel=1e-4)
    assert cosine_distance(first, second) == pytest.approx(
        2 + 2 * float(loss.NegativeCosineSimilarity()(first, second)), rel=1e-4
    )
    ours = vicreg_terms(first, second)
    theirs = loss.VICRegLoss(lambda_param=1.0, mu_param=1.0, nu_param=0.1)(first, second)
    assert ours.invariance + ours.variance + 0.1 * ours.covariance == pytest.approx(float(theirs), rel=1e-4)
    bank = loss.NTXentLoss(0.1, memory_bank_size=(32, 16))
    bank(first, second)  # the first call makes the queue, the second one uses it
    queue = bank.memory_bank.bank.clone()
    queue = queue.T if queue.shape[0] == 16 else queue
    theirs = bank(first, second)
    keys = torch.nn.functional.normalize(second, dim=1)
    assert queue_info_nce(first, keys, queue, 0.1)[0] == pytest.approx(float(theirs), rel=1e-3)
    dino = loss.DINOLoss(output_dim=16, teacher_temp=0.04, warmup_teacher_temp=0.04, warmup_teacher_temp_epochs=0)
    theirs = float(dino([first, second], [first, second], epoch=0))
    wanted = [torch.softmax(view / 0.04, dim=1) for view in (first, second)]
    ours = (distillation(first, wanted[1], 0.1) + distillation(second, wanted[0], 0.1)) / 2
    assert float(ours) == pytest.approx(theirs, rel=1e-4)


def test_sigreg_is_small_for_a_normal_and_large_for_a_collapsed_embedding():
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(8, 64, generator=generator), dim=0)
    normal = torch.randn(512, 8, generator=generator)
    assert sigreg(normal, directions) < 2  # its expectation is the integral of (1 - exp(-t^2)) exp(-t^2 / 2), 1.06
    assert sigreg(3 * normal, directions) > 20
    assert sigreg(torch.ones(512, 8), directions) > 20


def test_frames_are_drawn_from_real_ones_without_repeats():
    latents, generator = torch.zeros(3, 10, 2), torch.Generator().manual_seed(0)
    mask = torch.arange(10) < torch.tensor([10, 2, 0])[:, None]
    chosen = chosen_frames(latents, mask, 100, generator)
    assert sorted(chosen.tolist()) == [*range(12)]
    assert len(set(chosen_frames(latents, None, 8, generator).tolist())) == 8


# ---------------------------------------------------------------------- views


def tones(frequency=440.0, samples=8000, batch=6):
    time = torch.arange(samples) / RATE
    return 0.1 * torch.sin(2 * math.pi * frequency * time).repeat(batch, 1)


def view(names, waveforms, positions, number=0):
    return augmented(waveforms, positions, names=names, seed=3, view=number, sampling_rate=RATE)


def test_a_crop_has_the_same_view_in_every_batch():
    waveforms = tones() * torch.linspace(0.5, 1, 6)[:, None]
    together = view(AUGMENTATIONS, waveforms, range(6))
    pieces = [slice(place, place + 2) for place in (0, 2, 4)]
    apart = torch.cat([view(AUGMENTATIONS, waveforms[piece], range(piece.start, piece.stop)) for piece in pieces])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-6)
    assert not torch.allclose(together, view(AUGMENTATIONS, waveforms, range(6), number=1), atol=1e-3)
    assert torch.equal(view((), waveforms, range(6)), waveforms)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_change_is_made_to_about_half_of_the_crops(name):
    waveforms = tones(samples=4000, batch=64)
    changed = ((view((name,), waveforms, range(64)) - waveforms).abs().amax(dim=1) > 1e-4).float().mean()
    assert 0.3 < changed < 0.7


def test_changes_keep_time_and_pitch_is_shifted_by_little():
    waveforms = tones(samples=16_000, batch=24)
    waveforms[:, :8000] = 0  # a tone from half a second on
    for name in ("filter", "room", "gain", "pitch"):
        energy = view((name,), waveforms, range(24)).square()
        assert (energy[:, :7400].sum(dim=1) < 0.02 * energy.sum(dim=1)).all(), name
    shifted = view(("pitch",), tones(samples=16_000, batch=24), range(24))
    pitches = torch.fft.rfft(shifted[:, 2000:14_000], RATE).abs().argmax(dim=1)
    assert 440 * 2 ** (-1.6 / 12) < pitches.min() < pitches.max() < 440 * 2 ** (1.6 / 12)
    assert len(set(pitches.tolist())) > 6
    loudness = shifted[:, 2000:14_000].square().mean(dim=1).sqrt()
    assert ((loudness > 0.03) & (loudness < 0.1)).all()


def test_the_level_of_noise_does_not_depend_on_padding():
    waveforms = tones(samples=8000, batch=16)
    mask = torch.ones_like(waveforms).long()
    mask[:, 2000:] = 0
    chosen = {"names": ("noise",), "seed": 3, "view": 0, "sampling_rate": RATE}
    padded = augmented(waveforms * mask, range(16), mask=mask, **chosen)
    # The tone is as loud in its first 2000 samples as in all, so its noise is as well.
    expected = augmented(waveforms, range(16), **chosen)
    torch.testing.assert_close(padded[:, :2000], expected[:, :2000], rtol=0, atol=1e-4)


def test_names_of_changes():
    assert augmentation_names("all") == AUGMENTATIONS
    assert augmentation_names("noise, pitch") == ("pitch", "noise")
    assert augmentation_names("none") == ()
    with pytest.raises(ValueError, match="augmentation"):
        augmentation_names("noise,echo")


@pytest.mark.parametrize("flags", [{"objective": "simclr"}, {"augmentation": "noise"}])
def test_images_and_text_have_no_changes_of_audio(flags, tmp_path):
    corpus = {"corpus": "grammar", "corpus_settings": "{num_train: 8, num_test: 4}", "crop_samples": 32}
    with pytest.raises(SystemExit, match="augmentation"):
        train(tmp_path / "run", **corpus, **flags)


# ---------------------------------------------------------------------- runs


# Those without state of their own differ by their losses alone.
_RESUMED = [pytest.param(name, marks=[pytest.mark.slow] if name in ("simclr", "vicreg") else []) for name in OBJECTIVES]


@pytest.mark.parametrize("objective", _RESUMED)
def test_a_run_that_was_killed_ends_as_if_it_was_not(objective, tmp_path, killed_at):
    flags = {"objective": objective, "objective_settings": "{num_frames: 64}"}
    train(tmp_path / "whole", **flags)
    killed_at(4, lambda: train(tmp_path / "killed", **flags))
    assert (tmp_path / "killed" / "checkpoint-2").is_dir()
    train(tmp_path / "killed", **flags)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    states = [torch.load(tmp_path / name / "checkpoint-4" / "trainer.pt")["task"] for name in ("whole", "killed")]
    assert states[0]
    assert same(*states)
    model = AutoModel.from_pretrained(tmp_path / "whole")
    own = SimModel(SimConfig.preset("sim-small", hidden_size=12, context_size=8))
    assert type(model) is SimModel
    assert model.state_dict().keys() == own.state_dict().keys() == weights(tmp_path / "whole").keys()


@pytest.mark.parametrize("objective", ["moco", "dino"])
def test_an_end_to_end_run_trains_every_layer_by_the_loss_of_the_last(objective, tmp_path):
    config = "{hidden_size: 12, context_size: 8}"
    flags = {"preset": "cpc", "model_settings": config, "objective": objective, "seed": 1}
    train(tmp_path / "short", **flags, max_steps=1, save_steps=1)
    train(tmp_path / "long", **flags)
    before, after = weights(tmp_path / "short"), weights(tmp_path / "long")
    trained = [name for name in after if not torch.equal(before[name], after[name])]
    assert any("layers.0.conv" in name for name in trained)
    assert any("context" in name for name in trained)
    state = torch.load(tmp_path / "long" / "checkpoint-4" / "trainer.pt")["task"]
    assert {name.split(".")[1] for name in state if name.startswith("heads")} == {"1"}  # only of the context


@pytest.fixture
def other_precision():
    """Lets runs have another precision than those before and after in this process."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


@pytest.mark.usefixtures("other_precision")
@pytest.mark.parametrize("objective", _RESUMED)
def test_objectives_run_in_bfloat16_and_with_padding(objective, tmp_path):
    train(
        tmp_path,
        objective=objective,
        objective_settings="{num_frames: 32}",
        mixed_precision="bf16",
        max_steps=1,
        crop_samples=6000,  # longer than some recordings
        corpus_settings="{num_train: 6, num_test: 2, num_syllables: 1, num_speakers: 2}",
        gradient_accumulation_steps=2,
        save_steps=0,
    )
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path).values())


def test_active_units_of_images_are_those_of_all_columns(tmp_path):
    """Images of two columns of patches: the variance is that of the frames of both."""
    settings = "{num_train: 4, num_test: 3, num_frames: 4}"
    layers = "{patch_size: 10, patch_stride: 10, batch_norm_momentum: 1.0}"
    flags = {"corpus": "sprites", "corpus_settings": settings, "crop_samples": 80, "model_settings": layers}
    flags |= {"preset": "gim-small", "augmentation": "none", "objective": "vicreg"}
    train(tmp_path, **flags)
    images = load_corpus("sprites", "test", num_train=4, num_test=3, num_frames=4)
    values = [
        np.asarray(Image().decode_example(image), dtype=np.float32)[None] / 127.5 - 1 for image in images["image"]
    ]
    with torch.no_grad():
        means = SimModel.from_pretrained(tmp_path).eval()(torch.tensor(np.stack(values))).means[0]
    assert len(means) == 2 * len(images)
    trained = json.loads((tmp_path / "results.json").read_text())["modules"][0]["trained"]
    assert trained["active_units"] == (means.flatten(0, 1).var(dim=0, correction=0) > ACTIVE_UNIT_VARIANCE).sum()


def test_augmented_infonce_differs_and_the_default_is_as_ever(tmp_path):
    train(tmp_path / "plain")
    train(tmp_path / "none", augmentation="none", objective="infonce")
    train(tmp_path / "noise", augmentation="noise,gain")
    assert same(weights(tmp_path / "plain"), weights(tmp_path / "none"))
    assert not same(weights(tmp_path / "plain"), weights(tmp_path / "noise"))


class Pull(Objective):
    """A user's objective: latents of one view are near a number, whose weight the last module's optimizer trains."""

    num_views = 1
    metrics = ("offset",)

    def __init__(self, channels, *, wanted=1.0):
        super().__init__(channels)
        self.wanted, self.scale = wanted, torch.nn.Parameter(torch.ones(()))

    def loss(self, module, views, frame_mask, generator):
        assert module in self.channels
        assert frame_mask is None or frame_mask.any()
        assert generator.initial_seed()
        offset = (self.scale * views[0].latents.float()).mean() - self.wanted
        return ObjectiveOutput(offset.square(), {"offset": offset})


def test_an_objective_of_ones_own_is_given_by_its_path(tmp_path, capsys):
    flags = {"objective": f"{__name__}:Pull", "learning_rate": 0.01, "max_steps": 20}
    train(tmp_path / "own", **flags, objective_settings="{wanted: 3.0}")
    assert "offset" in capsys.readouterr().out
    state = torch.load(tmp_path / "own" / "checkpoint-20" / "trainer.pt")["task"]
    assert state["scale"] != 1
    with pytest.raises(SystemExit, match="objective_settings"):
        train(tmp_path / "own", **flags, objective_settings="{wanted: 4.0}")
    results = json.loads((tmp_path / "own" / "results.json").read_text())
    config = SimConfig.from_pretrained(tmp_path / "own")
    with pytest.raises(ValueError, match="objective"):  # a card would call it SIM
        render_card(config, {}, {"results.json": results}, title="t", model_id="m", config_link="c")


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ({"objective": "simcrl"}, "did you mean 'simclr'"),
        ({"objective": "no_such_package.module:Thing"}, "objective"),
        ({"objective": "math:pi"}, "Objective"),
        ({"objective": "moco", "objective_settings": "{que_size: 2}"}, "queue_size"),
        ({"objective": "byol", "objective_settings": "{num_frames: 1}"}, "num_frames"),
        ({"objective": "simclr", "objective_settings": "{temperature: 0}"}, "temperature.*above 0"),
        ({"objective_settings": "{temperature: 2}"}, "objective_settings"),
        ({"objective": "byol", "execution": "sequential"}, "execution"),
        ({"objective": "byol", "execution": "pipeline"}, "execution|several processes"),
        ({"objective": "byol", "gather_negatives": "true"}, "gather_negatives"),
        ({"objective": "byol", "preset": "sim-readable-small", "model_settings": "{}"}, "covariance_weight"),
        ({"augmentation": "echo"}, "augmentation"),
        ({"augmentation": "noise", "execution": "sequential", "cache_latents": "true"}, "cache_latents"),
    ],
)
def test_what_cannot_be_combined_is_named(tmp_path, flags, name):
    with pytest.raises(SystemExit, match=name):
        train(tmp_path / "run", **flags)
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("objective", "setting", "values"),
    [
        ("simclr", "temperature", [0, -0.1, math.nan, math.inf, True, "hot", None, [0.1]]),
        ("simclr", "num_frames", [1, 32.5, "many"]),
        ("moco", "queue_size", [0, -4, "many"]),
        ("moco", "momentum", ["high", -0.1, 1.1]),
        ("byol", "momentum", [2]),
        ("dino", "centering", [5]),
        ("dino", "target_temperature", [0]),
        ("dino", "num_prototypes", [0, 1]),
        ("lejepa", "num_slices", [0]),
        ("lejepa", "weight", [3, -1]),
        ("vicreg", "invariance_weight", [-1]),
        ("vicreg", "variance_weight", [-1]),
        ("vicreg", "covariance_weight", [-1]),
    ],
)
def test_settings_out_of_range_are_named(objective, setting, values):
    for value in values:
        with pytest.raises(ValueError, match=setting):
            load_objective(objective, {0: 4}, {setting: value})


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_setting_has_a_range_that_holds_its_default(objective):
    path, _, attribute = OBJECTIVES[objective].partition(":")
    parameters = inspect.signature(getattr(importlib.import_module(path), attribute)).parameters
    defaults = {name: each.default for name, each in parameters.items() if name != "channels"}
    for name in defaults:
        assert any(isinstance(each, Range) for each in parameters[name].annotation.__metadata__)
    load_objective(objective, {0: 4}, defaults)


def test_a_run_is_not_resumed_with_another_objective(tmp_path, killed_at):
    killed_at(4, lambda: train(tmp_path, objective="simclr"))
    with pytest.raises(SystemExit, match="objective_settings"):
        train(tmp_path, objective="simclr", objective_settings="{temperature: 0.2}")
    with pytest.raises(SystemExit, match="objective"):
        train(tmp_path, objective="vicreg")
    with pytest.raises(SystemExit, match="objective"):
        train(tmp_path)


# ---------------------------------------------------------------------- state


def test_momentum_networks_follow_and_their_momentum_rises():
    config = SimConfig.preset("gim-small", hidden_size=8, context_size=4)
    model = SimModel(config)
    objective = load_objective("byol", {0: 8}, {"momentum": 0.9})
    objective.attach(model)
    before = objective.target_network.context.weight_hh_l0.clone()
    with torch.no_grad():
        model.context.weight_hh_l0.add_(1)
    objective.after_step(model, 0.5)
    torch.testing.assert_close(objective.target_network.context.weight_hh_l0, before + 0.05)
    objective.after_step(model, 1.0)
    torch.testing.assert_close(objective.target_network.context.weight_hh_l0, before + 0.05)
    assert not any(parameter.requires_grad for parameter in objective.target_network.parameters())


def test_a_queue_holds_the_latest_frames_and_only_of_training():
    model = SimModel(SimConfig.preset("gim-small", hidden_size=8, context_size=4))
    objective = load_objective("moco", {0: 8}, {"queue_size": 10, "num_frames": 4})
    objective.attach(model)
    head, generator = objective.heads["0"], torch.Generator().manual_seed(0)
    first = head.queue.clone()
    views = [View(torch.randn(2, 4, 8), torch.randn(2, 4, 8)) for _ in range(2)]
    objective.loss(0, views, None, generator)
    assert torch.equal(head.queue[4:], first[4:])
    assert not (head.queue[:4] == first[:4]).all(dim=1).any()
    for _ in range(2):
        objective.loss(0, views, None, generator)
    assert head.place == 2  # after 12 entries
    now = head.queue.clone()
    objective.eval()
    objective.loss(0, views, None, generator)
    assert torch.equal(head.queue, now)


@pytest.mark.parametrize(("left", "right"), [({}, {"temperature": 0.1}), ({"temperature": 1.0}, {"temperature": 1})])
def test_defaults_may_be_given_when_a_run_resumes(left, right):
    first, second = (load_objective("simclr", {0: 4}, settings) for settings in (left, right))
    assert first.changed_settings == second.changed_settings


def test_scores_of_prototypes_are_in_full_precision_under_autocast():
    model = SimModel(SimConfig.preset("gim-small", hidden_size=8, context_size=4))
    objective = load_objective("dino", {0: 8}, {"num_frames": 4})
    objective.attach(model)
    objective.eval()
    with torch.no_grad():  # projections that bfloat16 represents exactly, so that only scores can lose precision
        for heads in (objective.heads, objective.target_heads):
            heads["0"].projector[-1].weight.zero_()
            heads["0"].projector[-1].bias.copy_(torch.arange(1.0, 9))
    views = [View(torch.randn(1, 4, 8), torch.randn(1, 4, 8)) for _ in range(2)]
    exact = objective.loss(0, views, None, torch.Generator())
    with torch.autocast("cpu", torch.bfloat16):
        found = objective.loss(0, views, None, torch.Generator())
    torch.testing.assert_close(found.loss, exact.loss, rtol=1e-6, atol=0)


def test_all_processes_draw_the_same_directions():
    objective = load_objective("lejepa", {0: 4}, {"num_slices": 3})
    outputs, losses = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0)), []
    for process in (0, 1):
        objective.shared_generator = torch.Generator().manual_seed(5)
        losses.append(objective.frame_loss(0, outputs, None, torch.Generator().manual_seed(process)).loss)
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_processes_agree_on_queues_and_centers(tmp_path):
    script = tmp_path / "agree.py"
    script.write_text(
        "import sys, torch\n"
        "from modeling_sim.commands import pretrain\n"
        "from modeling_sim.trainer.objectives.contract import averaged, gathered\n"
        "from modeling_sim.trainer.objectives.views import ViewTask\n"
        "after = ViewTask.after_step\n"
        "def check(self, progress):\n"
        "    after(self, progress)\n"
        "    state = self.objective.state_dict()\n"
        "    names = [n for n in state if n.endswith(('queue', '0.weight'))]\n"
        "    mean = averaged(torch.tensor([float(torch.distributed.get_rank())]))\n"
        "    assert mean == 0.5\n"
        "    rank = torch.distributed.get_rank()\n"
        "    mine = torch.tensor(self.objective.shared_generator.initial_seed())\n"
        "    other = mine.clone(); torch.distributed.broadcast(other, src=0)\n"
        "    assert mine == other\n"
        "    rows = gathered(torch.full((2 + rank, 3), float(rank)))\n"
        "    assert rows.tolist() == [[0.0] * 3] * 2 + [[1.0] * 3] * 2\n"
        "    mine = torch.cat([state[n].flatten() for n in names])\n"
        "    other = mine.clone(); torch.distributed.broadcast(other, src=0)\n"
        "    assert names and torch.equal(mine, other), names\n"
        "    open(f'{sys.argv[-1]}-checked-{torch.distributed.get_rank()}', 'a').write('x')\n"
        "ViewTask.after_step = check\n"
        "pretrain.main()\n"
    )
    settings = TINY | {"--max_steps": "2", "--objective": "moco", "--objective_settings": "{num_frames: 16}"}
    flags = [word for pair in settings.items() for word in pair]
    launch(2, script, *flags, "--output_dir", tmp_path / "run")
    assert [(tmp_path / f"run-checked-{rank}").read_text() for rank in (0, 1)] == ["xx", "xx"]
