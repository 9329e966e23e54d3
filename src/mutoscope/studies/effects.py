"""Effects over seeds: paired differences with Student's intervals, and the smallest effect that so many seeds would have shown."""

from dataclasses import dataclass

import numpy as np

from mutoscope.core.errors import DataError

# Quantiles of Student's t for 1 .. 9 degrees of freedom: the 97.5 % point and the 80 % point (power).
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
T_800 = (1.376, 1.061, 0.978, 0.941, 0.920, 0.906, 0.896, 0.889, 0.883)


@dataclass(frozen=True)
class Effect:
    """A mean over seeds with its 95 % interval; `detectable` is the effect that would have been found with a power of 80 %."""

    mean: float
    low: float
    high: float
    detectable: float
    seeds: int

    @property
    def excludes_zero(self) -> bool:
        """True when the whole interval lies on one side of zero; never with fewer than two seeds."""
        return self.low > 0 or self.high < 0


def effect(values: np.ndarray) -> Effect:
    """Mean of `[seed]` values. One seed has no interval: infinite on both sides."""
    values = np.asarray(values, np.float64)
    seeds = len(values)
    if seeds == 0:
        raise DataError("an effect needs at least one seed")
    if seeds == 1:
        return Effect(float(values[0]), float("-inf"), float("inf"), float("inf"), 1)
    index = min(seeds - 1, len(T_975)) - 1
    error = float(values.std(ddof=1)) / seeds**0.5
    mean, reach = float(values.mean()), T_975[index] * error
    return Effect(mean, mean - reach, mean + reach, (T_975[index] + T_800[index]) * error, seeds)


def paired_effect(first: dict[int, float], second: dict[int, float]) -> Effect | None:
    """Mean of first - second over the seeds that both have, None where they share none."""
    shared = sorted(set(first) & set(second))
    return effect(np.array([first[seed] - second[seed] for seed in shared])) if shared else None
