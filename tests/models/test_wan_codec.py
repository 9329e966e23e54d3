"""Wan's VAE behind the codec protocol: parity with diffusers, streams that equal the whole clip, states that can be parked."""

import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers")

from mutoscope.core.errors import ConfigError, MissingPackageError
from mutoscope.core.shapes import pixel_frames
from mutoscope.core.streams import normal, stream
from mutoscope.models import wan_codec as module
from mutoscope.models.codec import Codec, move_state, state_bytes
from mutoscope.models.wan_codec import WanCodec, wan_codec
from mutoscope.models.wan_config import WanCodecConfig, wan_2_1
from wan import LATE, ONE_HALVING, PUBLISHED_SHAPE, TINY, tiny_wan

CONFIGS = {"published shape": PUBLISHED_SHAPE, "one halving": ONE_HALVING, "time halved late": LATE}


def some_latents(frames: int, config: WanCodecConfig = TINY, batch: int = 2, seed: int = 0) -> Tensor:
    """Standard normal latents."""
    latent = config.latent
    return normal((batch, frames, latent.channels, latent.height, latent.width), stream(seed, "latents"))


def some_pixels(frames: int, config: WanCodecConfig = TINY, batch: int = 2) -> Tensor:
    """Random pixels in [-1, 1]."""
    return torch.rand(batch, frames, 3, config.height, config.width, generator=stream(0, "pixels")) * 2 - 1


def relative(value: Tensor, wanted: Tensor) -> float:
    """Largest difference over the largest value."""
    assert value.shape == wanted.shape
    return float((value - wanted).abs().max() / wanted.abs().max())


def per_channel(values: tuple[float, ...]) -> Tensor:
    """Statistics in diffusers' order of axes."""
    return torch.tensor(values)[:, None, None, None]


@pytest.mark.parametrize("name", CONFIGS)
def test_encoding_and_decoding_are_those_of_diffusers(name):
    config, codec = CONFIGS[name], tiny_wan(CONFIGS[name])
    mean, deviation = per_channel(config.latents_mean), per_channel(config.latents_std)
    # diffusers encodes four pixel frames at a time whatever the stride; 9 is 1 + a multiple of both.
    pixels, latents = some_pixels(9, config), some_latents(3, config)
    theirs = codec.vae.encode(pixels.transpose(1, 2)).latent_dist.mode()
    assert relative(codec.encode(pixels), ((theirs - mean) / deviation).transpose(1, 2)) < 1e-4
    decoded = codec.vae.decode(latents.transpose(1, 2) * deviation + mean).sample.transpose(1, 2)
    assert relative(codec.decode(latents), decoded) < 1e-4
    # Broken twin: latents that nobody made raw again.
    assert relative(codec.decode(latents), codec.vae.decode(latents.transpose(1, 2)).sample.transpose(1, 2)) > 1e-2


@pytest.mark.parametrize("frames", [1, 5])
@pytest.mark.parametrize("name", CONFIGS)
def test_short_clips_are_encoded_as_by_diffusers(name, frames):
    config, codec = CONFIGS[name], tiny_wan(CONFIGS[name])
    pixels, mean, deviation = some_pixels(frames, config), per_channel(config.latents_mean), per_channel(config.latents_std)
    theirs = ((codec.vae.encode(pixels.transpose(1, 2)).latent_dist.mode() - mean) / deviation).transpose(1, 2)
    assert theirs.shape[1] == 1 + (frames - 1) // config.temporal_stride
    assert relative(codec.encode(pixels), theirs) < 1e-4
    if frames > 1:  # Broken twin: pictures one by one, each as if it were the first.
        alone = torch.cat([codec.encode(pixels[:, place : place + 1]) for place in range(0, frames, config.temporal_stride)], dim=1)
        assert relative(alone, theirs) > 1e-2


@pytest.mark.parametrize("name", CONFIGS)
def test_sizes_follow_the_configuration(name):
    config, codec = CONFIGS[name], tiny_wan(CONFIGS[name])
    frames = 1 + 2 * config.temporal_stride
    latents = codec.encode(some_pixels(frames, config))
    assert codec.latent == config.latent and codec.spatial_stride * config.latent.height == config.height
    assert latents.shape == some_latents(3, config).shape and latents.dtype == torch.float32
    decoded = codec.decode(latents)
    assert decoded.shape == some_pixels(frames, config).shape and decoded.abs().max() <= 1


