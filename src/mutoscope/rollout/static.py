"""A pass whose tensors keep their shape and their place: what CUDA graphs and torch.compile need.

Once a memory is full, a chunk's passes differ in numbers alone: latents, noise level, conditions, turns, the slots to be written. A
StaticStep holds a tensor for each of these and fills it before the pass; slots are written through an index. Until the memory is full,
and where several sessions share a forward, passes run as they are.

    plain          the executor itself
    static         the same arithmetic, with tensors that stay where they are
    graph          static, captured once as a CUDA graph and replayed
    compile        static, through torch.compile
    compile-graph  both
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from mutoscope.core.errors import ConfigError, choose
from mutoscope.memory.policy import policy_name
from mutoscope.memory.store import MemoryStore
from mutoscope.models.attention import Place
from mutoscope.models.conditions import Conditions, ReadText, Text, text_tensors
from mutoscope.models.recall import RecallLayer
from mutoscope.models.rope import rotate, rotate_pairs
from mutoscope.models.softmax import Kernel
from mutoscope.rollout.executor import Executor, Pass, Runner, Segment, Streaming

RunnerName = Literal["plain", "static", "graph", "compile", "compile-graph"]
Forward = Callable[[], Tensor]
Turn = Callable[[Tensor, Tensor], Tensor]
WARM_UPS = 3  # forwards before a capture, in which libraries choose their kernels and take their workspace


@dataclass(frozen=True)
class StaticSegment:
    """Attention of a pass through tensors alone: `turns` of its tokens, `index` of their places in the slots, `hidden` as in a Segment."""

    store: MemoryStore
    rows: slice
    turns: Tensor
    index: Tensor
    hidden: Tensor | None
    kernel: Kernel
    turn: Turn

    def placed(self, place: Place) -> "StaticSegment":
        """Turned to places too."""
        return replace(self, turns=self.turns * place.rotation)

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        if layer >= 0:  # camera attention stands nowhere in time
            queries, keys = self.turn(queries, self.turns), self.turn(keys, self.turns)
        self.store.key_slots.put_at(layer, self.rows, self.index, keys)
        self.store.value_slots.put_at(layer, self.rows, self.index, values)
        past = self.store.read(layer, self.rows, self.store.spec.slots * self.store.spec.tokens)
        return self.kernel(queries, *past, self.hidden)

    def recall(self, layer: int, memory: RecallLayer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Refused when the runner is made."""
        raise ConfigError("a learned memory does not run with static shapes; use runner plain")


