"""Recall in worlds of tiles: the share of landmark tiles that are right on return, against the frames looked away. Exact."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import gymnasium

from mutoscope.core.config import to_plain
from mutoscope.core.files import write_bytes, write_json
from mutoscope.core.progress import Progress
from mutoscope.core.provenance import provenance
from mutoscope.evaluate.bootstrap import Interval, mean_interval
from mutoscope.evaluate.recall import RecallClips, RecallScores, RecallTask, copy_sink, landmark_chance, play_truth, score, within_memory
from mutoscope.studies.recall import BOOTSTRAP_REPEATS, Candidate, RecallOptions, dream
from mutoscope.studies.recall_report import COPY_SINK, NOTE, draw_tiles, tile_table


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


def recall_rows(candidate: Candidate, clips: list[RecallClips], bar: Progress) -> list[RecallRow]:
    """A candidate at every distance."""
    rows, manifest = [], candidate.checkpoint.manifest
    for truth in clips:
        made = dream(candidate.checkpoint, candidate.config, truth, bar.advance)
        inside = within_memory(candidate.config.policy, truth, manifest.chunk_frames)
        rows.append(_row(candidate.label, truth, score(made, truth), inside, truth.frames.shape[1] <= manifest.clip_frames))
    return rows


def sink_rows(clips: list[RecallClips]) -> list[RecallRow]:
    """The baseline that shows the first frame for ever."""
    return [_row(COPY_SINK, truth, score(copy_sink(truth), truth), False, True) for truth in clips]


def _row(label: str, truth: RecallClips, scores: RecallScores, inside: bool, in_clip: bool) -> RecallRow:
    away = truth.frames.shape[1] - truth.context
    identity, psnr_db, moved = (
        mean_interval(values, BOOTSTRAP_REPEATS, away) for values in (scores.identity, scores.psnr_db, scores.moved)
    )
    return RecallRow(label, away, identity, psnr_db, moved, inside, in_clip)


def study(env: gymnasium.Env, candidates: Sequence[Candidate], options: RecallOptions, output: Path) -> str:
    """Score every candidate at every distance and write recall.json, recall.md and recall.png; returns the table."""
    clips = [play_truth(env, RecallTask(options.lead, away), options.episodes, options.seed) for away in options.away]
    rows = sink_rows(clips)
    with Progress(sum(options.away) * len(candidates), "recall, frames") as bar:
        for candidate in candidates:
            rows += recall_rows(candidate, clips, bar)
    plain = {
        "provenance": provenance(),
        "kind": "tiles",
        "options": to_plain(options),
        "candidates": [candidate.plain() for candidate in candidates],
        "chance": landmark_chance(clips[0]),
        "rows": [asdict(row) for row in rows],
    }
    text = f"{tile_table(plain)}\n\n{NOTE}\n"
    write_json(output / "recall.json", plain)
    write_bytes(output / "recall.md", text.encode())
    draw_tiles(plain, output / "recall.png")
    return text
