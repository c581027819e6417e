"""What `docs/theory.md` proves, on sources that are known: which critic finds the axes."""

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from modeling_sim.objectives_sim import autocorrelations, covariance_penalty, info_nce, lagged_covariance_penalty

LEARNING_RATE = 2e-2
OFFSETS = [1, 2, 4, 8, 16, 32]
CORRELATIONS = torch.tensor([0.5, 0.7, 0.82, 0.9, 0.95, 0.99])


def sources(batch, frames, generator):
    """Stationary Gaussian processes of unit variance `(batch, frames, sources)`, one autocorrelation each."""
    noise = torch.randn(frames, batch, len(CORRELATIONS), generator=generator)
    states = [noise[0]]
    for step in noise[1:]:
        states.append(CORRELATIONS * states[-1] + (1 - CORRELATIONS.square()).sqrt() * step)
    return torch.stack(states, dim=1)


def matched_correlation(latents, true):
    """Mean absolute correlation of sources with latents after the best one-to-one matching."""
    dims = true.shape[-1]
    table = torch.corrcoef(torch.cat([latents.flatten(0, 1), true.flatten(0, 1)], dim=1).T)[:dims, dims:].abs()
    rows, columns = linear_sum_assignment(-table.numpy())
    return table[rows, columns].mean().item()


def fit(encoder, critic, mix, *, steps, batch=8, frames=64, whiteness=0.0):
    """Trains an encoder of mixed sources with a critic; the matched correlation on new sources."""
    generator = torch.Generator().manual_seed(0)
    dims = len(CORRELATIONS)
    weight = torch.eye(dims).repeat(len(OFFSETS), 1, 1).requires_grad_()
    optimizer = torch.optim.Adam([{"params": list(encoder.parameters())}, {"params": [weight]}], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        latents = encoder(mix(sources(batch, frames, generator)))
        loss = info_nce(
            latents,
            latents,
            autocorrelations(latents, latents, OFFSETS) if critic == "gaussian" else weight,
            offsets=OFFSETS,
            num_negatives=127,
            negative_sharing="batch",
            generator=generator,
        ).loss
        if whiteness:
            loss = loss + whiteness * covariance_penalty(latents) + lagged_covariance_penalty(latents, OFFSETS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        held_out = sources(64, 256, generator)
        return matched_correlation(encoder(mix(held_out)), held_out)


def rotation(seed):
    return torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(seed)))[0]


def orthogonal_encoder():
    torch.manual_seed(1)
    layer = torch.nn.Linear(6, 6, bias=False)
    return torch.nn.utils.parametrizations.orthogonal(layer)


def nonlinear_encoder():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 48), torch.nn.LeakyReLU(0.2), torch.nn.Linear(48, 6))


def recovered(make_encoder, mix, **settings):
    """What each critic finds from the same start, by `fit`."""
    return {critic: fit(make_encoder(), critic, mix, **settings) for critic in ("gaussian", "bilinear")}


def test_the_gaussian_critic_undoes_a_rotation_and_the_bilinear_one_cannot():
    turn = rotation(0)
    found = recovered(orthogonal_encoder, lambda latents: latents @ turn, steps=150)
    assert found["gaussian"] > 0.95
    assert found["bilinear"] < 0.7


def test_the_gaussian_critic_undoes_a_nonlinear_mix_and_the_bilinear_one_cannot():
    first, second = rotation(1), rotation(2)

    def mix(latents):  # invertible: rotations and a leaky rectifier
        return torch.nn.functional.leaky_relu(latents @ first, 0.4) @ second

    mixed = sources(64, 256, torch.Generator().manual_seed(3))
    assert matched_correlation(mix(mixed), mixed) < 0.8
    found = recovered(nonlinear_encoder, mix, steps=250, whiteness=1.0)
    assert found["gaussian"] > 0.9
    assert found["bilinear"] < 0.8


@pytest.mark.parametrize("seed", [0, 1])
def test_the_population_value_is_largest_on_the_sources_axes(seed):
    turn = rotation(seed)
    profiles = CORRELATIONS[None] ** torch.tensor(OFFSETS)[:, None]  # (lags, sources)

    def value(mixing):
        """Sum over lags and dimensions of the mutual information of a stationary Gaussian transition."""
        rotated = profiles @ mixing.square().T
        return -0.5 * torch.log1p(-rotated.square()).sum().item()

    assert value(turn) < value(torch.eye(6))
    assert value(torch.eye(6)[torch.randperm(6)]) == pytest.approx(value(torch.eye(6)))
