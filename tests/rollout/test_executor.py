"""One streaming step costs the same for ever, and reads the cache where it lies."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fakes import ACTIONS, STATEFUL, model_for, tiny_checkpoint, tiny_conditions, tiny_latents, tiny_model
from mutoscope.core.errors import ConfigError
from mutoscope.memory.policy import Full, PolicyConfig, SinkWindow, Window
from mutoscope.memory.store import MemoryStore
from mutoscope.models.checkpoint import freeze
from mutoscope.rollout import executor
from mutoscope.rollout.executor import Executor, Pass
from mutoscope.rollout.session import Session, SessionConfig


@dataclass
class Cost(TorchDispatchMode):
    """Counts operations by name, and the bytes of results that lie in storage of their own."""

    operations: Counter = field(default_factory=Counter)
    bytes: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        result = function(*arguments, **(keywords or {}))
        known = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves((arguments, keywords)) if isinstance(leaf, Tensor)}
        self.operations[str(function)] += 1
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage().data_ptr() not in known:
                self.bytes += leaf.untyped_storage().nbytes()
        return result


def costs(policy: PolicyConfig, chunk: int) -> list[tuple[Counter, int]]:
    """Operations and allocated bytes of chunks 30 and 60, their commits included."""
    checkpoint = replace(tiny_checkpoint("matching", chunk), model=freeze(model_for(policy).float()))
    session = Session(checkpoint, SessionConfig(2, 4, policy))
    session.reset(0, 5)
    action, found = np.ones(ACTIONS.dim, np.float32), []
    for index in range(61):
        cost = Cost()
        with cost:
            session.step(action)
            session.commit()
        if index in (30, 60):
            found.append((cost.operations, cost.bytes))
    return found


def is_constant(policy: PolicyConfig, chunk: int = 1) -> bool:
    """Whether chunk 60 costs what chunk 30 did."""
    first, last = costs(policy, chunk)
    return first == last


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("policy", [Window(4), Window(5), SinkWindow(2, 4)], ids=str)
def test_operations_and_allocations_per_chunk_are_constant(policy, chunk):
    assert is_constant(policy, chunk)


@pytest.mark.parametrize("policy", STATEFUL)
def test_operations_and_allocations_of_learned_memories_are_constant(policy):
    assert is_constant(STATEFUL[policy])


def attention_on_copies(queries: Tensor, keys: Tensor, values: Tensor, attn_mask: Tensor | None) -> Tensor:
    """Twin: what a cache that is concatenated for every read does."""
    return torch.nn.functional.scaled_dot_product_attention(queries, keys.clone(), values.clone(), attn_mask=attn_mask)


def test_constant_cost_broken_twin_that_copies_a_growing_cache(monkeypatch):
    assert is_constant(Full(70))
    monkeypatch.setattr(executor, "scaled_dot_product_attention", attention_on_copies)
    assert not is_constant(Full(70))


def reads_lie_in_the_store(monkeypatch, attention: Callable[..., Tensor]) -> bool:
    """Whether attention is given views of the store's own tensors, which never move, and whether nothing asks the device for a number."""
    session = Session(tiny_checkpoint(), SessionConfig(2, 4, SinkWindow(2, 4)))
    inside, read = [], torch.nn.functional.scaled_dot_product_attention
    homes = [session.store.keys.untyped_storage().data_ptr(), session.store.values.untyped_storage().data_ptr()]

    def watched(queries: Tensor, keys: Tensor, values: Tensor, attn_mask: Tensor | None) -> Tensor:
        inside.append([tensor.untyped_storage().data_ptr() for tensor in (keys, values)] == homes)
        return read(queries, keys, values, attn_mask=attn_mask)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    monkeypatch.setattr(executor, "scaled_dot_product_attention", attention)
    session.reset(0, 5)
    for _ in range(12):
        session.step(np.ones(ACTIONS.dim, np.float32))
    now = [session.store.keys.untyped_storage().data_ptr(), session.store.values.untyped_storage().data_ptr()]
    return bool(inside) and all(inside) and homes == now


def attention_on_views(queries: Tensor, keys: Tensor, values: Tensor, attn_mask: Tensor | None) -> Tensor:
    """What the executor does."""
    return torch.nn.functional.scaled_dot_product_attention(queries, keys, values, attn_mask=attn_mask)


def test_attention_reads_the_cache_where_it_lies(monkeypatch):
    assert reads_lie_in_the_store(monkeypatch, attention_on_views)


def test_reading_broken_twin_that_copies(monkeypatch):
    assert not reads_lie_in_the_store(monkeypatch, attention_on_copies)


def test_no_layer_asks_the_device_for_a_number():
    for operations, _ in costs(SinkWindow(2, 4), 1):
        asked = [name for name in operations if "_local_scalar_dense" in name or "nonzero" in name or "is_nonzero" in name]
        assert sum(operations.values()) > 100 and asked == []


def a_pass(store: MemoryStore, rows: slice, length: int, batch: int) -> Pass:
    """A pass of random latents."""
    return Pass(store, rows, store.open_chunk(rows, length), tiny_latents(length, batch), 0.5, tiny_conditions(length, batch))


def test_passes_that_cannot_share_a_forward_are_refused():
    model = tiny_model()
    stores = [MemoryStore(model.config.cache(Window(4), 3, rows=2), dtype=torch.float64) for _ in range(2)]
    both = slice(0, 2)
    with pytest.raises(ConfigError, match="different chunk lengths"):
        Executor(model).run([a_pass(stores[0], both, 1, 2), a_pass(stores[1], both, 3, 2)])
    with pytest.raises(ConfigError, match="latents for 1 rows but names 2"):
        Executor(model).run([a_pass(stores[0], both, 1, 1)])
    with pytest.raises(ConfigError, match="same row"):
        Executor(model).run([a_pass(stores[0], both, 1, 2), a_pass(stores[0], slice(1, 2), 1, 1)])
