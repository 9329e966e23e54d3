"""Scores of a return (evaluate.revisit): the last dreamed frame against the last true one, and whether the dream moved on its way there."""

from dataclasses import dataclass

import numpy as np

from mutoscope.core.errors import ConfigError
from mutoscope.evaluate.metrics.identification import identified
from mutoscope.evaluate.metrics.psnr import psnr
from mutoscope.evaluate.metrics.ssim import ssim
from mutoscope.evaluate.recall import Truth

OTHERS = 8
"""So many other episodes are compared with each one, where there are as many."""
LEAST_CHANGE = 0.5
"""Grey levels of 255: the real picture moves where its mean absolute change is larger."""
MOVED_SHARE = 0.25
"""A dreamed picture moves if it changes by this share of the real change."""


@dataclass(frozen=True)
class ReturnScores:
    """Per episode, float `[episode]`, NaN where it says nothing: PSNR and SSIM of the return, 1 where it is nearest to its own true frame
    of all episodes', and the share of frames that move of those in which the real picture moves."""

    psnr_db: np.ndarray
    ssim: np.ndarray
    identified: np.ndarray
    moved: np.ndarray


def score(made: np.ndarray, clips: Truth) -> ReturnScores:
    """Generated frames uint8 `[episode, T - context, H, W, 3]`, the last of which shows the view again."""
    if len(made) < 2:
        raise ConfigError(f"a return is told from those of other episodes; it takes at least 2 episodes, got {len(made)}")
    dreamed, true = made[:, -1], clips.frames[:, -1]
    return ReturnScores(psnr(dreamed, true), ssim(dreamed, true), identified(dreamed, true), moved(made, clips.frames[:, clips.context :]))


def moved(made: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Share of frames in which the dream moves, of those in which the truth does: uint8 `[episode, n, H, W, 3]` twice -> `[episode]`.

    A frame moves by its mean absolute difference from the one before. The first has no dreamed one before it and does not count.
    """
    rows = [(_changes(dream), _changes(truth)) for dream, truth in zip(made, real, strict=True)]
    return np.array([_share(dream >= MOVED_SHARE * truth, truth > LEAST_CHANGE) for dream, truth in rows])


def _changes(frames: np.ndarray) -> np.ndarray:
    return np.array(
        [np.abs(after - before).mean() for before, after in zip(frames[:-1].astype(float), frames[1:].astype(float), strict=True)]
    )


def _share(moves: np.ndarray, counted: np.ndarray) -> float:
    return float(moves[counted].mean()) if counted.any() else float("nan")


def start_memory(clips: Truth) -> np.ndarray:
    """What a perfect memory of the last real frame shows, and nothing else: uint8 `[episode, T - context, H, W, 3]`."""
    pictures = clips.frames[:, clips.context - 1]
    return np.broadcast_to(pictures[:, None], (len(pictures), clips.frames.shape[1] - clips.context, *pictures.shape[1:]))


def mean_of_others(clips: Truth) -> ReturnScores:
    """The best answer of whoever knows the world and not the episode: the mean of the other episodes' true returns."""
    true = clips.frames[:, -1]
    mean = (true.sum(axis=0, dtype=np.float64) - true) / (len(true) - 1)
    return _of_others([mean.round().astype(np.uint8)], true)


def another_episode(clips: Truth) -> ReturnScores:
    """What the true return of another episode scores, on average over some others."""
    true = clips.frames[:, -1]
    return _of_others([np.roll(true, turn, axis=0) for turn in range(1, min(OTHERS, len(true) - 1) + 1)], true)


def _of_others(answers: list[np.ndarray], true: np.ndarray) -> ReturnScores:
    """Scores of pictures that are made of other episodes: which one they are nearest to, and whether they move, says nothing."""
    nothing = np.full(len(true), np.nan)
    psnr_db, similarity = (np.mean([metric(answer, true) for answer in answers], axis=0) for metric in (psnr, ssim))
    return ReturnScores(psnr_db, similarity, nothing, nothing)
