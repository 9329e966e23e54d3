"""Wan 2.1's causal video VAE (diffusers' `AutoencoderKLWan`) as a codec: whole and streaming, standardised outside.

diffusers decodes a clip frame by frame and keeps the last frames that each causal convolution has seen, but it has no public call for one
frame. The two names that it does have, `decoder` and `encoder`, take that cache as a list; they are called in `WanCodec._decode_frame` and
`WanCodec.encode` and nowhere else. The state that leaves this file is a tuple of tensors.
"""

from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from mutoscope.core.errors import ConfigError, optional_import
from mutoscope.core.shapes import LatentShape, latent_frames
from mutoscope.models.codec import CodecState
from mutoscope.models.wan_config import WanCodecConfig


def wan_codec(config: WanCodecConfig) -> "WanCodec":
    """The codec with its weights on the meta device: to be loaded, initialised, or measured without either."""
    diffusers = optional_import("diffusers", package="diffusers", extra="wan")
    with torch.device("meta"):
        vae = diffusers.AutoencoderKLWan(
            base_dim=config.base_dim,
            z_dim=config.z_dim,
            dim_mult=list(config.dim_mult),
            num_res_blocks=config.num_res_blocks,
            temperal_downsample=list(config.temporal_downsample),
            latents_mean=list(config.latents_mean),
            latents_std=list(config.latents_std),
        )
    return WanCodec(config, vae)


class WanCodec(nn.Module):
    """A codec around a Wan VAE, which works in its own number type; pixels and latents keep float32 outside, or what is wider."""

    def __init__(self, config: WanCodecConfig, vae: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.vae: Any = vae
        self._caches = sum(isinstance(module, nn.Conv3d) for module in vae.modules())

    def initialise(self, generator: torch.Generator, device: torch.device | str = "cpu") -> "WanCodec":
        """Random weights on a device: convolutions of unit gain, gains 1, biases 0. For measurements and tests."""
        self.vae.to_empty(device=device)
        with torch.no_grad():
            for name, parameter in self.vae.named_parameters():
                if name.endswith("bias"):
                    parameter.zero_()
                elif name.endswith("gamma"):
                    parameter.fill_(1.0)
                else:
                    drawn = torch.randn(parameter.shape, generator=generator)
                    parameter.copy_(drawn / parameter[0].numel() ** 0.5)
        return self

    def resized(self, height: int, width: int) -> "WanCodec":
        """The same weights for pictures of another size."""
        return WanCodec(replace(self.config, height=height, width=width), self.vae)

    @property
    def decoder(self) -> nn.Module:
        """The part that makes pictures, for who counts its weights."""
        return self.vae.decoder

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
        return self.config.latent

    def encode(self, pixels: Tensor) -> Tensor:
        """`[B, 1 + k * temporal stride, 3, H, W]` in [-1, 1] -> standardised means of the posterior `[B, 1 + k, C, h, w]`."""
        size = (3, self.config.height, self.config.width)
        if pixels.ndim != 5 or tuple(pixels.shape[2:]) != size or not pixels.shape[1]:
            raise ConfigError(f"pixels are {tuple(pixels.shape)}; this codec takes [batch, frame, {', '.join(map(str, size))}]")
        later = latent_frames(pixels.shape[1], self.temporal_stride) - 1
        clip, caches = pixels.transpose(1, 2).to(self._dtype), [None] * self._caches
        pieces = clip.split([1] + [self.temporal_stride] * later, dim=2)
        moments = self.vae.quant_conv(torch.cat([self.vae.encoder(piece, feat_cache=caches, feat_idx=[0]) for piece in pieces], dim=2))
        mean, deviation = self._statistics(moments)
        raw = moments[:, : self.config.z_dim].transpose(1, 2).to(mean.dtype)
        return ((raw - mean) / deviation).to(torch.promote_types(pixels.dtype, torch.float32))

    def decode(self, latents: Tensor) -> Tensor:
        """Standardised latents `[B, 1 + k, C, h, w]` -> pixels `[B, 1 + k * temporal stride, 3, H, W]`, clamped to [-1, 1]."""
        return self.decode_next(latents, self.start_decoding(len(latents)))[0]

    def start_decoding(self, batch: int) -> CodecState:
        """Nothing seen yet: no tensors."""
        return ()

    def decode_next(self, latents: Tensor, state: CodecState) -> tuple[Tensor, CodecState]:
        """The next latent frames `[B, F, C, h, w]`, one after the other: `temporal_stride` pixel frames each, the first of a stream 1."""
        wanted = (self.latent.channels, self.latent.height, self.latent.width)
        if latents.ndim != 5 or tuple(latents.shape[2:]) != wanted or not latents.shape[1]:
            raise ConfigError(f"latents are {tuple(latents.shape)}; this codec takes [batch, frame, {', '.join(map(str, wanted))}]")
        if state and len(state[0]) != len(latents):
            raise ConfigError(f"{len(latents)} rows of latents continue a stream of {len(state[0])}; use a state per batch")
        mean, deviation = self._statistics(latents)
        raw = (latents * deviation + mean).transpose(1, 2).to(self._dtype)
        pixels = []
        for frame in raw.split(1, dim=2):
            made, state = self._decode_frame(frame, state)
            pixels.append(made)
        joined = torch.cat(pixels, dim=2).transpose(1, 2).clamp(-1, 1)
        return joined.to(torch.promote_types(latents.dtype, torch.float32)), state

    def _decode_frame(self, frame: Tensor, state: CodecState) -> tuple[Tensor, CodecState]:
        """One raw latent frame `[B, C, 1, h, w]` -> pixels `[B, 3, n, H, W]`, not clamped, and the state after it."""
        caches = _caches_of(state) + [None] * (self._caches - len(state))
        pixels = self.vae.decoder(self.vae.post_quant_conv(frame), feat_cache=caches, feat_idx=[0], first_chunk=not state)
        return pixels, _state_of(caches, frame)

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.vae.parameters()).dtype

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation `[C, 1, 1]` on the device of `like`, in float32 or what is wider."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        return per_channel(self.config.latents_mean, dtype, like.device), per_channel(self.config.latents_std, dtype, like.device)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def per_channel(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """One value per channel, `[C, 1, 1]`; made once, for numbers from the host make the device wait. Nobody writes into it."""
    return torch.tensor(values, dtype=dtype, device=device)[:, None, None]


# diffusers marks a temporal upsampler that has seen one frame alone with this word in place of a tensor.
_SEEN_ONE = "Rep"


def _caches_of(state: CodecState) -> list[Any]:
    """diffusers' list: a tensor without elements stands for the mark."""
    return [tensor if tensor.numel() else _SEEN_ONE for tensor in state]


def _state_of(caches: list[Any], like: Tensor) -> CodecState:
    """The tensors of diffusers' list, whose rest (convolutions that keep nothing) is None."""
    kept = [cache for cache in caches if cache is not None]
    return tuple(like.new_zeros(len(like), 0) if isinstance(cache, str) else cache for cache in kept)
