"""Look a data set over before training on it.

Reports how often each action occurs, duplicate, frozen and broken clips, wrong lengths, and clips whose actions are
shifted against the pictures. The exit code is 1 when something is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

EXAMPLES = ("mutoscope check data/doom", "mutoscope check runs/scroll/data/train")


@dataclass(frozen=True)
class Options:
    """Which data set."""

    data: tyro.conf.Positional[Path]
    """Folder of the data set."""


def run(options: Options) -> int:
    """Check, print what was found, and say whether something is wrong."""
    from mutoscope.data.check import check_dataset

    report = check_dataset(options.data)
    print(report.text())
    return 1 if report.problems else 0
