"""Intervals: they cover the truth about as often as they say, and pairing makes them narrow."""

import numpy as np
import pytest

from mutoscope.core.errors import DataError
from mutoscope.evaluate.bootstrap import mean_interval, paired_difference, resamples, statistic_interval


def coverage(shrink: float) -> float:
    """How often the interval (its half-widths times `shrink`) holds the true mean 0."""
    held = 0
    for trial in range(200):
        found = mean_interval(np.random.default_rng(trial).normal(size=40), repeats=300, seed=trial)
        low, high = (found.value + shrink * (edge - found.value) for edge in (found.low, found.high))
        held += low <= 0 <= high
    return held / 200


def test_the_interval_covers_the_truth_about_95_times_in_100():
    assert 0.89 <= coverage(1.0) <= 0.99
    assert coverage(0.5) < 0.89, "intervals of half the width must be noticed"


def test_pairing_sees_a_small_steady_difference_between_wild_episodes():
    episodes = np.random.default_rng(0).normal(0, 10, size=30)
    paired = paired_difference(episodes + 0.5, episodes, repeats=400, seed=0)
    assert paired.excludes_zero
    assert paired.value == pytest.approx(0.5)
    assert not paired_difference(episodes + 0.5, np.roll(episodes, 1), repeats=400, seed=0).excludes_zero


def test_episodes_without_a_value_have_no_say():
    found = mean_interval(np.array([1.0, np.nan, 3.0]), repeats=100, seed=0)
    assert (found.value, found.episodes) == (2.0, 2)
    empty = mean_interval(np.array([np.nan, np.nan]), repeats=100, seed=0)
    assert empty.episodes == 0
    assert np.isnan(empty.value)
    assert not empty.excludes_zero


def test_draws_are_a_pure_function_of_the_seed():
    assert np.array_equal(resamples(5, 10, 1), resamples(5, 10, 1))
    assert not np.array_equal(resamples(5, 10, 1), resamples(5, 10, 2))


def test_any_statistic_gets_an_interval():
    values = np.random.default_rng(1).normal(5, 1, size=50)
    found = statistic_interval(lambda indices: float(np.median(values[indices])), 50, repeats=200, seed=0)
    assert found.low < found.value == np.median(values) < found.high


def test_scores_of_other_episodes_cannot_be_paired():
    with pytest.raises(DataError, match="same episodes"):
        paired_difference(np.zeros(3), np.zeros(4), repeats=10, seed=0)
