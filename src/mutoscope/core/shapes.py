"""Sizes that are derived: tokens per frame, cache shapes, head splits. Computed here and only here."""

from dataclasses import dataclass

from mutoscope.core.errors import ConfigError


@dataclass(frozen=True)
class LatentShape:
    """Size of one latent frame: `[channels, height, width]`."""

    channels: int
    height: int
    width: int


@dataclass(frozen=True)
class TokenGrid:
    """One frame's tokens inside the transformer: `height x width` patches."""

    height: int
    width: int

    @property
    def tokens(self) -> int:
        """Tokens per frame."""
        return self.height * self.width


def token_grid(latent: LatentShape, patch: int) -> TokenGrid:
    """The grid of `patch x patch` patches of a latent frame; sizes that do not divide are an error."""
    if latent.height % patch or latent.width % patch:
        raise ConfigError(f"a latent frame of {latent.height}x{latent.width} cannot be cut into {patch}x{patch} patches")
    return TokenGrid(latent.height // patch, latent.width // patch)


def rope_split(head_dim: int) -> tuple[int, int, int]:
    """Wan's split of a head into time, height and width channels: d - 4 floor(d/6), then 2 floor(d/6) twice."""
    if head_dim % 2 or head_dim < 6:
        raise ConfigError(f"a head needs an even number of at least 6 channels, got {head_dim}")
    side = 2 * (head_dim // 6)
    return head_dim - 2 * side, side, side


def latent_frames(pixel_frames: int, temporal_stride: int) -> int:
    """Latent frames of a clip whose first pixel frame stands alone: 1 + (T - 1) / stride."""
    if (pixel_frames - 1) % temporal_stride:
        raise ConfigError(f"{pixel_frames} pixel frames are not 1 + a multiple of the temporal stride {temporal_stride}")
    return 1 + (pixel_frames - 1) // temporal_stride


def pixel_frames(num_frames: int, temporal_stride: int) -> int:
    """Pixel frames of `num_frames` latent frames, the first of which decodes to one: 1 + stride (n - 1)."""
    return 1 + temporal_stride * (num_frames - 1)
