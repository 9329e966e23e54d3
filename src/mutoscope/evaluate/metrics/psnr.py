"""Peak signal-to-noise ratio, per frame."""

import numpy as np

from mutoscope.evaluate.metrics.pixels import check_pair

CEILING_DB = 60.0
"""Equal frames get this; eight-bit rounding alone leaves 58.9 dB."""


def psnr(generated: np.ndarray, real: np.ndarray) -> np.ndarray:
    """`-10 log10(mean squared error)` with a peak of 1: uint8 `[..., H, W, 3]` twice -> float64 `[...]` in dB, at most 60."""
    check_pair(generated, real)
    difference = generated.astype(np.float32) - real.astype(np.float32)
    error = np.square(difference).mean(axis=(-3, -2, -1), dtype=np.float64) / 255**2
    return -10 * np.log10(np.maximum(error, 10 ** (-CEILING_DB / 10)))
