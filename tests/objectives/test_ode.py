"""Regression on end points: zero for the exact student, by hand otherwise."""

import pytest
import torch

from gaussian import Gaussian
from mutoscope.core.streams import normal, stream
from mutoscope.objectives.ode import ode_loss

SHAPE = (2, 3, 1, 2, 2)


def test_the_exact_student_loses_nothing_and_a_wrong_one_its_error():
    data, sigma = Gaussian(-0.3, 0.8), torch.full(SHAPE[:2], 0.625, dtype=torch.float64)
    x = data.on_trajectory(normal(SHAPE, stream(0, "z"), torch.float64), sigma)
    end = data.end_point(x, sigma)
    velocity = data.consistency_velocity(x, sigma)
    assert float(ode_loss(x, velocity, sigma, end)) < 1e-24
    assert float(ode_loss(x, velocity + 0.4, sigma, end)) == pytest.approx((0.625 * 0.4) ** 2)
    assert float(ode_loss(x, data.velocity(x, sigma), sigma, end)) > 1e-3  # the conditional mean is another function
