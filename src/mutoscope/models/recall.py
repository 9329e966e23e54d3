"""Learned memories beside the cache: one module per layer that writes what leaves the cache, or every chunk, into a state.

A state is one float32 tensor `[row, head, floats]`, so that store, parking and bytes know nothing of its kind. The module holds what is
learned: how strongly it speaks (0 when it is added to a trained model, so that adding it changes nothing), how it writes, where it
begins. Keys and queries are turned to where their tokens stand on the screen and in the world, not in time: a memory of constant size
has no place for how long ago something was.
"""

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, softplus

from mutoscope.memory import states
from mutoscope.memory.kinds import FastWeights, GatedDelta, LinearState, StateConfig, WrittenAt, WrittenFrom
from mutoscope.models.rope import rotate

FIRST_RATE = 0.2  # at 1, a step is as large as a row, and two runs that differ in their last bits part within 2,000 writes
FIRST_KEEP = 4.0  # sigmoid(4) = 0.982


class RecallLayer(Protocol):
    """A learned memory of one layer. Everything is `[B, head, token, D]`; `turn` are rotations that broadcast to `[B, 1, token, D / 2]`."""

    @property
    def written_at(self) -> WrittenAt:
        """When a chunk enters: as it is made, or as its frames are evicted."""
        ...

    @property
    def written_from(self) -> WrittenFrom:
        """The pass whose keys and values enter: the chunk's commit, or its last denoising pass."""
        ...

    def start(self, rows: int) -> Tensor:
        """The state before anything was written, `[rows, head, floats]`."""
        ...

    def write(self, state: Tensor, keys: Tensor, values: Tensor, turn: Tensor) -> Tensor:
        """The state after one more chunk."""
        ...

    def read(self, state: Tensor, queries: Tensor, turn: Tensor) -> Tensor:
        """What the layer adds to attention's output."""
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


class LinearRecall(nn.Module):
    """out = (phi(q) S / phi(q) z) W0 with phi = relu; W0 `[head, D, D]` starts at 0 (Hybrid Forcing)."""

    written_at: WrittenAt = "eviction"

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
        return self.out.new_zeros(rows, self.heads, self.head_dim * (self.head_dim + 1), dtype=_wide(self.out))

    def write(self, state: Tensor, keys: Tensor, values: Tensor, turn: Tensor) -> Tensor:
        """One sum."""
        counting = relu(keys.to(state.dtype))
        return _join(states.linear_write(*_cut(state, self.head_dim), counting, rotate(counting, turn), values.to(state.dtype)))

    def read(self, state: Tensor, queries: Tensor, turn: Tensor) -> Tensor:
        """One product."""
        counting = relu(queries.to(state.dtype))
        read = states.linear_read(*_cut(state, self.head_dim), counting, rotate(counting, turn))
        return (read @ self.out.to(state.dtype)).to(queries.dtype)


class DeltaRecall(nn.Module):
    """The gated delta rule a frame at a time; how much stays (a) and how fast it writes (b) are seen from the frame's mean key."""

    written_at: WrittenAt = "eviction"

    def __init__(self, config: GatedDelta, heads: int, head_dim: int) -> None:
        super().__init__()
        self.written_from: WrittenFrom = config.written_from
        self.heads, self.head_dim = heads, head_dim
        self.out = nn.Parameter(torch.zeros(heads, head_dim, head_dim))
        self.keep, self.rate = nn.Parameter(torch.zeros(heads, head_dim)), nn.Parameter(torch.zeros(heads, head_dim))
        self.keep_bias, self.rate_bias = nn.Parameter(torch.full((heads,), FIRST_KEEP)), nn.Parameter(torch.zeros(heads))

    def initialise(self, generator: torch.Generator) -> None:
        """W0 and the gates' matrices at 0; a at .98, b at .5."""
        for parameter in (self.out, self.keep, self.rate, self.rate_bias):
            nn.init.zeros_(parameter)
        nn.init.constant_(self.keep_bias, FIRST_KEEP)

    def start(self, rows: int) -> Tensor:
        """Nothing has been seen."""
        return self.out.new_zeros(rows, self.heads, self.head_dim * (self.head_dim + 1), dtype=_wide(self.out))

    def write(self, state: Tensor, keys: Tensor, values: Tensor, turn: Tensor) -> Tensor:
        """One step of the delta rule."""
        wide, tokens = keys.to(state.dtype), keys.shape[-2]
        counting = relu(wide) / (self.head_dim * tokens) ** 0.5
        mean = wide.mean(dim=-2)
        keep, rate = (
            ((mean * matrix).sum(-1) + bias).sigmoid()[..., None, None]
            for matrix, bias in ((self.keep, self.keep_bias), (self.rate, self.rate_bias))
        )
        return _join(states.delta_write(*_cut(state, self.head_dim), counting, rotate(counting, turn), values.to(state.dtype), keep, rate))

    def read(self, state: Tensor, queries: Tensor, turn: Tensor) -> Tensor:
        """One product."""
        counting = relu(queries.to(state.dtype)) / (self.head_dim * queries.shape[-2]) ** 0.5
        read = states.delta_read(*_cut(state, self.head_dim), counting, rotate(counting, turn))
        return (read @ self.out.to(state.dtype)).to(queries.dtype)


