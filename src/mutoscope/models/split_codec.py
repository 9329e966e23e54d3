"""A codec that encodes with one model and decodes with another one of the same latents: Wan's own and a tiny decoder.

Wan's encoder never looks ahead, which a tiny one does; a tiny decoder takes a twenty-fifth of Wan's operations. Wan's decoder is not kept.
"""

from copy import copy

from torch import Tensor, nn

from mutoscope.core.errors import ConfigError
from mutoscope.core.shapes import LatentShape
from mutoscope.models.codec import CodecState
from mutoscope.models.tiny_codec import TinyCodec
from mutoscope.models.wan_codec import WanCodec


def encoder_alone(codec: WanCodec) -> WanCodec:
    """The same encoder in a codec that has no decoder; its weights go when nobody else holds them."""
    vae = copy(codec.vae)
    vae._modules = {name: part for name, part in codec.vae._modules.items() if name not in ("decoder", "post_quant_conv")}
    return WanCodec(codec.config, vae)


class SplitCodec(nn.Module):
    """Wan's encoder and a tiny decoder; the state is that of the decoder."""

    def __init__(self, wan: WanCodec, tiny: TinyCodec) -> None:
        super().__init__()
        ours, theirs = (_sizes(wan), _sizes(tiny))
        if ours != theirs:
            raise ConfigError(f"the world's codec has {_told(ours)}, and the decoder has {_told(theirs)}; give one of the same latents")
        self.encodes, self.decodes = encoder_alone(wan), tiny

    @property
    def decoder(self) -> nn.Module:
        """The part that makes pictures, for who counts its weights."""
        return self.decodes.decoder

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent cell."""
        return self.decodes.spatial_stride

    @property
    def temporal_stride(self) -> int:
        """Pixel frames per latent frame after the first."""
        return self.decodes.temporal_stride

    @property
    def latent(self) -> LatentShape:
        """Size of a latent frame."""
        return self.decodes.latent

    def encode(self, pixels: Tensor) -> Tensor:
        """Wan's latents of a clip, `[B, 1 + k * temporal stride, 3, H, W]` in [-1, 1] -> `[B, 1 + k, C, h, w]`, standardised."""
        return self.encodes.encode(pixels)

    def decode(self, latents: Tensor) -> Tensor:
        """Standardised latents -> the tiny decoder's pixels, in [-1, 1]."""
        return self.decodes.decode(latents)

    def start_decoding(self, batch: int) -> CodecState:
        """That of the tiny decoder."""
        return self.decodes.start_decoding(batch)

    def decode_next(self, latents: Tensor, state: CodecState) -> tuple[Tensor, CodecState]:
        """The next latent frames by the tiny decoder."""
        return self.decodes.decode_next(latents, state)


def _sizes(codec: WanCodec | TinyCodec) -> tuple[LatentShape, int, int]:
    return codec.latent, codec.spatial_stride, codec.temporal_stride


def _told(sizes: tuple[LatentShape, int, int]) -> str:
    latent, spatial, temporal = sizes
    return f"{latent.channels} channels of {latent.height}x{latent.width} cells (strides {spatial} and {temporal})"
