"""Random clips for training. A batch is a pure function of (seed, step), so that resuming needs no state."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mutoscope.core.errors import ConfigError, DataError
from mutoscope.core.streams import numpy_stream
from mutoscope.data.clips import ClipDataset


@dataclass(frozen=True)
class Batch:
    """Clips: every array `[B, T, ...]`; `known[b, t]` is False where the action is "no action" (row 0 of an episode)."""

    arrays: dict[str, np.ndarray]
    known: np.ndarray
    episodes: np.ndarray
    starts: np.ndarray


class ClipSampler:
    """Windows of `clip_frames` rows, uniform over all windows of a data set, or over those that begin where an episode does.

    `batch_size` counts the clips of all ranks together; rank r of n takes the r-th n-th of them.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        *,
        clip_frames: int,
        batch_size: int,
        seed: int,
        arrays: tuple[str, ...] = ("frames", "actions"),
        rank: int = 0,
        world_size: int = 1,
        starts: Literal["any row", "first row"] = "any row",
    ) -> None:
        if batch_size % world_size or not 0 <= rank < world_size:
            raise ConfigError(f"a batch of {batch_size} clips cannot be shared by rank {rank} of {world_size}; choose a multiple")
        if clip_frames < 1 or batch_size < 1:
            raise ConfigError(f"a batch needs at least one clip of one frame, got {batch_size} clips of {clip_frames}")
        self._dataset, self._clip_frames, self._batch_size, self._seed = dataset, clip_frames, batch_size, seed
        self._names, self._rank, self._world_size = arrays, rank, world_size
        lengths = np.array([episode.num_frames for episode in dataset.episodes])
        windows = np.maximum(lengths - clip_frames + 1, 0)
        self._ends = (windows if starts == "any row" else np.minimum(windows, 1)).cumsum()
        if not self.num_windows:
            raise DataError(f"no episode of {dataset.path} has {clip_frames} frames; the longest has {lengths.max()}")

    @property
    def num_windows(self) -> int:
        """How many different clips there are."""
        return int(self._ends[-1])

    def batch(self, step: int) -> Batch:
        """This rank's clips of step `step`: `arrays[name] [batch_size / world_size, clip_frames, ...]`."""
        drawn = numpy_stream(self._seed, "clips", step).integers(self.num_windows, size=self._batch_size)
        share = self._batch_size // self._world_size
        return self.windows(drawn[self._rank * share : (self._rank + 1) * share])

    def windows(self, windows: np.ndarray) -> Batch:
        """The clips with these numbers in `0 .. num_windows`."""
        episodes = np.searchsorted(self._ends, windows, side="right")
        before = np.concatenate([[0], self._ends])[episodes]
        starts = windows - before
        clips = [self._read(int(episode), int(start)) for episode, start in zip(episodes, starts, strict=True)]
        arrays = {name: np.stack([clip[name] for clip in clips]) for name in self._names}
        known = starts[:, None] + np.arange(self._clip_frames) > 0
        return Batch(arrays, known, episodes, starts)

    def _read(self, episode: int, start: int) -> dict[str, np.ndarray]:
        return self._dataset.read(episode, start, start + self._clip_frames, self._names)
