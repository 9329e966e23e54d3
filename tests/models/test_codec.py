"""The codec of the small worlds: sizes, statistics, streaming, pixels."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fakes import CODEC, ODD, tiny_codec
from mutoscope.core.errors import ConfigError
from mutoscope.core.streams import normal, stream
from mutoscope.models.codec import Codec, ConvCodec, ConvCodecConfig, to_frames, to_model_pixels


def pictures(count: int = 5, batch: int = 2) -> Tensor:
    """Random pixels in [-1, 1]."""
    return torch.rand(batch, count, 3, CODEC.height, CODEC.width, generator=stream(0, "pictures")) * 2 - 1


def test_sizes_follow_the_strides():
    codec = tiny_codec()
    latents = codec.encode(pictures())
    assert codec.spatial_stride == 4 and codec.temporal_stride == 1 and codec.latent == ODD
    assert latents.shape == (2, 5, ODD.channels, ODD.height, ODD.width)
    decoded = codec.decode(latents)
    assert decoded.shape == (2, 5, 3, CODEC.height, CODEC.width) and decoded.abs().max() <= 1


class ForgetsItsState(ConvCodec):
    """Twin: a decoder that blends with the frame before, whose stream starts anew at every call."""

    def decode(self, latents: Tensor) -> Tensor:
        before = torch.cat([latents[:, :1], latents[:, :-1]], dim=1)
        return super().decode((latents + before) / 2)


def streams_seamlessly(codec: Codec, cuts: tuple[int, ...]) -> bool:
    """Whether decoding piece by piece equals decoding at once: no frame lost, added or changed at a seam."""
    latents = normal((2, sum(cuts), ODD.channels, ODD.height, ODD.width), stream(0, "latents"))
    state: Any = codec.start_decoding(2)
    pieces = []
    for part in latents.split(cuts, dim=1):
        pixels, state = codec.decode_next(part, state)
        pieces.append(pixels)
    whole, joined = codec.decode(latents), torch.cat(pieces, dim=1)
    return whole.shape == joined.shape and torch.allclose(whole, joined, atol=1e-5)


@pytest.mark.parametrize("cuts", [(1, 1, 1, 1), (3, 1), (1, 3)])
def test_streaming_decode_equals_decode(cuts):
    assert streams_seamlessly(tiny_codec(), cuts)


def test_streaming_decode_broken_twin_without_state():
    twin = ForgetsItsState(CODEC)
    twin.load_state_dict(tiny_codec().state_dict())
    assert not streams_seamlessly(twin.eval(), (1, 1, 1, 1))


def moments(codec: ConvCodec, pixels: Tensor) -> Tensor:
    """Mean and deviation per channel of the latents of some pictures, `[2, channel]`."""
    latents = codec.encode(pixels).transpose(0, 2).flatten(1)
    return torch.stack([latents.mean(dim=1), latents.std(dim=1)])


def test_latents_are_standardised_by_the_statistics_that_the_codec_owns():
    codec, pixels = tiny_codec(), pictures(20)
    wanted = torch.tensor([[0.0] * 4, [1.0] * 4])
    raw, before = moments(codec, pixels), codec.decode(codec.encode(pixels))
    assert not torch.allclose(raw, wanted, atol=1e-2)
    codec.latent_mean.copy_(raw[0])
    codec.latent_std.copy_(raw[1])
    assert torch.allclose(moments(codec, pixels), wanted, atol=1e-4)
    assert torch.allclose(codec.decode(codec.encode(pixels)), before, atol=1e-4)
    assert {"latent_mean", "latent_std"} <= set(codec.state_dict())


def test_raw_latents_are_bounded():
    assert tiny_codec().encode_raw(1e3 * pictures()[0]).abs().max() <= 3


@pytest.mark.parametrize("shape", [(2, 5, 3, 20, 12), (5, 3, 12, 20), (2, 5, 12, 20, 3)])
def test_pictures_of_another_size_are_refused(shape):
    with pytest.raises(ConfigError, match=r"this codec takes \[batch, frame, 3, 12, 20\]"):
        tiny_codec().encode(torch.zeros(shape))


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ConfigError, match="12x18 does not divide by the codec's stride 4"):
        ConvCodecConfig(12, 18, 4, (8, 8))


def test_fresh_codecs_repeat():
    codecs = [ConvCodec(CODEC).initialise(stream(seed, "codec")).encode(pictures()) for seed in (0, 0, 1)]
    assert torch.equal(codecs[0], codecs[1]) and not torch.equal(codecs[0], codecs[2])


def test_pixels_make_the_round_trip_exactly():
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16, 1).expand(2, 3, 16, 16, 3)
    inside = to_model_pixels(values)
    assert inside.shape == (2, 3, 3, 16, 16) and inside.min() == -1 and inside.max() == 1
    assert torch.equal(to_frames(inside), values)
    assert to_frames(torch.tensor([-7.0, 7.0, 0.0]).view(3, 1, 1)).flatten().tolist() == [0, 255, 128]
