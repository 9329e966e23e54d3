"""Tiny video autoencoders in the layout of TAEHV (github.com/madebyollin/taehv; `taew2_1` is the one for Wan 2.1's latents).

From that project come the layout of the weights, so that they load, and what they mean; the computation is written here from it:
- encoder and decoder are sequences of numbered layers, of which only those with weights have keys;
- a memory block is relu(conv(relu(conv(relu(conv([x, the frame before]))))) + x), with zeros before the first frame;
- time shrinks by a 1x1 convolution over `stride` neighbouring frames side by side, and grows by one that makes `stride` frames of one;
- latents are those that the video model works with, already standardised, bounded by 3 tanh(x / 3); pixels lie in 0 .. 1;
- of a decoded stream the first `temporal stride - 1` frames are dropped, so that the first latent frame is one pixel frame;
- a clip that is to be encoded is filled up to a multiple of the stride with its last frame.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from mutoscope.core.errors import ConfigError
from mutoscope.core.shapes import LatentShape, latent_frames
from mutoscope.models.codec import CodecState

MEMORIES = 3


@dataclass(frozen=True)
class TinyCodecConfig:
    """Sizes. `pools` and `grows`: by how much each stage of encoder and decoder changes the frame rate; each halves or doubles the picture.

    `widths` are the channels of the decoder's stages and of its end, `encoder_width` those of the whole encoder; pictures enter and
    leave as `patch` x `patch` patches.
    """

    height: int
    width: int
    latent_channels: int
    patch: int
    encoder_width: int
    widths: tuple[int, ...]
    pools: tuple[int, ...]
    grows: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.pools) != len(self.grows) or len(self.widths) != len(self.grows) + 1 or prod(self.pools) != prod(self.grows):
            raise ConfigError(
                f"stages do not fit: {len(self.pools)} pools, {len(self.grows)} grows (the same number and product) and "
                f"{len(self.widths)} widths (one more)"
            )
        if self.height % self.spatial_stride or self.width % self.spatial_stride or min(self.height, self.width) <= 0:
            raise ConfigError(f"a picture of {self.height}x{self.width} does not divide by the codec's stride {self.spatial_stride}")

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent cell."""
        return self.patch * 2 ** len(self.grows)

    @property
    def temporal_stride(self) -> int:
        """Pixel frames per latent frame after the first."""
        return prod(self.grows)


def taew_2_1(height: int, width: int, channels: int = 16) -> TinyCodecConfig:
    """The published `taew2_1`: stride 8 in space, 4 in time, 16 channels, as Wan 2.1's own VAE; or the same for other latents."""
    return TinyCodecConfig(height, width, channels, patch=1, encoder_width=64, widths=(256, 128, 64, 64), pools=(2, 2, 1), grows=(1, 2, 2))


class Bound(nn.Module):
    """3 tanh(x / 3)."""

    def forward(self, x: Tensor) -> Tensor:
        """The same shape, in (-3, 3)."""
        return 3 * torch.tanh(x / 3)


class Memory(nn.Module):
    """A residual block that sees a frame and the one before."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(conv(2 * width, width), nn.ReLU(), conv(width, width), nn.ReLU(), conv(width, width))

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """`[N, C, H, W]` twice -> the same."""
        return torch.relu(self.conv(torch.cat([x, before], dim=1)) + x)


class Pool(nn.Module):
    """`stride` frames side by side to one."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride, self.conv = stride, nn.Conv2d(width * stride, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[N * stride, C, H, W]`, frames of a clip in order -> `[N, C, H, W]`."""
        return self.conv(x.reshape(-1, self.stride * x.shape[1], *x.shape[2:]))


class Grow(nn.Module):
    """One frame to `stride` frames."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride, self.conv = stride, nn.Conv2d(width, width * stride, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` -> `[N * stride, C, H, W]`."""
        return self.conv(x).reshape(-1, *x.shape[1:])


