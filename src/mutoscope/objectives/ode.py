"""Regression on the end points of a teacher's ODE trajectories (Causal Forcing, arXiv 2602.02214, section 3)."""

import torch
from torch import Tensor

from mutoscope.noise.schedule import x0_from_velocity


def ode_loss(x_sigma: Tensor, velocity: Tensor, sigma: Tensor, end_point: Tensor) -> Tensor:
    """|| x_sigma - sigma v(x_sigma) - end_point ||^2 averaged."""
    error = x0_from_velocity(x_sigma, velocity, sigma) - end_point
    return error.to(torch.promote_types(error.dtype, torch.float32)).square().mean()
