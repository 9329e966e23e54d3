"""How long does a world remember what left the view? Recall of landmarks against the frames looked away, exact.

    python -m mutoscope.studies.recall runs/ring/autoregressive runs/ring/matching-2 --away 8 16 32 64 --output results/ring/recall

Every line is a checkpoint under a memory policy, beside chance and a memory that kept the first frame alone.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mutoscope.core.config import to_plain
from mutoscope.core.errors import MutoscopeError, optional_import
from mutoscope.core.files import write_atomically, write_bytes, write_json
from mutoscope.core.progress import Progress
from mutoscope.core.provenance import provenance
from mutoscope.data.worlds import make_world
from mutoscope.evaluate.bootstrap import Interval, mean_interval
from mutoscope.evaluate.recall import RecallClips, RecallScores, RecallTask, copy_sink, landmark_chance, play_truth, score, within_memory
from mutoscope.models.checkpoint import Checkpoint, load_checkpoint
from mutoscope.rollout.generate import generate
from mutoscope.rollout.session import SessionConfig, default_config, with_steps

BOOTSTRAP_REPEATS, TEACHER_STEPS = 1000, 16


@dataclass(frozen=True)
class RecallRow:
    """One line at one distance: intervals over episodes, and what its memory and its training could know of the landmarks."""

    label: str
    away: int
    identity: Interval
    psnr_db: Interval
    moved: Interval
    within_memory: bool
    within_clip: bool


def dream(checkpoint: Checkpoint, config: SessionConfig, truth: RecallClips, progress: Callable[[int], None]) -> np.ndarray:
    """What a checkpoint shows after the real landmarks, under the true actions: uint8 `[episode, T - context, H, W, 3]`."""
    context = truth.context
    return generate(
        checkpoint,
        config,
        frames=truth.frames[:, :context],
        context_actions=truth.actions[:, :context],
        known=np.broadcast_to(np.arange(context) > 0, truth.frames.shape[:1] + (context,)),
        actions=truth.actions[:, context:],
        progress=progress,
    )


def recall_rows(label: str, checkpoint: Checkpoint, config: SessionConfig, clips: list[RecallClips], bar: Progress) -> list[RecallRow]:
    """A checkpoint at every distance."""
    rows = []
    for truth in clips:
        made = dream(checkpoint, config, truth, bar.advance)
        inside = within_memory(config.policy, truth, checkpoint.manifest.chunk_frames)
        rows.append(_row(label, truth, score(made, truth), inside, truth.frames.shape[1] <= checkpoint.manifest.clip_frames))
    return rows


def sink_rows(clips: list[RecallClips]) -> list[RecallRow]:
    """The baseline that shows the first frame for ever."""
    return [_row("copy of the first frame", truth, score(copy_sink(truth), truth), False, True) for truth in clips]


def _row(label: str, truth: RecallClips, scores: RecallScores, inside: bool, in_clip: bool) -> RecallRow:
    away = truth.frames.shape[1] - truth.context
    identity, psnr_db, moved = (
        mean_interval(values, BOOTSTRAP_REPEATS, away) for values in (scores.identity, scores.psnr_db, scores.moved)
    )
    return RecallRow(label, away, identity, psnr_db, moved, inside, in_clip)


def markdown(rows: list[RecallRow], guessing: float) -> str:
    """The table: a line per candidate, a column per distance. (m): beyond memory; (x): longer than a training clip."""
    distances = sorted({row.away for row in rows})
    lines = [
        f"| landmark tiles right after k frames away | {' | '.join(f'k = {away}' for away in distances)} |",
        "| --- |" + " --- |" * len(distances),
    ]
    for label in dict.fromkeys(row.label for row in rows):
        cells = {row.away: _cell(row) for row in rows if row.label == label}
        lines.append(f"| {label} | {' | '.join(cells.get(away, '-') for away in distances)} |")
    lines.append(f"| chance | {' | '.join([f'{guessing:.3f}'] * len(distances))} |")
    return "\n".join(lines) + "\n\n(m): the landmarks are beyond the memory's frames; (x): the episode is longer than a training clip.\n"


def _cell(row: RecallRow) -> str:
    marks = "".join(mark for mark, stands in ((" (m)", not row.within_memory), (" (x)", not row.within_clip)) if stands)
    return f"{row.identity.value:.3f} [{row.identity.low:.3f}, {row.identity.high:.3f}]{marks}"


def draw(rows: list[RecallRow], guessing: float, output: Path) -> None:
    """Recall against distance, with intervals."""
    figures = optional_import("matplotlib.figure", package="matplotlib", extra="evaluate")
    figure = figures.Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for label in dict.fromkeys(row.label for row in rows):
        own = [row for row in rows if row.label == label]
        values = np.array([(row.identity.value, row.identity.low, row.identity.high) for row in own])
        reach = np.maximum(0.0, np.stack([values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]]))
        axes.errorbar([row.away for row in own], values[:, 0], yerr=reach, fmt="o-", capsize=3, label=label)
    axes.axhline(guessing, color="0.6", linestyle="--", label="chance")
    axes.set_xscale("log", base=2)
    axes.set(xlabel="frames looked away", ylabel="landmark tiles right", ylim=(0, 1.02))
    axes.legend(fontsize=8)
    write_atomically(output, lambda path: figure.savefig(path, format="png", dpi=120))


def study(paths: list[Path], distances: list[int], lead: int, episodes: int, seed: int, output: Path) -> str:
    """Score every checkpoint at every distance and write recall.json, recall.md and recall.png; returns the table."""
    checkpoints = [load_checkpoint(path / "checkpoint" if (path / "checkpoint").is_dir() else path) for path in paths]
    world = checkpoints[0].manifest.world
    env = make_world(world.name, height=world.height, width=world.width, frame_skip=1)
    clips = [play_truth(env, RecallTask(lead, away), episodes, seed) for away in distances]
    rows, guessing = sink_rows(clips), landmark_chance(clips[0])
    with Progress(sum(distances) * len(checkpoints), "recall, frames") as bar:
        for path, checkpoint in zip(paths, checkpoints, strict=True):
            config = default_config(checkpoint.manifest)
            if checkpoint.manifest.stage == "autoregressive":
                config = with_steps(config, TEACHER_STEPS)
            rows += recall_rows(f"{path.name}, {config.steps} step{'s' * (config.steps > 1)}", checkpoint, config, clips, bar)
    table = markdown(rows, guessing)
    settings = {"lead": lead, "episodes": episodes, "seed": seed, "memory": [to_plain(item.manifest.memory) for item in checkpoints]}
    write_json(output / "recall.json", {"provenance": provenance(), **settings, "chance": guessing, "rows": [asdict(row) for row in rows]})
    write_bytes(output / "recall.md", table.encode())
    draw(rows, guessing, output / "recall.png")
    return table


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--away", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--lead", type=int, default=12, help="turns before the landmarks are seen")
    parser.add_argument("--episodes", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1_000_003)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        print(study(options.checkpoints, options.away, options.lead, options.episodes, options.seed, options.output))
    except MutoscopeError as error:
        print(f"recall: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
