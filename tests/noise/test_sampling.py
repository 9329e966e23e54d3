"""Training levels: named, in range, distributed as they say."""

import pytest
import torch

from mutoscope.core.streams import stream
from mutoscope.noise.sampling import SAMPLERS
from mutoscope.noise.schedule import shift


@pytest.mark.parametrize("name", SAMPLERS)
def test_levels_repeat_and_lie_between_clean_and_noise(name):
    first, again, other = (SAMPLERS[name](4, 5, 3.0, stream(seed, "sigma")) for seed in (0, 0, 1))
    assert first.shape == (4, 5) and torch.equal(first, again) and not torch.equal(first, other)
    assert (first >= 0).all() and (first <= 1).all()


def quantile_distance(sigma: torch.Tensor, quantiles: torch.Tensor) -> float:
    """Largest distance between the empirical and the expected deciles."""
    probabilities = torch.linspace(0.1, 0.9, 9)
    return float((sigma.flatten().quantile(probabilities) - quantiles).abs().max())


@pytest.mark.parametrize("name", SAMPLERS)
def test_levels_have_their_distribution(name):
    probabilities = torch.linspace(0.1, 0.9, 9)
    base = {"uniform": probabilities, "logit-normal": torch.special.ndtri(probabilities).sigmoid()}[name]
    sigma = SAMPLERS[name](200, 100, 5.0, stream(0, "sigma"))
    assert quantile_distance(sigma, shift(base, 5.0)) < 0.02
    assert quantile_distance(sigma, shift(base, 1.0)) > 0.02
