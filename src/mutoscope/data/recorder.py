"""Play a world with an action policy and write what happened as a data set."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mutoscope.core.config import to_plain
from mutoscope.core.errors import ConfigError, DataError, choose
from mutoscope.core.progress import Progress
from mutoscope.core.streams import derive_seed, numpy_stream
from mutoscope.core.world import WorldSpec
from mutoscope.data.format import MANIFEST, DatasetManifest, read_manifest
from mutoscope.data.policies import POLICIES, ActionPolicy
from mutoscope.data.writer import DatasetWriter

if TYPE_CHECKING:
    import gymnasium


@dataclass(frozen=True)
class RecordOptions:
    """What to record. Frames are pixel frames; the content rate is the world's own rate / `frame_skip`."""

    world: str = "doom"
    episodes: int = 100
    frames_per_episode: int = 300
    height: int = 96
    width: int = 128
    frame_skip: int = 2
    seed: int = 0
    policy: str = "hold-random"

    def __post_init__(self) -> None:
        if min(self.episodes, self.height, self.width, self.frame_skip) < 1 or self.frames_per_episode < 2:
            raise ConfigError(f"sizes and counts must be at least 1, and an episode at least 2 frames, got {self}")
        choose(POLICIES, self.policy, "action policy")


def record(
    make_env: "Callable[[], gymnasium.Env]", path: Path, options: RecordOptions, progress: Progress | None = None
) -> DatasetManifest:
    """Record `options.episodes` episodes into `path`; an interrupted recording goes on, a finished one is returned.

    Episode k depends on (seed, k) alone, so that the same options give the same bytes however often it was interrupted.
    """
    from mutoscope.data.worlds.gym import adapt, world_spec

    path = Path(path)
    settings = _settings(options)
    if (path / MANIFEST).exists():
        return _finished(path, settings)
    env = adapt(make_env(), name=options.world, height=options.height, width=options.width, frame_skip=options.frame_skip)
    try:
        with DatasetWriter(path, world_spec(env), seed=options.seed, settings=settings) as writer:
            _record_missing(env, writer, options, progress)
    finally:
        env.close()
    return read_manifest(path)


def record_episode(env: "gymnasium.Env", world: WorldSpec, options: RecordOptions, episode: int) -> tuple[dict[str, np.ndarray], int, str]:
    """One episode as arrays `[num_frames, ...]` ("frames", "actions", and those in `info`), its seed, and the caption that `reset` gave."""
    seed = derive_seed(options.seed, "episode", episode) % (1 << 31)
    policy = POLICIES[options.policy](world.actions, numpy_stream(options.seed, "policy", episode))
    image, info = env.reset(seed=seed)
    rows, caption = [_row(image, np.zeros(world.actions.dim, np.float32), info)], str(info.get("caption", ""))
    while len(rows) < options.frames_per_episode:
        action = _next_action(policy, rows)
        image, _, terminated, truncated, info = env.step(world.actions.decode(action))
        rows.append(_row(image, action, info))
        if terminated or truncated:
            break
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}, seed, caption


def _record_missing(env: "gymnasium.Env", writer: DatasetWriter, options: RecordOptions, progress: Progress | None) -> None:
    frames = options.frames_per_episode
    with progress or Progress(options.episodes * frames, "recording", done=writer.next_episode * frames) as bar:
        for episode in range(writer.next_episode, options.episodes):
            arrays, seed, caption = record_episode(env, writer.world, options, episode)
            writer.add(arrays, seed=seed, caption=caption)
            bar.advance(frames)


def _next_action(policy: ActionPolicy, rows: list[dict[str, np.ndarray]]) -> np.ndarray:
    stuck = len(rows) > 1 and bool(rows[-1]["actions"].any()) and np.array_equal(rows[-1]["frames"], rows[-2]["frames"])
    return policy.act(stuck)


def _row(image: np.ndarray, action: np.ndarray, info: dict) -> dict[str, np.ndarray]:
    extra = {name: np.array(value) for name, value in info.items() if isinstance(value, np.ndarray)}
    return {"frames": np.array(image, np.uint8), "actions": action, **extra}


def _settings(options: RecordOptions) -> tuple[tuple[str, str], ...]:
    return tuple((name, str(value)) for name, value in to_plain(options).items() if name != "kind")


def _finished(path: Path, settings: tuple[tuple[str, str], ...]) -> DatasetManifest:
    manifest = read_manifest(path)
    if manifest.settings != settings:
        raise DataError(f"{path} holds a data set made with other options ({dict(manifest.settings)}); choose another folder")
    return manifest
