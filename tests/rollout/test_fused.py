"""A commit in one forward with the next chunk's first pass makes the same frames, for every memory that is a mask; others refuse."""

import numpy as np
import pytest
import torch
from torch import Tensor

from fakes import ACTIONS, ALL_POLICIES, CHOOSING, model_for, tiny_checkpoint, tiny_conditions, tiny_latents, tiny_model, tiny_starts
from mutoscope.core.errors import ConfigError
from mutoscope.memory.extras import StoreExtras
from mutoscope.memory.ledger import Ledger
from mutoscope.memory.policy import Full, PolicyConfig, RecencyBias, SinkWindow, Window
from mutoscope.rollout.executor import Executor, drive
from mutoscope.rollout.fused import MASKS, FreeRun
from mutoscope.rollout.generate import generate
from mutoscope.rollout.planner import ChunkJob, Trace, commit_chunk, few_step_chunk
from mutoscope.rollout.session import SessionConfig
from mutoscope.rollout.speed import CommitName, Speed

BOTH, LEVELS, CHUNKS = slice(0, 2), (1.0, 0.6), 7
MASKED: dict[str, PolicyConfig] = {"full": Full(24), "window": Window(4), "one chunk": Window(3), "recency": RecencyBias(6, strength=2.0)}


def jobs(store, length: int) -> list[ChunkJob]:
    """Chunks under conditions and noise of their own."""
    conditions = tiny_conditions(CHUNKS * length)

    def noise(frame: int, draw: int) -> Tensor:
        return tiny_latents(length, seed=100 * frame + draw)

    spans = [conditions.frames(start, start + length) for start in range(0, CHUNKS * length, length)]
    return [ChunkJob(store, BOTH, length, own, noise) for own in spans]


def unfused(policy: PolicyConfig, length: int) -> tuple[Tensor, Tensor]:
    """Clean frames chunk after chunk, each with a commit of its own, and the frames' keys in the end, oldest first."""
    model = tiny_model()
    store, executor, made = model.new_store(policy, length, 2, tiny_latents(1)), Executor(model), []
    for job in jobs(store, length):
        made += drive(executor, [few_step_chunk(job, LEVELS, Trace())])
        drive(executor, [commit_chunk(store, BOTH, made[-1], job.conditions)])
    return torch.cat(made, dim=1), remembered(store)


def fused(policy: PolicyConfig, length: int) -> tuple[Tensor, Tensor, int]:
    """The same, running free, and its forwards."""
    model = tiny_model()
    store = model.new_store(policy, length, 2, tiny_latents(1), StoreExtras(spare=length))
    run, forwards = FreeRun(Executor(model), store), 0

    def count(*_: object) -> None:
        nonlocal forwards
        forwards += 1

    model.register_forward_pre_hook(count)
    made = [run.chunk(job, few_step_chunk(job, LEVELS, Trace())) for job in jobs(store, length)]
    run.finish()
    return torch.cat(made, dim=1), remembered(store), forwards


def remembered(store) -> Tensor:
    """Keys of the newest frames that a window keeps whatever the slots, oldest first."""
    slots = [slot for _, slot in sorted(store.ledgers[0].slot_of.items())][-2:]
    return torch.stack([store.keys[:, :, :, store.span(slot)] for slot in slots])


def agrees(policy: PolicyConfig, length: int) -> bool:
    """Whether both ways make the same frames and leave the same keys."""
    (wanted, keys), (made, kept, _) = unfused(policy, length), fused(policy, length)
    return torch.allclose(made, wanted, atol=1e-10) and torch.allclose(kept, keys, atol=1e-10)


@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize("policy", MASKED)
def test_fused_equals_unfused(policy, length):
    assert agrees(MASKED[policy], length)


def test_a_chunk_takes_as_many_forwards_as_it_has_steps():
    assert fused(Window(4), 1)[2] == CHUNKS * len(LEVELS)


def test_fused_broken_twin_that_overwrites_what_the_commit_still_reads(monkeypatch):
    def careless(self: Ledger, length: int):
        self.commit()
        return self.open_chunk(length)

    monkeypatch.setattr(Ledger, "open_ahead", careless)
    assert not agrees(Window(4), 1)


@pytest.mark.parametrize("policy", [name for name, policy in (ALL_POLICIES | CHOOSING).items() if not isinstance(policy, MASKS)])
def test_memories_that_are_no_mask_are_refused_by_name(policy):
    memory = (ALL_POLICIES | CHOOSING)[policy]
    model = model_for(memory)
    with pytest.raises(ConfigError, match="cannot commit a chunk together"):
        FreeRun(Executor(model), model.new_store(memory, 1, 1, tiny_latents(1)))


def test_a_memory_without_spare_slots_is_refused():
    model = tiny_model()
    with pytest.raises(ConfigError, match="0 spare slots, and a chunk of 1"):
        FreeRun(Executor(model), model.new_store(Window(4), 1, 1, tiny_latents(1)))


def generated(policy: PolicyConfig, commits: CommitName) -> np.ndarray:
    """Two rows of nine frames from real context, by a checkpoint of three frames a chunk."""
    clip = tiny_starts(count=2, context=2)
    frames, known = clip.frames.numpy(), clip.known.numpy()
    actions = np.linspace(-1, 1, 2 * 9 * ACTIONS.dim, dtype=np.float32).reshape(2, 9, ACTIONS.dim)
    config = SessionConfig(2, 4, policy, seed=3, speed=Speed(commits=commits))
    return generate(
        tiny_checkpoint(chunk_frames=3), config, frames=frames, context_actions=clip.actions.numpy(), known=known, actions=actions
    )


def test_generated_videos_are_the_same():
    own, other = generated(Window(4), "own"), generated(Window(4), "fused")
    assert own.std() > 10 and np.abs(own.astype(int) - other.astype(int)).max() <= 1


def test_generating_fused_is_refused_before_anything_is_made():
    with pytest.raises(ConfigError, match="'sink' cannot commit a chunk together"):
        generated(SinkWindow(2, 4), "fused")
    with pytest.raises(ConfigError, match="use one or the other"):
        Speed(runner="static", commits="fused")
