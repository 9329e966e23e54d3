"""Random noise levels for training, from named generators, float32 `[batch, count]`."""

import torch
from torch import Tensor

from mutoscope.noise.schedule import shift


def shifted_uniform(batch: int, count: int, k: float, generator: torch.Generator) -> Tensor:
    """shift_k(u), u uniform in [0, 1)."""
    return shift(torch.rand(batch, count, generator=generator, device=generator.device), k)


def shifted_logit_normal(batch: int, count: int, k: float, generator: torch.Generator) -> Tensor:
    """shift_k(sigmoid(z)), z standard normal (SD3, arXiv 2403.03206, section 3.1)."""
    return shift(torch.randn(batch, count, generator=generator, device=generator.device).sigmoid(), k)


SAMPLERS = {"uniform": shifted_uniform, "logit-normal": shifted_logit_normal}
