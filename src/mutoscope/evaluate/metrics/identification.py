"""Is a picture of this episode, or could it be of any? Which of N true pictures each generated one is nearest to."""

import numpy as np

from mutoscope.evaluate.metrics.pixels import check_pair
from mutoscope.evaluate.metrics.psnr import psnr


def identified(generated: np.ndarray, real: np.ndarray) -> np.ndarray:
    """1 where a generated picture is nearer (PSNR) to its own true one than to those of all other episodes: uint8 `[N, H, W, 3]` twice.

    -> float64 `[N]`. m true pictures that are equally near share the 1, so that whoever shows the same for every episode, or guesses,
    has a mean of 1 / N: exact chance.
    """
    check_pair(generated, real)
    nearness = np.stack([psnr(np.broadcast_to(picture, real.shape), real) for picture in generated])
    best = nearness == nearness.max(axis=1, keepdims=True)
    return best.diagonal() / best.sum(axis=1)
