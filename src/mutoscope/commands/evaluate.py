"""Score checkpoints side by side on held-out episodes: students and teachers, with copy-last and the truncated teacher as baselines.

Writes JSON, Markdown and pictures into the output folder. The held-out data set must come from other seeds than training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from mutoscope.core.errors import ConfigError

EXAMPLES = (
    "mutoscope evaluate runs/doom-basic/matching-2",
    "mutoscope evaluate runs/scroll/autoregressive runs/scroll/matching-2 --data runs/scroll/data/held-out --output scores/scroll",
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
    device: str = "cpu"
    """Torch device: cpu, cuda, cuda:1, ..."""


def run(options: Options) -> int:
    """Evaluate and write the report."""
    from mutoscope.commands.checkpoints import find_checkpoint
    from mutoscope.evaluate.protocol import EvaluateConfig
    from mutoscope.evaluate.run import run_evaluate

    paths = [find_checkpoint(name) for name in options.checkpoints]
    run_evaluate(paths, options.data or held_out_of_run(paths[0]), options.output, EvaluateConfig())
    print(f"{options.output}: written")
    return 0


def held_out_of_run(checkpoint: Path) -> Path:
    """The held-out data set of the run folder that a checkpoint lies in."""
    for folder in checkpoint.resolve().parents:
        if (folder / "data" / "held-out" / "manifest.json").is_file():
            return folder / "data" / "held-out"
    raise ConfigError(f"{checkpoint} lies in no run folder with held-out episodes; give a held-out data set with --data")
