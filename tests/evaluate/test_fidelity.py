"""PSNR, SSIM and sharpness against the definitions, written out the slow way."""

import numpy as np
import pytest

from mutoscope.core.errors import DataError
from mutoscope.evaluate.metrics.psnr import CEILING_DB, psnr
from mutoscope.evaluate.metrics.sharpness import sharpness
from mutoscope.evaluate.metrics.ssim import ssim

GENERATOR = np.random.default_rng(3)
REAL = GENERATOR.integers(0, 256, size=(2, 3, 15, 17, 3), dtype=np.uint8)
MADE = np.clip(REAL.astype(int) + GENERATOR.normal(0, 20, REAL.shape), 0, 255).astype(np.uint8)


def slow_ssim(x: np.ndarray, y: np.ndarray, sigma: float = 1.5) -> float:
    """The mean over all places and colours of SSIM of an 11x11 neighbourhood, from the paper's formula."""
    offsets = np.arange(-5, 6)
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * sigma**2))
    weights, values = weights / weights.sum(), []
    for row in range(x.shape[0] - 10):
        for column in range(x.shape[1] - 10):
            for colour in range(3):
                a, b = (image[row : row + 11, column : column + 11, colour] / 255 for image in (x, y))
                mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
                var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
                cov = (weights * (a - mean_a) * (b - mean_b)).sum()
                c1, c2 = 0.01**2, 0.03**2
                values.append((2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)))
    return float(np.mean(values))


def agrees_with_brute_force(sigma: float) -> bool:
    return bool(np.isclose(ssim(MADE, REAL)[1, 2], slow_ssim(MADE[1, 2], REAL[1, 2], sigma), atol=1e-9))


def test_ssim_equals_brute_force():
    assert agrees_with_brute_force(1.5)
    assert not agrees_with_brute_force(1.6), "a window of another width must be noticed"


def test_ssim_of_equal_frames_is_one_and_small_frames_are_refused():
    assert np.allclose(ssim(REAL, REAL), 1)
    with pytest.raises(DataError, match="at least 11x11"):
        ssim(REAL[..., :10, :, :], REAL[..., :10, :, :])


def test_psnr_is_that_of_the_mean_squared_error():
    error = np.mean((MADE[0, 1].astype(float) - REAL[0, 1]) ** 2)
    assert np.isclose(psnr(MADE, REAL)[0, 1], 10 * np.log10(255**2 / error), atol=1e-4)
    assert np.all(psnr(REAL, REAL) == CEILING_DB)


def test_psnr_does_not_wrap_around_in_eight_bits():
    black, white = np.zeros((1, 4, 4, 3), np.uint8), np.full((1, 4, 4, 3), 255, np.uint8)
    assert psnr(black, white)[0] == psnr(white, black)[0] == pytest.approx(0)


def box_blur(frames: np.ndarray) -> np.ndarray:
    return (sum(np.roll(frames.astype(int), shift, axis=-2) for shift in (-1, 0, 1)) // 3).astype(np.uint8)


def test_sharpness_is_zero_for_the_real_clip_below_for_blur_above_for_noise():
    flat = np.full_like(REAL, 128)
    flat[..., 8:, :] = 160
    assert np.all(sharpness(REAL, REAL) == 0)
    assert np.all(sharpness(box_blur(REAL), REAL) < -0.5)
    assert np.all(sharpness(np.clip(flat + GENERATOR.normal(0, 20, flat.shape), 0, 255).astype(np.uint8), flat) > 0.5)


def test_sharpness_sums_energy_over_the_frames_so_far():
    made = REAL.copy()
    made[:, 1] = box_blur(REAL[:, 1])
    ratio = sharpness(made, REAL)
    assert np.all(ratio[:, 0] == 0)
    assert np.all(ratio[:, 1] < 0)
    assert np.all(ratio[:, 2] > ratio[:, 1]), "a third sharp frame must lift the ratio again"


@pytest.mark.parametrize("metric", [psnr, ssim, sharpness])
def test_frames_that_do_not_belong_together_are_refused(metric):
    with pytest.raises(DataError, match="one shape"):
        metric(MADE[:, :2], REAL)
    with pytest.raises(DataError, match="uint8"):
        metric(MADE.astype(np.float32), REAL)
