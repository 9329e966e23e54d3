"""Consistency distillation where everything is known in closed form."""

import pytest
import torch

from gaussian import Gaussian
from mutoscope.core.streams import normal, stream
from mutoscope.noise.schedule import add_noise, uniform_grid, velocity_target
from mutoscope.objectives.consistency import consistency_loss, consistency_pair

SHAPE = (3, 4, 2, 2, 2)
DATA = Gaussian(0.7, 0.5)


def levels(index: int, k: float = 5.0) -> tuple[torch.Tensor, torch.Tensor]:
    """sigma_i and sigma_i+1 of a grid of 8 steps, `[3, 4]`."""
    grid = uniform_grid(8, k)
    return grid[index].expand(SHAPE[:2]), grid[index + 1].expand(SHAPE[:2])


def loss_of_the_exact_student(index: int, k_of_student: float) -> float:
    """Loss on an exact pair when the student (and its average) is the exact consistency function of a grid shifted by `k_of_student`."""
    (now, after), (believed_now, believed_after) = levels(index), levels(index, k_of_student)
    z = normal(SHAPE, stream(0, "trajectories"), torch.float64)
    x_now, x_after = DATA.on_trajectory(z, now), DATA.on_trajectory(z, after)
    student, target = DATA.consistency_velocity(x_now, believed_now), DATA.consistency_velocity(x_after, believed_after)
    return float(consistency_loss(x_now, student, now, x_after, target, after))


@pytest.mark.parametrize("index", range(7))
def test_the_exact_consistency_function_loses_nothing(index):
    assert loss_of_the_exact_student(index, 5.0) < 1e-24


@pytest.mark.parametrize("index", range(1, 7))
def test_consistency_broken_twin_with_another_shift(index):
    assert loss_of_the_exact_student(index, 3.0) > 1e-5


def test_the_last_pair_anchors_x0():
    now, after = levels(7)
    x0 = normal(SHAPE, stream(0, "x0"), torch.float64)
    x_now = add_noise(x0, normal(SHAPE, stream(0, "noise"), torch.float64), now)
    anything = normal(SHAPE, stream(0, "network"), torch.float64)
    perfect, lost = (consistency_loss(x_now, (x_now - guess) / now[0, 0], now, x0, anything, after) for guess in (x0, x0 + 0.5))
    assert float(perfect) < 1e-24 and float(lost) == pytest.approx(0.25)


def test_a_teacher_of_one_picture_steps_exactly():
    now, after = levels(3)
    x0, noise = torch.full(SHAPE, 0.7, dtype=torch.float64), normal(SHAPE, stream(0, "noise"), torch.float64)
    partner = consistency_pair(add_noise(x0, noise, now), velocity_target(x0, noise), now, after)
    assert torch.allclose(partner, add_noise(x0, noise, after), atol=1e-14)


def distance_after(steps: int) -> float:
    """How far from the true end point Euler steps with the true velocity field end, root mean square."""
    grid = uniform_grid(steps, 5.0)
    z = normal(SHAPE, stream(0, "trajectories"), torch.float64)
    x = z
    for index in range(steps):
        now, after = grid[index].expand(SHAPE[:2]), grid[index + 1].expand(SHAPE[:2])
        x = consistency_pair(x, DATA.velocity(x, now), now, after)
    return float((x - DATA.end_point(z, torch.ones(SHAPE[:2], dtype=torch.float64))).square().mean().sqrt())


def test_finer_grids_come_closer_to_the_true_end_point():
    assert distance_after(8) > 1.8 * distance_after(16) > 3.2 * distance_after(32)
    assert distance_after(256) < 0.01


def test_only_the_student_receives_gradient():
    now, after = levels(3)
    x = normal(SHAPE, stream(0, "x"), torch.float64)
    student, target = torch.zeros_like(x, requires_grad=True), torch.ones_like(x, requires_grad=True)
    consistency_loss(x, student, now, x, target, after).backward()
    assert student.grad is not None and student.grad.abs().min() > 0 and target.grad is None
