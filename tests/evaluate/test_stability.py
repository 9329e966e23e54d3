"""The range of real clips, and detectors against planted faults."""

import numpy as np
import pytest
from evaluate_fakes import camera_episode

from mutoscope.core.errors import DataError
from mutoscope.evaluate.long_play import StabilityReference, join, watch
from mutoscope.evaluate.metrics.detectors import DETECTORS, calibrate_detectors, unrest
from mutoscope.evaluate.metrics.stability import STATISTICS, frame_statistics, real_range, real_share_inside, window_means

WINDOW, LENGTH = 20, 80
REAL = [camera_episode(seed, LENGTH)["frames"] for seed in range(8)]
UNSEEN = camera_episode(20, LENGTH)["frames"]


def blurred(frames: np.ndarray) -> np.ndarray:
    smooth = frames.astype(np.float32)
    for _ in range(6):
        smooth = (np.roll(smooth, 2, axis=2) + smooth + np.roll(smooth, -2, axis=2)) / 3
        smooth = (np.roll(smooth, 2, axis=1) + smooth + np.roll(smooth, -2, axis=1)) / 3
    return smooth.astype(np.uint8)


def noisy(frames: np.ndarray) -> np.ndarray:
    return np.clip(frames + np.random.default_rng(0).normal(0, 25, frames.shape), 0, 255).astype(np.uint8)


def darkened(frames: np.ndarray) -> np.ndarray:
    return (frames * 0.4).astype(np.uint8)


def frozen(frames: np.ndarray) -> np.ndarray:
    return np.repeat(frames[:1], len(frames), axis=0)


def blinking(frames: np.ndarray) -> np.ndarray:
    return np.where((np.arange(len(frames)) % 2 == 0)[:, None, None, None], frames, (frames * 0.8).astype(np.uint8))


@pytest.fixture(scope="module")
def reference() -> StabilityReference:
    statistics = [frame_statistics(clip) for clip in REAL]
    return StabilityReference(
        calibrate_detectors(statistics, [unrest(clip) for clip in REAL], WINDOW), real_share_inside(statistics, WINDOW)
    )


def fired(reference: StabilityReference, frames: np.ndarray) -> dict[str, float]:
    return dict(zip(DETECTORS, watch([frames], reference).detected[0], strict=True))


def test_no_detector_fires_on_a_real_clip_that_was_not_calibrated_on(reference):
    assert fired(reference, UNSEEN) == {"static": 0, "flicker": 0, "collapse": 0}


@pytest.mark.parametrize(
    ("fault", "detector"), [(frozen, "static"), (blurred, "collapse"), (darkened, "collapse"), (noisy, "flicker"), (blinking, "flicker")]
)
def test_planted_faults_are_named(reference, fault, detector):
    assert fired(reference, fault(UNSEEN))[detector] == 1


def test_a_frozen_clip_is_not_taken_for_a_flickering_one(reference):
    assert fired(reference, frozen(UNSEEN))["flicker"] == 0


def test_a_fault_in_the_second_half_leaves_the_first_half_inside(reference):
    late = np.concatenate([UNSEEN[: LENGTH // 2], darkened(UNSEEN[LENGTH // 2 :])])
    dark = watch([late], reference).detected[0, DETECTORS.index("collapse")]
    assert dark == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("fault", "statistic"), [(frozen, "motion"), (blurred, "sharpness"), (darkened, "brightness"), (noisy, "sharpness")]
)
def test_planted_faults_leave_the_real_range(reference, fault, statistic):
    found = watch([fault(UNSEEN)], reference)
    assert found.inside[0, STATISTICS.index(statistic)] == 0
    assert found.all_inside[0] == 0


def test_real_clips_lie_mostly_in_the_range_of_the_others(reference):
    assert reference.real_share > 0.5
    mixed = [frame_statistics(clip if index else darkened(clip)) for index, clip in enumerate(REAL)]
    assert real_share_inside(mixed, WINDOW) < reference.real_share


def test_window_means_leave_out_what_has_no_value():
    values = np.array([[np.nan], [1.0], [3.0], [5.0], [7.0]])
    assert np.allclose(window_means(values, 2, 2)[:, 0], [1, 4])


def test_joined_batches_equal_one(reference):
    together = watch([UNSEEN, blurred(UNSEEN)], reference)
    apart = join([watch([UNSEEN], reference), watch([blurred(UNSEEN)], reference)])
    assert np.array_equal(together.inside, apart.inside)
    assert np.array_equal(together.means, apart.means)


def test_short_real_episodes_are_refused():
    with pytest.raises(DataError, match="the longest has 80"):
        real_range([frame_statistics(REAL[0])], 100)
