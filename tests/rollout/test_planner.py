"""Which passes a chunk needs, in their order: the last one before the commit is the one that a memory may be written from."""

import pytest

from fakes import tiny_conditions, tiny_latents, tiny_model
from mutoscope.memory.policy import Window
from mutoscope.noise.schedule import few_step_levels, uniform_grid
from mutoscope.rollout.executor import Executor, Pass, Planner, drive
from mutoscope.rollout.planner import ChunkJob, Trace, commit_chunk, euler_chunk, few_step_chunk


def passes(plan: Planner) -> list[Pass]:
    """Those that a planner asks for."""
    found = []

    def watched() -> Planner:
        item = next(plan)
        while True:
            found.append(item)
            velocity = yield item
            try:
                item = plan.send(velocity)
            except StopIteration as finished:
                return finished.value

    drive(Executor(tiny_model()), [watched()])
    return found


def job() -> ChunkJob:
    """A chunk of one frame under known actions."""
    model, latents = tiny_model(), tiny_latents(1)
    conditions = tiny_conditions(2).frames(1, 2)
    return ChunkJob(model.new_store(Window(4), 1, 2, latents), slice(0, 2), 1, conditions, lambda frame, draw: tiny_latents(1, seed=draw))


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_last_of_few_steps_is_the_last_pass(steps):
    levels = few_step_levels(steps, 5.0).tolist()
    found = passes(few_step_chunk(job(), tuple(levels), Trace()))
    assert [item.sigma for item in found] == levels
    assert [item.kind for item in found] == ["denoising"] * (steps - 1) + ["last"]


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_the_last_pass_of_a_teacher_is_the_last_conditional_one(guidance):
    found, branches = passes(euler_chunk(job(), tuple(uniform_grid(3, 5.0).tolist()), guidance)), 1 + (guidance != 1)
    assert [item.sigma for item in found] == [sigma for sigma in uniform_grid(3, 5.0)[:-1].tolist() for _ in range(branches)]
    assert [item.kind for item in found] == ["denoising"] * (3 * branches - 1) + ["last"]
    assert all(item.conditions.known.all() == (index % branches == branches - 1) for index, item in enumerate(found))


def test_a_commit_says_whether_its_chunk_was_denoised():
    made, real = job(), job()
    kinds = [
        passes(commit_chunk(chunk.store, chunk.rows, tiny_latents(1), chunk.conditions, kind))[0].kind
        for chunk, kind in ((made, "commit"), (real, "real"))
    ]
    assert kinds == ["commit", "real"]
