"""Rotary positions: exact far out, relative, and split as in Wan."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mutoscope.core.shapes import TokenGrid, rope_split
from mutoscope.core.streams import normal, stream
from mutoscope.models.rope import (
    THETA,
    address_turns,
    axis_angles,
    rotate,
    rotations,
    screen_addresses,
    travel_addresses,
    travel_rotations,
)

GRID, HEAD = TokenGrid(3, 5), 16


def exact_far_out(angles: Callable[[Tensor, int], Tensor]) -> bool:
    """Angles at position 1e5 against the standard library's own float64, to 1e-10 rad."""
    channels = rope_split(HEAD)[0]
    expected = [100_000 * math.pow(THETA, -2 * pair / channels) for pair in range(channels // 2)]
    return angles(torch.tensor([100_000]), channels)[0].tolist() == pytest.approx(expected, abs=1e-10)


def test_angles_are_exact_at_position_100000():
    assert exact_far_out(axis_angles)


def test_angles_broken_twin_in_float32():
    def single(positions: Tensor, channels: int) -> Tensor:
        exponents = torch.arange(0, channels, 2, dtype=torch.float32) / channels
        return positions.float()[..., None] * THETA**-exponents

    assert not exact_far_out(single)


def test_rotations_are_rounded_only_at_the_end():
    rotation = rotations(torch.tensor([100_000]), TokenGrid(1, 1), HEAD)[0]
    angles = axis_angles(torch.tensor([100_000]), rope_split(HEAD)[0])[0]
    assert (rotation[: len(angles)] - torch.polar(torch.ones_like(angles), angles)).abs().max() < 1e-6


def logits(shift: int, shift_of_query: int) -> Tensor:
    """Products of a query at frame 3 and keys at frames 0..3, all moved in time."""
    queries = normal((1, 2, GRID.tokens, HEAD), stream(0, "queries"), torch.float64)
    keys = normal((1, 2, 4 * GRID.tokens, HEAD), stream(0, "keys"), torch.float64)
    at = rotations(torch.tensor([3 + shift_of_query]), GRID, HEAD)
    return rotate(queries, at) @ rotate(keys, rotations(torch.arange(4) + shift, GRID, HEAD)).transpose(-1, -2)


def is_relative(shift_of_query: Callable[[int], int]) -> bool:
    """Whether moving keys by s and queries by `shift_of_query(s)` changes nothing."""
    return all(torch.allclose(logits(0, 0), logits(shift, shift_of_query(shift)), atol=1e-5) for shift in (1, 17, 100_000))


def test_only_differences_of_positions_matter():
    assert is_relative(lambda shift: shift)


def test_relative_positions_broken_twin_off_by_one():
    assert not is_relative(lambda shift: shift + 1)


def test_rotation_keeps_lengths_and_types():
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.float32, 1e-5), (torch.bfloat16, 0.05)):
        x = normal((1, 2, 2 * GRID.tokens, HEAD), stream(0, "x")).to(dtype)
        rotated = rotate(x, rotations(torch.tensor([4, 9]), GRID, HEAD))
        assert rotated.dtype == dtype and torch.allclose(rotated.norm(dim=-1), x.norm(dim=-1), rtol=tolerance)


def test_channel_pairs_belong_to_time_height_and_width():
    now, later = (rotations(torch.tensor([frame]), GRID, HEAD).view(3, 5, HEAD // 2) for frame in (0, 1))
    moves = [(now, later), (now[:1], now[1:2]), (now[:, :1], now[:, 1:2])]
    changed = [(before != after).reshape(-1, HEAD // 2).any(dim=0).nonzero().flatten().tolist() for before, after in moves]
    time, height, _ = (channels // 2 for channels in rope_split(HEAD))
    assert changed == [[*range(time)], [*range(time, time + height)], [*range(time + height, HEAD // 2)]]


def moved_by(down: float, right: float) -> Tensor:
    """Rotations of one frame at time 3 whose tokens moved by that many tokens, `[row, column, pair]`."""
    place = torch.tensor([[[down / GRID.height, right / GRID.width]]], dtype=torch.float64)
    still = rotations(torch.tensor([3]), GRID, HEAD)
    return (travel_rotations(place, GRID, HEAD)[0, 0] * still).view(GRID.height, GRID.width, HEAD // 2)


def test_travel_puts_a_token_where_its_neighbour_stood():
    still = moved_by(0, 0)
    assert torch.allclose(moved_by(1, 0)[:-1], still[1:], atol=1e-6)
    assert torch.allclose(moved_by(0, 2)[:, :-2], still[:, 2:], atol=1e-6)
    assert torch.allclose(moved_by(-1, 1)[1:, :-1], still[:-1, 1:], atol=1e-6)


def test_travel_broken_twin_down_is_not_right():
    assert not torch.allclose(moved_by(0, 1)[:-1], moved_by(0, 0)[1:], atol=1e-6)


def test_far_travel_is_exact():
    far, step = torch.tensor([[[1e6, -1e6]]], dtype=torch.float64), torch.tensor([[[1e6 + 0.25, -1e6]]], dtype=torch.float64)
    turned = travel_rotations(step, GRID, HEAD) * travel_rotations(far, GRID, HEAD).conj()
    near = travel_rotations(torch.tensor([[[0.25, 0.0]]], dtype=torch.float64), GRID, HEAD)
    assert torch.allclose(turned, near, atol=1e-6)


def overlap(turns: Tensor) -> Tensor:
    """What equal keys at several places `[place, pair]` say of each other: 1 for the same key."""
    return (turns[:, None] * turns.conj()).real.mean(-1)


def on_a_path() -> Tensor:
    """Sixteen tokens to the right, in each of two rows."""
    return torch.tensor([[row, column] for row in range(2) for column in range(16)], dtype=torch.float64)


def test_equal_keys_at_different_places_are_different_addresses():
    for head, most in ((32, 0.7), (64, 0.05), (128, 0.05)):
        apart = overlap(address_turns(on_a_path(), head, torch.float64)).fill_diagonal_(0).abs()
        assert apart.max() < most and apart.mean() < 0.05
        assert apart[:16, :16].max() < 1e-12  # along a row, as far as there are pairs


def test_addresses_broken_twin_rotary_positions_hardly_differ():
    """The reason for addresses: as a token's rotary position, places are alike wherever they are."""
    turns = rotations(torch.zeros(1), TokenGrid(2, 16), 64, torch.float64)
    assert overlap(turns).min() > 0.6


def test_an_address_in_the_world_is_where_the_camera_moved_it():
    grid, still = TokenGrid(3, 4), screen_addresses(1, TokenGrid(3, 4), 24, torch.float64, torch.device("cpu"))
    place = torch.tensor([[[1 / 3, -2 / 4]]], dtype=torch.float64)
    moved = (travel_addresses(place, grid, 24, torch.float64)[0, 0] * still).view(3, 4, 12)
    assert torch.allclose(moved[:-1, 2:], still.view(3, 4, 12)[1:, :-2], atol=1e-12)
    assert not torch.allclose(moved[1:, 2:], still.view(3, 4, 12)[:-1, :-2], atol=1e-3)


def test_far_addresses_are_exact():
    far, near = (address_turns(torch.tensor([[row, 3.0]], dtype=torch.float64), 32) for row in (1e6 + 0.25, 1e6))
    assert torch.allclose(far * near.conj(), address_turns(torch.tensor([[0.25, 0.0]], dtype=torch.float64), 32), atol=1e-6)
