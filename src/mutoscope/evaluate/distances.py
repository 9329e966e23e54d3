"""Frechet distances of generated clips to real ones, with draws over the same resampled episodes for every candidate."""

from dataclasses import dataclass

import numpy as np

from mutoscope.evaluate.bootstrap import Interval, percentile_interval, resamples
from mutoscope.evaluate.config import EvaluateConfig
from mutoscope.evaluate.metrics.features import Extractor
from mutoscope.evaluate.metrics.frechet import feature_distance


@dataclass(frozen=True)
class Distance:
    """A distance and its bootstrap draws `[repeats]`; draw i of all candidates rests on the same episodes."""

    value: float
    draws: np.ndarray
    episodes: int

    def interval(self) -> Interval:
        """The 95 % interval."""
        return percentile_interval(self.value, self.draws, self.episodes)

    def minus(self, other: "Distance") -> Interval:
        """The paired difference of two candidates' distances to the same real clips."""
        return percentile_interval(self.value - other.value, self.draws - other.draws, self.episodes)


def bootstrap_distance(made: np.ndarray, real: np.ndarray, episodes: np.ndarray, config: EvaluateConfig) -> Distance:
    """Features `[clips, D]` of generated and real clips of the same episodes int `[clips]` -> their distance."""
    num_episodes = int(episodes.max()) + 1
    members = [np.flatnonzero(episodes == episode) for episode in range(num_episodes)]
    draws = []
    for drawn in resamples(num_episodes, config.frechet_repeats, config.seed):
        rows = np.concatenate([members[episode] for episode in drawn])
        draws.append(feature_distance(made[rows], real[rows]))
    return Distance(feature_distance(made, real), np.array(draws), num_episodes)


def halves_distance(real: np.ndarray, episodes: np.ndarray) -> float:
    """The distance between the real clips of even and of odd episodes: what two samples of the truth are apart."""
    even = episodes % 2 == 0
    return feature_distance(real[even], real[~even])


def clip_features(frames: np.ndarray, horizons: tuple[int, ...], extract: Extractor) -> dict[int, np.ndarray]:
    """Features of the first k frames, for every horizon k: uint8 `[clips, n, H, W, 3]` -> `[clips, D]` each."""
    return {horizon: extract(frames[:, :horizon]) for horizon in horizons}
