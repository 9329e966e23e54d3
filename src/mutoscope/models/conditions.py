"""What a frame is told: one typed value for all conditions, with their nulls."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mutoscope.core.errors import ConfigError


@dataclass(frozen=True)
class Conditions:
    """Conditions of a clip.

    actions  `[batch, frame, temporal_stride, action]` float: the actions that led to each pixel frame of a frame
    known    `[batch, frame]` bool: False puts the learned null in place of the frame's actions
    travel   `[batch, frame, action]` float64: the sum of all known actions before each frame, its own left out
    text     `[batch, token, text_dim]` float: prompt embedding; a model without text takes a width of 0
    """

    actions: Tensor
    known: Tensor
    travel: Tensor
    text: Tensor

    def frames(self, start: int, stop: int) -> "Conditions":
        """Those of frames start .. stop - 1."""
        return replace(self, actions=self.actions[:, start:stop], known=self.known[:, start:stop], travel=self.travel[:, start:stop])

    def rows(self, rows: slice) -> "Conditions":
        """Those of some rows of the batch."""
        return Conditions(self.actions[rows], self.known[rows], self.travel[rows], self.text[rows])

    def without_actions(self, chunks: Sequence[int]) -> "Conditions":
        """The null condition of guidance: of chunks of these lengths no action is known, only where each of them began."""
        return replace(self, known=torch.zeros_like(self.known), travel=self._held(chunks))

    def drop_actions(self, keep: Tensor, chunks: Sequence[int]) -> "Conditions":
        """`without_actions` in the batch rows where `keep` `[batch]` is False (guidance dropout)."""
        travel = torch.where(keep[:, None, None], self.travel, self._held(chunks))
        return replace(self, known=self.known & keep[:, None], travel=travel)

    def travelled(self) -> Tensor:
        """`travel` with each frame's own actions: `[batch, frame, action]` float64."""
        return self.travel + own_travel(self.actions, self.known)

    def as_first(self) -> "Conditions":
        """These frames as the begin of a clip, whose first frame is one pixel frame: its last, with its action `temporal_stride` times.

        Where the camera stands in every frame stays the same.
        """
        alone = self.actions[:, :1, -1:].expand_as(self.actions[:, :1])
        before = self.travelled()[:, :1] - own_travel(alone, self.known[:, :1])
        actions, travel = torch.cat([alone, self.actions[:, 1:]], dim=1), torch.cat([before, self.travel[:, 1:]], dim=1)
        return replace(self, actions=actions, travel=travel)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "Conditions":
        """On a device, floats in a type; travel stays in float64."""
        return Conditions(self.actions.to(device, dtype), self.known.to(device), self.travel.to(device), self.text.to(device, dtype))

    def _held(self, chunks: Sequence[int]) -> Tensor:
        if sum(chunks) != self.known.shape[1]:
            raise ConfigError(f"chunks of {tuple(chunks)} frames do not make up {self.known.shape[1]} frames")
        parts = self.travel.split(list(chunks), dim=1)
        return torch.cat([part[:, :1].expand_as(part) for part in parts], dim=1)


def own_travel(actions: Tensor, known: Tensor) -> Tensor:
    """The sum of each frame's known actions, `[batch, frame, action]` float64."""
    return (actions.double() * known[..., None, None]).sum(dim=2)


def action_conditions(actions: Tensor, known: Tensor, start: Tensor | None = None) -> Conditions:
    """Conditions of a world without text; `start` `[batch, action]` is the travel before the first frame, none by default."""
    own = own_travel(actions, known)
    travel = own.cumsum(dim=1) - own
    if start is not None:
        travel = travel + start[:, None]
    return Conditions(actions, known, travel, actions.new_zeros(actions.shape[0], 0, 0))


def clip_conditions(actions: Tensor, known: Tensor, temporal_stride: int) -> Conditions:
    """Actions of pixel frames `[B, T, A]`, known `[B, T]` -> conditions of the clip's frames (no text).

    The first pixel frame stands alone: its frame carries its action `temporal_stride` times. Every later frame
    carries the actions of its own `temporal_stride` pixel frames, and is known if all of them are.
    """
    spread = torch.cat([actions[:, :1].expand(-1, temporal_stride, -1), actions[:, 1:]], dim=1)
    flags = torch.cat([known[:, :1].expand(-1, temporal_stride), known[:, 1:]], dim=1)
    if spread.shape[1] % temporal_stride:
        raise ConfigError(f"{actions.shape[1]} pixel frames are not 1 + a multiple of the temporal stride {temporal_stride}")
    return action_conditions(spread.unflatten(1, (-1, temporal_stride)), flags.unflatten(1, (-1, temporal_stride)).all(dim=2))
