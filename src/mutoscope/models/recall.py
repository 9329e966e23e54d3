"""Learned memories beside the cache: one module per layer that writes what leaves the cache, or every chunk, into a state.

A state is one float32 tensor `[row, head, floats]`, so that store, parking and bytes know nothing of its kind. The module holds what is
learned: how strongly it speaks (0 when it is added to a trained model, so that adding it changes nothing), how it writes, where it
begins, and how it addresses. What addresses it is made of attention's keys and queries, but is not them: they say what a token shows,
and what is to be found again is told apart by where it stood. So they are scaled and moved (but for a linear state, which is as
published), and turned to where their tokens stand on the screen and in the world, not in time: a memory of constant size has no place
for how long ago something was.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from mutoscope.memory import states
from mutoscope.memory.kinds import FastWeights, GatedDelta, LinearState, StateConfig, WrittenAt, WrittenFrom
from mutoscope.models.rope import rotate

FIRST_RATE, MOST_RATE = 0.2, 0.5  # of at most 1: at 1, gradient through 64 writes grows a hundredfold
FIRST_KEEP = 4.0  # sigmoid(4) = 0.982
FIRST_SCALE, FIRST_OFFSET = 0.2, 1.0  # keys begin as almost nothing but the place that they are turned to

AddressedBy = Literal["rotary", "place"]
Write = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(state, addressed keys, values) -> the state after one more chunk."""


class RecallLayer(Protocol):
    """A learned memory of one layer. All is `[B, head, token, ..]`; `turn` are rotations that broadcast to `[B, 1, token, D / 2]`."""

    @property
    def written_at(self) -> WrittenAt:
        """When a chunk enters: as it is made, or as its frames are evicted."""
        ...

    @property
    def written_from(self) -> WrittenFrom:
        """The pass whose keys and values enter: the chunk's commit, or its last denoising pass."""
        ...

    @property
    def addressed_by(self) -> AddressedBy:
        """How keys and queries are turned to where tokens stand: by rotary positions, or as addresses (rope.address_rates)."""
        ...

    def start(self, rows: int) -> Tensor:
        """The state before anything was written, `[rows, head, floats]`."""
        ...

    def address(self, x: Tensor, turn: Tensor) -> Tensor:
        """Keys or queries as writes and reads take them, wide and token by token: for many chunks at once."""
        ...

    def writer(self) -> Write:
        """How it writes, with all that is the same for every write worked out."""
        ...

    def read(self, state: Tensor, queries: Tensor) -> Tensor:
        """What the layer adds to attention's output for addressed queries, in the state's type."""
        ...


def recall_layer(config: StateConfig, heads: int, head_dim: int) -> "LearnedRecall":
    """The module of a kind of state."""
    match config:
        case LinearState():
            return LinearRecall(config, heads, head_dim)
        case GatedDelta():
            return DeltaRecall(config, heads, head_dim)
        case FastWeights():
            return FastRecall(config, heads, head_dim)


class Addressing(nn.Module):
    """scale * x + offset, a number of each per head and channel (LaCT, 2505.23884, has them on the keys that it shares with attention)."""

    def __init__(self, heads: int, head_dim: int) -> None:
        super().__init__()
        self.scale, self.offset = nn.Parameter(torch.zeros(heads, 1, head_dim)), nn.Parameter(torch.zeros(heads, 1, head_dim))

    def initialise(self) -> None:
        """Little of what is shown, so that the place it is turned to says most."""
        nn.init.constant_(self.scale, FIRST_SCALE)
        nn.init.constant_(self.offset, FIRST_OFFSET)

    def address(self, x: Tensor) -> Tensor:
        """Keys or queries `[B, head, token, D]` -> the same in float32 or float64."""
        wide = x.to(states.wide_type(self.scale.dtype)).contiguous()  # heads' tokens in a row: what follows runs faster so
        return torch.addcmul(self.offset.to(wide.dtype), self.scale.to(wide.dtype), wide)


class LinearRecall(nn.Module):
    """out = (phi(q) S / phi(q) z) W0 with phi = relu; W0 `[head, D, D]` starts at 0 (Hybrid Forcing).

    As published, also in how it addresses: its divisor counts all that was ever written, so that with addresses that tell places apart a
    reading would fade as places are seen.
    """

    written_at: WrittenAt = "eviction"
    addressed_by: AddressedBy = "rotary"

    def __init__(self, config: LinearState, heads: int, head_dim: int) -> None:
        super().__init__()
        self.written_from: WrittenFrom = config.written_from
        self.heads, self.head_dim = heads, head_dim
        self.out = nn.Parameter(torch.zeros(heads, head_dim, head_dim))

    def initialise(self, generator: torch.Generator) -> None:
        """W0 at 0."""
        nn.init.zeros_(self.out)

    def start(self, rows: int) -> Tensor:
        """Nothing has been seen."""
        return self.out.new_zeros(rows, self.heads, self.head_dim * (self.head_dim + 1), dtype=states.wide_type(self.out.dtype))

    def address(self, x: Tensor, turn: Tensor) -> Tensor:
        """What counts, and what addresses: `[B, head, token, 2 D]`."""
        counting = relu(x.to(states.wide_type(self.out.dtype)))
        return torch.cat([counting, rotate(counting, turn)], dim=-1)

    def writer(self) -> Write:
        """One sum."""
        return partial(_write_linear, self.head_dim)

    def read(self, state: Tensor, queries: Tensor) -> Tensor:
        """One product."""
        counting, turned = queries.chunk(2, dim=-1)
        return states.linear_read(*_cut(state, self.head_dim), counting, turned) @ self.out.to(state.dtype)


