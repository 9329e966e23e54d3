"""Structural similarity (Wang et al. 2004): Gaussian window of 11 pixels, sigma 1.5, K1 = .01, K2 = .03, valid region, RGB mean."""

import numpy as np

from mutoscope.core.errors import DataError
from mutoscope.evaluate.metrics.pixels import check_pair

WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2


def gaussian_window() -> np.ndarray:
    """The 11 weights of one axis; they sum to 1."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * SIGMA**2))
    return weights / weights.sum()


def ssim(generated: np.ndarray, real: np.ndarray) -> np.ndarray:
    """uint8 `[..., H, W, 3]` twice -> float64 `[...]`, at most 1; frames must be at least 11 pixels high and wide."""
    check_pair(generated, real)
    if min(generated.shape[-3:-1]) < WINDOW:
        raise DataError(f"SSIM needs frames of at least {WINDOW}x{WINDOW} pixels, got {generated.shape[-3]}x{generated.shape[-2]}")
    flat = zip(generated.reshape(-1, *generated.shape[-3:]), real.reshape(-1, *real.shape[-3:]), strict=True)
    values = [_frame_ssim(one / 255.0, other / 255.0) for one, other in flat]
    return np.array(values).reshape(generated.shape[:-3])


def _frame_ssim(x: np.ndarray, y: np.ndarray) -> float:
    mean_x, mean_y = _smooth(x), _smooth(y)
    variance_x, variance_y = _smooth(x * x) - mean_x**2, _smooth(y * y) - mean_y**2
    covariance = _smooth(x * y) - mean_x * mean_y
    brightness = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    structure = (2 * covariance + C2) / (variance_x + variance_y + C2)
    return float((brightness * structure).mean())


def _smooth(image: np.ndarray) -> np.ndarray:
    weights = gaussian_window()
    height, width = image.shape[0] - WINDOW + 1, image.shape[1] - WINDOW + 1
    rows = sum(weight * image[offset : offset + height] for offset, weight in enumerate(weights))
    return np.asarray(sum(weight * rows[:, offset : offset + width] for offset, weight in enumerate(weights)))
