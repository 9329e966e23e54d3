"""What a frame is told: one typed value for all conditions, with their nulls."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mutoscope.core.errors import ConfigError


@dataclass(frozen=True)
class Conditions:
    """Conditions of a clip.

    actions  `[batch, frame, temporal_stride, action]` float: the actions that led to each pixel frame of a frame
    known    `[batch, frame]` bool: False puts the learned null in place of the frame's actions
    text     `[batch, token, text_dim]` float: prompt embedding; a model without text takes a width of 0
    """

    actions: Tensor
    known: Tensor
    text: Tensor

    def frames(self, start: int, stop: int) -> "Conditions":
        """Those of frames start .. stop - 1."""
        return replace(self, actions=self.actions[:, start:stop], known=self.known[:, start:stop])

    def without_actions(self) -> "Conditions":
        """The null condition of guidance: no action is known."""
        return replace(self, known=torch.zeros_like(self.known))

    def drop_actions(self, keep: Tensor) -> "Conditions":
        """Null the actions of the batch rows where `keep` `[batch]` is False (guidance dropout)."""
        return replace(self, known=self.known & keep[:, None])

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "Conditions":
        """On a device, floats in a type."""
        return Conditions(self.actions.to(device, dtype), self.known.to(device), self.text.to(device, dtype))


def action_conditions(actions: Tensor, known: Tensor) -> Conditions:
    """Conditions of a world without text."""
    return Conditions(actions, known, actions.new_zeros(actions.shape[0], 0, 0))


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
