"""What one number of a cache is: the model's own type, or eight bits with a scale per token and head.

    scale = max |x| / highest, over the channels of one head of one token        code = x / scale, rounded to what the type has

int8 has 255 equal steps: no channel is off by more than half a step, max |x| / 254. fp8 (e4m3) has 3 bits after the first: none is off by
more than a sixteenth of itself, and small ones by no more than what its smallest step, 2^-9, is times the scale.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

ElementName = Literal["plain", "int8", "fp8"]
SCALE_TYPE = torch.float32
CODES: dict[ElementName, tuple[torch.dtype, float]] = {"int8": (torch.int8, 127.0), "fp8": (torch.float8_e4m3fn, 448.0)}
"""Type and largest number of a code."""
SMALLEST = 1e-30  # a scale: a head of zeros has codes of zero


def element_bytes(name: ElementName, head_dim: int, dtype: torch.dtype) -> int:
    """What one head of one token takes in a cache of a model of type `dtype`, its scale included."""
    return head_dim * dtype.itemsize if name == "plain" else head_dim * CODES[name][0].itemsize + SCALE_TYPE.itemsize


def encode(name: ElementName, x: Tensor) -> tuple[Tensor, Tensor]:
    """`[..., head_dim]` -> codes of the same shape, and scales `[...]`."""
    code, highest = CODES[name]
    scales = (x.abs().amax(dim=-1).to(SCALE_TYPE) / highest).clamp_min(SMALLEST)
    scaled = x / scales[..., None].to(x.dtype)
    return (scaled.round().clamp(-highest, highest) if code == torch.int8 else scaled.clamp(-highest, highest)).to(code), scales


def decode(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverse, in a type."""
    return codes.to(dtype) * scales[..., None].to(dtype)


class Slots(Protocol):
    """Keys or values of all slots: `codes` `[layer, row, head, token, head_dim]`, allocated once."""

    codes: Tensor
    scales: Tensor

    def put(self, layers: int | slice, rows: slice, tokens: slice, x: Tensor) -> None:
        """Write `[row, head, token, head_dim]`, or that of all layers."""
        ...

    def put_at(self, layer: int, rows: slice, tokens: Tensor, x: Tensor) -> None:
        """Write to the token places of an index tensor, whose numbers the host need not know."""
        ...

    def get(self, layers: int | slice, rows: slice, tokens: slice) -> Tensor:
        """What was written, `[.., row, head, token, head_dim]`."""
        ...


@dataclass(frozen=True)
class PlainSlots:
    """In the model's type: reads are views."""

    codes: Tensor
    scales: Tensor

    def put(self, layers: int | slice, rows: slice, tokens: slice, x: Tensor) -> None:
        """As it is."""
        self.codes[layers, rows, :, tokens] = x

    def put_at(self, layer: int, rows: slice, tokens: Tensor, x: Tensor) -> None:
        """As it is."""
        self.codes[layer, rows].index_copy_(2, tokens, x)

    def get(self, layers: int | slice, rows: slice, tokens: slice) -> Tensor:
        """A view."""
        return self.codes[layers, rows, :, tokens]


@dataclass(frozen=True)
class CodedSlots:
    """In eight bits: reads make numbers of type `dtype` anew."""

    codes: Tensor
    scales: Tensor
    name: ElementName
    dtype: torch.dtype

    def put(self, layers: int | slice, rows: slice, tokens: slice, x: Tensor) -> None:
        """Rounded once, when it is written."""
        self.codes[layers, rows, :, tokens], self.scales[layers, rows, :, tokens] = encode(self.name, x)

    def put_at(self, layer: int, rows: slice, tokens: Tensor, x: Tensor) -> None:
        """Rounded once. Copied as bytes: not every kernel knows every type of eight bits."""
        codes, scales = encode(self.name, x)
        self.codes[layer, rows].view(torch.uint8).index_copy_(2, tokens, codes.view(torch.uint8))
        self.scales[layer, rows].index_copy_(2, tokens, scales)

    def get(self, layers: int | slice, rows: slice, tokens: slice) -> Tensor:
        """A copy."""
        return decode(self.codes[layers, rows, :, tokens], self.scales[layers, rows, :, tokens], self.dtype)


def new_slots(name: ElementName, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str) -> PlainSlots | CodedSlots:
    """Empty slots `[layer, row, head, token, head_dim]`."""
    if name == "plain":
        return PlainSlots(torch.zeros(shape, dtype=dtype, device=device), torch.zeros(0, dtype=SCALE_TYPE, device=device))
    codes, scales = torch.zeros(shape, dtype=CODES[name][0], device=device), torch.zeros(shape[:-1], dtype=SCALE_TYPE, device=device)
    return CodedSlots(codes, scales, name, dtype)
