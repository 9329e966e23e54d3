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
from grids import every_third
from mutoscope.core.errors import ConfigError
from mutoscope.core.shapes import TokenGrid
from mutoscope.memory.policy import Full, PolicyConfig, SinkWindow, Window
from mutoscope.memory.store import MemoryStore
from mutoscope.models import rope
from mutoscope.models.checkpoint import freeze
from mutoscope.models.heads import head_split
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


@pytest.mark.parametrize("policy", every_third(STATEFUL))
def test_operations_and_allocations_of_learned_memories_are_constant(policy):
    assert is_constant(STATEFUL[policy])


def attention_on_copies(queries: Tensor, keys: Tensor, values: Tensor, attn_mask: Tensor | None) -> Tensor:
    """Twin: what a cache that is concatenated for every read does."""
    return torch.nn.functional.scaled_dot_product_attention(queries, keys.clone(), values.clone(), attn_mask=attn_mask)


def read_by(attention: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """What a segment does in every layer, by another attention."""
    plain = executor.Segment.read
    return lambda segment, layer, queries: plain(replace(segment, kernel=attention), layer, queries)


def test_constant_cost_broken_twin_that_copies_a_growing_cache(monkeypatch):
    assert is_constant(Full(70))
    monkeypatch.setattr(executor.Segment, "read", read_by(attention_on_copies))
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
    monkeypatch.setattr(executor.Segment, "read", read_by(attention))
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


@pytest.mark.parametrize("policy", STATEFUL)
def test_a_commit_writes_what_a_whole_forward_would_and_answers_nothing(policy, monkeypatch):
    """The twin runs whole forwards for commits: the same store bit for bit, at the price of a feed-forward and a head more."""

    def committed(whole: bool) -> tuple[MemoryStore, Tensor, int]:
        model = model_for(STATEFUL[policy])
        if whole:
            monkeypatch.setattr(model, "write", lambda *inputs: model(*inputs))
        store, cost = model.new_store(STATEFUL[policy], 1, 2, tiny_latents(1)), Cost()
        for frame in range(12):
            item = replace(a_pass(store, slice(0, 2), 1, 2), sigma=0.0, latents=tiny_latents(1, seed=frame), kind="real")
            with cost:
                (answer,) = Executor(model).run([item])
            store.commit(slice(0, 2))
        return store, answer, cost.operations["aten.gelu.default"]

    (lean, nothing, few), (full, _, many) = committed(False), committed(True)
    assert torch.equal(lean.keys, full.keys) and torch.equal(lean.values, full.values) and torch.equal(lean.states, full.states)
    assert nothing.numel() == 0 and few < many and bool(lean.states.any())


def test_a_commit_that_shares_its_forward_leaves_the_others_their_velocity():
    model = tiny_model()
    stores = [MemoryStore(model.config.cache(Window(4), 1, rows=1), dtype=torch.float64) for _ in range(2)]
    passes = [a_pass(store, slice(0, 1), 1, 1) for store in stores]
    alone = Executor(model).run(passes[1:])[0]
    shared = Executor(model).run([replace(passes[0], kind="commit"), passes[1]])[1]
    assert shared.shape == passes[1].latents.shape and torch.allclose(shared, alone)


def test_what_a_session_works_out_first_serves_training_after_it():
    """Sessions run in inference mode, whose tensors no gradient may pass: what is kept for later must not be of them."""
    device = torch.device("cpu")
    for kept in (rope.axis_rates, rope.address_rates, executor.chunk_turns, head_split):
        kept.cache_clear()
    with torch.inference_mode():
        rates = [rope.axis_rates(8, device), rope.address_rates(8, device)]
        turns = executor.chunk_turns(3, 1, TokenGrid(2, 2), 12, torch.float32, device)
        split = head_split((((0,), (1,)), ((1,), (0,))), device)
        assert torch.ones(2).is_inference()
    scale = torch.ones((), requires_grad=True)
    for tensor in (*rates, turns.whole.real, turns.address.real):
        assert torch.autograd.grad((scale * tensor).square().sum(), scale)[0] > 0
    heads = torch.ones(1, 2, 1, 1, requires_grad=True)
    assert torch.autograd.grad(split.join(0, split.share(0, heads)).sum(), heads)[0].all()
