"""Bytes while decoding, counted without memory: by hand for a few tensors, and exact where the state can be counted."""

import pytest
import torch

pytest.importorskip("diffusers")

from mutoscope.core.streams import normal, stream
from mutoscope.models.codec import state_bytes
from mutoscope.models.live_bytes import LiveBytes, decoding_bytes
from mutoscope.models.tiled_codec import TiledCodec, Tiles
from mutoscope.models.wan_codec import wan_codec
from wan import PUBLISHED_SHAPE, TINY, tiny_wan


def test_the_peak_counts_what_exists_at_once_and_views_once():
    with LiveBytes() as counted:
        first = torch.empty(100, device="meta")
        second = first + 1
        third = second.view(10, 10) * 2
        assert (counted.live, counted.peak) == (1200, 1200)
        del second
        assert counted.live == 800
        fourth = third.view(-1) + first
    assert (counted.live, counted.peak) == (1200, 1200) and fourth.shape == (100,)


def test_views_of_what_was_there_before_are_not_counted_as_made():
    weight, given = torch.empty(30, 20, device="meta"), torch.empty(7, 20, device="meta")
    with LiveBytes() as counted:
        made = given[:5] @ weight.t()
    assert counted.peak == made.nbytes == 4 * 5 * 30


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_state_is_what_a_real_stream_keeps(dtype):
    config, latent = PUBLISHED_SHAPE, PUBLISHED_SHAPE.latent
    codec, state = tiny_wan(config).to(dtype), ()
    for frame in normal((2, 3, latent.channels, latent.height, latent.width), stream(0, "latents")).split(1, dim=1):
        _, state = codec.decode_next(frame, state)
    told = decoding_bytes(measured := wan_codec(config).to(dtype), measured, batch=2)
    assert told.state == state_bytes(state) and told.weights == sum(weight.nbytes for weight in codec.parameters())
    assert told.working > told.state and told.total == told.weights + told.state + told.working


def test_a_tile_works_in_less_than_the_whole_picture_and_all_states_are_more():
    whole = wan_codec(TINY).resized(96, 96)
    tiled = TiledCodec(whole, Tiles(8, 8, 2))
    alone, one, all_tiles = (decoding_bytes(codec, whole) for codec in (whole, tiled.tile, tiled))
    assert one.working < alone.working / 4 and one.state < alone.state / 4
    assert all_tiles.state == tiled.num_tiles * one.state > alone.state
