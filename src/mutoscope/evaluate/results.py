"""What an evaluation found, before it becomes a report; and paired comparisons of candidates."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mutoscope.core.world import WorldSpec
from mutoscope.evaluate.bootstrap import Interval, mean_interval, paired_difference
from mutoscope.evaluate.candidates import Candidate
from mutoscope.evaluate.clips import RealClips
from mutoscope.evaluate.config import EvaluateConfig
from mutoscope.evaluate.distances import Distance
from mutoscope.evaluate.long_play import Stability, StabilityReference
from mutoscope.evaluate.scoring import METRICS, Scores

FRECHET = "frechet"


@dataclass(frozen=True)
class CandidateResult:
    """Scores `[episodes, n]` per metric, distances per horizon, long play where it was watched, and the first clip `[n, H, W, 3]`."""

    candidate: Candidate
    scores: Scores
    distances: dict[int, Distance]
    stability: Stability | None
    sample: np.ndarray


@dataclass(frozen=True)
class RealResult:
    """The real clips' own action-following scores, the distance between their halves, and their windows' range."""

    scores: Scores
    halves: dict[int, float]
    stability: StabilityReference | None


@dataclass(frozen=True)
class Comparison:
    """`first - second`, paired by episode, at one horizon; `verdict` tells whether `first` is better, worse, or neither for sure."""

    first: str
    second: str
    metric: str
    horizon: int
    difference: Interval
    verdict: str


@dataclass(frozen=True)
class Results:
    """A whole evaluation."""

    config: EvaluateConfig
    world: WorldSpec
    data: str
    clips: RealClips
    candidates: tuple[CandidateResult, ...]
    real: RealResult
    left_out: tuple[str, ...]

    def interval(self, values: np.ndarray) -> Interval:
        """Mean over episodes `[episodes]` with this evaluation's bootstrap."""
        return mean_interval(values, self.config.bootstrap_repeats, self.config.seed)

    def comparisons(self) -> list[Comparison]:
        """Every candidate with those that it names, on every metric and horizon."""
        by_label = {result.candidate.label: result for result in self.candidates}
        pairs = [(result, by_label[label]) for result in self.candidates for label in result.candidate.against]
        return [comparison for first, second in pairs for comparison in compare(first, second, self.config)]


def compare(first: CandidateResult, second: CandidateResult, config: EvaluateConfig) -> Iterator[Comparison]:
    """All comparisons of two candidates that were scored on the same clips."""
    labels = first.candidate.label, second.candidate.label
    for name, info in METRICS.items():
        if name not in first.scores or info.better == "nearer to 0":
            continue
        for horizon in config.columns:
            one, other = first.scores[name][:, horizon - 1], second.scores[name][:, horizon - 1]
            difference = paired_difference(one, other, config.bootstrap_repeats, config.seed)
            yield Comparison(*labels, name, horizon, difference, verdict(difference, info.better))
    for horizon, distance in first.distances.items():
        difference = distance.minus(second.distances[horizon])
        yield Comparison(*labels, FRECHET, horizon, difference, verdict(difference, "lower"))


def verdict(difference: Interval, better: str) -> str:
    """ "better", "worse", or "undecided" when the interval holds zero (or there is none)."""
    if not difference.excludes_zero:
        return "undecided"
    return "better" if (difference.value > 0) == (better == "higher") else "worse"
