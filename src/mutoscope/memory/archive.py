"""Frames on the host: unrotated keys, values and notes of frames that left their slots. Allocated once, written in place."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mutoscope.memory.scoring import NOTE_TYPE


@dataclass(frozen=True)
class Shelved:
    """One frame as it lies on a shelf: keys (unrotated) and values `[layer, head, tokens, head_dim]`, and its note."""

    keys: Tensor
    values: Tensor
    note: Tensor


class Archive:
    """`shelves` frames for each of `rows` players; which frame lies where is in the rows' ledgers."""

    def __init__(self, rows: int, shelves: int, frame: tuple[int, ...], note: tuple[int, ...], dtype: torch.dtype) -> None:
        self.keys, self.values = (torch.zeros(rows, shelves, *frame, dtype=dtype) for _ in range(2))
        self.notes = torch.zeros(rows, shelves, *note, dtype=NOTE_TYPE)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that is parked."""
        return self.keys, self.values, self.notes

    @property
    def bytes(self) -> int:
        """Bytes held."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors)

    def put(self, row: int, shelf: int, item: Shelved) -> None:
        """Lay a frame onto a shelf."""
        for target, tensor in zip(self.tensors, (item.keys, item.values, item.note), strict=True):
            target[row, shelf].copy_(tensor)

    def take(self, row: int, shelf: int) -> Shelved:
        """A copy of what lies on a shelf; the frame stays there."""
        return Shelved(*(tensor[row, shelf].clone() for tensor in self.tensors))
