"""Tiny autoencoders of TAEHV's layout: the published keys and shapes, blocks by hand, streams that equal the whole clip."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, relu

from mutoscope.core.errors import ConfigError
from mutoscope.core.shapes import pixel_frames
from mutoscope.core.streams import normal, stream
from mutoscope.models.checkpoint import freeze
from mutoscope.models.codec import Codec, state_bytes
from mutoscope.models.tiled_codec import TiledCodec, Tiles
from mutoscope.models.tiny_codec import Bound, Grow, Memory, Pool, TinyCodec, TinyCodecConfig, taew_2_1

TINY = TinyCodecConfig(16, 24, latent_channels=4, patch=1, encoder_width=6, widths=(8, 6, 4, 4), pools=(2, 2, 1), grows=(1, 2, 2))
# As in the layout for Wan 2.2: pictures come as patches of 2 x 2.
PATCHED = replace(TINY, patch=2, height=32, width=48)


def random_codec(config: TinyCodecConfig = TINY, seed: int = 0) -> TinyCodec:
    """Random weights of unit gain."""
    codec = freeze(TinyCodec(config))
    for index, parameter in enumerate(codec.parameters()):
        parameter.copy_(normal(tuple(parameter.shape), stream(seed, "tiny", index)) / max(parameter[0].numel(), 4) ** 0.5)
    return codec


def some_latents(frames: int, batch: int = 2, seed: int = 0, config: TinyCodecConfig = TINY) -> Tensor:
    """Standard normal latents, 2 x 3 cells."""
    return normal((batch, frames, config.latent_channels, 2, 3), stream(seed, "latents"))


def stream_through(codec: Codec, latents: Tensor, size: int) -> Tensor:
    """Decoded `size` frames at a time."""
    state, pieces = codec.start_decoding(len(latents)), []
    for part in latents.split(size, dim=1):
        pixels, state = codec.decode_next(part, state)
        pieces.append(pixels)
    return torch.cat(pieces, dim=1)


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Keys and shapes of `taew2_1`, number by number as that project lists its layers."""
    shapes: dict[str, tuple[int, ...]] = {"encoder.0.weight": (64, 3, 3, 3), "encoder.0.bias": (64,)}
    for first, pool in ((2, 2), (7, 2), (12, 1)):
        shapes[f"encoder.{first}.conv.weight"] = (64, 64 * pool, 1, 1)
        shapes[f"encoder.{first + 1}.weight"] = (64, 64, 3, 3)
        shapes |= memory_shapes("encoder", first + 2, 64)
    shapes |= {"encoder.17.weight": (16, 64, 3, 3), "encoder.17.bias": (16,)}
    shapes |= {"decoder.1.weight": (256, 16, 3, 3), "decoder.1.bias": (256,)}
    for first, width, narrower, grow in ((3, 256, 128, 1), (9, 128, 64, 2), (15, 64, 64, 2)):
        shapes |= memory_shapes("decoder", first, width)
        shapes[f"decoder.{first + 4}.conv.weight"] = (width * grow, width, 1, 1)
        shapes[f"decoder.{first + 5}.weight"] = (narrower, width, 3, 3)
    return shapes | {"decoder.22.weight": (3, 64, 3, 3), "decoder.22.bias": (3,)}


