"""Tiles: they cover every picture, stream as they decode, and differ from the untiled picture only near seams, but for attention."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("diffusers")

from mutoscope.core.errors import ConfigError
from mutoscope.core.streams import normal, stream
from mutoscope.models import tiled_codec
from mutoscope.models.codec import Codec
from mutoscope.models.tiled_codec import TiledCodec, Tiles, tile_ramp, tile_starts
from mutoscope.models.wan_codec import WanCodec
from wan import ONE_HALVING, tiny_wan

# 4 x 40 cells of a decoder whose convolutions see 13 cells to each side; two tiles as high as the picture.
WIDE = replace(ONE_HALVING, height=8, width=80)
TILES = Tiles(8, 24, 6)


def some_latents(frames: int = 3, batch: int = 2, seed: int = 0) -> Tensor:
    """Standard normal latents."""
    latent = WIDE.latent
    return normal((batch, frames, latent.channels, latent.height, latent.width), stream(seed, "latents"))


def without_attention() -> WanCodec:
    """Random weights, whose attention adds nothing: what is left sees as far as `reach`."""
    codec = tiny_wan(WIDE)
    codec.vae.decoder.mid_block.attentions[0].proj.weight.zero_()
    codec.vae.decoder.mid_block.attentions[0].proj.bias.zero_()
    return codec


@given(length=st.integers(1, 60), tile=st.integers(1, 30), overlap=st.integers(0, 29))
def test_tiles_cover_everything_and_share_what_they_should(length, tile, overlap):
    if overlap >= tile:
        return
    starts = tile_starts(length, tile, overlap)
    assert starts[0] == 0 and starts[-1] + tile >= length and (len(starts) == 1 or starts[-1] + tile == length)
    assert all(first + tile - second >= overlap for first, second in zip(starts, starts[1:], strict=False))


def test_ramps_of_neighbours_add_up_to_one():
    starts, total = tile_starts(40, 24, 6), torch.zeros(40)
    assert starts == (0, 16)
    for index, start in enumerate(starts):
        total[start : start + 24] += tile_ramp(starts, index, 24)
    assert torch.allclose(total, torch.ones(40)) and torch.equal(tile_ramp(starts, 0, 24)[:16], torch.ones(16))


def far_from_seams() -> Tensor:
    """Columns of pixels that one tile alone shows, further from its inner border than convolutions see, `[W]` bool."""
    columns = torch.arange(WIDE.latent.width)
    left = columns < min(16, 24 - WIDE.reach)
    right = columns >= max(24, 16 + WIDE.reach)
    return (left | right).repeat_interleave(WIDE.spatial_stride)


def test_far_from_seams_tiles_equal_the_untiled_picture_but_for_attention():
    codec, latents, far = without_attention(), some_latents(), far_from_seams()
    whole, tiled = codec.decode(latents), TiledCodec(codec, TILES).decode(latents)
    difference = (whole - tiled).abs()
    assert 0 < far.sum() < len(far)
    assert difference[..., far].max() < 1e-4 < 1e-3 < difference[..., ~far].max()


def test_with_attention_the_difference_is_bounded():
    """Random weights, standard normal latents: on average a tiled picture differs by less than 0.15 of what two unrelated ones do."""
    codec = tiny_wan(WIDE)
    whole = codec.decode(some_latents())
    tiled = (whole - TiledCodec(codec, TILES).decode(some_latents())).abs().mean()
    unrelated = (whole - codec.decode(some_latents(seed=1))).abs().mean()
    assert 0 < tiled < 0.15 * unrelated


def test_one_tile_is_the_untiled_picture():
    codec = tiny_wan(WIDE)
    assert torch.equal(TiledCodec(codec, Tiles(9, 50, 3)).decode(some_latents()), codec.decode(some_latents()))


def streamed(codec: Codec, latents: Tensor, size: int) -> Tensor:
    """Decoded `size` frames at a time."""
    state, pieces = codec.start_decoding(len(latents)), []
    for part in latents.split(size, dim=1):
        pixels, state = codec.decode_next(part, state)
        pieces.append(pixels)
    return torch.cat(pieces, dim=1)


@pytest.mark.parametrize("keep", ["device", "host"])
@pytest.mark.parametrize("size", [1, 3])
def test_tiled_streams_equal_the_tiled_clip(size, keep):
    codec, latents = TiledCodec(tiny_wan(WIDE), TILES, keep), some_latents(4)
    assert torch.equal(streamed(codec, latents, size), codec.decode(latents))


def test_streams_broken_twin_whose_tiles_swap_their_states():
    codec, latents = TiledCodec(tiny_wan(WIDE), TILES), some_latents(3)
    _, state = codec.decode_next(latents[:, :1], codec.start_decoding(2))
    half = len(state) // codec.num_tiles
    right, wrong = (codec.decode_next(latents[:, 1:], told)[0] for told in (state, state[half:] + state[:half]))
    assert codec.num_tiles == 2 and not torch.allclose(right, wrong, atol=1e-2)


def test_states_kept_on_the_host_are_moved_there_tile_by_tile(monkeypatch):
    moved: list[str] = []
    monkeypatch.setattr(tiled_codec, "move_state", lambda state, device: moved.append(str(device)) or state)
    for keep, wanted in (("device", 0), ("host", 2)):
        codec = TiledCodec(tiny_wan(WIDE), TILES, keep)  # type: ignore[arg-type]
        moved.clear()
        state = codec.decode_next(some_latents(1).to(torch.float64), codec.start_decoding(2))[1]
        assert len(moved) == codec.num_tiles + wanted and state


def test_encoding_is_that_of_the_whole_codec():
    codec = tiny_wan(WIDE)
    pixels = torch.rand(1, 3, 3, WIDE.height, WIDE.width, generator=stream(0, "pixels"))
    assert torch.equal(TiledCodec(codec, TILES).encode(pixels), codec.encode(pixels))


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="tiles of 4x6 cells cannot share 4"):
        Tiles(4, 6, 4)
    with pytest.raises(ConfigError, match=r"this codec takes \[batch, frame, 3, 4, 40\]"):
        TiledCodec(tiny_wan(WIDE), TILES).decode(torch.zeros(1, 1, 3, 4, 24))
