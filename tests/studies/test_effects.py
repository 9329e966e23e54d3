"""Effects over seeds against worked cases, and that their intervals hold what they promise."""

import numpy as np
import pytest

from mutoscope.core.errors import DataError
from mutoscope.core.streams import numpy_stream
from mutoscope.studies.effects import effect, paired_effect


def test_an_effect_by_hand():
    found = effect(np.array([1.0, 2.0, 3.0]))
    assert found.mean == 2 and found.seeds == 3 and not found.excludes_zero
    assert found.low == pytest.approx(2 - 4.303 / 3**0.5) and found.high == pytest.approx(2 + 4.303 / 3**0.5)
    assert found.detectable == pytest.approx((4.303 + 1.061) / 3**0.5)
    assert effect(np.array([1.0, 1.1, 0.9])).excludes_zero and effect(-np.array([1.0, 1.1, 0.9])).excludes_zero


def test_one_seed_proves_nothing():
    assert not effect(np.array([5.0])).excludes_zero
    with pytest.raises(DataError):
        effect(np.array([]))


def test_pairs_share_their_seeds():
    found = paired_effect({0: 1.0, 1: 2.0, 4: 9.0}, {1: 1.0, 0: 0.5, 3: 7.0})
    assert found is not None and found.mean == 0.75 and found.seeds == 2
    assert paired_effect({0: 1.0}, {1: 1.0}) is None


def misses(width: float) -> float:
    """Share of 2,000 experiments of five seeds without any effect that claim one, with intervals scaled by `width`."""
    draws = numpy_stream(0, "effects").standard_normal((2000, 5))
    found = [effect(row) for row in draws]
    return float(np.mean([abs(item.mean) > width * (item.high - item.mean) for item in found]))


def test_five_percent_of_empty_experiments_claim_something_and_a_broken_twin_more():
    assert 0.03 < misses(1.0) < 0.07 and misses(0.6) > 0.1