def stream_through(codec: Codec, latents: Tensor, size: int) -> Tensor:
    """Decoded `size` frames at a time."""
    state, pieces = codec.start_decoding(len(latents)), []
    for part in latents.split(size, dim=1):
        pixels, state = codec.decode_next(part, state)
        pieces.append(pixels)
    return torch.cat(pieces, dim=1)


def offline(codec: WanCodec, latents: Tensor) -> Tensor:
    """The whole clip through diffusers' own decode."""
    mean, deviation = per_channel(codec.config.latents_mean), per_channel(codec.config.latents_std)
    return codec.vae.decode(latents.transpose(1, 2) * deviation + mean).sample.transpose(1, 2)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("frames", [1, 4, 5, 21, 22])
@pytest.mark.parametrize("config", [TINY, PUBLISHED_SHAPE], ids=["tiny", "published shape"])
def test_a_stream_equals_the_offline_decode_in_count_and_values(config, frames, size):
    codec, latents = tiny_wan(config), some_latents(frames, config, batch=1)
    streamed = stream_through(codec, latents, size)
    assert streamed.shape[1] == pixel_frames(frames, codec.temporal_stride)
    assert torch.equal(streamed, codec.decode(latents)) and relative(streamed, offline(codec, latents)) < 1e-4


def test_interleaved_streams_do_not_disturb_each_other():
    codec, clips = tiny_wan(), [some_latents(5, seed=seed) for seed in (1, 2)]
    states, pieces = [codec.start_decoding(2) for _ in clips], [[], []]
    for frame in range(5):
        for index, clip in enumerate(clips):
            pixels, states[index] = codec.decode_next(clip[:, frame : frame + 1], states[index])
            pieces[index].append(pixels)
    for made, clip in zip(pieces, clips, strict=True):
        assert torch.equal(torch.cat(made, dim=1), codec.decode(clip))


class SharesOneState(WanCodec):
    """Twin: keeps its cache in itself, as if there were one stream in the world."""

    kept: Any = ()

    def decode_next(self, latents: Tensor, state: Any) -> tuple[Tensor, Any]:
        pixels, self.kept = super().decode_next(latents, self.kept)
        return pixels, ()


def test_interleaved_streams_broken_twin_with_one_state():
    codec = SharesOneState(TINY, tiny_wan().vae)
    codec.decode_next(some_latents(1, seed=1), ())
    other = some_latents(3, seed=2)
    assert stream_through(codec, other, 1).shape != tiny_wan().decode(other).shape


class ForgetsItsState(WanCodec):
    """Twin: every call begins a new stream."""

    def decode_next(self, latents: Tensor, state: Any) -> tuple[Tensor, Any]:
        return super().decode_next(latents, ())


def test_streaming_broken_twin_without_state_loses_frames():
    codec = ForgetsItsState(TINY, tiny_wan().vae)
    assert stream_through(codec, some_latents(4), 1).shape[1] == 4 < codec.decode(some_latents(4)).shape[1]


@pytest.mark.parametrize("frames", [0, 1, 2, 3])
def test_a_parked_state_is_tensors_that_nobody_writes_to(frames):
    codec, latents = tiny_wan(), some_latents(6)
    state = codec.start_decoding(2)
    if frames:
        _, state = codec.decode_next(latents[:, :frames], state)
    assert all(isinstance(tensor, Tensor) for tensor in state)
    copies = [tensor.clone() for tensor in state]
    expected = codec.decode_next(latents[:, frames:], state)[0]
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(state, copies, strict=True))
    moved = move_state(state, "cpu")
    assert torch.equal(codec.decode_next(latents[:, frames:], moved)[0], expected)
    assert state_bytes(state) == sum(copy.nbytes for copy in copies)


def test_the_state_has_the_same_bytes_from_the_second_frame_on():
    codec, state, sizes = tiny_wan(), (), []
    for frame in some_latents(6).split(1, dim=1):
        _, state = codec.decode_next(frame, state)
        sizes.append(state_bytes(state))
    assert 0 < sizes[0] < sizes[1] and len(set(sizes[1:])) == 1


