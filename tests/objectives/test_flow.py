"""The flow loss has its minimum at the conditional mean; the bell weight has mean 1."""

import pytest
import torch

from gaussian import Gaussian
from mutoscope.core.streams import normal, stream
from mutoscope.noise.schedule import add_noise, velocity_target
from mutoscope.objectives.flow import WEIGHTS, bell_weight, flow_loss, no_weight

SHAPE = (4000, 1, 1, 2, 2)


def loss_of(believed: Gaussian, sigma_value: float) -> float:
    """Loss, on data N(.7, .5^2), of a network that believes in another Gaussian."""
    x0 = 0.7 + 0.5 * normal(SHAPE, stream(0, "x0"), torch.float64)
    noise = normal(SHAPE, stream(0, "noise"), torch.float64)
    sigma = torch.full(SHAPE[:2], sigma_value, dtype=torch.float64)
    velocity = believed.velocity(add_noise(x0, noise, sigma), sigma)
    return float(flow_loss(velocity, velocity_target(x0, noise), no_weight(sigma)))


@pytest.mark.parametrize("sigma", [0.1, 0.5, 0.9])
def test_the_true_velocity_field_is_the_minimum(sigma):
    best = loss_of(Gaussian(0.7, 0.5), sigma)
    variance = (1 - sigma) ** 2 * 0.25 + sigma**2
    assert best == pytest.approx(0.25 / variance, rel=0.05)  # Var(noise - x0 | x_sigma)
    for wrong in (Gaussian(0.5, 0.5), Gaussian(0.7, 0.8), Gaussian(0.7, 0.3)):
        assert loss_of(wrong, sigma) > best


def test_weights_count_frames():
    velocity, target = torch.zeros(1, 2, 1, 1, 2), torch.tensor([1.0, 1, 2, 2]).view(1, 2, 1, 1, 2)
    assert float(flow_loss(velocity, target, torch.tensor([[1.0, 3.0]]))) == (1 * 1 + 3 * 4) / 2


def test_halves_are_summed_wide():
    error = torch.full((1, 1, 1, 64, 64), 30.0, dtype=torch.float16)
    assert float(flow_loss(error, -error, torch.ones(1, 1))) == 3600.0


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_have_mean_one(name):
    sigma = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    assert float(WEIGHTS[name](sigma).mean()) == pytest.approx(1.0, abs=1e-9)


def test_the_bell_is_zero_at_both_ends_and_highest_in_the_middle():
    values = bell_weight(torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64))
    assert values[[0, 4]].abs().max() < 1e-15 and values.argmax() == 2 and torch.isclose(values[1], values[3])
