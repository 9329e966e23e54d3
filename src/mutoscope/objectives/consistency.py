"""Causal consistency distillation (Causal Forcing++, arXiv 2605.15141; consistency models, arXiv 2303.01469)."""

import torch
from torch import Tensor

from mutoscope.noise.schedule import euler_step, x0_from_velocity


def consistency_pair(x_now: Tensor, guided_velocity: Tensor, sigma_now: Tensor, sigma_next: Tensor) -> Tensor:
    """The partner of x_now on the teacher's trajectory: one Euler step, never stored."""
    return euler_step(x_now, guided_velocity, sigma_now, sigma_next)


def consistency_loss(
    x_now: Tensor, velocity_now: Tensor, sigma_now: Tensor, x_next: Tensor, velocity_next: Tensor, sigma_next: Tensor
) -> Tensor:
    """|| G(x_i, s_i) - stopgrad G_ema(x_i+1, s_i+1) ||^2 averaged, with G(x, s) = x - s v(x, s), so that G(x, 0) = x."""
    student = x0_from_velocity(x_now, velocity_now, sigma_now)
    target = x0_from_velocity(x_next, velocity_next, sigma_next).detach()
    return (student - target).to(torch.promote_types(student.dtype, torch.float32)).square().mean()