def test_rows_of_a_batch_decode_as_alone():
    codec, latents = tiny_wan().double(), some_latents(3, batch=3).double()
    alone = torch.cat([codec.decode(row[None]) for row in latents])
    assert relative(codec.decode(latents), alone) < 1e-5 < relative(codec.decode(latents), alone.flip(0))
    clip = some_pixels(5, batch=3).double()
    assert relative(codec.encode(clip), torch.cat([codec.encode(row[None]) for row in clip])) < 1e-5


def test_the_past_is_final():
    """What was decoded does not change with what comes: a prefix of the latents decodes to a prefix of the pixels."""
    codec, latents = tiny_wan(), some_latents(5)
    assert torch.equal(codec.decode(latents)[:, :9], codec.decode(latents[:, :3]))


def test_a_vae_in_half_precision_gives_float32():
    codec = tiny_wan().to(torch.bfloat16)
    latents = codec.encode(some_pixels(5))
    pixels, state = codec.decode_next(latents, ())
    assert latents.dtype == pixels.dtype == torch.float32 and {tensor.dtype for tensor in state} == {torch.bfloat16}
    assert (pixels - tiny_wan().decode(latents)).abs().mean() < 0.05


def test_another_size_shares_the_weights():
    codec = tiny_wan()
    larger = codec.resized(24, 40)
    assert larger.vae is codec.vae and larger.latent.height == 2 * codec.latent.height
    latents = some_latents(2, larger.config)
    assert larger.decode(latents).shape == (2, 5, 3, 24, 40)


@pytest.mark.parametrize("frames", [2, 4, 6])
def test_clips_of_other_lengths_are_refused(frames):
    with pytest.raises(ConfigError, match=f"{frames} pixel frames are not 1 \\+ a multiple of the temporal stride 4"):
        tiny_wan().encode(some_pixels(frames))


@pytest.mark.parametrize("shape", [(2, 5, 3, 20, 12), (5, 3, 12, 20), (2, 0, 3, 12, 20)])
def test_pictures_of_another_size_are_refused(shape):
    with pytest.raises(ConfigError, match=r"this codec takes \[batch, frame, 3, 12, 20\]"):
        tiny_wan().encode(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(2, 1, 4, 5, 3), (1, 4, 3, 5), (2, 0, 4, 3, 5)])
def test_latents_of_another_size_are_refused(shape):
    with pytest.raises(ConfigError, match=r"this codec takes \[batch, frame, 4, 3, 5\]"):
        tiny_wan().decode(torch.zeros(shape))


def test_a_state_of_another_batch_is_refused():
    codec = tiny_wan()
    _, state = codec.decode_next(some_latents(1), ())
    with pytest.raises(ConfigError, match="3 rows of latents continue a stream of 2"):
        codec.decode_next(some_latents(1, batch=3), state)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"height": 10}, "10x20 does not divide by the codec's stride 4"),
        ({"temporal_downsample": (True,)}, "3 widths have 2 halvings"),
        ({"latents_std": (1.0, 1.0, 1.0, 0.0)}, "every deviation above 0"),
        ({"latents_mean": (0.0,)}, "need 4 numbers each"),
    ],
)
def test_configurations_that_cannot_be_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        replace(TINY, **changes)


def test_the_published_values_are_those_of_diffusers():
    from diffusers import AutoencoderKLWan

    ours = wan_codec(wan_2_1(480, 832))
    assert (ours.spatial_stride, ours.temporal_stride, ours.latent.height, ours.latent.width) == (8, 4, 60, 104)
    with torch.device("meta"):
        published = AutoencoderKLWan()
    assert {name: tensor.shape for name, tensor in ours.vae.state_dict().items()} == {
        name: tensor.shape for name, tensor in published.state_dict().items()
    }
    config, wanted = wan_2_1(480, 832), published.config
    assert list(config.latents_mean) == wanted.latents_mean and list(config.latents_std) == wanted.latents_std


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'mutoscope\[wan\]'"):
        module.wan_codec(TINY)
