"""Measure how long a world remembers what left the view: look away, or walk away, and come back.

In worlds of tiles the landmarks that are right on return are counted; in worlds with a camera the frame on return is compared with the
true one. Every checkpoint is asked under every memory policy that is named.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

if TYPE_CHECKING:
    from mutoscope.studies.recall import Candidate, RecallOptions

EXAMPLES = (
    "mutoscope recall doom-cover/matching-2 --output results/doom-cover/recall",
    "mutoscope recall doom-cover/matching-2 --memory window=8 sink=2,window=6 full=200 --ways look turn --away 32 64",
    "mutoscope recall runs/ring/autoregressive runs/ring/matching-2 --away 8 16 32 64 --output results/ring/recall",
)
TEACHER_STEPS = 16


@dataclass(frozen=True)
class Options:
    """Which checkpoints under which memories, what is asked, and where the report goes."""

    checkpoints: tyro.conf.Positional[tuple[str, ...]]
    """Checkpoint folders, stages' folders of a run, or bundled names; all of one world."""
    memory: tuple[str, ...] = ()
    """Memory policies, such as window=16, sink=2,window=14 or full=200; default: the one that each was trained with."""
    away: tuple[int, ...] = (16, 32, 64, 128)
    """Frames from the last real one to the return."""
    ways: tuple[Literal["look", "turn", "leave"], ...] = ("look", "turn", "leave")
    """Where there is a camera: look away and back, a full turn, walk away and back."""
    episodes: int = 32
    """Episodes per way and distance; the intervals are over these."""
    lead: int = 16
    """Real turns before the view that must be recalled, so that sinks hold another one."""
    look: int = 4
    """Where there is a camera: real frames of standing before the view."""
    settle: int = 16
    """Where there is a camera: frames of standing after a walk back, until nothing slides any more."""
    error_units: float = 8.0
    """An episode counts if it ends this near to where the view was, in units of the map."""
    error_degrees: float = 2.0
    """The same for the direction of the view."""
    far_units: float = 128.0
    """A walk counts if it led at least this far away."""
    seed: int = 1_000_003
    """Seed of the episodes; far from those of training data."""
    output: Path = Path("recall")
    """Folder of the report."""
    device: str = "cpu"
    """Torch device: cpu, cuda, cuda:1, ..."""


def run(options: Options) -> int:
    """Ask all candidates and write the report."""
    from mutoscope.data.worlds import make_world_like
    from mutoscope.studies import camera_recall, tile_recall
    from mutoscope.studies.recall import common_world

    candidates = make_candidates(options)
    world = common_world(candidates)
    env = make_world_like(world)
    try:
        study = camera_recall.study if world.pose_names else tile_recall.study
        print(study(env, candidates, recall_options(options), options.output))
    finally:
        env.close()
    return 0


def make_candidates(options: Options) -> list[Candidate]:
    """Every checkpoint under every memory; teachers with many steps, students with their own."""
    from mutoscope.commands.checkpoints import find_checkpoint, session_config
    from mutoscope.evaluate.run import distinct_names, plural
    from mutoscope.models.checkpoint import load_checkpoint
    from mutoscope.studies.recall import Candidate

    paths = [find_checkpoint(name) for name in options.checkpoints]
    candidates = []
    for name, path in zip(distinct_names(paths), paths, strict=True):
        checkpoint = load_checkpoint(path, options.device)
        steps = TEACHER_STEPS if checkpoint.manifest.stage == "autoregressive" else None
        for memory in options.memory or (None,):
            config = session_config(checkpoint.manifest, steps=steps, policy=memory, seed=options.seed)
            label = f"{name}, {plural(config.steps)}" + (f", {memory}" if memory else "")
            candidates.append(Candidate(label, checkpoint, config))
    return candidates


def recall_options(options: Options) -> RecallOptions:
    """What is asked, from the arguments."""
    from mutoscope.evaluate.revisit import Bounds
    from mutoscope.studies.recall import RecallOptions

    return RecallOptions(
        away=tuple(sorted(set(options.away))),
        lead=options.lead,
        episodes=options.episodes,
        seed=options.seed,
        ways=options.ways,
        look=options.look,
        settle=options.settle,
        bounds=Bounds(options.error_units, options.error_degrees, options.far_units),
    )
