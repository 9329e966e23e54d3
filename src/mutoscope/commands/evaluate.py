"""Score checkpoints side by side on held-out episodes: students and teachers, with copy-last and the truncated teacher as baselines.

Writes JSON, Markdown and pictures into the output folder. The held-out data set must come from other seeds than training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from mutoscope.core.errors import ConfigError

if TYPE_CHECKING:
    from mutoscope.evaluate.config import EvaluateConfig

EXAMPLES = (
    "mutoscope evaluate runs/doom-basic/matching-2",
    "mutoscope evaluate runs/scroll/autoregressive runs/scroll/matching-2 --data runs/scroll/data/held-out --output scores/scroll",
    "mutoscope evaluate runs/doom-basic/matching-2 --steps 1 2 4 --parts fidelity frechet --episodes 16",
)


@dataclass(frozen=True)
class Options:
    """Which checkpoints, on which episodes, and where the report goes."""

    checkpoints: tyro.conf.Positional[tuple[str, ...]]
    """Checkpoint folders, stages' folders of a run, or bundled names."""
    data: Path | None = None
    """A held-out data set of the same world; default: the one in the run folder of the first checkpoint."""
    output: Path = Path("evaluation")
    """Folder of the report."""
    parts: tuple[Literal["fidelity", "following", "tiles", "frechet", "stability"], ...] = ()
    """Which figures; default: all that the data set's arrays allow."""
    steps: tuple[int, ...] = ()
    """Step counts of the students; default: what each was trained for."""
    episodes: int = 32
    """Held-out episodes; the intervals are over these."""
    horizons: tuple[int, ...] = (8, 16, 32)
    """Generated frames after which to compare."""
    guidance: float = 1.0
    """Action guidance of undistilled teachers; 1 is none."""
    stability_frames: int = 1000
    """Frames of play in which the picture must stay within the real range."""
    stability_seeds: int = 20
    """How many times that is played."""
    seed: int = 0
    """Seed of clips, noise and intervals."""
    device: str = "cpu"
    """Torch device: cpu, cuda, cuda:1, ..."""


def run(options: Options) -> int:
    """Evaluate and write the report."""
    from mutoscope.commands.checkpoints import find_checkpoint
    from mutoscope.evaluate.run import run_evaluate

    paths = [find_checkpoint(name) for name in options.checkpoints]
    run_evaluate(paths, options.data or held_out_of_run(paths[0]), options.output, evaluate_config(options))
    print(f"{options.output}: written")
    return 0


def evaluate_config(options: Options) -> EvaluateConfig:
    """How the evaluation is done, from the arguments."""
    from mutoscope.evaluate.config import PARTS, EvaluateConfig

    return EvaluateConfig(
        parts=options.parts or PARTS,
        episodes=options.episodes,
        horizons=options.horizons,
        steps=options.steps or "trained",
        guidance=options.guidance,
        stability_frames=options.stability_frames,
        stability_seeds=options.stability_seeds,
        seed=options.seed,
        device=options.device,
    )


def held_out_of_run(checkpoint: Path) -> Path:
    """The held-out data set of the run folder that a checkpoint lies in."""
    for folder in checkpoint.resolve().parents:
        if (folder / "data" / "held-out" / "manifest.json").is_file():
            return folder / "data" / "held-out"
    raise ConfigError(f"{checkpoint} lies in no run folder with held-out episodes; give a held-out data set with --data")
