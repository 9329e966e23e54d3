"""The held-out clips: real context to start from, and the real continuation to compare with."""

from dataclasses import dataclass

import numpy as np

from mutoscope.core.errors import DataError
from mutoscope.core.streams import numpy_stream
from mutoscope.data.clips import ClipDataset
from mutoscope.evaluate.config import EvaluateConfig

KNOWN_ARRAYS = ("frames", "actions", "pose", "tiles", "position")


@dataclass(frozen=True)
class RealClips:
    """Clips of `context + n` rows: every array `[clips, context + n, ...]`.

    `episodes` int `[clips]` counts their episodes from 0, `places` int `[clips]` are the episodes' places in the data set, and
    `captions` what the episodes say that they show.
    """

    arrays: dict[str, np.ndarray]
    episodes: np.ndarray
    places: np.ndarray
    context: int
    captions: tuple[str, ...]

    @property
    def context_frames(self) -> np.ndarray:
        """uint8 `[clips, context, H, W, 3]`."""
        return self.arrays["frames"][:, : self.context]

    @property
    def future_frames(self) -> np.ndarray:
        """uint8 `[clips, n, H, W, 3]`."""
        return self.arrays["frames"][:, self.context :]

    @property
    def num_episodes(self) -> int:
        """Different episodes among the clips."""
        return int(self.episodes.max()) + 1

    def with_last_context(self, frames: np.ndarray) -> np.ndarray:
        """Generated frames `[clips, n, H, W, 3]` after the last real one: `[clips, 1 + n, H, W, 3]`."""
        return np.concatenate([self.arrays["frames"][:, self.context - 1 : self.context], frames], axis=1)

    def by_episode(self, values: np.ndarray) -> np.ndarray:
        """`[clips, n]` -> mean over the clips of each episode `[episodes, n]`; NaN clips have no say."""
        rows = [values[self.episodes == episode] for episode in range(self.num_episodes)]
        return np.stack([_mean_without_nan(row) for row in rows])


def _mean_without_nan(rows: np.ndarray) -> np.ndarray:
    present = np.isfinite(rows)
    total, count = np.where(present, rows, 0.0).sum(axis=0), present.sum(axis=0)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def array_names(dataset: ClipDataset) -> tuple[str, ...]:
    """The arrays of a data set that evaluation knows."""
    held = {spec.name for spec in dataset.manifest.arrays}
    return tuple(name for name in KNOWN_ARRAYS if name in held)


def long_enough(dataset: ClipDataset, rows: int) -> list[int]:
    """Episodes that hold a clip of `rows` rows which leaves out row 0 (it has no action)."""
    return [place for place, episode in enumerate(dataset.episodes) if episode.num_frames > rows]


def select_clips(dataset: ClipDataset, config: EvaluateConfig) -> RealClips:
    """`clips_per_episode` clips of each of the first `episodes` long enough, begun at seeded places of equal stretches."""
    rows = config.context_frames + config.length
    episodes = long_enough(dataset, rows)[: config.episodes]
    if len(episodes) < 2:
        raise DataError(
            f"evaluation needs at least 2 episodes of more than {rows} frames; {dataset.path} has {len(episodes)}. "
            "Record more episodes, or longer ones"
        )
    names, clips, places = array_names(dataset), [], []
    for place, episode in enumerate(episodes):
        for start in _starts(dataset.episodes[episode].num_frames - rows, config, episode):
            clips.append(dataset.read(episode, start, start + rows, names))
            places.append(place)
    arrays = {name: np.stack([clip[name] for clip in clips]) for name in names}
    found = np.array(episodes)[places]
    return RealClips(arrays, np.array(places), found, config.context_frames, tuple(dataset.captions_of(found)))


def _starts(last: int, config: EvaluateConfig, episode: int) -> list[int]:
    edges = np.linspace(1, last + 1, config.clips_per_episode + 1)
    drawn = numpy_stream(config.seed, "evaluation clips", episode).random(config.clips_per_episode)
    return [int(low + share * (high - low)) for low, high, share in zip(edges[:-1], edges[1:], drawn, strict=True)]


def long_play(dataset: ClipDataset, config: EvaluateConfig) -> RealClips:
    """Context and `stability_frames` real actions for each stability seed; actions go on with the next episode where one ends.

    The arrays hold "frames" `[seeds, context, H, W, 3]` and "actions" `[seeds, context + stability_frames, A]`.
    """
    context, rows = config.context_frames, config.context_frames + config.stability_frames
    episodes = long_enough(dataset, context)
    if not episodes:
        raise DataError(f"long play needs an episode of more than {context} frames; {dataset.path} has none")
    first = [episodes[seed % len(episodes)] for seed in range(config.stability_seeds)]
    starts = [
        1 + context * (seed // len(episodes)) % (dataset.episodes[episode].num_frames - context) for seed, episode in enumerate(first)
    ]
    frames = [dataset.read(episode, start, start + context, ("frames",))["frames"] for episode, start in zip(first, starts, strict=True)]
    actions = [_actions_from(dataset, episode, start, rows) for episode, start in zip(first, starts, strict=True)]
    arrays = {"frames": np.stack(frames), "actions": np.stack(actions)}
    return RealClips(arrays, np.arange(config.stability_seeds), np.array(first), context, tuple(dataset.captions_of(first)))


def _actions_from(dataset: ClipDataset, episode: int, start: int, rows: int) -> np.ndarray:
    pieces, total = [], 0
    while total < rows:
        stop = dataset.episodes[episode].num_frames
        if stop > start:
            pieces.append(dataset.read(episode, start, stop, ("actions",))["actions"])
            total += len(pieces[-1])
        episode, start = (episode + 1) % len(dataset.episodes), 1
    return np.concatenate(pieces)[:rows]
