"""Bootstrap intervals over episodes (Efron 1979, percentile method), and paired differences."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mutoscope.core.errors import DataError
from mutoscope.core.streams import numpy_stream

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate, its 95 % interval, and the number of episodes it rests on (NaN where no episode says anything)."""

    value: float
    low: float
    high: float
    episodes: int

    @property
    def excludes_zero(self) -> bool:
        """True when the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def resamples(num_episodes: int, repeats: int, seed: int) -> np.ndarray:
    """Indices drawn with replacement, int `[repeats, num_episodes]`; a pure function of its arguments."""
    return numpy_stream(seed, "bootstrap", num_episodes).integers(0, num_episodes, size=(repeats, num_episodes))


def percentile_interval(value: float, draws: np.ndarray, episodes: int) -> Interval:
    """The middle 95 % of the bootstrap `draws` around `value`."""
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return Interval(value, float("nan"), float("nan"), episodes)
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high), episodes)


def mean_interval(values: np.ndarray, repeats: int, seed: int) -> Interval:
    """Mean over episodes with its interval: float `[episodes]`; NaN episodes have no say and are left out."""
    values = np.asarray(values, dtype=np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    draws = values[resamples(len(values), repeats, seed)].mean(axis=1)
    return percentile_interval(float(values.mean()), draws, len(values))


def paired_difference(first: np.ndarray, second: np.ndarray, repeats: int, seed: int) -> Interval:
    """Mean of `first - second`, paired by episode: float `[episodes]` twice."""
    if first.shape != second.shape:
        raise DataError(f"paired scores need the same episodes, got {list(first.shape)} and {list(second.shape)}")
    return mean_interval(np.asarray(first, np.float64) - np.asarray(second, np.float64), repeats, seed)


def statistic_interval(statistic: Callable[[np.ndarray], float], num_episodes: int, repeats: int, seed: int) -> Interval:
    """Interval of any statistic of a set of episodes; `statistic` receives episode indices int `[n]`."""
    value = statistic(np.arange(num_episodes))
    draws = np.array([statistic(indices) for indices in resamples(num_episodes, repeats, seed)])
    return percentile_interval(value, draws, num_episodes)
