"""3-D rotary positions as in Wan 2.1: each head's channel pairs are split among time, height and width. And addresses of learned memories.

Angles are computed in float64 and only then rounded: in float32 they are off by 2e-3 rad at position 1e5.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from mutoscope.core.shapes import TokenGrid, rope_split

THETA = 10_000.0
GOLDEN = (5**0.5 - 1) / 2


def axis_angles(positions: Tensor, channels: int) -> Tensor:
    """Angles `[..., channels / 2]` in float64: position * theta^(-2 i / channels) (RoFormer, arXiv 2104.09864)."""
    return positions.to(torch.float64)[..., None] * axis_rates(channels, positions.device)


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # kept for training too, whoever asks first
def axis_rates(channels: int, device: torch.device) -> Tensor:
    """theta^(-2 i / channels) `[channels / 2]` in float64: radians per position. Shared: nobody writes into it."""
    return THETA ** -(torch.arange(0, channels, 2, dtype=torch.float64, device=device) / channels)


def rotation_type(dtype: torch.dtype) -> torch.dtype:
    """The complex type in which queries and keys of a type are turned: double for double, single for all else."""
    return torch.complex128 if dtype == torch.float64 else torch.complex64


def rotations(positions: Tensor, grid: TokenGrid, head_dim: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Unit complex numbers `[..., frames * tokens, head_dim / 2]` that turn x of `dtype`, for frame positions `[..., frames]`."""
    time, height, width = rope_split(head_dim)
    rows = axis_angles(torch.arange(grid.height, device=positions.device), height)
    columns = axis_angles(torch.arange(grid.width, device=positions.device), width)
    shape = (*positions.shape, grid.height, grid.width)
    angles = torch.cat(
        [
            axis_angles(positions, time)[..., None, None, :].expand(*shape, time // 2),
            rows[:, None, :].expand(*shape, height // 2),
            columns[None, :, :].expand(*shape, width // 2),
        ],
        dim=-1,
    )
    angles = angles.flatten(-4, -2)
    return torch.polar(torch.ones_like(angles), angles).to(rotation_type(dtype))


def travel_rotations(places: Tensor, grid: TokenGrid, head_dim: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Unit complex numbers `[B, 1, frames * tokens, head_dim / 2]` that move frames' tokens by `places` `[B, F, 2]`.

    Places are in picture heights and widths. Rotations compose: turning by these and then by `rotations` adds the positions.
    """
    time, height, width = rope_split(head_dim)
    down, right = places[..., 0] * grid.height, places[..., 1] * grid.width
    still = places.new_zeros(*places.shape[:2], time // 2)
    angles = torch.cat([still, axis_angles(down, height), axis_angles(right, width)], dim=-1)
    return _of_tokens(torch.polar(torch.ones_like(angles), angles).to(rotation_type(dtype)), grid)


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def address_rates(head_dim: int, device: torch.device) -> Tensor:
    """How fast each channel pair of an address turns per token down and per token right: float64 `[head_dim / 2, 2]`.

    Rotary positions would not do: most of their pairs turn by far less than a radian per token, and an axis has pairs of its own, so that
    two places that share a column, or lie ten apart, are told by almost the same key. Attention's exponential makes up for that; a linear
    state has none. Here each pair turns with both axes, at rates of up to pi per token that fill the square of all such rates evenly (a
    lattice): the mean of `cos(rate . distance)` over the pairs, which is what equal keys say of each other, is 1 at distance 0 and near 0
    from the next token on. (Random Fourier features, Rahimi and Recht 2007, on a lattice instead of drawn.)
    """
    pair = torch.arange(head_dim // 2, dtype=torch.float64, device=device)
    return torch.stack([math.pi * (2 * (pair * GOLDEN % 1) - 1), math.pi * (pair + 0.5) / len(pair)], dim=-1)


def address_turns(places: Tensor, head_dim: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Unit complex numbers `[..., head_dim / 2]` that turn addresses to places `[..., 2]`, in tokens down and right. They compose."""
    angles = places.to(torch.float64) @ address_rates(head_dim, places.device).T
    return torch.polar(torch.ones_like(angles), angles).to(rotation_type(dtype))


def screen_addresses(frames: int, grid: TokenGrid, head_dim: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Those of the places on the screen: `[frames * tokens, head_dim / 2]`, the same for every frame."""
    rows, columns = torch.arange(grid.height, device=device), torch.arange(grid.width, device=device)
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)
    return address_turns(places, head_dim, dtype).repeat(frames, 1)


def travel_addresses(places: Tensor, grid: TokenGrid, head_dim: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Those that move frames' tokens by `places` `[B, F, 2]`, in picture heights and widths: `[B, 1, frames * tokens, head_dim / 2]`."""
    return _of_tokens(address_turns(places * places.new_tensor([grid.height, grid.width]), head_dim, dtype), grid)


def _of_tokens(turns: Tensor, grid: TokenGrid) -> Tensor:
    """One turn per frame `[B, F, D / 2]` -> one per token, for all heads: `[B, 1, F * tokens, D / 2]`."""
    return turns[:, None, :, None].expand(-1, -1, -1, grid.tokens, -1).flatten(2, 3)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate neighbouring channel pairs of `[..., tokens, head_dim]` by `[..., tokens, head_dim / 2]`; float64 stays float64."""
    wide = x if x.dtype == torch.float64 else x.float()
    pairs = torch.view_as_complex(wide.view(*wide.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * rotation).flatten(-2).to(x.dtype)


def turned(layer: int, x: Tensor, rotation: Tensor) -> Tensor:
    """`rotate` for a layer's own attention; its camera attention, layer ~l (models.camera), is not turned."""
    return x if layer < 0 else rotate(x, rotation)


def rotate_pairs(x: Tensor, rotation: Tensor) -> Tensor:
    """`rotate` without complex numbers, which compilers do not fuse; as it is, it takes longer."""
    wide = x if x.dtype == torch.float64 else x.float()
    even, odd = wide.unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = torch.view_as_real(rotation).unbind(-1)
    return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1).flatten(-2).to(x.dtype)
