"""Teacher forcing where the rows of a batch remember different frames: each row has a layout of its own, in one forward."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mutoscope.models.attention import Attend, CleanHalf, ClipLayout, Context, NoisyHalf, Place
from mutoscope.models.heads import HeadByHead, HeadContexts, HeadLayouts
from mutoscope.models.recall import RecallLayer


@dataclass(frozen=True)
class RowByRow:
    """Every row of the batch attends in a mode of its own."""

    rows: Sequence[Attend]

    def placed(self, place: Place) -> "RowByRow":
        """The same modes, turned to places too."""
        return RowByRow([row.placed(place.of(slice(index, index + 1))) for index, row in enumerate(self.rows)])

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        pieces = zip(self.rows, queries.split(1), keys.split(1), values.split(1), strict=True)
        return torch.cat([row(layer, *parts) for row, *parts in pieces])

    def recall(self, layer: int, memory: RecallLayer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """What each row recalls."""
        pieces = zip(self.rows, queries.split(1), keys.split(1), values.split(1), strict=True)
        return torch.cat([row.recall(layer, memory, *parts) for row, *parts in pieces])


@dataclass(frozen=True)
class RowContexts:
    """What the clean half of each row leaves for its noisy half."""

    rows: tuple["RowContext", ...]

    def without_frames(self) -> "RowContexts":
        """Keys and values without gradient."""
        return RowContexts(tuple(row.without_frames() for row in self.rows))


@dataclass(frozen=True)
class RowLayouts:
    """A clip's chunks with the key sources of each row."""

    rows: tuple["RowLayout", ...]

    def since(self, frame: int) -> "RowLayouts":
        """The chunks from `frame` on, for the noisy half alone."""
        return RowLayouts(tuple(row.since(frame) for row in self.rows))


RowLayout = ClipLayout | HeadLayouts
RowContext = Context | HeadContexts
AnyLayout = RowLayout | RowLayouts
AnyContext = RowContext | RowContexts


def clean_half(clip: AnyLayout) -> tuple[Attend, AnyContext]:
    """How the clean half attends, and the context that it fills."""
    if not isinstance(clip, RowLayouts):
        return _clean_row(clip)
    halves, contexts = zip(*map(_clean_row, clip.rows), strict=True)
    return RowByRow(halves), RowContexts(contexts)


def _clean_row(row: RowLayout) -> tuple[Attend, RowContext]:
    """The same where there is no other row."""
    if isinstance(row, ClipLayout):
        half = CleanHalf(row)
        return half, half.context
    halves = tuple(map(CleanHalf, row.parts))
    return HeadByHead(row.split, halves), HeadContexts(tuple(half.context for half in halves))


def noisy_half(clip: AnyLayout, context: AnyContext) -> Attend:
    """How the noisy half attends."""
    match clip, context:
        case ClipLayout(), Context():
            return NoisyHalf(clip, context)
        case HeadLayouts(), HeadContexts():
            return HeadByHead(clip.split, [NoisyHalf(part, past) for part, past in zip(clip.parts, context.parts, strict=True)])
        case RowLayouts(), RowContexts():
            return RowByRow([noisy_half(row, past) for row, past in zip(clip.rows, context.rows, strict=True)])
    raise TypeError("the context was encoded under another kind of layout")
