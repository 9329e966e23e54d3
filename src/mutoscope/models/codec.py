"""Codecs: pixels to latents and back, whole or streaming, with standardised latents.

Everything outside a codec sees latents of mean 0 and standard deviation 1 per channel: the codec owns the
statistics. The protocol fits codecs with a temporal stride, whose first pixel frame stands alone and whose
decoder keeps a cache between calls (Wan's causal VAE); the codec of the small worlds has stride 1 and no state.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from mutoscope.core.errors import ConfigError
from mutoscope.core.shapes import LatentShape

CodecState = tuple[Tensor, ...]
"""What a decoder keeps between calls: tensors `[batch, ..]` that nobody writes to, so that a state may be parked by keeping it."""


class Codec(Protocol):
    """Pixels are float in [-1, 1], `[batch, pixel frame, 3, height, width]`; latents `[batch, frame, channel, h, w]`."""

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent cell along height and width."""
        ...

    @property
    def temporal_stride(self) -> int:
        """Pixel frames per latent frame after the first, which decodes to one."""
        ...

    @property
    def latent(self) -> LatentShape:
        """Size of a latent frame."""
        ...

    def encode(self, pixels: Tensor) -> Tensor:
        """Standardised latents of a clip of 1 + k * temporal_stride pixel frames."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Pixel frames of a whole latent clip."""
        ...

    def start_decoding(self, batch: int) -> CodecState:
        """The state before the first frame of a stream."""
        ...

    def decode_next(self, latents: Tensor, state: CodecState) -> tuple[Tensor, CodecState]:
        """Pixel frames of the next latent frames and the state after them; equal to `decode` of everything so far."""
        ...


def state_bytes(state: CodecState) -> int:
    """Bytes that a decoder's state occupies."""
    return sum(tensor.numel() * tensor.element_size() for tensor in state)


def move_state(state: CodecState, device: torch.device | str) -> CodecState:
    """A decoder's state on a device: to the host while a player is away, back when it plays on."""
    return tuple(tensor.to(device) for tensor in state)


@dataclass(frozen=True)
class ConvCodecConfig:
    """The codec of the small worlds: `stride` a power of two, `widths` the channels from full resolution / 2 down to the latent grid."""

    height: int
    width: int
    latent_channels: int
    widths: tuple[int, ...]
    blocks: int = 2

    def __post_init__(self) -> None:
        if self.height % self.stride or self.width % self.stride:
            raise ConfigError(f"a picture of {self.height}x{self.width} does not divide by the codec's stride {self.stride}")

    @property
    def stride(self) -> int:
        """Pixels per latent cell: one halving per entry of `widths`."""
        return 2 ** len(self.widths)

    @property
    def temporal_stride(self) -> int:
        """1: every pixel frame is a frame."""
        return 1

    @property
    def latent(self) -> LatentShape:
        """Size of a latent frame."""
        return LatentShape(self.latent_channels, self.height // self.stride, self.width // self.stride)


class Residual(nn.Module):
    """x + conv(silu(conv(silu(x)))), with group norm: a plain residual block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` -> the same."""
        return x + self.second(silu(self.first(silu(self.norm(x)))))


class ConvCodec(nn.Module):
    """A small convolutional autoencoder, frame by frame (temporal stride 1).

    Encoder and decoder work in the type of their weights; statistics, pixels and latents outside keep float32, or what is wider.
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: ConvCodecConfig) -> None:
        super().__init__()
        self.config = config
        widths, deepest = config.widths, config.widths[-1]
        down: list[nn.Module] = []
        up: list[nn.Module] = []
        channels = 3
        for width in widths:
            down += [nn.PixelUnshuffle(2), nn.Conv2d(4 * channels, width, 3, padding=1), Residual(width)]
            channels = width
        for level in reversed(range(len(widths))):
            target = widths[level - 1] if level else 3
            up += [Residual(widths[level]), nn.Conv2d(widths[level], 4 * target, 3, padding=1), nn.PixelShuffle(2)]
        self.encoder = nn.Sequential(*down, nn.Conv2d(deepest, config.latent_channels, 1))
        extra = [Residual(deepest) for _ in range(config.blocks)]
        self.decoder = nn.Sequential(nn.Conv2d(config.latent_channels, deepest, 3, padding=1), *extra, *up)
        self.register_buffer("latent_mean", torch.zeros(config.latent_channels))
        self.register_buffer("latent_std", torch.ones(config.latent_channels))

    def initialise(self, generator: torch.Generator) -> "ConvCodec":
        """Fresh weights from a named generator; residual branches start at zero."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 4:
                nn.init.kaiming_normal_(parameter, nonlinearity="linear", generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
            if name.endswith("second.weight"):
                nn.init.zeros_(parameter)
        return self

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent cell."""
        return self.config.stride

    @property
    def temporal_stride(self) -> int:
        """1: every pixel frame is a frame."""
        return self.config.temporal_stride

    @property
    def latent(self) -> LatentShape:
        """Size of a latent frame."""
        return self.config.latent

    def encode_raw(self, pixels: Tensor) -> Tensor:
        """`[N, 3, H, W]` -> latents before standardisation, bounded to (-3, 3) by 3 tanh(x / 3)."""
        return 3 * torch.tanh(self.encoder(pixels) / 3)

    def decode_raw(self, latents: Tensor) -> Tensor:
        """The inverse of `encode_raw`, `[N, C, h, w]` -> `[N, 3, H, W]`; not clamped."""
        return self.decoder(latents)

    def encode(self, pixels: Tensor) -> Tensor:
        """`[B, T, 3, H, W]` in [-1, 1] -> standardised latents `[B, T, C, h, w]`."""
        size = (3, self.config.height, self.config.width)
        if pixels.ndim != 5 or tuple(pixels.shape[2:]) != size:
            raise ConfigError(f"pixels are {tuple(pixels.shape)}; this codec takes [batch, frame, {', '.join(map(str, size))}]")
        raw = self.encode_raw(pixels.flatten(0, 1).to(self._dtype)).unflatten(0, pixels.shape[:2]).to(self.latent_mean.dtype)
        return (raw - self.latent_mean[:, None, None]) / self.latent_std[:, None, None]

    def decode(self, latents: Tensor) -> Tensor:
        """Standardised latents `[B, F, C, h, w]` -> pixels `[B, F, 3, H, W]` clamped to [-1, 1]."""
        raw = latents * self.latent_std[:, None, None] + self.latent_mean[:, None, None]
        pixels = self.decode_raw(raw.flatten(0, 1).to(self._dtype)).unflatten(0, latents.shape[:2]).clamp(-1, 1)
        return pixels.to(self.latent_mean.dtype)

    def start_decoding(self, batch: int) -> CodecState:
        """This codec has no state."""
        return ()

    def decode_next(self, latents: Tensor, state: CodecState) -> tuple[Tensor, CodecState]:
        """The same as `decode`."""
        return self.decode(latents), state

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.decoder.parameters()).dtype


def to_model_pixels(frames: Tensor) -> Tensor:
    """uint8 `[..., H, W, 3]` -> float32 in [-1, 1] `[..., 3, H, W]`."""
    return frames.movedim(-1, -3).float().div(127.5).sub(1)


def to_frames(pixels: Tensor) -> Tensor:
    """Float in [-1, 1] `[..., 3, H, W]` -> uint8 `[..., H, W, 3]`."""
    return pixels.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).movedim(-3, -1).contiguous()