def memory_shapes(part: str, first: int, width: int) -> dict[str, tuple[int, ...]]:
    """Three memory blocks from layer `first` on."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(first, first + 3):
        for place, inward in ((0, 2 * width), (2, width), (4, width)):
            shapes[f"{part}.{layer}.conv.{place}.weight"] = (width, inward, 3, 3)
            shapes[f"{part}.{layer}.conv.{place}.bias"] = (width,)
    return shapes


def test_keys_and_shapes_are_the_published_ones():
    with torch.device("meta"):
        codec = TinyCodec(taew_2_1(480, 832))
    assert {name: tuple(tensor.shape) for name, tensor in codec.state_dict().items()} == published_shapes()
    assert (codec.spatial_stride, codec.temporal_stride, codec.latent.height, codec.latent.width) == (8, 4, 60, 104)


def test_a_pool_takes_frames_side_by_side_and_a_grown_frame_gives_them_in_order():
    pool, grow = freeze(Pool(1, 2)), freeze(Grow(1, 2))
    pool.conv.weight.copy_(torch.tensor([1.0, 10.0]).view(1, 2, 1, 1))
    grow.conv.weight.copy_(torch.tensor([3.0, 5.0]).view(2, 1, 1, 1))
    frames = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(4, 1, 1, 1)
    assert pool(frames).flatten().tolist() == [21.0, 43.0]
    assert grow(pool(frames)).flatten().tolist() == [63.0, 105.0, 129.0, 215.0]


def test_a_memory_block_adds_what_it_sees_of_two_frames():
    block = freeze(Memory(1))
    for layer in block.conv:
        if isinstance(layer, nn.Conv2d):
            layer.weight.zero_()
            layer.bias.zero_()
    block.conv[0].weight[0, :, 1, 1] = torch.tensor([2.0, 3.0])
    block.conv[2].weight[0, 0, 1, 1] = block.conv[4].weight[0, 0, 1, 1] = 1.0
    frame, before = torch.full((1, 1, 1, 1), 5.0), torch.full((1, 1, 1, 1), 7.0)
    assert float(block(frame, before)) == 2 * 5 + 3 * 7 + 5 and float(block(-frame, 0 * before)) == 0
    assert torch.allclose(Bound()(torch.tensor([3.0, 1e9])), torch.tensor([3 * 0.7615942, 3.0]))


Weights = Mapping[str, Tensor]


def remembered(weights: Weights, name: str, frames: Tensor) -> Tensor:
    """A memory block on a clip `[T, C, H, W]`: three convolutions over each frame beside the one before it, zeros before the first."""
    before = torch.cat([torch.zeros_like(frames[:1]), frames[:-1]])
    x = torch.cat([frames, before], dim=1)
    for layer in (0, 2, 4):
        x = conv2d(x if layer == 0 else relu(x), weights[f"{name}.conv.{layer}.weight"], weights[f"{name}.conv.{layer}.bias"], padding=1)
    return relu(x + frames)


def written_out_decoder(weights: Weights, latents: Tensor) -> Tensor:
    """One clip `[F, C, h, w]` through the layers of `taew2_1` by their numbers -> pixels `[1 + 4 (F - 1), 3, H, W]`.

    All frames side by side, from what that project says of its layers, in the plainest form: no classes, no state, one clip.
    """
    x = relu(conv2d(3 * torch.tanh(latents / 3), weights["decoder.1.weight"], weights["decoder.1.bias"], padding=1))
    for first, times in ((3, 1), (9, 2), (15, 2)):
        for layer in range(first, first + 3):
            x = remembered(weights, f"decoder.{layer}", x)
        x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        both = conv2d(x, weights[f"decoder.{first + 4}.conv.weight"])
        x = torch.stack(both.chunk(times, dim=1), dim=1).flatten(0, 1)
        x = conv2d(x, weights[f"decoder.{first + 5}.weight"], padding=1)
    shown = conv2d(relu(x), weights["decoder.22.weight"], weights["decoder.22.bias"], padding=1)
    return shown[3:].clamp(0, 1) * 2 - 1


def written_out_encoder(weights: Weights, pixels: Tensor) -> Tensor:
    """One clip `[4 F, 3, H, W]` in [-1, 1] through the encoder's layers by their numbers -> latents `[F, C, h, w]`."""
    x = relu(conv2d((pixels + 1) / 2, weights["encoder.0.weight"], weights["encoder.0.bias"], padding=1))
    for first, times in ((2, 2), (7, 2), (12, 1)):
        x = conv2d(torch.cat([x[place::times] for place in range(times)], dim=1), weights[f"encoder.{first}.conv.weight"])
        x = conv2d(x, weights[f"encoder.{first + 1}.weight"], stride=2, padding=1)
        for layer in range(first + 2, first + 5):
            x = remembered(weights, f"encoder.{layer}", x)
    return conv2d(x, weights["encoder.17.weight"], weights["encoder.17.bias"], padding=1)


def test_a_clip_is_what_the_layers_make_of_it_one_by_one():
    """At the published widths: frames and latents of a small picture, against the layers written out."""
    config = taew_2_1(16, 24)
    codec, latents = random_codec(config), some_latents(4, batch=1, config=config)
    weights = codec.state_dict()
    made = codec.decode(latents)[0]
    assert made.shape == (13, 3, 16, 24) and made.std() > 0.05
    assert torch.allclose(made, written_out_decoder(weights, latents[0]), atol=1e-4)
    clip = torch.rand(1, 5, 3, 16, 24, generator=stream(0, "pixels")) * 2 - 1
    filled = torch.cat([clip[0], clip[0, -1:].expand(3, -1, -1, -1)])
    assert torch.allclose(codec.encode(clip)[0], written_out_encoder(weights, filled), atol=1e-4)
    # Broken twin: a block that takes its frame for the one before.
    twisted = {name: weights[name].roll(256, 1) if name == "decoder.3.conv.0.weight" else weights[name] for name in weights}
    assert not torch.allclose(made, written_out_decoder(twisted, latents[0]), atol=1e-2)


