"""Noise levels and the straight path between data and noise (rectified flow, arXiv 2209.03003).

    x_sigma = (1 - sigma) x0 + sigma noise        velocity = noise - x0        x0 = x_sigma - sigma velocity

sigma is in [0, 1]: 0 clean, 1 pure noise. There is one schedule, `shift`; every grid is built from it here,
so that no two parts of a run can disagree about it.
"""

import torch
from torch import Tensor

from mutoscope.core.errors import ConfigError


def shift(sigma: Tensor, k: float) -> Tensor:
    """k s / (1 + (k - 1) s): more time at high noise for k > 1 (SD3, arXiv 2403.03206, eq. 23).

    Written with k s + (1 - s) below the line, so that 0 and 1 stay exactly 0 and 1 for every k.
    """
    return k * sigma / (k * sigma + (1 - sigma))


def uniform_grid(num_steps: int, k: float) -> Tensor:
    """The shifted grid `[num_steps + 1]` in float64, from exactly 1 down to exactly 0."""
    if num_steps < 1:
        raise ConfigError(f"a grid needs at least one step, got {num_steps}")
    return shift(torch.linspace(1, 0, num_steps + 1, dtype=torch.float64), k)


def few_step_levels(num_steps: int, k: float) -> Tensor:
    """Levels at which a few-step student is asked for x0, `[num_steps]`: shift of 1, (n-1)/n, ..., 1/n (2602.02214, section 4)."""
    return uniform_grid(num_steps, k)[:-1]


def broadcast_sigma(sigma: Tensor, latents: Tensor) -> Tensor:
    """`[batch, frame]` -> `[batch, frame, 1, 1, 1]` in the latents' type."""
    if sigma.shape != latents.shape[:2]:
        raise ConfigError(f"sigma is {tuple(sigma.shape)}; for latents {tuple(latents.shape)} it must be {tuple(latents.shape[:2])}")
    return sigma.to(latents.dtype)[:, :, None, None, None]


def add_noise(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """(1 - sigma) x0 + sigma noise, for latents `[B, F, C, H, W]` and sigma `[B, F]`."""
    level = broadcast_sigma(sigma, x0)
    return (1 - level) * x0 + level * noise


def velocity_target(x0: Tensor, noise: Tensor) -> Tensor:
    """noise - x0."""
    return noise - x0


def x0_from_velocity(x_sigma: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
    """x_sigma - sigma velocity."""
    return x_sigma - broadcast_sigma(sigma, x_sigma) * velocity


def euler_step(x_sigma: Tensor, velocity: Tensor, sigma: Tensor, next_sigma: Tensor) -> Tensor:
    """One Euler step of the probability-flow ODE from `sigma` to `next_sigma`: x - (sigma - next_sigma) velocity."""
    return x_sigma - broadcast_sigma(sigma - next_sigma, x_sigma) * velocity


def per_chunk(values: Tensor, chunk_lengths: tuple[int, ...]) -> Tensor:
    """Spread one value per chunk `[batch, chunk]` to its frames: `[batch, frame]`."""
    lengths = torch.tensor(chunk_lengths, device=values.device)
    if values.shape[1] != len(chunk_lengths):
        raise ConfigError(f"{values.shape[1]} values for {len(chunk_lengths)} chunks")
    return values.repeat_interleave(lengths, dim=1)
