"""The one schedule: shift, grids, and the ways between x0, noise and velocity."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mutoscope.core.errors import ConfigError
from mutoscope.core.streams import normal, stream
from mutoscope.noise.schedule import (
    add_noise,
    euler_step,
    few_step_levels,
    per_chunk,
    shift,
    uniform_grid,
    velocity_target,
    x0_from_velocity,
)

SHAPE = (2, 3, 4, 3, 5)
shifts = st.floats(0.2, 12)
levels = st.lists(st.floats(0, 1), min_size=6, max_size=6).map(lambda values: torch.tensor(values, dtype=torch.float64).view(2, 3))


def random_pair() -> tuple[Tensor, Tensor]:
    """x0 and noise in float64."""
    return normal(SHAPE, stream(0, "x0"), torch.float64), normal(SHAPE, stream(0, "noise"), torch.float64)


def returns_to_x0(sigma: Tensor, sigma_of_conversion: Tensor) -> bool:
    """Noising with one sigma and converting with another must give x0 back: so they must be the same."""
    x0, noise = random_pair()
    recovered = x0_from_velocity(add_noise(x0, noise, sigma), velocity_target(x0, noise), sigma_of_conversion)
    return torch.allclose(recovered, x0, atol=1e-12)


@settings(max_examples=40)
@given(levels)
def test_x0_and_velocity_are_two_names_of_one_thing(sigma):
    assert returns_to_x0(sigma, sigma)


def test_x0_and_velocity_broken_twin_with_two_shifts():
    sigma = torch.full((2, 3), 0.4, dtype=torch.float64)
    assert not returns_to_x0(shift(sigma, 5.0), shift(sigma, 3.0))


@settings(max_examples=40)
@given(levels, levels)
def test_an_euler_step_on_the_straight_path_stays_on_it(now, after):
    x0, noise = random_pair()
    stepped = euler_step(add_noise(x0, noise, now), velocity_target(x0, noise), now, after)
    assert torch.allclose(stepped, add_noise(x0, noise, after), atol=1e-12)


def inverts(back: Callable[[Tensor, float], Tensor], k: float) -> bool:
    """Whether `back` undoes the shift by k on [0, 1]."""
    sigma = torch.linspace(0, 1, 33, dtype=torch.float64)
    return torch.allclose(back(shift(sigma, k), k), sigma, atol=1e-10)


@settings(max_examples=40)
@given(shifts)
def test_the_inverse_of_a_shift_is_the_shift_by_one_over_k(k):
    assert inverts(lambda sigma, k: shift(sigma, 1 / k), k)


def test_shift_inverse_broken_twin():
    assert not inverts(shift, 5.0)


@settings(max_examples=40)
@given(st.integers(1, 64), shifts)
def test_grids_fall_from_exactly_one_to_exactly_zero(steps, k):
    grid = uniform_grid(steps, k)
    assert grid.dtype == torch.float64 and len(grid) == steps + 1
    assert grid[0] == 1 and grid[-1] == 0 and (grid.diff() < 0).all()


def test_few_step_levels_of_the_papers():
    expected = {1: [1], 2: [1, 5 / 6], 4: [1, 0.9375, 5 / 6, 0.625]}
    for steps, values in expected.items():
        assert few_step_levels(steps, 5.0).tolist() == pytest.approx(values, abs=1e-15)


def test_a_grid_without_steps_is_refused():
    with pytest.raises(ConfigError, match="got 0"):
        uniform_grid(0, 5.0)


def test_sigma_is_one_level_per_frame():
    x0, noise = random_pair()
    with pytest.raises(ConfigError, match=r"sigma is \(2,\).* must be \(2, 3\)"):
        add_noise(x0, noise, torch.zeros(2))


def test_levels_of_chunks_spread_to_frames():
    spread = per_chunk(torch.tensor([[0.1, 0.2, 0.3]]), (1, 3, 2))
    assert spread.tolist() == torch.tensor([[0.1, 0.2, 0.2, 0.2, 0.3, 0.3]]).tolist()
    with pytest.raises(ConfigError, match="3 values for 2 chunks"):
        per_chunk(torch.zeros(1, 3), (1, 3))
