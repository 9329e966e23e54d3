"""What can go wrong with a world in long play, told per window: it stands still, it flickers, or its picture collapses."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mutoscope.evaluate.metrics.pixels import luma
from mutoscope.evaluate.metrics.stability import REAL_STRIDE, STATISTICS, RealRange, real_range, window_means

DETECTORS = ("static", "flicker", "collapse")
MOTION = STATISTICS.index("motion")
STATIC_SHARE = 0.5
MARGIN = 1.5
"""A picture collapsed when brightness, contrast or sharpness leaves the real range by more than this factor; flicker likewise."""
QUIET_QUANTILE = 0.1


def unrest(frames: np.ndarray) -> np.ndarray:
    """uint8 `[T, H, W, 3]` -> float64 `[T, 2]`: speckle and jerk, NaN where there is no frame before (or after).

    speckle  fine grain (Immerkaer's noise mask, 1996) of the change since the frame before, at its 10 % quantile over pixels:
             a moving picture is smooth in places, noise leaves no pixel alone
    jerk     size of the second difference of mean luma in time: a lamp that is switched on and off
    """
    grey = luma(frames)
    values = np.full((len(frames), 2), np.nan)
    grain = np.diff(np.diff(np.diff(grey, axis=0), n=2, axis=1), n=2, axis=2)
    values[1:, 0] = np.quantile(np.abs(grain), QUIET_QUANTILE, axis=(1, 2))
    values[1:-1, 1] = np.abs(np.diff(grey.mean(axis=(1, 2)), n=2))
    return values


@dataclass(frozen=True)
class Detectors:
    """Calibrated on real clips: the range of the four statistics, and the greatest unrest `[2]` of a real window."""

    real: RealRange
    greatest_unrest: np.ndarray
    window: int

    def run(self, statistics: np.ndarray, restless: np.ndarray) -> np.ndarray:
        """Frame statistics `[T, 4]` and unrest `[T, 2]` of one clip -> bool `[windows, 3]` in the order of DETECTORS."""
        means = window_means(statistics, self.window, self.window)
        still = means[:, MOTION] < STATIC_SHARE * self.real.low[MOTION]
        flickers = window_means(restless, self.window, self.window) > MARGIN * self.greatest_unrest
        look = slice(0, MOTION)
        gone = (means[:, look] < self.real.low[look] / MARGIN) | (means[:, look] > self.real.high[look] * MARGIN)
        return np.stack([still, flickers.any(axis=1), gone.any(axis=1)], axis=1)


def calibrate_detectors(statistics: Sequence[np.ndarray], restless: Sequence[np.ndarray], window: int) -> Detectors:
    """From real clips: their frame statistics `[T, 4]` and unrest `[T, 2]`."""
    real = real_range(statistics, window)
    greatest = np.concatenate([window_means(clip, window, REAL_STRIDE) for clip in restless]).max(axis=0)
    return Detectors(real, greatest, window)
