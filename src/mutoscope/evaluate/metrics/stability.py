"""Stability over long play: brightness, contrast, sharpness and motion in windows, against the range of real clips."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mutoscope.core.errors import DataError
from mutoscope.evaluate.metrics.pixels import check_frames, luma
from mutoscope.evaluate.metrics.sharpness import gradient_energy

STATISTICS = ("brightness", "contrast", "sharpness", "motion")
LOW, HIGH = 0.01, 0.99
REAL_STRIDE = 10
"""Real windows start every 10 frames, so that short episodes still give a range."""


def frame_statistics(frames: np.ndarray) -> np.ndarray:
    """uint8 `[T, H, W, 3]` -> float64 `[T, 4]`: mean and deviation of luma, gradient energy, mean absolute change since the frame before.

    The first frame's motion is NaN.
    """
    check_frames(frames, "frames")
    grey = luma(frames)
    motion = np.full(len(frames), np.nan)
    motion[1:] = np.abs(np.diff(grey, axis=0)).mean(axis=(1, 2))
    return np.stack([grey.mean(axis=(1, 2)), grey.std(axis=(1, 2)), gradient_energy(frames), motion], axis=1, dtype=np.float64)


def window_means(values: np.ndarray, window: int, stride: int) -> np.ndarray:
    """float `[T, S]` -> means of windows `[windows, S]`, NaN left out; clips shorter than a window give none."""
    starts = range(0, len(values) - window + 1, stride)
    means = [np.nanmean(values[start : start + window], axis=0) for start in starts]
    return np.array(means).reshape(len(starts), values.shape[1])


@dataclass(frozen=True)
class RealRange:
    """The 1 % and 99 % quantile of each statistic's window means in real clips, float `[S]` each, and how many windows they rest on."""

    low: np.ndarray
    high: np.ndarray
    windows: int

    def inside(self, means: np.ndarray) -> np.ndarray:
        """float `[windows, S]` -> bool `[windows, S]`."""
        return (means >= self.low) & (means <= self.high)


def real_range(clips: Sequence[np.ndarray], window: int) -> RealRange:
    """The range of the real clips' statistics, float `[T, S]` each."""
    means = [window_means(clip, window, REAL_STRIDE) for clip in clips]
    joined = np.concatenate(means) if means else np.zeros((0, 0))
    if not len(joined):
        longest = max((len(clip) for clip in clips), default=0)
        raise DataError(f"stability needs real episodes of at least {window} frames, the longest has {longest}; use a shorter window")
    low, high = np.quantile(joined, [LOW, HIGH], axis=0)
    return RealRange(low, high, len(joined))


def real_share_inside(clips: Sequence[np.ndarray], window: int) -> float:
    """Share of real windows with all statistics in the range of the *other* real clips: what a perfect world would score."""
    shares = []
    for index, clip in enumerate(clips):
        means = window_means(clip, window, window)
        others = [other for place, other in enumerate(clips) if place != index]
        if len(means) and any(len(other) >= window for other in others):
            shares.append(real_range(others, window).inside(means).all(axis=1).mean())
    return float(np.mean(shares)) if shares else float("nan")
