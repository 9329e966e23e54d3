"""Sharpness: how much gradient energy a clip has, against the real clip. Below 0 is blurred, above 0 noisy."""

import numpy as np

from mutoscope.evaluate.metrics.pixels import check_pair, luma, running_mean

FLOOR = 1e-8
"""Energy of a picture without any edge, so that a black frame has a (very low) logarithm."""


def gradient_energy(frames: np.ndarray) -> np.ndarray:
    """Mean of squared differences between neighbouring luma pixels: uint8 `[..., H, W, 3]` -> float64 `[...]`."""
    grey = luma(frames)
    across = np.square(np.diff(grey, axis=-1)).mean(axis=(-2, -1), dtype=np.float64)
    down = np.square(np.diff(grey, axis=-2)).mean(axis=(-2, -1), dtype=np.float64)
    return across + down


def sharpness(generated: np.ndarray, real: np.ndarray) -> np.ndarray:
    """`ln(energy / real energy)` of the first k frames: uint8 `[..., n, H, W, 3]` twice -> float64 `[..., n]`, 0 is best."""
    check_pair(generated, real)
    return np.log((running_mean(gradient_energy(generated)) + FLOOR) / (running_mean(gradient_energy(real)) + FLOOR))
