"""Evaluate checkpoints: students as they are played, teachers with many steps and cut to the students' steps."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from mutoscope.core.errors import CheckpointError, DataError
from mutoscope.data.clips import ClipDataset, open_dataset
from mutoscope.evaluate.candidates import COPY_LAST, Advance, Candidate, Generate, Given
from mutoscope.evaluate.config import EvaluateConfig
from mutoscope.evaluate.protocol import evaluate
from mutoscope.models.checkpoint import Checkpoint, load_checkpoint
from mutoscope.rollout.generate import generate
from mutoscope.rollout.session import SessionConfig, default_config, with_steps

TEACHER = "autoregressive"


def run_evaluate(checkpoints: list[Path], data: Path, output: Path, config: EvaluateConfig) -> dict:
    """Score checkpoint folders side by side on a held-out data set and write the report; returns results.json's content."""
    dataset = open_dataset(data)
    loaded = [load_checkpoint(path, config.device) for path in checkpoints]
    for checkpoint in loaded:
        check_world(checkpoint, dataset.world.name, (dataset.world.height, dataset.world.width), dataset.world.actions.names)
        check_captions(checkpoint, dataset)
    memory = [default_config(item.manifest).policy.capacity(item.manifest.chunk_frames) for item in loaded]
    return evaluate(make_candidates(loaded, config), dataset, replace(config, memory_frames=min(memory)), output)


def check_world(checkpoint: Checkpoint, name: str, size: tuple[int, int], actions: tuple[str, ...]) -> None:
    """A CheckpointError unless the checkpoint was trained for pictures and actions like the data set's."""
    world = checkpoint.manifest.world
    own = (world.name, (world.height, world.width), world.actions.names)
    if own != (name, size, actions):
        raise CheckpointError(
            f"{checkpoint.path} was trained for {own[0]} at {world.width}x{world.height} with actions {', '.join(own[2])}; the data set is "
            f"{name} at {size[1]}x{size[0]} with actions {', '.join(actions)}. Give held-out episodes of the checkpoint's own world"
        )


def check_captions(checkpoint: Checkpoint, dataset: ClipDataset) -> None:
    """An error unless a checkpoint that is told in words what to show knows what every episode of the data set says that it shows."""
    if not checkpoint.model.config.text_dim:
        return
    captions = dict.fromkeys(episode.caption for episode in dataset.episodes)
    if "" in captions:
        raise DataError(
            f"{checkpoint.path} is told in words what to show, and episodes of {dataset.path} say nothing; "
            "give held-out clips with captions"
        )
    checkpoint.told(list(captions))


def make_candidates(checkpoints: list[Checkpoint], config: EvaluateConfig) -> list[Candidate]:
    """Teachers with many steps; the first teacher cut to every step count of a student; students, against that and copy-last."""
    names = distinct_names([item.path for item in checkpoints])
    named = list(zip(names, checkpoints, strict=True))
    teachers = [(name, item) for name, item in named if item.manifest.stage == TEACHER]
    students = [(name, item) for name, item in named if item.manifest.stage != TEACHER]
    counts = sorted({steps for _, item in students for steps in step_counts(item, config)})
    rows = [teacher_candidate(name, item, config) for name, item in teachers]
    rows += [truncated_candidate(item, steps, config) for _, item in teachers[:1] for steps in counts]
    for name, item in students:
        for steps in step_counts(item, config):
            against = (COPY_LAST, truncated_label(steps)) if teachers else (COPY_LAST,)
            settings = with_steps(default_config(item.manifest), steps)
            rows.append(Candidate(f"{name}, {plural(steps)}", generator(item, settings), against=against))
    return rows


def step_counts(checkpoint: Checkpoint, config: EvaluateConfig) -> tuple[int, ...]:
    """The step counts at which a student is scored."""
    return (default_config(checkpoint.manifest).steps,) if config.steps == "trained" else config.steps


def teacher_candidate(name: str, checkpoint: Checkpoint, config: EvaluateConfig) -> Candidate:
    """The undistilled teacher with all its steps."""
    settings = replace(default_config(checkpoint.manifest), guidance=config.guidance)
    return Candidate(f"{name}, {plural(settings.steps)}", generator(checkpoint, settings), role="teacher")


def truncated_candidate(checkpoint: Checkpoint, steps: int, config: EvaluateConfig) -> Candidate:
    """The undistilled teacher cut to a student's steps, its first chunk included: the baseline that distillation must beat."""
    settings = replace(with_steps(default_config(checkpoint.manifest), steps), guidance=config.guidance)
    return Candidate(truncated_label(steps), generator(checkpoint, settings), role="baseline", against=())


def truncated_label(steps: int) -> str:
    """How that baseline is called."""
    return f"teacher cut to {plural(steps)}"


def plural(steps: int) -> str:
    """`1 step`, `2 steps`."""
    return f"{steps} step" if steps == 1 else f"{steps} steps"


def distinct_names(paths: list[Path]) -> list[str]:
    """A short name per checkpoint folder, longer where short ones collide: the stage's folder, then the run's before it."""
    folders = [path.resolve().parent if path.name == "checkpoint" else path.resolve() for path in paths]
    for parts in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-parts:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    raise CheckpointError(f"a checkpoint was given twice: {', '.join(map(str, paths))}")


def generator(checkpoint: Checkpoint, settings: SessionConfig) -> Generate:
    """A checkpoint, as played with `settings`, as the function that evaluation calls."""

    def continue_clips(given: Given, seed: int, advance: Advance) -> np.ndarray:
        known = np.ones(given.frames.shape[:2], dtype=bool)
        return generate(
            checkpoint,
            replace(settings, seed=seed),
            frames=given.frames,
            context_actions=given.context_actions,
            known=known,
            actions=given.actions,
            prompts=given.captions if checkpoint.model.config.text_dim else (),
            progress=advance,
        )

    return continue_clips
