"""Measure whether a world shows what it is told in words: the world of shapes, in which pictures can be read exactly.

Every stage begins from the same empty ground and is asked for combinations that training showed and for ones that it never did.
Beside the scores stand chance, the same pictures under other prompts, and the world itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

if TYPE_CHECKING:
    from mutoscope.studies.recall import Candidate

EXAMPLES = (
    "mutoscope prompts runs/shapes/matching-4 runs/shapes/matching-1",
    "mutoscope prompts runs/shapes/autoregressive --guidance 1 1.5 3 --output results/shapes/guidance",
)


@dataclass(frozen=True)
class Options:
    """Which checkpoints, how much is asked, and where the report goes."""

    checkpoints: tyro.conf.Positional[tuple[str, ...]]
    """Checkpoint folders, or stages' folders of a run, of the world of shapes."""
    guidance: tuple[float, ...] = (1.0, 1.5)
    """Guidance of teachers; each is asked at every value."""
    teacher_steps: int = 16
    """Steps of teachers."""
    seen_clips: int = 1
    """Clips per combination that training showed."""
    unseen_clips: int = 4
    """Clips per combination that it never showed."""
    frames: int = 24
    """Generated frames per clip; eight make one appearance."""
    seed: int = 1_000_003
    """Seed of the noise."""
    output: Path = Path("prompts")
    """Folder of the report."""
    device: str = "cpu"
    """Torch device: cpu, cuda, cuda:1, ..."""


def run(options: Options) -> int:
    """Ask all candidates and write the report."""
    from mutoscope.studies.prompts import PromptOptions, study

    asked = PromptOptions(options.seen_clips, options.unseen_clips, options.frames, options.seed)
    print(study(make_candidates(options), asked, options.output))
    return 0


def make_candidates(options: Options) -> list[Candidate]:
    """Teachers at every guidance with many steps, students as they are played."""
    from dataclasses import replace

    from mutoscope.commands.checkpoints import find_checkpoint
    from mutoscope.evaluate.run import distinct_names, plural
    from mutoscope.models.checkpoint import load_checkpoint
    from mutoscope.rollout.session import default_config, with_steps
    from mutoscope.studies.recall import Candidate

    paths = [find_checkpoint(name) for name in options.checkpoints]
    candidates = []
    for name, path in zip(distinct_names(paths), paths, strict=True):
        checkpoint = load_checkpoint(path, options.device)
        config = replace(default_config(checkpoint.manifest), seed=options.seed)
        if checkpoint.manifest.stage not in ("bidirectional", "autoregressive"):
            candidates.append(Candidate(f"{name}, {plural(config.steps)}", checkpoint, config))
            continue
        for guidance in options.guidance:
            taught = replace(with_steps(config, options.teacher_steps), guidance=guidance)
            candidates.append(Candidate(f"{name}, {plural(taught.steps)}, guidance {guidance:g}", checkpoint, taught))
    return candidates
