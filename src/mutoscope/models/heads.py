"""Attention whose heads go in groups, each in a mode of its own: heads are shared out before it and put together again behind it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from mutoscope.core.errors import ConfigError
from mutoscope.memory.heads import HeadTable
from mutoscope.models.attention import Attend, ClipLayout, Context, Place
from mutoscope.models.recall import RecallLayer


@dataclass(frozen=True)
class HeadSplit:
    """Which heads of every layer belong to which group.

    `groups` `[layer, head of the group]`: the group's heads; `places` `[layer, head]`: where a head stands where groups lie side by side.
    """

    groups: tuple[Tensor, ...]
    places: Tensor

    def share(self, layer: int, x: Tensor) -> list[Tensor]:
        """`[batch, head, token, head_dim]` -> the same of each group's heads."""
        return [x.index_select(1, group[layer]) for group in self.groups]

    def join(self, layer: int, parts: Sequence[Tensor]) -> Tensor:
        """The inverse of `share`."""
        return torch.cat(list(parts), dim=1).index_select(1, self.places[layer])


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # kept for training too, whoever asks first
def head_split(groups: tuple[HeadTable, ...], device: torch.device) -> HeadSplit:
    """The split by tables of heads; a session's chunks share one, and nobody writes into it."""
    tensors = tuple(torch.tensor(table, dtype=torch.long, device=device) for table in groups)
    return HeadSplit(tensors, torch.cat(tensors, dim=1).argsort(dim=1))


@dataclass(frozen=True)
class HeadByHead:
    """Every group of heads attends in a mode of its own."""

    split: HeadSplit
    parts: Sequence[Attend]

    def placed(self, place: Place) -> "HeadByHead":
        """The same modes, turned to places too."""
        return HeadByHead(self.split, [part.placed(place) for part in self.parts])

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        pieces = zip(*(self.split.share(layer, x) for x in (queries, keys, values)), strict=True)
        return self.split.join(layer, [part(layer, *piece) for part, piece in zip(self.parts, pieces, strict=True)])

    def recall(self, layer: int, memory: RecallLayer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """No learned memory stands beside frames that differ from head to head."""
        raise ConfigError("a learned memory has one past for all heads, and the memory 'head-wise' has none; give window or sink instead")


@dataclass(frozen=True)
class HeadContexts:
    """What the clean half of each group of heads leaves for its noisy half."""

    parts: tuple[Context, ...]

    def without_frames(self) -> "HeadContexts":
        """Keys and values without gradient."""
        return HeadContexts(tuple(part.without_frames() for part in self.parts))


@dataclass(frozen=True)
class HeadLayouts:
    """A clip's chunks with the key sources of each group of heads."""

    split: HeadSplit
    parts: tuple[ClipLayout, ...]

    def since(self, frame: int) -> "HeadLayouts":
        """The chunks from `frame` on, for the noisy half alone."""
        return HeadLayouts(self.split, tuple(part.since(frame) for part in self.parts))
