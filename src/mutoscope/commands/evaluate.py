"""Score checkpoints side by side on held-out episodes: students and teachers, with copy-last and the truncated teacher as baselines.

Writes JSON, Markdown and pictures into the output folder. The held-out data set must come from other seeds than training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

EXAMPLES = (
    "mutoscope evaluate runs/doom-basic/matching-2 --data runs/doom-basic/data/held-out",
    "mutoscope evaluate runs/scroll/autoregressive runs/scroll/matching-2 --data runs/scroll/data/held-out --output scores/scroll",
)


@dataclass(frozen=True)
class Options:
    """Which checkpoints, on which episodes, and where the report goes."""

    checkpoints: tyro.conf.Positional[tuple[str, ...]]
    """Checkpoint folders, stages' folders of a run, or bundled names."""
    data: Path
    """A held-out data set of the same world."""
    output: Path = Path("evaluation")
    """Folder of the report."""
    device: str = "cpu"
    """Torch device: cpu, cuda, cuda:1, ..."""


def run(options: Options) -> int:
    """Evaluate and write the report."""
    from mutoscope.commands.checkpoints import find_checkpoint
    from mutoscope.evaluate.protocol import EvaluateConfig
    from mutoscope.evaluate.run import run_evaluate

    run_evaluate([find_checkpoint(name) for name in options.checkpoints], options.data, options.output, EvaluateConfig())
    print(f"{options.output}: written")
    return 0
