"""The tensors of a memory whose head groups remember different frames: a store for each group, which holds its heads alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mutoscope.core.errors import ConfigError
from mutoscope.memory.choosing import Criterion
from mutoscope.memory.frames import Chunk
from mutoscope.memory.heads import HeadTable, HeadWise
from mutoscope.memory.ledger import HeadPlan
from mutoscope.memory.policy import PolicyConfig, head_parts
from mutoscope.memory.scoring import Scorer
from mutoscope.memory.store import CacheSpec, MemoryStore


@dataclass(frozen=True)
class HeadSpec:
    """Everything that the size of a head-wise memory depends on: a cache for each head group, with slots for its heads alone."""

    layers: int
    heads: int
    head_dim: int
    tokens: int
    policy: HeadWise
    max_chunk: int
    rows: int = 1

    @property
    def groups(self) -> tuple[HeadTable, ...]:
        """Heads of every layer, group by group."""
        return tuple(table for _, table in head_parts(self.policy, self.layers, self.heads))

    @property
    def parts(self) -> tuple[CacheSpec, ...]:
        """The groups' caches."""
        groups = head_parts(self.policy, self.layers, self.heads)
        sizes = self.head_dim, self.tokens
        return tuple(CacheSpec(self.layers, len(table[0]), *sizes, policy, self.max_chunk, self.rows) for policy, table in groups)

    @property
    def slots(self) -> int:
        """Frames that fit into one row of the larger cache."""
        return max(part.slots for part in self.parts)

    @property
    def criterion(self) -> Criterion:
        """What content is compared by."""
        return self.policy.criterion

    @property
    def state_floats(self) -> int:
        """No learned memory stands beside it."""
        return 0

    def state_bytes(self, dtype: torch.dtype = torch.float32) -> int:
        """Of a learned memory: none."""
        return sum(part.state_bytes(dtype) for part in self.parts)

    def shelves(self, dtype: torch.dtype = torch.float32) -> int:
        """Frames on the host: none."""
        return sum(part.shelves(dtype) for part in self.parts)

    def host_bytes(self, dtype: torch.dtype = torch.float32) -> int:
        """On the host: none."""
        return sum(part.host_bytes(dtype) for part in self.parts)

    def bytes(self, dtype: torch.dtype = torch.float32) -> int:
        """Exactly what a HeadStore of this spec allocates on its device."""
        return sum(part.bytes(dtype) for part in self.parts)


class HeadStore:
    """Head groups of `spec.rows` players: every group has ledgers and slots of its own. `scorers`: one per group."""

    def __init__(
        self, spec: HeadSpec, scorers: Sequence[Scorer], *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        self.spec, self.groups = spec, spec.groups
        pairs = zip(spec.parts, scorers, strict=True)
        self.parts = tuple(MemoryStore(part, scorer=scorer, device=device, dtype=dtype) for part, scorer in pairs)

    @property
    def bytes(self) -> int:
        """Bytes held on the device."""
        return sum(part.bytes for part in self.parts)

    @property
    def host_bytes(self) -> int:
        """Bytes held on the host."""
        return sum(part.host_bytes for part in self.parts)

    @property
    def moving_seconds(self) -> float:
        """Seconds spent on choosing and moving frames."""
        return sum(part.moving_seconds for part in self.parts)

    def clear(self, row: int) -> None:
        """Forget everything in a row."""
        for part in self.parts:
            part.clear(row)

    def park(self) -> dict[str, object]:
        """A copy of all state that `restore` brings back bit for bit."""
        return {"parts": [part.park() for part in self.parts], "policy": self.spec.policy}

    def restore(self, parked: dict) -> None:
        """Bring a parked state back. Another size or policy is a ConfigError, and then nothing is changed."""
        if "parts" not in parked or parked["policy"] != self.spec.policy:
            raise ConfigError(f"the parked memory has another policy than this one ({self.spec.policy}); use the same policy")
        pairs = list(zip(self.parts, parked["parts"], strict=True))
        for part, state in pairs:
            part.check_parked(state)
        for part, state in pairs:
            part.restore(state)

    def open_chunk(self, rows: slice, length: int) -> HeadPlan:
        """Open the next chunk where nothing is to be chosen yet."""
        return HeadPlan(self.groups, tuple(part.open_chunk(rows, length) for part in self.parts))

    def choose_chunk(self, row: int, length: int, travelled: Tensor) -> HeadPlan:
        """Open the next chunk of a row: each group for itself (MemoryStore.choose_chunk)."""
        return HeadPlan(self.groups, tuple(part.choose_chunk(row, length, travelled) for part in self.parts))

    def rewrite_chunk(self, rows: slice, chunk: Chunk) -> HeadPlan:
        """Plan to commit a remembered chunk of these rows once more."""
        return HeadPlan(self.groups, tuple(part.rewrite_chunk(rows, chunk) for part in self.parts))

    def commit(self, rows: slice) -> None:
        """The open chunk of these rows becomes part of the past, in all groups."""
        for part in self.parts:
            part.commit(rows)


AnySpec = CacheSpec | HeadSpec
AnyStore = MemoryStore | HeadStore


def cache_spec(layers: int, heads: int, head_dim: int, tokens: int, policy: PolicyConfig, max_chunk: int, rows: int = 1) -> AnySpec:
    """The cache of a model under a policy."""
    if isinstance(policy, HeadWise):
        return HeadSpec(layers, heads, head_dim, tokens, policy, max_chunk, rows)
    return CacheSpec(layers, heads, head_dim, tokens, policy, max_chunk, rows)
