"""Stage 0: the codec of a small world, an autoencoder of single frames."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mutoscope.models.codec import ConvCodec
from mutoscope.train.batch import ClipBatch
from mutoscope.train.config import CodecStage
from mutoscope.train.learner import Learner, make_learner


@dataclass
class CodecRun:
    """Learns `codec` from frames `[B, F, 3, H, W]` in [-1, 1]."""

    config: CodecStage
    learners: dict[str, Learner[ConvCodec]]

    @staticmethod
    def make(config: CodecStage, codec: ConvCodec) -> "CodecRun":
        """Fresh optimiser state around a codec."""
        return CodecRun(config, {"codec": make_learner(codec, config.update)})

    def turns(self, update: int) -> tuple[str, ...]:
        """The codec, always."""
        return ("codec",)

    def clips(self, turn: str, update: int) -> tuple[str, int]:
        """New ones in every update."""
        return turn, update

    def loss(self, turn: str, batch: ClipBatch) -> tuple[Tensor, dict[str, float]]:
        """L2 + 0.2 L1 of the reconstruction from noisy latents; the latents' scale is held near 1 by the bound and a weak penalty."""
        codec = self.learners["codec"].module
        pixels = batch.clean.flatten(0, 1)
        latents = codec.encode_raw(pixels)
        noise = batch.draws.normal("codec latent", batch.clean.shape[1], *latents.shape[1:]).flatten(0, 1)
        restored = codec.decode_raw(latents + self.config.latent_noise * noise)
        error = restored - pixels
        square = error.square().mean()
        loss = square + 0.2 * error.abs().mean() + 1e-4 * latents.square().mean()
        return loss, {"psnr": float(10 * torch.log10(4 / square.detach()))}


@torch.no_grad()
def measure_latents(codec: ConvCodec, batches: list[Tensor]) -> None:
    """Set the codec's latent mean and standard deviation per channel from pixel batches `[B, F, 3, H, W]`."""
    raw = torch.cat([codec.encode_raw(pixels.flatten(0, 1)) for pixels in batches])
    codec.latent_mean.copy_(raw.mean(dim=(0, 2, 3)))
    codec.latent_std.copy_(raw.std(dim=(0, 2, 3)).clamp_min(1e-4))
