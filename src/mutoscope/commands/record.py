"""Turn a world, or a folder of your own clips, into a data set.

WORLD is a bundled name (doom, doom-basic, scroll, ...), any Gymnasium id that gives images, or a folder of video files
with a table of actions beside each of them (docs/data.md). Recording that was interrupted goes on where it stopped;
the same seed gives the same data set, byte for byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

EXAMPLES = (
    "mutoscope record doom --output data/doom --episodes 600 --frames 500 --height 96 --width 128",
    "mutoscope record scroll --output data/scroll --episodes 400 --frames 128 --height 32 --width 32 --frame-skip 1",
    "mutoscope record CartPole-v1 --output data/cartpole --episodes 50 --frame-skip 1",
    "mutoscope record my-videos/ --output data/mine --height 96 --width 128 --frame-skip 2",
)


@dataclass(frozen=True)
class Options:
    """What to record, how much of it, and where to."""

    world: tyro.conf.Positional[str]
    """A bundled world, a Gymnasium id, or a folder of your own clips."""
    output: Path
    """Folder of the data set; an unfinished one with the same options is continued."""
    episodes: int = 200
    """Number of episodes."""
    frames: int = 300
    """Pixel frames per episode; longer clips become several."""
    height: int = 48
    """Picture height in pixels."""
    width: int = 64
    """Picture width in pixels."""
    frame_skip: int | None = None
    """Steps of the environment, or frames of the video, per recorded frame; default: 2 steps, every frame."""
    seed: int = 0
    """Seed of all episodes."""
    policy: str = "hold-random"
    """Who presses the keys: hold-random holds a random action for a random time, hold-briefly for a third of it."""


def run(options: Options) -> int:
    """Record, or go on recording."""
    from mutoscope.commands.recording import import_clips, record_world, recorder_options

    if Path(options.world).is_dir():
        manifest = import_clips(options)
    else:
        manifest = record_world(options.output, recorder_options(options))
    print(f"{options.output}: {manifest.num_episodes} episodes, {manifest.num_frames} frames; now: mutoscope check {options.output}")
    return 0
