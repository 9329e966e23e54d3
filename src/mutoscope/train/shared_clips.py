"""Sequence parallelism for long clips (Ulysses, arXiv 2309.14509): processes share the frames of a clip, and in attention the heads.

Applied from outside, by hooks: a model is given a process's own frames only. In each layer's attention every process gets all frames of its
share of the heads, so that who sees whom is decided by the same objects as ever (models.attention), on whole clips. The velocity is put
together again.

Each exchange has its exact adjoint as backward. Losses are then those of all processes added up, each of the same whole clip; gradients
that are averaged over all processes, as they always are, are those of one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from mutoscope.core.errors import ConfigError
from mutoscope.models.attention import Attend, CleanHalf, LastPasses, NoisyHalf, Place, WholeClip
from mutoscope.models.conditions import Conditions
from mutoscope.models.recall import RecallLayer
from mutoscope.models.transformer import VideoTransformer


@dataclass(frozen=True)
class ClipGroup:
    """The processes that share a clip, and which of them this one is."""

    group: dist.ProcessGroup
    size: int
    rank: int

    def shares(self, count: int) -> list[int]:
        """`count` things in runs as equal as can be: how many each process has."""
        return [count // self.size + (index < count % self.size) for index in range(self.size)]

    def exchange(self, pieces: Sequence[Tensor], shapes: Sequence[Sequence[int]]) -> list[Tensor]:
        """Send the n-th piece to the n-th process, and get theirs, of these shapes."""
        sizes = [torch.Size(shape).numel() for shape in shapes]
        received = pieces[0].new_empty(sum(sizes))
        sent = torch.cat([piece.reshape(-1) for piece in pieces])
        dist.all_to_all_single(received, sent, sizes, [piece.numel() for piece in pieces], group=self.group)
        return [part.view(*shape) for part, shape in zip(received.split(sizes), shapes, strict=True)]


def to_heads(x: Tensor, group: ClipGroup, shares: Sequence[int]) -> Tensor:
    """All heads of own tokens `[.., head, own tokens, D]` -> own heads of all tokens `[.., head / size, tokens, D]`."""
    pieces = x.chunk(group.size, dim=-3)
    shape = pieces[0].shape
    return torch.cat(group.exchange(pieces, [(*shape[:-2], share, shape[-1]) for share in shares]), dim=-2)


def to_tokens(x: Tensor, group: ClipGroup, shares: Sequence[int]) -> Tensor:
    """The inverse of `to_heads`, which is its adjoint too."""
    own = (*x.shape[:-2], shares[group.rank], x.shape[-1])
    return torch.cat(group.exchange(x.split(list(shares), dim=-2), [own] * group.size), dim=-3)


class _ToHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ClipGroup, shares: Sequence[int]) -> Tensor:
        ctx.group, ctx.shares = group, shares
        return to_heads(x, group, shares)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return to_tokens(gradient, ctx.group, ctx.shares), None, None


class _ToTokens(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ClipGroup, shares: Sequence[int]) -> Tensor:
        ctx.group, ctx.shares = group, shares
        return to_tokens(x, group, shares)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return to_heads(gradient, ctx.group, ctx.shares), None, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ClipGroup, shares: Sequence[int]) -> Tensor:
        """`[own, ..]` -> `[all, ..]`."""
        ctx.group, ctx.shares = group, shares
        return torch.cat(group.exchange([x] * group.size, [(share, *x.shape[1:]) for share in shares]))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Every process read the whole: what they all ask of the own part is added up."""
        own = (ctx.shares[ctx.group.rank], *gradient.shape[1:])
        return torch.stack(ctx.group.exchange(gradient.split(list(ctx.shares)), [own] * ctx.group.size)).sum(0), None, None


def gather(x: Tensor, group: ClipGroup, shares: Sequence[int], dim: int) -> Tensor:
    """Own part along `dim` -> all parts, on every process."""
    return _Gather.apply(x.movedim(dim, 0).contiguous(), group, shares).movedim(0, dim)


@dataclass(frozen=True)
class SharedFrames:
    """A mode of attention where the tokens of each process are those of its own frames; `mode` sees all frames, and its share of heads."""

    mode: Attend
    group: ClipGroup
    frames: tuple[int, ...]
    tokens: int

    @property
    def shares(self) -> list[int]:
        """Tokens of each process."""
        return [count * self.tokens for count in self.frames]

    def placed(self, place: Place) -> "SharedFrames":
        """The same mode, turned to places too, which each process knows of its own frames."""
        rotation, address = (None if turn is None else self._all_turns(turn) for turn in (place.rotation, place.address))
        assert rotation is not None
        return replace(self, mode=self.mode.placed(Place(rotation, address)))

    def _all_turns(self, turn: Tensor) -> Tensor:
        return torch.view_as_complex(gather(torch.view_as_real(turn), self.group, self.shares, dim=2).contiguous())

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        # One after the other: under autocast they may differ in type, as attention is given them.
        shared = (_ToHeads.apply(x, self.group, self.shares) for x in (queries, keys, values))
        return _ToTokens.apply(self.mode(layer, *shared), self.group, self.shares)

    def recall(self, layer: int, memory: RecallLayer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """A learned memory has one state for all heads."""
        raise ConfigError("a learned memory is written frame after frame for all heads, and clips cannot be shared among processes")


def share_clips(model: VideoTransformer, group: ClipGroup) -> None:
    """Let the processes of a group compute a model's passes over whole clips together."""
    if model.config.num_heads % group.size:
        raise ConfigError(f"{model.config.num_heads} heads cannot be shared by clip_processes {group.size}; give a divisor of the heads")
    if model.memories:
        raise ConfigError(
            "clips of a model with a learned memory, which is written frame after frame, cannot be shared; set clip_processes 1"
        )

    def split(module: torch.nn.Module, inputs: tuple[Tensor, Tensor, Conditions, Attend]) -> Any:
        latents, sigma, conditions, attend = inputs
        if not is_shared(attend) or latents.shape[1] < group.size:
            return inputs
        shares = group.shares(latents.shape[1])
        stop = list(accumulate(shares))[group.rank]
        start = stop - shares[group.rank]
        mode = SharedFrames(attend, group, tuple(shares), model.config.grid.tokens)
        return latents[:, start:stop], sigma[:, start:stop], conditions.frames(start, stop), mode

    def join(module: torch.nn.Module, inputs: tuple[Any, ...], velocity: Tensor) -> Tensor:
        mode = inputs[3]
        return gather(velocity, group, mode.frames, dim=1) if isinstance(mode, SharedFrames) else velocity

    model.register_forward_pre_hook(split)
    model.register_forward_hook(join)


def is_shared(attend: Attend) -> bool:
    """Whether a pass is shared: over whole clips where all heads read the same frames. All others each process makes whole."""
    half = attend.half if isinstance(attend, LastPasses) else attend
    if isinstance(half, (CleanHalf, NoisyHalf)):
        return not any(chunk.sifts for chunk in half.layout.chunks)
    return isinstance(half, WholeClip)