@pytest.mark.parametrize("config", [TINY, PATCHED], ids=["plain", "patched"])
@pytest.mark.parametrize("frames", [1, 4, 5, 21, 22])
def test_a_stream_equals_the_whole_clip_in_count_and_values(frames, config):
    codec, latents = random_codec(config), some_latents(frames)
    whole = codec.decode_next(latents, codec.start_decoding(2))[0]
    assert whole.shape == (2, pixel_frames(frames, 4), 3, config.height, config.width) and whole.std() > 0.05
    for made in (stream_through(codec, latents, 1), stream_through(codec, latents, 3), codec.decode(latents)):
        assert torch.allclose(made, whole, atol=1e-5)


class ForgetsTheFrameBefore(TinyCodec):
    """Twin: memory blocks begin anew at every call."""

    def decode_next(self, latents: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        return super().decode_next(latents, tuple(torch.zeros_like(tensor) for tensor in state))


def test_streaming_broken_twin_without_memory():
    twin = ForgetsTheFrameBefore(TINY)
    twin.load_state_dict(random_codec().state_dict())
    whole = random_codec().decode(some_latents(4))
    assert not torch.allclose(stream_through(freeze(twin), some_latents(4), 1), whole, atol=1e-3)


def test_interleaved_streams_and_parked_states():
    codec, clips = random_codec(), [some_latents(3, seed=seed) for seed in (1, 2)]
    states = [codec.decode_next(clip[:, :1], codec.start_decoding(2))[1] for clip in clips]
    copies = [tuple(tensor.clone() for tensor in state) for state in states]
    for clip, state, copy in zip(clips, states, copies, strict=True):
        made = codec.decode_next(clip[:, 1:], state)[0]
        assert torch.allclose(made, codec.decode(clip)[:, 1:], atol=1e-5)
        assert all(torch.equal(kept, before) for kept, before in zip(state, copy, strict=True))
    assert len(states[0]) == 9 and state_bytes(states[0]) == sum(tensor.nbytes for tensor in states[0])


def test_clips_are_encoded_to_standard_latents_and_filled_up_with_their_last_frame():
    codec = random_codec()
    clip = torch.rand(2, 5, 3, 16, 24, generator=stream(0, "pixels")) * 2 - 1
    latents = codec.encode(clip)
    assert latents.shape == (2, 2, 4, 2, 3)
    longer = torch.cat([clip, clip[:, -1:].expand(-1, 4, -1, -1, -1)], dim=1)
    assert torch.allclose(codec.encode(longer)[:, :2], latents, atol=1e-5)
    changed = clip.clone()
    changed[:, 4] = -changed[:, 4]
    assert torch.equal(codec.encode(changed)[:, :1], latents[:, :1]) and not torch.allclose(codec.encode(changed), latents, atol=1e-3)


def test_tiles_work_with_a_tiny_codec():
    codec = TiledCodec(random_codec(), Tiles(2, 2, 1))
    assert codec.num_tiles == 2
    assert torch.allclose(stream_through(codec, some_latents(4), 1), codec.decode(some_latents(4)), atol=1e-5)


def test_what_cannot_be_is_refused():
    codec = random_codec()
    with pytest.raises(ConfigError, match="4 pixel frames are not 1"):
        codec.encode(torch.zeros(1, 4, 3, 16, 24))
    with pytest.raises(ConfigError, match=r"this codec takes \[batch, frame, 3, 16, 24\]"):
        codec.encode(torch.zeros(1, 5, 3, 24, 16))
    with pytest.raises(ConfigError, match=r"this codec takes \[batch, frame, 4, 2, 3\]"):
        codec.decode(torch.zeros(1, 1, 4, 3, 2))
    with pytest.raises(ConfigError, match="3 rows of latents continue a stream of 2"):
        codec.decode_next(some_latents(1, batch=3), codec.decode_next(some_latents(1), ())[1])
    with pytest.raises(ConfigError, match="20x24 does not divide by the codec's stride 8"):
        replace(TINY, height=20)
    with pytest.raises(ConfigError, match="stages do not fit"):
        replace(TINY, pools=(2, 2, 2))
