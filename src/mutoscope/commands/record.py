"""Turn a world, or a folder of your own clips, into a data set.

WORLD is a bundled name (doom, doom-basic, doom-gathering, scroll, ...) or any Gymnasium id that gives images.
Recording that was interrupted goes on where it stopped; the same seed gives the same data set, byte for byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

EXAMPLES = (
    "mutoscope record doom data/doom --episodes 600 --frames 500 --height 96 --width 128",
    "mutoscope record scroll data/scroll --episodes 400 --frames 128 --height 32 --width 32 --frame-skip 1",
    "mutoscope record CartPole-v1 data/cartpole --episodes 50 --height 64 --width 96 --frame-skip 1",
)


@dataclass(frozen=True)
class Options:
    """What to record, how much of it, and where to."""

    world: tyro.conf.Positional[str]
    """A bundled world or a Gymnasium id."""
    output: tyro.conf.Positional[Path]
    """Folder of the data set; an unfinished one with the same options is continued."""
    episodes: int = 200
    """Number of episodes."""
    frames: int = 300
    """Pixel frames per episode."""
    height: int = 48
    """Picture height in pixels."""
    width: int = 64
    """Picture width in pixels."""
    frame_skip: int = 2
    """Steps of the environment per recorded frame."""
    seed: int = 0
    """Seed of all episodes."""
    policy: str = "hold-random"
    """Who presses the keys: hold-random holds a random action for a random time."""


def run(options: Options) -> int:
    """Record, or go on recording."""
    from mutoscope.commands.recording import record_world, world_name
    from mutoscope.data.recorder import RecordOptions

    manifest = record_world(
        options.output,
        RecordOptions(
            world=world_name(options.world),
            episodes=options.episodes,
            frames_per_episode=options.frames,
            height=options.height,
            width=options.width,
            frame_skip=options.frame_skip,
            seed=options.seed,
            policy=options.policy,
        ),
    )
    print(f"{options.output}: {manifest.num_episodes} episodes, {manifest.num_frames} frames; now: mutoscope check {options.output}")
    return 0
