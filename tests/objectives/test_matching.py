"""Distribution matching by hand: direction, scale, mask and gradient."""

import pytest
import torch
from torch import Tensor

from gaussian import Gaussian
from mutoscope.core.streams import normal, stream
from mutoscope.noise.schedule import add_noise, x0_from_velocity
from mutoscope.objectives.matching import matching_gradient, matching_loss

SHAPE = (2, 3, 1, 1, 2)


def full(*values: float) -> Tensor:
    """Clips of SHAPE with one value per clip."""
    return torch.tensor(values, dtype=torch.float64).view(2, 1, 1, 1, 1).expand(SHAPE)


def test_no_gradient_where_critic_and_teacher_agree():
    student, score = (normal(SHAPE, stream(seed, "x"), torch.float64) for seed in range(2))
    assert not matching_gradient(student, score, score, torch.ones(2, 3)).any()


def test_direction_and_scale_by_hand():
    gradient = matching_gradient(full(1.0, 4.0), full(3.0, 0.0), full(2.0, 2.0), torch.ones(2, 3))
    assert torch.equal(gradient, full((3 - 2) / 1, (0 - 2) / 2))


def test_the_scale_is_bounded_below():
    gradient = matching_gradient(full(2.0, 2.0), full(2.5, 1.0), full(2.0, 2.0), torch.ones(2, 3))
    assert torch.allclose(gradient, full(500.0, -1000.0))


def test_masked_frames_count_for_nothing():
    mask = torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
    student, critic, teacher = full(1.0, 1.0).clone(), full(5.0, 5.0), full(3.0, 2.0)
    expected = matching_gradient(student, critic, teacher, torch.ones(2, 3)) * mask[:, :, None, None, None]
    student[:, 0] = 1e6
    assert torch.equal(matching_gradient(student, critic, teacher, mask), expected)
    loss = matching_loss(student, expected, mask)
    assert float(loss) == pytest.approx(0.5 * (2 * 1.0**2 + 1 * 3.0**2) / 3)


def test_the_loss_has_the_given_gradient():
    student = normal(SHAPE, stream(0, "x"), torch.float64).requires_grad_()
    wanted = normal(SHAPE, stream(1, "x"), torch.float64)
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    masked = wanted * mask[:, :, None, None, None]
    matching_loss(student, masked, mask).backward()
    assert torch.allclose(student.grad, masked / (5 * 2), atol=1e-15)


def mean_step(student_mean: float, critic_mean: float) -> float:
    """Mean gradient on a student N(student_mean, 1) whose critic believes in critic_mean; the teacher's data is N(0, 1)."""
    shape = (64, 4, 1, 2, 2)
    student = student_mean + normal(shape, stream(0, "student"), torch.float64)
    sigma = torch.full(shape[:2], 0.6, dtype=torch.float64)
    noised = add_noise(student, normal(shape, stream(0, "noise"), torch.float64), sigma)
    scores = (x0_from_velocity(noised, Gaussian(mean, 1.0).velocity(noised, sigma), sigma) for mean in (critic_mean, 0.0))
    return float(matching_gradient(student, *scores, torch.ones(shape[:2])).mean())


def test_descent_moves_a_gaussian_student_towards_the_teacher():
    assert mean_step(0.5, 0.5) > 0.1 and mean_step(-0.5, -0.5) < -0.1
    assert mean_step(0.0, 0.0) == 0.0


def test_descent_broken_twin_with_a_critic_of_another_student():
    assert not mean_step(0.5, -0.5) > 0.1
