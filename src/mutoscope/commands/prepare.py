"""Make own videos ready for training on published weights: clips of latents, with captions and the embeddings of these.

The codec is that of an imported checkpoint. OUTPUT/train holds the clips to learn from, OUTPUT/held-out a few videos that are set aside
for samples. Captions are text files beside the videos, or one captions.jsonl. Files that cannot be used are named, the others are taken.
Interrupted, the same command goes on where it stopped.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

EXAMPLES = (
    "mutoscope prepare runs/wan-1.3b/bidirectional clips --output data/clips --prompts data/prompts",
    "mutoscope prepare runs/wan-1.3b/bidirectional clips --output data/clips --held-out 2 --fit stretch --device cuda",
)


@dataclass(frozen=True)
class Options:
    """Whose codec, which videos, and where to."""

    checkpoint: tyro.conf.Positional[str]
    """An imported checkpoint with its codec, or a stage's folder in a run."""
    clips: tyro.conf.Positional[Path]
    """A folder of videos with captions."""
    output: Path
    """The folder to write, or to go on with."""
    prompts: Path | None = None
    """Embeddings of the captions (mutoscope embed); default: they are made afterwards, from the data sets."""
    clip_frames: int | None = None
    """Latent frames of a clip; default: as many as the checkpoint's recipe trains with."""
    rate: float | None = None
    """Pixel frames per second; default: those of the checkpoint's videos."""
    held_out: int = 8
    """How many videos are set aside."""
    fit: Literal["crop", "stretch"] = "crop"
    """Pictures of another shape: keep the largest middle part, or stretch all of it."""
    smaller: Literal["skip", "enlarge"] = "skip"
    """Videos with smaller pictures: leave them out, or enlarge them."""
    device: str = "auto"
    """auto, cpu or cuda."""


def run(options: Options) -> int:
    """Prepare, and say what was made of what."""
    from mutoscope.commands.checkpoints import find_checkpoint
    from mutoscope.models.checkpoint import read_manifest
    from mutoscope.train.parallel import start_workers
    from mutoscope.train.prepare import PrepareOptions, prepare

    checkpoint = find_checkpoint(options.checkpoint)
    manifest = read_manifest(checkpoint)
    how = PrepareOptions(
        clip_frames=manifest.clip_frames if options.clip_frames is None else options.clip_frames,
        rate=manifest.world.content_rate if options.rate is None else options.rate,
        held_out=options.held_out,
        fit=options.fit,
        smaller=options.smaller,
    )
    made = prepare(checkpoint, options.clips, options.output, how, options.prompts, start_workers(options.device).device)
    for _, reason in made.skipped:
        print(f"left out: {reason}", file=sys.stderr)
    counts = f"{made.train} clips to train on, {made.held_out} held out, {len(made.skipped)} videos left out"
    print(f"{options.output}: {counts}; {advice(options)}")
    return 0


def advice(options: Options) -> str:
    """What comes next."""
    data = f"--data {options.output}/train --held-out {options.output}/held-out"
    if options.prompts is None:
        return f"now: mutoscope embed {options.output}/train, the same for {options.output}/held-out, then: mutoscope train RECIPE {data}"
    return f"now: mutoscope train RECIPE {data}"
