"""How a picture moved from one frame to the next, measured without knowing the world: for checking data sets."""

import numpy as np

WORKING_PIXELS = 64
FEATURES = ("right", "down", "zoom", "change")


def motion(frames: np.ndarray) -> np.ndarray:
    """Frames uint8 `[T, H, W, 3]` -> float64 `[T - 1, 4]`: shift right and down (phase correlation, in working pixels),
    zoom (least squares on the radial gradient) and mean absolute change."""
    grey = _shrink(frames)
    before, after = grey[:-1], grey[1:]
    right, down = _shift(before, after)
    return np.stack([right, down, _zoom(before, after), np.abs(after - before).mean(axis=(1, 2))], axis=1)


def _shrink(frames: np.ndarray) -> np.ndarray:
    height, width = frames.shape[1:3]
    factor = max(1, max(height, width) // WORKING_PIXELS)
    rows, columns = height // factor, width // factor
    cut = frames[:, : rows * factor, : columns * factor].reshape(len(frames), rows, factor, columns, factor, 3)
    return cut.mean(axis=(2, 4, 5), dtype=np.float32)


def _shift(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = before.shape[1:]
    window = np.outer(np.hanning(rows + 2)[1:-1], np.hanning(columns + 2)[1:-1]).astype(np.float32)
    first, second = (np.fft.rfft2((grey - grey.mean(axis=(1, 2), keepdims=True)) * window) for grey in (before, after))
    cross = second * first.conj()
    surface = np.fft.irfft2(cross / (np.abs(cross) + 1e-6), s=(rows, columns))
    best = surface.reshape(len(surface), -1).argmax(axis=1)
    down, right = np.divmod(best, columns)
    return _signed(right, columns), _signed(down, rows)


def _signed(shift: np.ndarray, size: int) -> np.ndarray:
    return np.where(shift > size // 2, shift - size, shift).astype(np.float64)


def _zoom(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    rows, columns = before.shape[1:]
    middle = (before + after) / 2
    down, right = np.gradient(middle, axis=(1, 2))
    row, column = np.mgrid[0:rows, 0:columns].astype(np.float32)
    radial = (row - (rows - 1) / 2) * down + (column - (columns - 1) / 2) * right
    return -((after - before) * radial).sum(axis=(1, 2)) / ((radial**2).sum(axis=(1, 2)) + 1.0)
