"""Recall: look at something real, look away, come back. Is it still there?

Exact, in worlds of tiles. An episode turns away from its beginning until the sinks of any memory are full and out of sight, sees its
landmarks (real frames), and then dreams: turns away until no landmark is in view, stands for a while, and turns back.
The landmarks are random per episode; who has forgotten them can only guess.
"""

from dataclasses import dataclass
from typing import Protocol

import gymnasium
import numpy as np

from mutoscope.core.errors import ConfigError
from mutoscope.core.streams import derive_seed
from mutoscope.data.worlds.keys import SLIDES, STAND, TURNS
from mutoscope.data.worlds.tiles import TILE_PIXELS, classify_tiles
from mutoscope.evaluate.metrics.psnr import psnr
from mutoscope.evaluate.metrics.scroll import chance, position_error
from mutoscope.memory.ledger import layout
from mutoscope.memory.policy import PolicyConfig, integer_base

AWAY_AND_BACK = (*TURNS, *SLIDES)
MOVED_TILES = 0.25


class Truth(Protocol):
    """Real episodes: frames uint8 `[episode, T, H, W, 3]`, actions `[episode, T, A]`; the dream is given the first `context` frames."""

    @property
    def frames(self) -> np.ndarray: ...
    @property
    def actions(self) -> np.ndarray: ...
    @property
    def context(self) -> int: ...


@dataclass(frozen=True)
class RecallTask:
    """`lead` turns from the beginning to the landmarks, then `away` frames until they are back in full view."""

    lead: int
    away: int


@dataclass(frozen=True)
class RecallClips:
    """What is true: frames uint8 `[episode, T, H, W, 3]`, actions `[episode, T, A]`, tiles and positions; `context` real frames."""

    frames: np.ndarray
    actions: np.ndarray
    tiles: np.ndarray
    position: np.ndarray
    context: int


@dataclass(frozen=True)
class RecallScores:
    """Per episode, float `[episode]`: share of landmark tiles right on return, PSNR of the return, and 1 where every move was made."""

    identity: np.ndarray
    psnr_db: np.ndarray
    moved: np.ndarray


def script(task: RecallTask, columns: int, names: tuple[str, ...]) -> tuple[str, ...]:
    """The action names of an episode after its first frame, for a view of that many tile columns."""
    pairs = [pair for pair in AWAY_AND_BACK if set(pair) <= set(names)]
    if not pairs or STAND not in names:
        raise ConfigError(f"recall needs a world in which one can stand and turn away and back; this one has: {', '.join(names)}")
    waiting = task.away - 2 * columns
    if waiting < 0 or task.lead < columns:
        raise ConfigError(
            f"to lose {columns} columns of tiles from sight and find them again takes {2 * columns} frames, and as many leading turns as "
            f"columns; got away {task.away}, lead {task.lead}"
        )
    away, back = pairs[0]
    return (away,) * task.lead + (away,) * columns + (STAND,) * waiting + (back,) * columns


def play_truth(env: gymnasium.Env, task: RecallTask, episodes: int, seed: int) -> RecallClips:
    """The true episodes of a world of tiles (data.worlds.tile_worlds)."""
    world = env.unwrapped.world
    names = script(task, world.width // TILE_PIXELS, world.actions.names)
    vectors = np.stack([np.zeros(world.actions.dim), *(world.actions.vector(name) for name in names)]).astype(np.float32)
    rows = [_episode(env, vectors, derive_seed(seed, "recall", episode) % (1 << 31)) for episode in range(episodes)]
    frames, tiles, position = (np.stack(column) for column in zip(*rows, strict=True))
    return RecallClips(frames, np.repeat(vectors[None], episodes, axis=0), tiles, position, task.lead + 1)


def _episode(env: gymnasium.Env, vectors: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    frame, info = env.reset(seed=seed)
    rows = [(frame, info["tiles"], info["position"])]
    for vector in vectors[1:]:
        frame, _, _, _, info = env.step(env.unwrapped.world.actions.decode(vector))
        rows.append((frame, info["tiles"], info["position"]))
    frames, tiles, position = (np.stack(column) for column in zip(*rows, strict=True))
    return frames, tiles, position


def score(made: np.ndarray, clips: RecallClips) -> RecallScores:
    """Generated frames uint8 `[episode, T - context, H, W, 3]`, the last of which shows the landmarks again."""
    context = clips.context
    identity = (classify_tiles(made[:, -1]) == clips.tiles[:, -1]).mean(axis=(1, 2))
    errors = [
        position_error(np.concatenate([real[context - 1 : context], dream]), position[context - 1 :], TILE_PIXELS)
        for real, dream, position in zip(clips.frames, made, clips.position, strict=True)
    ]
    moved = (np.array(errors) < MOVED_TILES).all(axis=1).astype(float)
    return RecallScores(identity, psnr(made[:, -1], clips.frames[:, -1]), moved)


def copy_sink(clips: Truth) -> np.ndarray:
    """What a memory shows that has kept the very first frame alone: uint8 `[episode, T - context, H, W, 3]`."""
    return np.repeat(clips.frames[:, :1], clips.frames.shape[1] - clips.context, axis=1)


def landmark_chance(clips: RecallClips) -> float:
    """Share of landmark tiles right by guessing at their true frequencies."""
    return chance(clips.tiles[:, -1])


def within_memory(policy: PolicyConfig, clips: Truth, chunk_frames: int) -> bool:
    """True if the chunk of the return may still read the last real frame, in which what must be recalled stood in full view.

    What content may bring back does not count: nobody knows before it is played.
    """
    length = clips.frames.shape[1] - clips.context
    chunks = -(-length // chunk_frames)
    last = layout(integer_base(policy), (1,) * clips.context + (chunk_frames,) * chunks)[-1]
    return any(source.frame == clips.context - 1 for source in last.sources)
