"""Action following: does the picture turn and walk as the true camera did under the same actions, and as far?

Flow is calibrated against the true camera pose on real clips. Frames count on which the camera really moved and on which
the same measurement of the real clip has the right direction; the real clip's own score stands beside.
"""

from dataclasses import dataclass

import numpy as np

from mutoscope.core.errors import DataError
from mutoscope.evaluate.metrics.motion import NUM_FEATURES

MOTIONS = ("turn", "step")
RIDGE = 1e-4
KEPT_SHARE = 0.8
TRIMMING_ROUNDS = 3
MOVING_SHARE = 0.25
"""A frame moves if it moves by this share of the 95th percentile; a measured motion has a direction from this share of the true size."""


def true_motion(pose: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Camera pose float `[T, P]` -> float64 `[T - 1, 2]`: turn to the left in degrees, step forward in the world's units."""
    missing = [name for name in ("x", "y", "angle") if name not in names]
    if missing or pose.shape[-1] != len(names):
        raise DataError(f"motion needs the pose x, y and angle; this data set's pose has {', '.join(names) or 'no names'}")
    x, y, angle = (pose[:, names.index(name)].astype(np.float64) for name in ("x", "y", "angle"))
    turn = (np.diff(angle) + 180) % 360 - 180
    heading = np.deg2rad(angle[:-1])
    return np.stack([turn, np.diff(x) * np.cos(heading) + np.diff(y) * np.sin(heading)], axis=1)


@dataclass(frozen=True)
class MotionScale:
    """Flow features -> turn and step: weights `[9, 2]`, and the size `[2]` from which on a true motion counts."""

    weights: np.ndarray
    smallest: np.ndarray

    def measure(self, features: np.ndarray) -> np.ndarray:
        """float `[..., 9]` -> `[..., 2]`, in the units of `true_motion`."""
        return features @ self.weights


def calibrate(features: np.ndarray, true: np.ndarray) -> MotionScale:
    """Trimmed least squares (the fifth with the largest residuals is left out): float `[N, 9]` and `[N, 2]`, from real clips."""
    if features.shape[1:] != (NUM_FEATURES,) or true.shape != (len(features), len(MOTIONS)):
        raise DataError(f"calibration needs features [N, {NUM_FEATURES}] and motions [N, 2], got {features.shape} and {true.shape}")
    if len(features) < 2 * NUM_FEATURES:
        raise DataError(
            f"calibration needs at least {2 * NUM_FEATURES} real frames with a pose, got {len(features)}; evaluate more episodes"
        )
    weights = np.stack([_trimmed_fit(features, true[:, motion]) for motion in range(len(MOTIONS))], axis=1)
    return MotionScale(weights, MOVING_SHARE * np.quantile(np.abs(true), 0.95, axis=0))


def _trimmed_fit(features: np.ndarray, true: np.ndarray) -> np.ndarray:
    kept = np.arange(len(features))
    for _ in range(TRIMMING_ROUNDS):
        weights = _ridge_fit(features[kept], true[kept])
        residuals = np.abs(features @ weights - true)
        kept = np.argsort(residuals, kind="stable")[: int(np.ceil(KEPT_SHARE * len(features)))]
    return _ridge_fit(features[kept], true[kept])


def _ridge_fit(features: np.ndarray, true: np.ndarray) -> np.ndarray:
    scale = np.sqrt(np.square(features).mean(axis=0)) + 1e-12
    scaled = features / scale
    normal = scaled.T @ scaled / len(scaled) + RIDGE * np.eye(features.shape[1])
    return np.linalg.solve(normal, scaled.T @ true / len(scaled)) / scale


def right_direction(measured: np.ndarray, true: np.ndarray) -> np.ndarray:
    """True where the sign is right and the size at least a quarter of the true one: float `[...]` twice -> bool `[...]`."""
    return (np.sign(measured) == np.sign(true)) & (np.abs(measured) >= MOVING_SHARE * np.abs(true))


def following(measured: np.ndarray, true: np.ndarray, counted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Over the first k frames: share with the right direction, and `sum |measured - true| / sum |true|`.

    float `[..., n]` twice and bool `[..., n]` (the frames that count) -> float `[..., n]` twice, NaN while no frame counts.
    """
    frames = counted.cumsum(-1)
    right = (counted & right_direction(measured, true)).cumsum(-1)
    error = np.where(counted, np.abs(measured - true), 0.0).cumsum(-1)
    size = np.where(counted, np.abs(true), 0.0).cumsum(-1)
    return _ratio(right, frames), _ratio(error, size)


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.full(bottom.shape, np.nan), where=bottom > 0)