def captured(forward: Forward) -> Forward:
    """A forward as a CUDA graph: what it reads and writes lies where it lay at the capture."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            forward()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = forward()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


def as_it_is(forward: Forward) -> Forward:
    """The forward itself."""
    return forward


def compiled(forward: Forward) -> Forward:
    """A forward through torch.compile; all layers are one graph, so that it is compiled once."""
    return torch.compile(forward, dynamic=False)


def compiled_and_captured(forward: Forward) -> Forward:
    """The compiled one as a CUDA graph."""
    return captured(compiled(forward))


@dataclass(frozen=True)
class Way:
    """How a static forward is run, with what rotation (compilers do not fuse complex numbers), and whether that needs CUDA."""

    prepare: Callable[[Forward], Forward]
    turn: Turn
    cuda: bool


WAYS: dict[str, Way] = {
    "static": Way(as_it_is, rotate, False),
    "graph": Way(captured, rotate, True),
    "compile": Way(compiled, rotate_pairs, False),
    "compile-graph": Way(compiled_and_captured, rotate_pairs, True),
}


class StaticStep:
    """Passes of one kind of a full memory: the tensors that they are given, and the forward that reads these."""

    def __init__(self, executor: Executor, item: Pass, segment: Segment, way: Way) -> None:
        self.executor, self.store, self.commits = executor, segment.store, item.commits
        with torch.inference_mode(False):  # filled by whoever runs a pass, in inference mode or not
            self._allocate(executor, item, segment, way)
        self.load(item, segment)
        self.run: Forward = way.prepare(self.forward)

    def _allocate(self, executor: Executor, item: Pass, segment: Segment, way: Way) -> None:
        device = item.latents.device
        self.tokens = torch.arange(self.store.spec.tokens, device=device)
        self.latents = torch.empty(item.latents.shape, dtype=executor.dtype, device=device)
        self.sigma = torch.zeros(item.latents.shape[:2], dtype=item.latents.dtype, device=device)
        conditions = item.conditions.to(device, executor.dtype)
        own = {name: torch.zeros_like(value) for name, value in _of_frames(conditions).items()}
        self.conditions, self.heard = replace(conditions, text=silent(conditions.text), **own), tuple[Tensor, ...]()
        hidden = None if segment.hidden is None else torch.zeros_like(segment.hidden)
        index = self.tokens.repeat(len(segment.plan.write_slots))
        turns = torch.zeros_like(segment.turns.whole)
        self.segment = StaticSegment(self.store, item.rows, turns, index, hidden, executor.kernel, way.turn)

    def load(self, item: Pass, segment: Segment) -> None:
        """Fill the tensors with a pass."""
        tokens = self.store.spec.tokens
        self.latents.copy_(item.latents)
        self.sigma.fill_(item.sigma)
        for name, value in _of_frames(item.conditions).items():
            _of_frames(self.conditions)[name].copy_(value)
        self._hear(text_tensors(item.conditions.text))
        self.segment.turns.copy_(segment.turns.whole)
        for place, slot in enumerate(segment.plan.write_slots):
            torch.add(self.tokens, slot * tokens, out=self.segment.index[place * tokens : (place + 1) * tokens])
        if segment.hidden is not None and self.segment.hidden is not None:
            self.segment.hidden.copy_(segment.hidden)

    def _hear(self, text: tuple[Tensor, ...]) -> None:
        """Copy the prompt when it is another one than before. That one is kept meanwhile, so that no other can lie at its place."""
        if [old.data_ptr() for old in self.heard] != [new.data_ptr() for new in text]:
            for own, new in zip(text_tensors(self.conditions.text), text, strict=True):
                own.copy_(new)
            self.heard = text

    def forward(self) -> Tensor:
        """The network on what the tensors hold: velocity, or of a commit nothing."""
        inputs = self.latents, self.sigma, self.conditions, Streaming([(slice(0, len(self.latents)), self.segment)])
        if not self.commits:
            return self.executor.model(*inputs)
        self.executor.model.write(*inputs)
        return self.latents[:0]


def _of_frames(conditions: Conditions) -> dict[str, Tensor]:
    """What is another in every chunk."""
    told = {"actions": conditions.actions, "known": conditions.known, "travel": conditions.travel}
    return told if conditions.cameras is None else {**told, "cameras": conditions.cameras}


def silent(text: Text) -> Text:
    """Room for a prompt of the same size."""
    if isinstance(text, ReadText):
        return ReadText(torch.zeros_like(text.keys), torch.zeros_like(text.values))
    return torch.zeros_like(text)


class StaticRunner:
    """Runs the passes of full memories as static steps, all others by the executor. It keeps the steps of one store at a time."""

    def __init__(self, executor: Executor, way: Way) -> None:
        self.executor, self.way = executor, way
        self.steps: dict[tuple, StaticStep] = {}
        self.store: MemoryStore | None = None

    @torch.no_grad()
    def run(self, passes: Sequence[Pass]) -> list[Tensor]:
        """The velocity of every pass."""
        if len(passes) > 1:
            return self.executor.run(passes)
        (item,) = passes
        check_static(item)
        segment = self.executor.attend(item)
        assert isinstance(segment, Segment)
        if segment.reads < segment.store.spec.slots * segment.store.spec.tokens:
            return self.executor.run(passes)
        self.executor.prepare(item)
        step = self._step(item, segment)
        return [step.run().to(item.latents.dtype, copy=True)]

    def _step(self, item: Pass, segment: Segment) -> StaticStep:
        if segment.store is not self.store:
            self.steps, self.store = {}, segment.store
        shapes = tuple(tuple(value.shape) for value in (*_of_frames(item.conditions).values(), *text_tensors(item.conditions.text)))
        key = (item.rows.start, item.rows.stop, item.latents.shape, item.commits, segment.hidden is None, shapes)
        if key in self.steps:
            self.steps[key].load(item, segment)
        else:
            self.steps[key] = StaticStep(self.executor, item, segment, self.way)
        return self.steps[key]


def check_static(item: Pass) -> None:
    """Refuse a memory whose passes are not the same from chunk to chunk."""
    store = item.store
    fits = isinstance(store, MemoryStore) and store.spec.criterion == "nothing" and not store.spec.state_floats
    if not fits or any(part.spec.moving_slots >= part.spec.slots for part in store.parts):
        raise ConfigError(
            f"the memory '{policy_name(store.spec.policy)}' does not run with static shapes: it chooses, blends or renumbers frames or has "
            "a state; full, window, recency, sink and deep-sink do, or use runner plain"
        )


def runner_by_name(name: str, executor: Executor) -> Runner:
    """The executor, or what runs its passes in another way; one that cannot run on the model's device is a ConfigError."""
    if name == "plain":
        return executor
    way = choose(WAYS, name, "runner (or 'plain')")
    device = executor.model.patch_embedding.weight.device
    if way.cuda and device.type != "cuda":
        raise ConfigError(f"runner '{name}' captures CUDA graphs, and this device is '{device}'; use plain, static or compile")
    return StaticRunner(executor, way)
