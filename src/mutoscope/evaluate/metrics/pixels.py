"""What every image metric needs: unit range, luma, and a check that two clips belong together."""

import numpy as np

from mutoscope.core.errors import DataError

LUMA_WEIGHTS = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def check_frames(frames: np.ndarray, what: str) -> None:
    """A DataError unless `frames` is uint8 `[..., height, width, 3]`."""
    if frames.dtype != np.uint8 or frames.ndim < 3 or frames.shape[-1] != 3:
        raise DataError(f"{what} must be uint8 [..., height, width, 3], got {frames.dtype} {list(frames.shape)}")


def check_pair(generated: np.ndarray, real: np.ndarray) -> None:
    """A DataError unless both are uint8 RGB of one shape."""
    check_frames(generated, "generated frames")
    check_frames(real, "real frames")
    if generated.shape != real.shape:
        raise DataError(f"generated frames {list(generated.shape)} and real frames {list(real.shape)} must have one shape")


def unit(frames: np.ndarray) -> np.ndarray:
    """uint8 0..255 -> float32 0..1, same shape."""
    return frames.astype(np.float32) / 255


def luma(frames: np.ndarray) -> np.ndarray:
    """uint8 RGB `[..., H, W, 3]` -> float32 `[..., H, W]` in 0..1 (ITU-R BT.601)."""
    return frames @ (LUMA_WEIGHTS / 255)


def running_mean(values: np.ndarray) -> np.ndarray:
    """`[..., n]` -> mean of the first k along the last axis, NaN left out (NaN while there was nothing else)."""
    present = np.isfinite(values)
    total, count = np.where(present, values, 0.0).cumsum(-1), present.cumsum(-1)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
