"""Motion from pictures: a camera whose turns are known, mirrored, frozen."""

import numpy as np
import pytest
from evaluate_fakes import CAMERA, DEGREES, camera_episode

from mutoscope.core.errors import DataError
from mutoscope.data.clips import open_dataset
from mutoscope.data.writer import DatasetWriter
from mutoscope.evaluate.clips import select_clips
from mutoscope.evaluate.config import EvaluateConfig
from mutoscope.evaluate.metrics.following import calibrate, following, right_direction, true_motion
from mutoscope.evaluate.metrics.motion import flow_features, global_shift
from mutoscope.evaluate.scoring import following_reference, real_following_scores

NAMES = ("x", "y", "z", "angle")
pytest.importorskip("cv2", reason="the optional package opencv-python-headless is not installed")


def test_true_motion_turns_left_over_north_and_walks_along_the_heading():
    pose = np.array([[0, 0, 0, 359], [0, 0, 0, 1], [0, 3, 0, 90], [0, 7, 0, 90]], np.float32)
    motion = true_motion(pose, NAMES)
    assert np.allclose(motion[:, 0], [2, 89, 0])
    assert motion[2, 1] == pytest.approx(4)
    assert np.allclose(true_motion(pose[::-1], NAMES)[0], [0, -4])


def test_a_pose_without_angle_is_refused():
    with pytest.raises(DataError, match="x, y and angle"):
        true_motion(np.zeros((3, 2)), ("x", "y"))


@pytest.mark.parametrize("shift", [-7, -1, 0, 3, 9])
def test_the_global_shift_is_found(shift):
    picture = camera_episode(0, 4)["frames"][0, :, :, 0]
    assert global_shift(picture, np.roll(picture, shift, axis=1)) == pytest.approx(shift, abs=0.5)


@pytest.fixture(scope="module")
def measured_and_true() -> tuple[np.ndarray, np.ndarray]:
    """Calibrated on two episodes, measured on a third."""
    episodes = [camera_episode(seed, 40) for seed in range(3)]
    features = [flow_features(episode["frames"]) for episode in episodes]
    true = [true_motion(episode["pose"], NAMES) for episode in episodes]
    scale = calibrate(np.concatenate(features[:2]), np.concatenate(true[:2]))
    return scale.measure(features[2])[:, 0], true[2][:, 0]


def turn_scores(measured: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    right, error = following(measured[None], true[None], np.abs(true)[None] > 0)
    return float(right[0, -1]), float(error[0, -1])


def test_turns_are_measured_and_a_mirrored_world_is_caught(measured_and_true):
    measured, true = measured_and_true
    assert np.abs(true).max() == pytest.approx(DEGREES)
    right, error = turn_scores(measured, true)
    assert right == 1
    assert error < 0.15
    mirrored_right, mirrored_error = turn_scores(-measured, true)
    assert mirrored_right == 0
    assert mirrored_error > 1.8


def test_a_shift_of_the_actions_by_one_frame_is_caught(measured_and_true):
    measured, true = measured_and_true
    assert turn_scores(np.roll(measured, 1), true)[0] < 0.95


def test_standing_still_is_no_direction():
    true = np.array([2.0, -2.0, 2.0])
    assert not right_direction(np.array([0.0, -0.4, 0.4]), true).any()
    assert right_direction(np.array([0.6, -0.6, 5.0]), true).all()


def test_only_counted_frames_have_a_say():
    right, error = following(np.array([[9.0, 1.0, -1.0]]), np.ones((1, 3)), np.array([[False, True, True]]))
    assert np.isnan(right[0, 0])
    assert np.isnan(error[0, 0])
    assert np.allclose(right[0, 1:], [1, 0.5])
    assert np.allclose(error[0, 1:], [0, 1])


def test_calibration_shrugs_off_wild_frames():
    generator = np.random.default_rng(0)
    features, weights = generator.normal(size=(200, 9)), generator.normal(size=(9, 2))
    true = features @ weights
    true[::10] += 50
    assert np.allclose(calibrate(features, true).weights, weights, atol=0.02)
    plain = np.linalg.lstsq(features, true, rcond=None)[0]
    assert not np.allclose(plain, weights, atol=0.02), "plain least squares must be thrown off by the same frames"


def test_calibration_needs_enough_frames():
    with pytest.raises(DataError, match="at least 18 real frames"):
        calibrate(np.zeros((5, 9)), np.zeros((5, 2)))


def spoilt_episode(seed: int) -> dict[str, np.ndarray]:
    """Its pose turns the other way round than its picture."""
    episode = camera_episode(seed, 60)
    return {**episode, "pose": episode["pose"] * np.array([1, 1, 1, -1], np.float32)}


def test_a_clip_is_never_measured_by_a_scale_fitted_to_its_own_episode(tmp_path):
    """Odd episodes lie about their pose: even clips, measured by the odd ones' scale, must come out the wrong way round."""
    with DatasetWriter(tmp_path, CAMERA) as writer:
        for seed in range(4):
            writer.add(spoilt_episode(seed) if seed % 2 else camera_episode(seed, 60))
        writer.close()
    dataset = open_dataset(tmp_path)
    config = EvaluateConfig(episodes=4, context_frames=2, horizons=(20,))
    reference = following_reference(dataset, select_clips(dataset, config), config)
    assert reference.folds.tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert np.nanmax(real_following_scores(reference)["turn_right"][:, -1]) == 0