class FastRecall(nn.Module):
    """out = tanh(alpha) rms(f_W(q)); W begins at learned weights and takes one gradient step per chunk, at a learned rate eta per head."""

    written_at: WrittenAt = "chunk"

    def __init__(self, config: FastWeights, heads: int, head_dim: int) -> None:
        super().__init__()
        self.written_from: WrittenFrom = config.written_from
        self.config, self.heads, self.head_dim, width = config, heads, head_dim, config.hidden * head_dim
        self.shapes = [(head_dim, width) if index == 1 else (width, head_dim) for index in range(config.matrices)]
        self.weights = nn.ParameterList(nn.Parameter(torch.zeros(heads, *shape)) for shape in self.shapes)
        self.alpha = nn.Parameter(torch.zeros(heads))
        self.raw_rate = nn.Parameter(torch.zeros(config.matrices * heads))

    def initialise(self, generator: torch.Generator) -> None:
        """Rows of norm about 1, eta at FIRST_RATE, alpha at 0."""
        for weight in self.weights:
            nn.init.normal_(weight, std=weight.shape[-1] ** -0.5, generator=generator)
        nn.init.zeros_(self.alpha)
        nn.init.constant_(self.raw_rate, float(torch.tensor(FIRST_RATE).expm1().log()))

    @property
    def rates(self) -> Tensor:
        """eta `[matrix, head]`, above 0."""
        return softplus(self.raw_rate).view(self.config.matrices, self.heads)

    def start(self, rows: int) -> Tensor:
        """The learned weights, the same for every row."""
        flat = torch.cat([weight.flatten(1) for weight in self.weights], dim=-1)
        return flat.to(_wide(flat)).expand(rows, -1, -1)

    def write(self, state: Tensor, keys: Tensor, values: Tensor, turn: Tensor) -> Tensor:
        """One gradient step on what the chunk's keys should give."""
        weights, gradient = self._weights(state), states.mlp_gradient if self.config.form == "mlp" else states.swiglu_gradient
        step = gradient(weights, self._address(keys, turn, state.dtype), values.to(state.dtype).flatten(0, 1))
        norms = tuple(weight.norm(dim=-1, keepdim=True).to(state.dtype) for weight in self.weights)
        heads = (-1, self.heads)
        before, downhill = (tuple(part.unflatten(0, heads) for part in parts) for parts in (weights, step))
        return torch.cat([part.flatten(2) for part in states.descend(before, downhill, self.rates.to(state.dtype), norms)], dim=-1)

    def read(self, state: Tensor, queries: Tensor, turn: Tensor) -> Tensor:
        """What the weights give for the queries."""
        weights, turned = self._weights(state), self._address(queries, turn, state.dtype)
        told = turned + states.mlp_read(weights, turned) if self.config.form == "mlp" else states.swiglu_read(weights, turned)
        return (self.alpha.tanh()[:, None, None].to(state.dtype) * states.rms(told).view(queries.shape)).to(queries.dtype)

    def _address(self, x: Tensor, turn: Tensor, dtype: torch.dtype) -> Tensor:
        """Keys or queries at length 1 per channel and turned, rows and heads in one dimension: small products run faster so."""
        return rotate(states.rms(x.to(dtype)), turn).flatten(0, 1)

    def _weights(self, state: Tensor) -> tuple[Tensor, ...]:
        """The matrices in a state, rows and heads in one dimension."""
        parts = state.reshape(-1, self.config.matrices, *self.shapes[0]).unbind(1)
        return tuple(part if index != 1 else part.view(-1, *self.shapes[1]) for index, part in enumerate(parts))


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


def _wide(x: Tensor) -> torch.dtype:
    """float32, or float64 where the model is in it: a state lives through more steps than half precision bears."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
