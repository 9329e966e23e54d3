"""Recall in worlds with a camera: the frame on return against the true one, for every way of leaving and coming back (evaluate.revisit)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import gymnasium
import numpy as np

from mutoscope.core.config import to_plain
from mutoscope.core.errors import ConfigError, DataError
from mutoscope.core.files import write_bytes, write_json
from mutoscope.core.progress import Progress
from mutoscope.core.provenance import provenance
from mutoscope.evaluate.bootstrap import Interval, mean_interval, percentile_interval, resamples
from mutoscope.evaluate.recall import copy_sink, within_memory
from mutoscope.evaluate.report import finite_or_null
from mutoscope.evaluate.returns import ReturnScores, another_episode, mean_of_others, score, start_memory
from mutoscope.evaluate.revisit import RevisitClips, RevisitTask, play_truth
from mutoscope.media.sheet import contact_sheet, write_png
from mutoscope.studies.recall import BOOTSTRAP_REPEATS, Candidate, RecallOptions, dream
from mutoscope.studies.recall_report import ANOTHER, CHANCE, FIRST_FRAME, LAST_REAL, MEAN_FRAME, camera_markdown, draw_camera

SHOWN_EPISODES, SHOWN_HEIGHT = 8, 96


@dataclass(frozen=True)
class References:
    """The two ends of `recalled`, SSIM per episode `[episode]`: what is known of the world alone, and of the last real frame."""

    none: np.ndarray
    whole: np.ndarray

    def recalled(self, ssim: np.ndarray, seed: int) -> Interval:
        """Where means of SSIM `[episode]` lie between the ends (0 and 1), with its interval; all three are of the same drawn episodes."""
        draws = resamples(len(ssim), BOOTSTRAP_REPEATS, seed)
        value = self._share(ssim, np.arange(len(ssim)))
        return percentile_interval(float(value), self._share(ssim, draws), len(ssim))

    def _share(self, ssim: np.ndarray, episodes: np.ndarray) -> np.ndarray:
        none, whole, own = (values[episodes].mean(axis=-1) for values in (self.none, self.whole, ssim))
        return np.divide(own - none, whole - none, out=np.full_like(own, np.nan), where=whole > none)


@dataclass(frozen=True)
class Asked:
    """One way at one distance, the true episodes of it, and what recall is measured by there."""

    task: RevisitTask
    truth: RevisitClips
    ends: References

    def plain(self) -> dict:
        """What was played: how many came back how near, from how far, and how many were refused why."""
        truth = self.truth
        spans = {
            name: {"mean": float(values.mean()), "most": float(values.max())}
            for name, values in (
                ("error_units", truth.units[:, -1]),
                ("error_degrees", truth.degrees[:, -1]),
                ("far_units", truth.units.max(axis=1)),
                ("far_degrees", truth.degrees.max(axis=1)),
            )
        }
        return {"way": self.task.way, "away": self.task.away, "episodes": len(truth.frames), "refused": truth.refused, **spans}


@dataclass(frozen=True)
class ReturnRow:
    """One line at one way and distance: intervals over episodes, and what its memory and its training could know of the view.

    `recalled`: where its SSIM lies between that of the mean of other episodes' returns (0) and that of a memory of the last real frame (1).
    """

    label: str
    way: str
    away: int
    identified: Interval
    recalled: Interval
    ssim: Interval
    psnr_db: Interval
    moved: Interval
    within_memory: bool
    within_clip: bool


def ask(env: gymnasium.Env, options: RecallOptions) -> tuple[list[Asked], list[str]]:
    """The true episodes of every way at every distance, and what had to be left out with its reason; a ConfigError if nothing is left."""
    asked, left_out = [], []
    tasks = [(way, away) for way in options.ways for away in options.away]
    with Progress(len(tasks) * options.episodes, "real episodes") as bar:
        for way, away in tasks:
            began = bar.done
            try:
                task = RevisitTask(way, away, options.lead, options.look, options.settle)
                truth = play_truth(env, task, options.episodes, options.seed, options.bounds, bar.advance)
                asked.append(Asked(task, truth, References(mean_of_others(truth).ssim, score(start_memory(truth), truth).ssim)))
            except (ConfigError, DataError) as error:
                left_out.append(f"{way}, k = {away}: {error}")
                bar.advance(options.episodes - (bar.done - began))
    if not asked:
        raise ConfigError(f"nothing can be asked: {'; '.join(left_out)}")
    return asked, left_out


def baseline_rows(asked: Asked) -> list[ReturnRow]:
    """What needs no world model; `chance` is the share that is identified by showing the same whatever the episode."""
    truth = asked.truth
    nothing = np.full(len(truth.frames), np.nan)
    guess = ReturnScores(nothing, nothing, np.full(len(truth.frames), 1 / len(truth.frames)), nothing)
    scores = {
        LAST_REAL: score(start_memory(truth), truth),
        FIRST_FRAME: score(copy_sink(truth), truth),
        MEAN_FRAME: mean_of_others(truth),
        ANOTHER: another_episode(truth),
        CHANCE: guess,
    }
    return [_row(label, asked, values, label == LAST_REAL, True) for label, values in scores.items()]


def candidate_row(candidate: Candidate, asked: Asked, made: np.ndarray) -> ReturnRow:
    """What a candidate dreamed."""
    manifest = candidate.checkpoint.manifest
    inside = within_memory(candidate.config.policy, asked.truth, manifest.chunk_frames)
    return _row(candidate.label, asked, score(made, asked.truth), inside, asked.truth.frames.shape[1] <= manifest.clip_frames)


def _row(label: str, asked: Asked, scores: ReturnScores, inside: bool, in_clip: bool) -> ReturnRow:
    seed = asked.task.away
    identified, ssim, psnr_db, moved = (
        mean_interval(values, BOOTSTRAP_REPEATS, seed) for values in (scores.identified, scores.ssim, scores.psnr_db, scores.moved)
    )
    recalled = asked.ends.recalled(scores.ssim, seed)
    return ReturnRow(label, asked.task.way, asked.task.away, identified, recalled, ssim, psnr_db, moved, inside, in_clip)


def returns_sheet(asked: list[Asked], returns: dict[str, list[np.ndarray]]) -> np.ndarray:
    """For every way at its longest distance: what was seen, the true return, and the last frame of every candidate, an episode a column.

    `returns` holds a candidate's last frames `[episode, H, W, 3]` for every item of `asked`.
    """
    longest = {item.task.way: index for index, item in enumerate(asked)}
    rows, labels = [], []
    for way, index in longest.items():
        truth, away = asked[index].truth, asked[index].task.away
        shown = {
            "seen": truth.frames[:, truth.context - 1],
            f"farthest, k = {away // 2}": truth.frames[:, truth.context - 1 + away // 2],
            f"true return, k = {away}": truth.frames[:, -1],
            **{label: frames[index] for label, frames in returns.items()},
        }
        rows += [_enlarged(frames[:SHOWN_EPISODES]) for frames in shown.values()]
        labels += [f"{way}: {label}" for label in shown]
    return contact_sheet(rows, labels, shown=SHOWN_EPISODES)


def _enlarged(frames: np.ndarray) -> np.ndarray:
    factor = max(1, round(SHOWN_HEIGHT / frames.shape[1]))
    return frames.repeat(factor, axis=1).repeat(factor, axis=2)


def study(env: gymnasium.Env, candidates: Sequence[Candidate], options: RecallOptions, output: Path) -> str:
    """Score every candidate; write recall.json, recall.md, recall.png (curves) and returns.png (pictures). Returns the tables."""
    asked, left_out = ask(env, options)
    rows = [row for item in asked for row in baseline_rows(item)]
    returns: dict[str, list[np.ndarray]] = {candidate.label: [] for candidate in candidates}
    with Progress(sum(item.task.away for item in asked) * len(candidates), "recall, frames") as bar:
        for candidate in candidates:
            for item in asked:
                made = dream(candidate.checkpoint, candidate.config, item.truth, bar.advance)
                rows.append(candidate_row(candidate, item, made))
                returns[candidate.label].append(made[:, -1])
    plain = finite_or_null(
        {
            "provenance": provenance(),
            "kind": "camera",
            "world": to_plain(env.unwrapped.world),
            "options": to_plain(options),
            "candidates": [candidate.plain() for candidate in candidates],
            "truth": [item.plain() for item in asked],
            "left_out": left_out,
            "rows": [asdict(row) for row in rows],
        }
    )
    write_json(output / "recall.json", plain)
    text = camera_markdown(plain)
    write_bytes(output / "recall.md", text.encode())
    draw_camera(plain, output / "recall.png")
    write_png(output / "returns.png", returns_sheet(asked, returns))
    return text
