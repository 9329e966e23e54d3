"""What a loss is given: a micro-batch of latent clips, and the random draws that belong to its samples."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mutoscope.core.streams import stream
from mutoscope.models.conditions import Conditions


@dataclass(frozen=True)
class Draws:
    """Random numbers by name, one stream per sample of the update's whole batch.

    The draw of sample i depends on (seed, purpose, step, i) alone: cutting the batch into micro-batches or
    ranks changes nothing, and no rank can fork.
    """

    seed: int
    step: int
    samples: tuple[int, ...]
    device: torch.device

    def normal(self, purpose: str, *shape: int) -> Tensor:
        """Standard normal `[sample, *shape]`."""
        return torch.stack([torch.randn(shape, generator=self._of(purpose, index)) for index in self.samples]).to(self.device)

    def uniform(self, purpose: str, *shape: int) -> Tensor:
        """Uniform in [0, 1), `[sample, *shape]`."""
        return torch.stack([torch.rand(shape, generator=self._of(purpose, index)) for index in self.samples]).to(self.device)

    def integer(self, purpose: str, high: int, *shape: int) -> Tensor:
        """Uniform integers in 0 .. high - 1, `[sample, *shape]`."""
        draws = [torch.randint(high, shape, generator=self._of(purpose, index)) for index in self.samples]
        return torch.stack(draws).to(self.device)

    def shared(self, purpose: str, high: int) -> int:
        """One integer in 0 .. high - 1 for the whole update, equal on every rank and in every micro-batch."""
        return int(torch.randint(high, (), generator=stream(self.seed, purpose, self.step)))

    def _of(self, purpose: str, sample: int) -> torch.Generator:
        return stream(self.seed, purpose, self.step, sample)


@dataclass(frozen=True)
class ClipBatch:
    """Clean latents `[B, F, C, H, W]` with their conditions and draws; in the codec's stage pixels stand in for them.

    `draws` are new in every turn of every update; `clip_draws` belong to the clips: whoever reads the same ones has the same.
    """

    clean: Tensor
    conditions: Conditions
    draws: Draws
    clip_draws: Draws
