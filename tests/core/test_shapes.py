"""Derived sizes: brute force says the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutoscope.core.errors import ConfigError
from mutoscope.core.shapes import LatentShape, latent_frames, pixel_frames, rope_split, token_grid


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4))
def test_tokens_are_the_patches_of_a_frame(rows, columns, patch):
    grid = token_grid(LatentShape(8, rows * patch, columns * patch), patch)
    corners = [(y, x) for y in range(0, rows * patch, patch) for x in range(0, columns * patch, patch)]
    assert grid.tokens == len(corners) and (grid.height, grid.width) == (rows, columns)


def test_frames_that_do_not_divide_are_refused():
    with pytest.raises(ConfigError, match="6x7 cannot be cut into 2x2"):
        token_grid(LatentShape(8, 6, 7), 2)


@given(st.integers(3, 128).map(lambda half: 2 * half))
def test_rotary_channels_fill_the_head_in_pairs(head_dim):
    split = rope_split(head_dim)
    assert sum(split) == head_dim and all(part % 2 == 0 and part > 0 for part in split) and split[1] == split[2]


def test_rotary_channels_of_wan():
    assert rope_split(128) == (44, 42, 42)


@pytest.mark.parametrize("head_dim", [4, 7])
def test_heads_that_cannot_rotate_are_refused(head_dim):
    with pytest.raises(ConfigError, match=f"got {head_dim}"):
        rope_split(head_dim)


@given(st.integers(1, 40), st.integers(1, 8))
def test_latent_and_pixel_frames_are_inverse(num_frames, stride):
    assert latent_frames(pixel_frames(num_frames, stride), stride) == num_frames


def test_pixel_frames_that_no_latent_frame_ends_at_are_refused():
    assert latent_frames(81, 4) == 21
    with pytest.raises(ConfigError, match="80 pixel frames are not 1"):
        latent_frames(80, 4)
