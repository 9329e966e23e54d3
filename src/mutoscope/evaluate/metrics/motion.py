"""Camera motion from pictures: dense optical flow between neighbouring frames, summed up in nine numbers.

A global shift is searched first and given to OpenCV's DIS flow (Kroeger et al. 2016) as its start, because a turning
camera moves a small picture by more than DIS finds on its own.
"""

from types import ModuleType

import numpy as np

from mutoscope.core.errors import DataError, optional_import
from mutoscope.evaluate.metrics.pixels import check_frames

NUM_FEATURES = 9
WORKING_HEIGHT = 96
SEARCH_SHARE = 1 / 6
"""The global shift is searched up to this share of the picture's width."""


def flow_features(frames: np.ndarray) -> np.ndarray:
    """Frames uint8 `[T, H, W, 3]` -> float64 `[T - 1, 9]`: moments of the flow from each frame to the next, in picture widths."""
    check_frames(frames, "frames")
    if frames.ndim != 4 or len(frames) < 2:
        raise DataError(f"optical flow needs a clip [T, H, W, 3] of at least 2 frames, got {list(frames.shape)}")
    vision = optional_import("cv2", package="opencv-python-headless", extra="evaluate")
    flow = vision.DISOpticalFlow_create(vision.DISOPTICAL_FLOW_PRESET_MEDIUM)
    small = [vision.cvtColor(frame, vision.COLOR_RGB2GRAY) for frame in frames]
    large = [_enlarge(vision, frame) for frame in small]
    rows = []
    for index in range(len(frames) - 1):
        start = _constant_flow(large[index].shape, global_shift(small[index], small[index + 1]) / small[index].shape[1])
        field = flow.calc(large[index], large[index + 1], start) / large[index].shape[1]
        rows.append(_moments(field))
    return np.array(rows, dtype=np.float64)


def global_shift(before: np.ndarray, after: np.ndarray) -> float:
    """The shift to the right (pixels, to a fraction) with the least mean absolute difference of two uint8 pictures `[H, W]`."""
    before, after = before.astype(np.float32), after.astype(np.float32)
    width = before.shape[1]
    reach = max(1, int(width * SEARCH_SHARE))
    costs = [
        float(np.abs(before[:, max(0, -shift) : width - max(0, shift)] - after[:, max(0, shift) : width + min(0, shift)]).mean())
        for shift in range(-reach, reach + 1)
    ]
    return _lowest_point(costs) - reach


def _lowest_point(costs: list[float]) -> float:
    best = int(np.argmin(costs))
    if not 0 < best < len(costs) - 1:
        return float(best)
    left, middle, right = costs[best - 1 : best + 2]
    bend = left - 2 * middle + right
    return best + (0.5 * (left - right) / bend if bend > 0 else 0.0)


def _enlarge(vision: ModuleType, frame: np.ndarray) -> np.ndarray:
    factor = max(1, round(WORKING_HEIGHT / frame.shape[0]))
    return vision.resize(frame, (frame.shape[1] * factor, frame.shape[0] * factor), interpolation=vision.INTER_CUBIC)


def _constant_flow(shape: tuple[int, ...], shift_widths: float) -> np.ndarray:
    field = np.zeros((*shape, 2), dtype=np.float32)
    field[..., 0] = shift_widths * shape[1]
    return field


def _moments(field: np.ndarray) -> list[float]:
    height, width = field.shape[:2]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    right, down = field[..., 0], field[..., 1]
    rightward = [np.median(right), right.mean(), (right * x).mean(), (right * y).mean(), (right * y * y).mean(), (right * x * x).mean()]
    return [*map(float, rightward), float(np.median(down)), float((down * y).mean()), float((down * x).mean())]
