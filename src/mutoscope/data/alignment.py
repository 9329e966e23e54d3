"""Do the actions stand in the right row? What a picture does depends on actions up to now and never on later ones.

The motion of frame k is regressed on the stored actions of rows .., k - 1, k, k + 1. The newest row that still explains something
new is the row in which the action of frame k really stands: k when all is well, k + 1 when the actions were stored one row late
(shift +1), k - 1 when one row early (shift -1).
"""

from dataclasses import dataclass

import numpy as np

SHIFTS = (-1, 0, 1)
OLDEST = -4
ROUNDS = 3
SHARE_OF_BEST = 0.3
LEAST_GAIN = 0.01
# A clip counts as shifted when that fits better by what two of its frames cost; squared residuals beyond OUTLIER count less.
CLEAR_FRAMES, OUTLIER = 2.0, 0.5
RIDGE = 1e-3


@dataclass(frozen=True)
class Alignment:
    """The shift of the stored actions of most clips (None: actions explain no motion), that of every clip, and `gains`:
    how much of the motion's variance rows k - 1, k and k + 1 explain beyond the rows before them."""

    shift: int | None
    shifts: tuple[int, ...]
    gains: tuple[float, ...]


def find_alignment(motions: list[np.ndarray], actions: list[np.ndarray]) -> Alignment:
    """Motions `[T - 1, F]` (row k - 1 belongs to frame k) and actions `[T, A]` of clips -> by how many rows the actions are late."""
    scaled = _standardise(motions)
    gains = _gains(scaled, actions)
    if max(gains) < LEAST_GAIN:
        return Alignment(None, (0,) * len(actions), gains)
    common = max(shift for shift, gain in zip(SHIFTS, gains, strict=True) if gain >= SHARE_OF_BEST * max(gains))
    shifts = np.full(len(actions), common)
    for _ in range(ROUNDS):
        designs = [_design(clip, _lags(shift)) for clip, shift in zip(actions, shifts, strict=True)]
        weights = _fit(designs, scaled)
        trust = _trust(designs, scaled, weights)
        shifts = np.array([_best_shift(motion, clip, weights, trust, common) for motion, clip in zip(scaled, actions, strict=True)])
    return Alignment(common, tuple(int(shift) for shift in shifts), gains)


def _lags(newest: int) -> range:
    return range(OLDEST + newest, newest + 1)


def _gains(motions: list[np.ndarray], actions: list[np.ndarray]) -> tuple[float, ...]:
    explained = [_explained(motions, actions, range(OLDEST, newest + 1)) for newest in (SHIFTS[0] - 1, *SHIFTS)]
    return tuple(float(later - earlier) for earlier, later in zip(explained[:-1], explained[1:], strict=True))


def _explained(motions: list[np.ndarray], actions: list[np.ndarray], lags: range) -> float:
    designs = [_design(clip, lags) for clip in actions]
    weights = _fit(designs, motions)
    left = sum(float(((motion - design @ weights) ** 2).sum()) for design, motion in zip(designs, motions, strict=True))
    total = sum(float((motion**2).sum()) for motion in motions)
    return 1.0 - left / total if total else 0.0


def _design(actions: np.ndarray, lags: range) -> np.ndarray:
    rows = np.arange(1, len(actions))[:, None] + np.array(lags)
    inside = (rows >= 0) & (rows < len(actions))
    taken = actions[np.clip(rows, 0, len(actions) - 1)] * inside[..., None]
    flat = taken.reshape(len(rows), -1).astype(np.float64)
    return np.concatenate([flat, np.ones((len(rows), 1))], axis=1)


def _fit(designs: list[np.ndarray], motions: list[np.ndarray]) -> np.ndarray:
    size = designs[0].shape[1]
    square, mixed = RIDGE * np.eye(size), np.zeros((size, motions[0].shape[1]))
    for design, motion in zip(designs, motions, strict=True):
        square += design.T @ design
        mixed += design.T @ motion
    return np.linalg.solve(square, mixed)


def _trust(designs: list[np.ndarray], motions: list[np.ndarray], weights: np.ndarray) -> np.ndarray:
    left = sum(((motion - design @ weights) ** 2).sum(axis=0) for design, motion in zip(designs, motions, strict=True))
    explained = np.clip(1.0 - left / np.maximum(sum((motion**2).sum(axis=0) for motion in motions), 1e-9), 0.0, 0.99)
    return explained / (1.0 - explained)


def _best_shift(motion: np.ndarray, actions: np.ndarray, weights: np.ndarray, trust: np.ndarray, common: int) -> int:
    errors = {shift: _misfit(motion - _design(actions, _lags(shift)) @ weights, trust) for shift in SHIFTS}
    best = min(errors, key=lambda shift: errors[shift])
    return best if errors[common] - errors[best] > CLEAR_FRAMES * errors[common] / len(motion) else common


def _misfit(residual: np.ndarray, trust: np.ndarray) -> float:
    return float((trust * np.log1p(residual**2 / OUTLIER)).sum())


def _standardise(motions: list[np.ndarray]) -> list[np.ndarray]:
    joined = np.concatenate(motions)
    mean, deviation = joined.mean(axis=0), joined.std(axis=0)
    low, high = np.percentile(joined, (1, 99), axis=0)
    return [(np.clip(motion, low, high) - mean) / np.maximum(deviation, 1e-9) for motion in motions]