class DeltaRecall(nn.Module):
    """The gated delta rule a frame at a time; how much stays (a) and how fast it writes (b) are seen from the frame's mean key."""

    written_at: WrittenAt = "eviction"
    addressed_by: AddressedBy = "place"

    def __init__(self, config: GatedDelta, heads: int, head_dim: int) -> None:
        super().__init__()
        self.written_from: WrittenFrom = config.written_from
        self.heads, self.head_dim = heads, head_dim
        self.addressing = Addressing(heads, head_dim)
        self.out = nn.Parameter(torch.zeros(heads, head_dim, head_dim))
        self.keep, self.rate = nn.Parameter(torch.zeros(heads, head_dim)), nn.Parameter(torch.zeros(heads, head_dim))
        self.keep_bias, self.rate_bias = nn.Parameter(torch.full((heads,), FIRST_KEEP)), nn.Parameter(torch.zeros(heads))

    def initialise(self, generator: torch.Generator) -> None:
        """W0 and the gates' matrices at 0; a at .98, b at .5."""
        self.addressing.initialise()
        for parameter in (self.out, self.keep, self.rate, self.rate_bias):
            nn.init.zeros_(parameter)
        nn.init.constant_(self.keep_bias, FIRST_KEEP)

    def start(self, rows: int) -> Tensor:
        """Nothing has been seen."""
        return self.out.new_zeros(rows, self.heads, self.head_dim * (self.head_dim + 1), dtype=states.wide_type(self.out.dtype))

    def address(self, x: Tensor, turn: Tensor) -> Tensor:
        """What counts, what addresses, and what each token says of a and b: `[B, head, token, 2 D + 2]`."""
        wide = x.to(states.wide_type(self.out.dtype))
        counting = relu(self.addressing.address(x))
        gates = wide @ torch.stack([self.keep, self.rate], dim=-1).to(wide.dtype)
        return torch.cat([counting, rotate(counting, turn), gates], dim=-1)

    def writer(self) -> Write:
        """One step of the delta rule."""
        return partial(_write_delta, self.head_dim, torch.stack([self.keep_bias, self.rate_bias], dim=-1))

    def read(self, state: Tensor, queries: Tensor) -> Tensor:
        """One product."""
        counting, turned, _ = _delta_parts(queries, self.head_dim)
        return states.delta_read(*_cut(state, self.head_dim), counting, turned) @ self.out.to(state.dtype)


