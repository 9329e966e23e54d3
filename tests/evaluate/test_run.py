"""Checkpoints as candidates: which rows they become, and an evaluation of tiny ones from disk."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fakes import ACTIONS, WORLD, tiny_checkpoint
from mutoscope.core.errors import CheckpointError
from mutoscope.data.writer import DatasetWriter
from mutoscope.evaluate.candidates import COPY_LAST
from mutoscope.evaluate.config import EvaluateConfig
from mutoscope.evaluate.run import distinct_names, make_candidates, run_evaluate
from mutoscope.models.checkpoint import Checkpoint, StageName, save_checkpoint

CONFIG = EvaluateConfig(
    parts=("fidelity", "stability"), episodes=3, clips_per_episode=1, context_frames=2, horizons=(3,), compared_frames=3,
    stability_frames=8, stability_window=4, stability_seeds=2, bootstrap_repeats=20,
)  # fmt: skip


def named(name: str, stage: StageName) -> Checkpoint:
    """A checkpoint that lies in the folder of its stage."""
    checkpoint = tiny_checkpoint(stage)
    checkpoint.path = Path("runs") / "ring" / name / "checkpoint"
    return checkpoint


def saved(path: Path, stage: StageName, world=WORLD) -> Path:
    """A checkpoint on disk."""
    made = tiny_checkpoint(stage)
    save_checkpoint(path, replace(made.manifest, world=world), model=made.model, average=made.model, codec=made.codec, starts=made.starts)
    return path


def held_out(path: Path) -> Path:
    """Three episodes of random pictures of the fake world."""
    generator = np.random.default_rng(0)
    with DatasetWriter(path, WORLD) as writer:
        for _ in range(3):
            frames = generator.integers(0, 256, (16, WORLD.height, WORLD.width, 3), dtype=np.uint8)
            writer.add({"frames": frames, "actions": generator.integers(0, 2, (16, ACTIONS.dim)).astype(np.float32)})
        writer.close()
    return path


def test_students_are_held_against_copy_last_and_the_teacher_cut_to_their_steps():
    rows = make_candidates([named("autoregressive", "autoregressive"), named("matching-2", "matching")], CONFIG)
    assert [(row.label, row.role) for row in rows] == [
        ("autoregressive, 2 steps", "teacher"),
        ("teacher cut to 2 steps", "baseline"),
        ("matching-2, 2 steps", "student"),
    ]
    assert rows[-1].against == (COPY_LAST, "teacher cut to 2 steps")


def test_asked_step_counts_give_a_row_each():
    rows = make_candidates([named("autoregressive", "autoregressive"), named("matching-2", "matching")], replace(CONFIG, steps=(1, 4)))
    assert [row.label for row in rows][1:] == [
        "teacher cut to 1 step", "teacher cut to 4 steps", "matching-2, 1 step", "matching-2, 4 steps",
    ]  # fmt: skip


def test_without_a_teacher_copy_last_is_the_baseline():
    (row,) = make_candidates([named("matching-2", "matching")], CONFIG)
    assert row.against == (COPY_LAST,)


def test_names_grow_until_they_differ():
    assert distinct_names([Path("/r/a/stage/checkpoint"), Path("/r/b/stage/checkpoint")]) == ["a/stage", "b/stage"]
    with pytest.raises(CheckpointError, match="twice"):
        distinct_names([Path("/r/a"), Path("/r/a")])


def test_checkpoints_are_scored_from_disk(tmp_path):
    paths = [saved(tmp_path / "teacher", "autoregressive"), saved(tmp_path / "student", "matching")]
    plain = run_evaluate(paths, held_out(tmp_path / "data"), tmp_path / "report", CONFIG)
    assert list(plain["candidates"]) == ["teacher, 2 steps", "teacher cut to 2 steps", "student, 2 steps", COPY_LAST]
    assert plain["candidates"]["student, 2 steps"]["stability"]["all four"]["episodes"] == 2
    assert plain["protocol"]["config"]["memory_frames"] == 4
    seconds = {item["second"] for item in plain["comparisons"] if item["first"] == "student, 2 steps"}
    assert seconds == {COPY_LAST, "teacher cut to 2 steps"}
    again = run_evaluate(paths, tmp_path / "data", tmp_path / "again", CONFIG)
    assert again["candidates"] == plain["candidates"]


def test_a_checkpoint_of_another_world_is_refused(tmp_path):
    path = saved(tmp_path / "student", "matching", replace(WORLD, name="elsewhere"))
    with pytest.raises(CheckpointError, match="trained for elsewhere"):
        run_evaluate([path], held_out(tmp_path / "data"), tmp_path / "report", CONFIG)
    assert not (tmp_path / "report").exists()