def conv(inward: int, outward: int, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    """A 3x3 convolution."""
    return nn.Conv2d(inward, outward, 3, stride=stride, padding=1, bias=bias)


class TinyCodec(nn.Module):
    """A codec of TAEHV's layout. The state is the last frame that each memory block of the decoder has seen."""

    def __init__(self, config: TinyCodecConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = nn.Sequential(*_encoder(config)), nn.Sequential(*_decoder(config))

    def resized(self, height: int, width: int) -> "TinyCodec":
        """The same weights for pictures of another size."""
        with torch.device("meta"):
            other = TinyCodec(replace(self.config, height=height, width=width))
        other.encoder, other.decoder = self.encoder, self.decoder
        return other

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent cell."""
        return self.config.spatial_stride

    @property
    def temporal_stride(self) -> int:
        """Pixel frames per latent frame after the first."""
        return self.config.temporal_stride

    @property
    def latent(self) -> LatentShape:
        """Size of a latent frame."""
        stride = self.spatial_stride
        return LatentShape(self.config.latent_channels, self.config.height // stride, self.config.width // stride)

    def encode(self, pixels: Tensor) -> Tensor:
        """`[B, 1 + k * temporal stride, 3, H, W]` in [-1, 1] -> latents `[B, 1 + k, C, h, w]`, which are standardised as they are."""
        size, stride = (3, self.config.height, self.config.width), self.temporal_stride
        if pixels.ndim != 5 or tuple(pixels.shape[2:]) != size or not pixels.shape[1]:
            raise ConfigError(f"pixels are {tuple(pixels.shape)}; this codec takes [batch, frame, {', '.join(map(str, size))}]")
        frames = latent_frames(pixels.shape[1], stride)
        filled = torch.cat([pixels, pixels[:, -1:].expand(-1, stride * frames - pixels.shape[1], -1, -1, -1)], dim=1)
        state: CodecState = ()
        latents = []
        for group in filled.split(stride, dim=1):
            made, state = _through(self.encoder, pixel_unshuffle((group.to(self._dtype) + 1) / 2, self.config.patch), state)
            latents.append(made)
        return torch.cat(latents, dim=1).to(torch.promote_types(pixels.dtype, torch.float32))

    def decode(self, latents: Tensor) -> Tensor:
        """Latents `[B, 1 + k, C, h, w]` -> pixels `[B, 1 + k * temporal stride, 3, H, W]` in [-1, 1], frame by frame to save memory."""
        state = self.start_decoding(len(latents))
        pixels = []
        for frame in latents.split(1, dim=1):
            made, state = self.decode_next(frame, state)
            pixels.append(made)
        return torch.cat(pixels, dim=1)

    def start_decoding(self, batch: int) -> CodecState:
        """Nothing seen yet: no tensors."""
        return ()

    def decode_next(self, latents: Tensor, state: CodecState) -> tuple[Tensor, CodecState]:
        """The next latent frames `[B, F, C, h, w]`, side by side: `temporal_stride` pixel frames each, the first of a stream 1."""
        wanted = (self.latent.channels, self.latent.height, self.latent.width)
        if latents.ndim != 5 or tuple(latents.shape[2:]) != wanted or not latents.shape[1]:
            raise ConfigError(f"latents are {tuple(latents.shape)}; this codec takes [batch, frame, {', '.join(map(str, wanted))}]")
        if state and len(state[0]) != len(latents):
            raise ConfigError(f"{len(latents)} rows of latents continue a stream of {len(state[0])}; use a state per batch")
        made, after = _through(self.decoder, latents.to(self._dtype), state)
        pixels = pixel_shuffle(made, self.config.patch).clamp(0, 1) * 2 - 1
        shown = pixels if state else pixels[:, self.temporal_stride - 1 :]
        return shown.to(torch.promote_types(latents.dtype, torch.float32)), after

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype


def _encoder(config: TinyCodecConfig) -> Iterator[nn.Module]:
    """The encoder's layers in the order of their numbers."""
    width = config.encoder_width
    yield from (conv(3 * config.patch**2, width), nn.ReLU())
    for stride in config.pools:
        yield from (Pool(width, stride), conv(width, width, stride=2, bias=False), *(Memory(width) for _ in range(MEMORIES)))
    yield conv(width, config.latent_channels)


def _decoder(config: TinyCodecConfig) -> Iterator[nn.Module]:
    """The decoder's layers in the order of their numbers."""
    yield from (Bound(), conv(config.latent_channels, config.widths[0]), nn.ReLU())
    for width, narrower, stride in zip(config.widths, config.widths[1:], config.grows, strict=False):
        yield from (Memory(width) for _ in range(MEMORIES))
        yield from (nn.Upsample(scale_factor=2), Grow(width, stride), conv(width, narrower, bias=False))
    yield from (nn.ReLU(), conv(config.widths[-1], 3 * config.patch**2))


def _through(layers: nn.Sequential, x: Tensor, state: CodecState) -> tuple[Tensor, CodecState]:
    """Frames `[B, F, C, H, W]` through all layers; the state holds the frame before for each memory block."""
    batch, before, after = len(x), iter(state), []
    for layer in layers:
        if isinstance(layer, Memory):
            last = next(before) if state else torch.zeros_like(x[:, 0])
            shifted = torch.cat([last[:, None], x[:, :-1]], dim=1)
            after.append(x[:, -1].clone())
            x = layer(x.flatten(0, 1), shifted.flatten(0, 1)).unflatten(0, (batch, -1))
        else:
            x = layer(x.flatten(0, 1)).unflatten(0, (batch, -1))
    return x, tuple(after)
