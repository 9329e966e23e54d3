"""Run a study: a grid of small trainings that answers one question, piece by piece.

depth-memory asks whether few-step distillation and compressive memory compose. A piece that is done is skipped, Ctrl-C saves, and the
same command goes on; several processes may share the work by --memories or --seeds.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

EXAMPLES = (
    "mutoscope study depth-memory",
    "mutoscope study depth-memory --pieces 1 --memories window+fast-weights --seeds 0",
    "mutoscope study depth-memory --report",
    "mutoscope study depth-memory --dreamed",
    "mutoscope study depth-memory --timed --seeds 2",
)
INTERRUPTED = 130


@dataclass(frozen=True)
class Options:
    """Which study, and how much of it."""

    name: tyro.conf.Positional[Literal["depth-memory"]]
    """The study."""
    output: Path = Path("runs/depth-memory")
    """Where its runs lie."""
    results: Path = Path("results/depth-memory")
    """Where the pieces' figures and the report are written."""
    pieces: int = 0
    """Stop after this many; 0: the whole grid."""
    memories: tuple[str, ...] = ()
    """Only these memories; default: all."""
    seeds: tuple[int, ...] = ()
    """Only these seeds; default: all."""
    report: bool = False
    """Only write the report from the pieces that are there."""
    dreamed: bool = False
    """Train nothing: ask the checkpoints that are there whether they show again what they dreamed themselves."""
    timed: bool = False
    """Train nothing: time a frame under every memory of the first of `seeds` whose checkpoints are there, in turns."""
    device: str = "auto"
    """auto, cpu or cuda."""


def run(options: Options) -> int:
    """Train and score pieces, then write the report."""
    from mutoscope.commands.recording import record_recipe
    from mutoscope.core.errors import choose
    from mutoscope.recipes.ring import ring, ring_with
    from mutoscope.studies.depth_dreamed import DreamedConfig, ask_dreamed
    from mutoscope.studies.depth_memory import NAMES, StudyConfig, grid, is_done, run_piece
    from mutoscope.studies.depth_report import write_report
    from mutoscope.studies.depth_speed import SpeedConfig, time_memories
    from mutoscope.train.loop import Interrupted
    from mutoscope.train.parallel import start_workers

    config, base = StudyConfig(), ring()
    for name in options.memories:
        choose(dict.fromkeys(NAMES), name, "memory of this study")
    wanted = [
        piece for piece in grid() if piece.memory in (options.memories or NAMES) and (not options.seeds or piece.seed in options.seeds)
    ]
    if options.dreamed:
        asked = [ask_dreamed(piece, base.data, options.output, options.results, DreamedConfig()) for piece in wanted]
        print(f"{sum(asked)} pieces were asked; the others were before, or have no checkpoints in {options.output}", flush=True)
    elif options.timed:
        print(*time_memories(options.output, options.results, (options.seeds or (0,))[0], SpeedConfig()), sep=", ", flush=True)
    elif not options.report:
        missing = [piece for piece in wanted if not is_done(options.results, ring_with, piece, config)]
        workers = start_workers(options.device)
        print(f"{len(wanted) - len(missing)} of {len(wanted)} pieces are done", flush=True)
        todo = missing[: options.pieces or None]
        data = record_recipe(base.data, options.output / "data")
        for number, piece in enumerate(todo):
            print(f"piece {number + 1} of {len(todo)}: {piece.name}", flush=True)
            try:
                run_piece(ring_with, piece, config, data, options.output, options.results, workers)
            except Interrupted as stopped:
                print(f"mutoscope study: {stopped}", file=sys.stderr)
                return INTERRUPTED
    print(write_report(options.results))
    return 0