class FastRecall(nn.Module):
    """out = rms(f_W(q)) A, A starts at 0; W begins at learned weights and takes one step per chunk, at learned rates eta.

    `inward` `[head, rows, D]` is the first matrix (SwiGLU: gate over up), `outward` `[head, D, hidden]` the last. Each has its rate.
    """

    written_at: WrittenAt = "chunk"
    addressed_by: AddressedBy = "place"

    def __init__(self, config: FastWeights, heads: int, head_dim: int) -> None:
        super().__init__()
        self.written_from: WrittenFrom = config.written_from
        self.config, self.heads, self.head_dim = config, heads, head_dim
        self.addressing = Addressing(heads, head_dim)
        self.width, self.inner = config.hidden * head_dim, config.inner_rows * head_dim
        self.inward = nn.Parameter(torch.zeros(heads, self.inner, head_dim))
        self.outward = nn.Parameter(torch.zeros(heads, head_dim, self.width))
        self.out = nn.Parameter(torch.zeros(heads, head_dim, head_dim))
        self.raw_rate = nn.Parameter(torch.zeros(heads, self.inner // self.width + 1))
        self._kept: tuple[tuple[tuple[int, int], ...], Write] | None = None

    def initialise(self, generator: torch.Generator) -> None:
        """Rows of norm about 1, eta at FIRST_RATE, A at 0."""
        self.addressing.initialise()
        for weight in (self.inward, self.outward):
            nn.init.normal_(weight, std=weight.shape[-1] ** -0.5, generator=generator)
        nn.init.zeros_(self.out)
        nn.init.constant_(self.raw_rate, math.log(FIRST_RATE / (MOST_RATE - FIRST_RATE)))

    @property
    def rates(self) -> Tensor:
        """eta `[head, matrix]`, between 0 and MOST_RATE."""
        return MOST_RATE * self.raw_rate.sigmoid()

    def start(self, rows: int) -> Tensor:
        """The learned weights, the same for every row."""
        flat = torch.cat([self.inward.flatten(1), self.outward.flatten(1)], dim=-1)
        return flat.to(states.wide_type(flat.dtype)).expand(rows, -1, -1)

    def address(self, x: Tensor, turn: Tensor) -> Tensor:
        """At length 1 per channel, and turned: `[B, head, token, D]`."""
        return rotate(states.rms(self.addressing.address(x)), turn)

    def writer(self) -> Write:
        """One step towards what the chunk's keys should give. While nobody learns, what is the same for every write is worked out once."""
        if torch.is_grad_enabled():
            return self._new_writer()
        weights = (self.raw_rate, self.inward, self.outward)
        state = tuple((weight.data_ptr(), weight._version) for weight in weights)
        if self._kept is None or self._kept[0] != state:
            self._kept = (state, self._new_writer())
        return self._kept[1]

    def _new_writer(self) -> Write:
        wide = states.wide_type(self.out.dtype)
        inner, last = self.rates.to(wide).split([self.inner // self.width, 1], dim=1)
        rates = inner.repeat_interleave(self.width, dim=1)[..., None], last[..., None]
        norms = self.inward.norm(dim=-1, keepdim=True).to(wide), self.outward.norm(dim=-1, keepdim=True).to(wide)
        return partial(self._write, rates, norms)

    def _write(self, rates: states.FastParts, norms: states.FastParts, state: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        step_of = states.mlp_gradient if self.config.form == "mlp" else states.swiglu_step
        weights, wide = self._weights(state), values.to(state.dtype)
        flat = weights[0].flatten(0, 1), weights[1].flatten(0, 1)
        inward, outward = step_of(flat, keys.flatten(0, 1), wide.flatten(0, 1))
        downhill = inward.view(weights[0].shape), outward.view(weights[1].shape)
        inward, outward = states.descend(weights, downhill, rates, norms)
        return torch.cat([inward.flatten(2), outward.flatten(2)], dim=-1)

    def read(self, state: Tensor, queries: Tensor) -> Tensor:
        """What the weights give for the queries. Rows and heads go in one dimension: small products run faster so."""
        inward, outward = self._weights(state)
        weights, asked = (inward.flatten(0, 1), outward.flatten(0, 1)), queries.flatten(0, 1)
        told = asked + states.mlp_read(weights, asked) if self.config.form == "mlp" else states.swiglu_read(weights, asked)
        return states.rms(told).view(queries.shape) @ self.out.to(state.dtype)

    def _weights(self, state: Tensor) -> states.FastParts:
        """The matrices in a state, `[B, head, row, column]`."""
        inward, outward = state.split([self.inner * self.head_dim, self.width * self.head_dim], dim=-1)
        rows = state.shape[:2]
        return inward.view(*rows, self.inner, self.head_dim), outward.view(*rows, self.head_dim, self.width)


LearnedRecall = LinearRecall | DeltaRecall | FastRecall


def learned_memories(module: nn.Module) -> list[LearnedRecall]:
    """The learned memories in a module, in the order of its layers."""
    return [part for part in module.modules() if isinstance(part, (LinearRecall, DeltaRecall, FastRecall))]


def _cut(state: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """A linear state as its matrix `[B, head, D, D]` and its vector `[B, head, D]`."""
    return state[..., : head_dim**2].unflatten(-1, (head_dim, head_dim)), state[..., head_dim**2 :]


def _join(parts: tuple[Tensor, Tensor]) -> Tensor:
    matrix, total = parts
    return torch.cat([matrix.flatten(2), total], dim=-1)


def _write_linear(head_dim: int, state: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    counting, turned = keys.chunk(2, dim=-1)
    return _join(states.linear_write(*_cut(state, head_dim), counting, turned, values.to(state.dtype)))


def _write_delta(head_dim: int, biases: Tensor, state: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    counting, turned, gates = _delta_parts(keys, head_dim)
    keep, rate = (gates.mean(dim=-2) + biases).sigmoid()[..., None, None].unbind(2)
    return _join(states.delta_write(*_cut(state, head_dim), counting, turned, values.to(state.dtype), keep, rate))


def _delta_parts(addressed: Tensor, head_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """What counts and what addresses, each at 1 / sqrt(D * tokens of the chunk), and what the tokens say of the gates."""
    counting, turned, gates = addressed.split([head_dim, head_dim, 2], dim=-1)
    scale = (head_dim * addressed.shape[-2]) ** -0.5
    return counting * scale, turned * scale, gates
