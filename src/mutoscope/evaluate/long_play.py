"""A thousand frames of play, watched: in how many windows the picture stays what real clips look like."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mutoscope.data.clips import ClipDataset
from mutoscope.evaluate.bootstrap import Interval, mean_interval
from mutoscope.evaluate.config import EvaluateConfig
from mutoscope.evaluate.metrics.detectors import DETECTORS, Detectors, calibrate_detectors, unrest
from mutoscope.evaluate.metrics.stability import STATISTICS, frame_statistics, real_share_inside, window_means

MAX_REAL_EPISODES = 64


@dataclass(frozen=True)
class StabilityReference:
    """What real clips look like, and the share of real windows inside the range of the other real clips."""

    detectors: Detectors
    real_share: float


def stability_reference(dataset: ClipDataset, config: EvaluateConfig) -> StabilityReference:
    """From at most 64 real episodes, read one by one."""
    statistics, restless = [], []
    for place, episode in enumerate(dataset.episodes[:MAX_REAL_EPISODES]):
        frames = dataset.read(place, 0, episode.num_frames, ("frames",))["frames"]
        statistics.append(frame_statistics(frames))
        restless.append(unrest(frames))
    return StabilityReference(
        calibrate_detectors(statistics, restless, config.stability_window), real_share_inside(statistics, config.stability_window)
    )


@dataclass(frozen=True)
class Stability:
    """Per seed, averaged over its windows: share inside the real range `[seeds, 4]`, all four at once `[seeds]`, detectors `[seeds, 3]`.

    `means` `[seeds, windows, 4]` are the windows' statistics themselves, for the picture.
    """

    inside: np.ndarray
    all_inside: np.ndarray
    detected: np.ndarray
    means: np.ndarray

    def intervals(self, repeats: int, seed: int) -> dict[str, Interval]:
        """Bootstrap over seeds: `all four`, each statistic, each detector."""
        columns = {"all four": self.all_inside}
        columns |= {name: self.inside[:, place] for place, name in enumerate(STATISTICS)}
        columns |= {name: self.detected[:, place] for place, name in enumerate(DETECTORS)}
        return {name: mean_interval(values, repeats, seed) for name, values in columns.items()}


def watch(clips: Sequence[np.ndarray], reference: StabilityReference) -> Stability:
    """Generated play, one clip uint8 `[T, H, W, 3]` per seed."""
    detectors = reference.detectors
    statistics = [frame_statistics(clip) for clip in clips]
    means = np.stack([window_means(values, detectors.window, detectors.window) for values in statistics])
    inside = detectors.real.inside(means)
    detected = np.stack([detectors.run(values, unrest(clip)) for values, clip in zip(statistics, clips, strict=True)])
    return Stability(inside.mean(axis=1), inside.all(axis=2).mean(axis=1), detected.mean(axis=1), means)


def join(parts: Sequence[Stability]) -> Stability:
    """Several batches of seeds as one."""
    return Stability(
        np.concatenate([part.inside for part in parts]),
        np.concatenate([part.all_inside for part in parts]),
        np.concatenate([part.detected for part in parts]),
        np.concatenate([part.means for part in parts]),
    )
