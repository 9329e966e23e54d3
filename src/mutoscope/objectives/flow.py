"""Flow matching (arXiv 2210.02747): regress the velocity of the straight path."""

import torch
from torch import Tensor


def no_weight(sigma: Tensor) -> Tensor:
    """1 everywhere."""
    return torch.ones_like(sigma)


def bell_weight(sigma: Tensor) -> Tensor:
    """exp(-2 (s - .5)^2) minus its value at 0 and 1, with mean 1 for s uniform in [0, 1] (Causal Forcing, 2602.02214)."""
    floor = torch.exp(torch.tensor(-0.5, dtype=sigma.dtype, device=sigma.device))
    mean = 0.8556243918921488 - 0.6065306597126334  # integral of exp(-2 (s - .5)^2) over [0, 1] minus exp(-1/2)
    return (torch.exp(-2 * (sigma - 0.5) ** 2) - floor) / mean


WEIGHTS = {"none": no_weight, "bell": bell_weight}


def flow_loss(velocity: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """mean of weight * ||velocity - target||^2; `[B, F, C, H, W]`, weight `[B, F]`. Errors are summed in float32 or wider."""
    error = (velocity - target).to(torch.promote_types(velocity.dtype, torch.float32)).square().mean(dim=(2, 3, 4))
    return (weight.to(error.dtype) * error).mean()
