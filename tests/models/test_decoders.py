"""Decoders by name, codecs in bfloat16, and one codec's encoder beside another one's decoder."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers")

from fakes import tiny_codec
from mutoscope.core.errors import ConfigError
from mutoscope.core.streams import normal, stream
from mutoscope.models.codec import ConvCodec
from mutoscope.models.decoders import TILES, check_decoder, computing_in, parse_decoder, with_decoder
from mutoscope.models.split_codec import SplitCodec, encoder_alone
from mutoscope.models.tiled_codec import TiledCodec, Tiles
from mutoscope.models.tiny_codec import TinyCodec, taew_2_1
from mutoscope.models.wan_codec import WanCodec
from wan import LATE, ONE_HALVING, PUBLISHED_SHAPE, tiny_wan

# Three halvings and four pixel frames to a frame, as the published codec and the tiny decoder have them.
CONFIG = replace(PUBLISHED_SHAPE, height=16, width=24)


def some_latents(codec: WanCodec | ConvCodec, frames: int = 4, seed: int = 0) -> Tensor:
    """Standard normal latents of two rows."""
    return normal((2, frames, codec.latent.channels, codec.latent.height, codec.latent.width), stream(seed, "latents"))


def error(made: Tensor, wanted: Tensor) -> float:
    """Norm of the difference over the norm of what is wanted."""
    assert made.shape == wanted.shape and made.isfinite().all()
    return float((made - wanted).norm() / wanted.norm())


def random_tiny(channels: int = 4, height: int = 16, width: int = 24) -> TinyCodec:
    """A tiny codec of unit gain."""
    codec = TinyCodec(taew_2_1(height, width, channels)).eval().requires_grad_(False)
    for index, parameter in enumerate(codec.parameters()):
        parameter.copy_(normal(tuple(parameter.shape), stream(0, "tiny", index)) / max(parameter[0].numel(), 4) ** 0.5)
    return codec


@pytest.mark.parametrize("config", [CONFIG, ONE_HALVING, LATE], ids=["published shape", "one halving", "time halved late"])
def test_wans_codec_in_bfloat16_is_near_its_float32(config):
    """bfloat16 keeps eight binary digits: a rounding is off by 2^-9 of a value at most, and some dozens of them stand one after the other.

    Over twelve random codecs 0.015 to 0.055 for pictures and 0.010 to 0.025 for latents; two unrelated clips differ by more than 1.
    """
    wide, narrow = tiny_wan(config), computing_in(tiny_wan(config), torch.bfloat16)
    latents = some_latents(wide, 2)
    pixels, unrelated = wide.decode(latents), wide.decode(some_latents(wide, 2, seed=1))
    made = narrow.decode(latents)
    assert 2**-9 < error(made, pixels) < 0.1 < 1 < error(unrelated, pixels)
    assert 2**-9 < error(narrow.encode(pixels), wide.encode(pixels)) < 0.05
    state = narrow.decode_next(latents, ())[1]
    assert made.dtype == torch.float32 and {tensor.dtype for tensor in state} == {torch.bfloat16}, "states take half the bytes"


def test_statistics_of_latents_stay_in_float32():
    """Latents that were made standard in bfloat16 would be numbers of bfloat16."""
    small = tiny_codec()
    small.latent_mean += 0.3
    small.latent_std *= 1.7
    for codec in (tiny_wan(CONFIG), small):
        wide = codec.decode(some_latents(codec))
        latents = computing_in(codec, torch.bfloat16).encode(wide)
        assert latents.dtype == torch.float32 and (latents != latents.bfloat16().float()).float().mean() > 0.5


def test_a_small_codec_in_bfloat16_is_near_too():
    wide, narrow = tiny_codec(), computing_in(tiny_codec(), torch.bfloat16)
    latents = some_latents(wide)
    assert 0 < error(narrow.decode(latents), wide.decode(latents)) < 0.05
    assert 0 < error(narrow.encode(wide.decode(latents)), wide.encode(wide.decode(latents))) < 0.05
    assert narrow.latent_mean.dtype == torch.float32


def test_decoders_are_named(tmp_path):
    file = tmp_path / "taew2_1.pth"
    file.write_bytes(b"")
    assert parse_decoder("whole") == "whole" and parse_decoder("tiles") == TILES == Tiles(32, 32, 8)
    assert parse_decoder("tiles=16x20,4") == Tiles(16, 20, 4) and parse_decoder(str(file)) == file


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tile", "decoder 'tile' is no name and no file that is there; give one of: whole, tiles"),
        ("tiles=16", "'tiles=16' are no tiles"),
        ("tiles=16x16,-1", "are no tiles"),
        ("tiles=4x8,4", "tiles of 4x8 cells cannot share 4"),
        ("absent/taew2_1.pth", "no file that is there"),
    ],
)
def test_decoders_that_cannot_be_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_decoder(text)


def test_decoders_of_other_worlds_are_refused():
    with pytest.raises(ConfigError, match="a small codec of its own"):
        check_decoder(TILES, tiny_codec().config)
    small, wan = tiny_codec(), tiny_wan(CONFIG)
    assert with_decoder(small, "whole") is small and with_decoder(wan, "whole") is wan
    tiled = with_decoder(wan, Tiles(2, 2, 1))
    assert isinstance(tiled, TiledCodec) and tiled.keep == "host" and tiled.whole is wan


def written(path: Path, codec: TinyCodec) -> Path:
    """Its weights in a file."""
    torch.save(codec.state_dict(), path)
    return path


def test_a_tiny_decoder_shows_what_wans_encoder_saw(tmp_path):
    wan, tiny = tiny_wan(CONFIG), random_tiny()
    split = with_decoder(wan, written(tmp_path / "tiny.pth", tiny))
    assert isinstance(split, SplitCodec)
    pixels, latents = torch.rand(1, 5, 3, 16, 24, generator=stream(0, "pixels")) * 2 - 1, some_latents(wan)
    assert torch.equal(split.encode(pixels), wan.encode(pixels)) and not torch.allclose(split.encode(pixels), tiny.encode(pixels), atol=0.1)
    assert torch.equal(split.decode(latents), tiny.decode(latents))
    state, shown = split.start_decoding(2), []
    for frame in latents.split(1, dim=1):
        made, state = split.decode_next(frame, state)
        shown.append(made)
    assert torch.allclose(torch.cat(shown, dim=1), tiny.decode(latents), atol=1e-5)


def test_wans_decoder_is_not_kept_and_whoever_has_the_codec_keeps_it():
    wan, tiny = tiny_wan(CONFIG), random_tiny()
    before = wan.decode(some_latents(wan))
    split = SplitCodec(wan, tiny)
    held = sum(parameter.nbytes for parameter in split.parameters())
    encoder = sum(parameter.nbytes for part in (wan.vae.encoder, wan.vae.quant_conv) for parameter in part.parameters())
    assert held == encoder + sum(parameter.nbytes for parameter in tiny.parameters())
    assert torch.equal(wan.decode(some_latents(wan)), before)
    with pytest.raises(AttributeError):
        encoder_alone(wan).decode(some_latents(wan))


def test_a_tiny_decoder_gets_the_type_of_the_codec(tmp_path):
    wan = computing_in(tiny_wan(CONFIG), torch.bfloat16)
    split = with_decoder(wan, written(tmp_path / "tiny.pth", random_tiny()))
    assert isinstance(split, SplitCodec) and {parameter.dtype for parameter in split.parameters()} == {torch.bfloat16}
    assert 0 < error(split.decode(some_latents(wan)), random_tiny().decode(some_latents(wan))) < 0.1


@pytest.mark.parametrize("sizes", [(16, 16, 24), (4, 24, 24)], ids=["channels", "height"])
def test_a_decoder_of_other_latents_is_refused(sizes: Sequence[int]):
    with pytest.raises(ConfigError, match="the world's codec has 4 channels of 2x3 cells .* give one of the same latents"):
        SplitCodec(tiny_wan(CONFIG), random_tiny(*sizes))
