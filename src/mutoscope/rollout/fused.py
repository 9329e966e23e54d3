"""The commit of a chunk and the first denoising pass of the next in one forward, `[clean b | noisy b + 1]`: for running free.

A chunk then costs as many forwards as it has steps, where it had one more, each of the same operations but for the first, which has both.
It is exact, to the rounding of larger products, for memories that are a mask: the noisy half reads what the clean half just wrote, the
clean half what it would have read, and one spare chunk of slots lets the frames stay that the next chunk no longer reads. Memories that
move, blend or choose frames, or keep a state, change what both halves read between the two passes, and are refused by name.
In play the commit is better left to the time after the picture was sent, where nobody waits for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mutoscope.core.errors import ConfigError
from mutoscope.memory.head_store import AnyStore
from mutoscope.memory.ledger import ChunkPlan
from mutoscope.memory.policy import Full, RecencyBias, Window, policy_name
from mutoscope.memory.store import MemoryStore
from mutoscope.models.attention import Place
from mutoscope.models.conditions import Conditions, joined_cameras, same_text
from mutoscope.models.recall import RecallLayer
from mutoscope.rollout.executor import Executor, Pass, Planner, Runner, Segment, drive
from mutoscope.rollout.planner import ChunkJob

MASKS = Full | Window | RecencyBias


def check_fusable(store: AnyStore) -> None:
    """Refuse a memory for which the fused pass would not be exact, and one without room for it."""
    policy = store.spec.policy
    if not isinstance(store, MemoryStore) or not isinstance(policy, MASKS):
        raise ConfigError(
            f"the memory '{policy_name(policy)}' cannot commit a chunk together with the next one's first step: it moves, chooses or "
            "keeps in a state what both would read; full, window and recency can, or let every chunk have a commit of its own"
        )
    if store.spec.spare < store.spec.max_chunk:
        raise ConfigError(
            f"this memory has {store.spec.spare} spare slots, and a chunk of {store.spec.max_chunk} is opened ahead: give as many"
        )


@dataclass(frozen=True)
class Pair:
    """The commit `clean` of a chunk and the first pass `noisy` of the next, of the same rows and prompt; answered for the noisy one."""

    clean: Pass
    noisy: Pass

    @property
    def plan(self) -> ChunkPlan:
        """That of the next chunk, whose length says who may share its forward."""
        ((_, plan),) = self.noisy.parts
        return plan


@dataclass(frozen=True)
class PairAttention:
    """Attention of both halves, side by side in time: both write, then each reads what its own plan gives it."""

    clean: Segment
    noisy: Segment

    def placed(self, place: Place) -> "PairAttention":
        """Turned to places too, each half to its own."""
        tokens = self.clean.turns.whole.shape[-2]
        return PairAttention(self.clean.placed(_cut(place, slice(0, tokens))), self.noisy.placed(_cut(place, slice(tokens, None))))

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        sizes = [half.turns.whole.shape[-2] for half in (self.clean, self.noisy)]
        halves = list(zip((self.clean, self.noisy), *(x.split(sizes, dim=2) for x in (queries, keys, values)), strict=True))
        for half, *own in halves:
            half.write(layer, *own)
        return torch.cat([half.read(layer, asking) for half, asking, _, _ in halves], dim=2)

    def recall(self, layer: int, memory: RecallLayer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """A state changes between the halves."""
        raise ConfigError("a learned memory is written between a commit and the next pass; run without fusing")


def _cut(place: Place, tokens: slice) -> Place:
    return Place(place.rotation[..., tokens, :], None if place.address is None else place.address[..., tokens, :])


@dataclass(frozen=True)
class FusedRunner:
    """Runs pairs beside plain passes; these go to the executor."""

    executor: Executor

    @torch.no_grad()
    def run(self, passes: Sequence[Pass | Pair]) -> list[Tensor]:
        """The velocity of every pass, of a pair its noisy half's."""
        plain = [item for item in passes if isinstance(item, Pass)]
        answers = iter(self.executor.run(plain) if plain else ())
        return [self.run_pair(item) if isinstance(item, Pair) else next(answers) for item in passes]

    def run_pair(self, pair: Pair) -> Tensor:
        """One forward of both halves."""
        executor, halves = self.executor, (pair.clean, pair.noisy)
        for item in halves:
            executor.prepare(item)
        clean, noisy = (executor.attend(item) for item in halves)
        assert isinstance(clean, Segment) and isinstance(noisy, Segment)
        latents = torch.cat([item.latents for item in halves], dim=1)
        sigma = torch.cat([item.latents.new_full(item.latents.shape[:2], item.sigma) for item in halves], dim=1)
        conditions = side_by_side(pair.clean.conditions, pair.noisy.conditions).to(latents.device, executor.dtype)
        velocity = executor.model(latents.to(executor.dtype), sigma, conditions, PairAttention(clean, noisy))
        return velocity[:, pair.clean.latents.shape[1] :].to(latents.dtype)


def side_by_side(first: Conditions, second: Conditions) -> Conditions:
    """Conditions of two chunks in a row; both are told the same prompt."""
    if not same_text(first.text, second.text):
        raise ConfigError("the prompt changes between these chunks: commit the first one by itself")
    parts = ((first.actions, second.actions), (first.known, second.known), (first.travel, second.travel))
    actions, known, travel = (torch.cat(pair, dim=1) for pair in parts)
    cameras = joined_cameras((first.cameras, second.cameras), dim=1)
    return replace(second, actions=actions, known=known, travel=travel, cameras=cameras)


def fused(planner: Planner, commit: Pass) -> Planner:
    """The passes of a chunk whose first one also commits the chunk before; its own commit is left to the next.

    The next chunk is opened here, ahead, so that the planner finds it open when it begins.
    """
    check_fusable(commit.store)
    assert isinstance(commit.store, MemoryStore)
    commit.store.open_ahead(commit.rows, commit.plan.chunk.length)
    item: Pass | Pair = Pair(commit, next(planner))
    while True:
        velocity = yield item  # type: ignore[misc]
        try:
            item = planner.send(velocity)
        except StopIteration as finished:
            return finished.value


class FreeRun:
    """Chunks one after the other, each committed by the next one's first pass; `finish` commits the last.

    The store needs a spare chunk of slots (StoreExtras). All chunks are of one length and all rows go in step.
    """

    def __init__(self, executor: Executor, store: AnyStore) -> None:
        check_fusable(store)
        self.runner: Runner = FusedRunner(executor)
        self.store = store
        self.open: Pass | None = None

    def chunk(self, job: ChunkJob, planner: Planner) -> Tensor:
        """The latents of a job's chunk by a planner of it; the chunk stays open."""
        (latents,) = drive(self.runner, [planner if self.open is None else fused(planner, self.open)])
        self.open = commit_pass(self.store, job.rows, latents, job.conditions)
        return latents

    def finish(self) -> None:
        """Commit the open chunk by itself."""
        if self.open is not None:
            self.runner.run([self.open])
            self.store.commit(self.open.rows)
            self.open = None


def commit_pass(store: AnyStore, rows: slice, clean: Tensor, conditions: Conditions) -> Pass:
    """The commit of the chunk that is open."""
    return Pass(store, rows, store.open_chunk(rows, clean.shape[1]), clean, 0.0, conditions, "commit")
