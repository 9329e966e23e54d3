"""Static steps make the frames of the plain executor, with tensors that keep shape and address from frame to frame."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fakes import ALL_POLICIES, CHOOSING, model_for, tiny_conditions, tiny_latents, tiny_model
from mutoscope.core.errors import ConfigError
from mutoscope.core.streams import normal, stream
from mutoscope.memory.elements import PlainSlots
from mutoscope.memory.policy import DeepSink, Full, PolicyConfig, RecencyBias, SinkWindow, Window
from mutoscope.models.rope import rotate, rotate_pairs
from mutoscope.models.transformer import VideoTransformer
from mutoscope.rollout import static
from mutoscope.rollout.executor import Executor, Runner, drive
from mutoscope.rollout.planner import ChunkJob, Trace, commit_chunk, few_step_chunk
from mutoscope.rollout.static import WAYS, StaticRunner, StaticStep, Way, runner_by_name

STATIC: dict[str, PolicyConfig] = {
    "full": Full(24), "window": Window(4), "sink": SinkWindow(2, 4), "deep-sink": DeepSink(6), "recency": RecencyBias(5, strength=2.0),
}  # fmt: skip
CHUNKS, BOTH = 10, slice(0, 2)
Make = Callable[[Executor], Runner]


def frames(policy: PolicyConfig, length: int, make: Make, chunks: int = CHUNKS) -> Tensor:
    """Clean frames, chunk after chunk with their commits."""
    model = tiny_model()
    store, runner = model.new_store(policy, length, 2, tiny_latents(1)), make(Executor(model))
    conditions, made = tiny_conditions(chunks * length), []
    for start in range(0, chunks * length, length):
        own = conditions.frames(start, start + length)
        job = ChunkJob(store, BOTH, length, own, lambda frame, draw: tiny_latents(length, seed=100 * frame + draw))
        made += drive(runner, [few_step_chunk(job, (1.0, 0.6), Trace())])
        drive(runner, [commit_chunk(store, BOTH, made[-1], own)])
    return torch.cat(made, dim=1)


def by(name: str) -> Make:
    """The runner of that name."""
    return lambda executor: runner_by_name(name, executor)


@pytest.mark.parametrize(("policy", "length"), [*((name, 1) for name in STATIC), ("window", 2), ("sink", 2)])
def test_static_equals_plain(policy, length):
    assert torch.allclose(frames(STATIC[policy], length, by("static")), frames(STATIC[policy], length, by("plain")), atol=1e-12)


def test_static_broken_twin_whose_index_stays(monkeypatch):
    """The slots of the first settled pass are written for ever."""
    load = StaticStep.load

    def once(self: StaticStep, item: Any, segment: Any) -> None:
        kept = self.segment.index.clone()
        load(self, item, segment)
        if "run" in vars(self):
            self.segment.index.copy_(kept)

    monkeypatch.setattr(StaticStep, "load", once)
    assert not torch.allclose(frames(Window(4), 1, by("static")), frames(Window(4), 1, by("plain")), atol=1e-6)


class Places(TorchDispatchMode):
    """Every operation with the shapes of its tensors, and the addresses of those that lie in given storages."""

    def __init__(self, homes: set[int]) -> None:
        super().__init__()
        self.homes, self.found = homes, []

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        result = function(*arguments, **(keywords or {}))
        tensors = [leaf for leaf in tree_leaves((arguments, keywords, result)) if isinstance(leaf, Tensor)]
        kept = [leaf.data_ptr() for leaf in tensors if leaf.untyped_storage().data_ptr() in self.homes]
        self.found.append((str(function), tuple(tuple(leaf.shape) for leaf in tensors), tuple(kept)))
        return result


def recorded(monkeypatch, make: Make) -> list[list]:
    """What each forward does from the first frame after the warm-up on, in order; two denoising passes and a commit per frame."""
    found: list[list] = []
    for name in ("forward", "write"):
        plain = getattr(VideoTransformer, name)

        def watched(self: Any, *inputs: Any, plain: Callable = plain) -> Any:
            segment = inputs[3].passes[0][1]
            with Places({tensor.untyped_storage().data_ptr() for tensor in (segment.store.keys, segment.store.values)}) as places:
                result = plain(self, *inputs)
            found.append(places.found)
            return result

        monkeypatch.setattr(VideoTransformer, name, watched)
    frames(Window(4), 1, make)
    return found[3 * 5 :]


def keeps_its_place(found: list[list]) -> bool:
    """Whether each of the three passes of a frame does in every frame what it did in the first."""
    return len(found) == 15 and all(item == found[index % 3] for index, item in enumerate(found))


def test_shapes_and_addresses_stay_from_the_warm_up_on(monkeypatch):
    assert keeps_its_place(recorded(monkeypatch, by("static")))


def test_places_broken_twin_that_writes_slices(monkeypatch):
    assert not keeps_its_place(recorded(monkeypatch, by("plain")))


def test_what_is_prepared_is_run():
    """The way is given one forward per kind of pass, and its answers are taken."""
    prepared = []

    def doubled(forward: static.Forward) -> static.Forward:
        prepared.append(forward)
        return lambda: 2 * forward()

    made = frames(Window(3), 1, lambda executor: StaticRunner(executor, Way(doubled, rotate, False)))
    plain = frames(Window(3), 1, by("plain"))
    assert len(prepared) == 2 and torch.allclose(made[:, :2], plain[:, :2]) and not torch.allclose(made[:, 3:], plain[:, 3:])


def graphs(policy: PolicyConfig) -> int:
    """How often a compiler would have to look at the steps of seven chunks: dynamo alone, which says what it cannot see through."""
    counter = CompileCounterWithBackend("eager")
    way = Way(lambda forward: torch.compile(forward, backend=counter, dynamic=False, fullgraph=True), rotate_pairs, False)
    made = frames(policy, 1, lambda executor: StaticRunner(executor, way), 7)
    assert torch.allclose(made, frames(policy, 1, by("plain"), 7), atol=1e-10)
    torch._dynamo.reset()
    return counter.frame_count


def test_a_compiler_sees_one_graph_for_denoising_and_one_for_commits():
    assert graphs(Window(3)) == 2


@pytest.mark.long
def test_compiling_broken_twin_that_writes_to_slots_by_their_number(monkeypatch):
    put = PlainSlots.put

    def by_number(self: PlainSlots, layer: int, rows: slice, tokens: Tensor, x: Tensor) -> None:
        first = number[0]
        put(self, layer, rows, slice(first, first + x.shape[2]), x)

    number, load = [0], StaticStep.load

    def noted(self: StaticStep, item: Any, segment: Any) -> None:
        number[0] = segment.plan.write_slots[0] * segment.store.spec.tokens
        load(self, item, segment)

    monkeypatch.setattr(StaticStep, "load", noted)
    monkeypatch.setattr(PlainSlots, "put_at", by_number)
    assert graphs(Window(3)) == 6  # two for each of three slots


def test_turning_pairs_equals_complex_numbers():
    x, angles = normal((2, 3, 5, 8), stream(0, "pairs"), torch.float64), normal((5, 4), stream(1, "pairs"), torch.float64)
    turns = torch.polar(torch.ones_like(angles), angles)
    assert torch.allclose(rotate_pairs(x, turns), rotate(x, turns), atol=1e-14)
    assert not torch.allclose(rotate_pairs(x, turns.conj().resolve_conj()), rotate(x, turns), atol=1e-3)


@pytest.mark.parametrize("policy", [name for name in ALL_POLICIES | CHOOSING if name not in STATIC])
def test_memories_that_change_more_than_numbers_are_refused(policy):
    memory = (ALL_POLICIES | CHOOSING)[policy]
    model = model_for(memory)
    store = model.new_store(memory, 1, 1, tiny_latents(1))
    own = tiny_conditions(1, 1)
    with pytest.raises(ConfigError, match="does not run with static shapes"):
        drive(runner_by_name("static", Executor(model)), [commit_chunk(store, slice(0, 1), tiny_latents(1, 1), own)])


def test_what_needs_cuda_says_so():
    for name in ("graph", "compile-graph"):
        with pytest.raises(ConfigError, match="this device is 'cpu'"):
            runner_by_name(name, Executor(tiny_model()))
    with pytest.raises(ConfigError, match="known: compile, compile-graph, graph, static"):
        runner_by_name("fast", Executor(tiny_model()))
    assert WAYS["compile"].turn is rotate_pairs
