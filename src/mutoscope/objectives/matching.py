"""Distribution matching (DMD, arXiv 2311.18828) on the student's own clips, in the form of Causal Forcing (2602.02214)."""

import torch
from torch import Tensor


def matching_gradient(student_x0: Tensor, critic_x0: Tensor, teacher_x0: Tensor, mask: Tensor) -> Tensor:
    """(critic - teacher) / max(1e-3, mean over the clip |student - teacher|), zero where `mask` `[B, F]` is 0.

    The direction in which the student's distribution differs from the teacher's: both x0 predictions are of
    the same noised student clip `[B, F, C, H, W]`.
    """
    frames = mask.to(student_x0.dtype)[:, :, None, None, None].expand_as(student_x0)
    distance = ((student_x0 - teacher_x0).abs() * frames).sum(dim=(1, 2, 3, 4), keepdim=True)
    scale = (distance / frames.sum(dim=(1, 2, 3, 4), keepdim=True).clamp_min(1)).clamp_min(1e-3)
    return (critic_x0 - teacher_x0) / scale * frames


def matching_loss(student_x0: Tensor, gradient: Tensor, mask: Tensor) -> Tensor:
    """0.5 mean over masked frames (x - stopgrad(x - g))^2, whose gradient with respect to x is g / (number of entries)."""
    frames = mask.to(student_x0.dtype)[:, :, None, None, None].expand_as(student_x0)
    target = (student_x0 - gradient).detach()
    error = (student_x0 - target).to(torch.promote_types(student_x0.dtype, torch.float32)).square()
    return 0.5 * (error * frames).sum() / frames.sum().clamp_min(1)
