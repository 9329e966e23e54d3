"""How much memory a computation holds at its worst, counted on the meta device: shapes alone, no arithmetic, no memory."""

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mutoscope.models.codec import Codec, state_bytes


class LiveBytes(TorchDispatchMode):
    """While active: `live` bytes of the tensors made in it that still exist, and their `peak`. A convolution's workspace is not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(storage) for storage in _storages((args, kwargs or {}))}
        made = func(*args, **(kwargs or {}))
        for storage in _storages(made):
            if id(storage) not in given:  # views of what was there before, such as weights, are not made here
                self._note(storage)
        return made

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._known:
            return

        def gone(_: weakref.ref) -> None:
            self.live -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, gone)
        self.live += size
        self.peak = max(self.peak, self.live)


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [tensor.untyped_storage() for tensor in tree_leaves(values) if isinstance(tensor, Tensor)]


@dataclass(frozen=True)
class DecodingBytes:
    """weights; state: what a stream keeps between frames; working: the most that a frame needs beside both, its pictures included."""

    weights: int
    state: int
    working: int

    @property
    def total(self) -> int:
        """The most while a frame is decoded."""
        return self.weights + self.state + self.working


def decoding_bytes(codec: Codec, weights: torch.nn.Module, batch: int = 1) -> DecodingBytes:
    """Bytes of streaming decode, one frame at a time, in steady state; `codec` with its `weights` on the meta device.

    Of a `TiledCodec` that keeps its states on the host, ask for its `tile`: that is what the device holds at a time, beside the pictures.
    """
    latent, state = codec.latent, codec.start_decoding(batch)
    frame = torch.empty(batch, 1, latent.channels, latent.height, latent.width, device="meta")
    for _ in range(2):
        _, state = codec.decode_next(frame, state)
    with torch.no_grad(), LiveBytes() as counted:
        codec.decode_next(frame, state)
    return DecodingBytes(sum(tensor.nbytes for tensor in weights.parameters()), state_bytes(state), counted.peak)
