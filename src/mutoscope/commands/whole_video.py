"""The video of a bidirectional teacher, which makes a clip at once: what shows whether published weights came in right."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

import numpy as np
import torch

from mutoscope.commands.script import parse_script
from mutoscope.core.errors import ConfigError
from mutoscope.core.progress import Progress
from mutoscope.core.shapes import pixel_frames
from mutoscope.core.streams import derive_seed, stream
from mutoscope.rollout.speed import PLAIN_SPEED
from mutoscope.rollout.whole_clip import whole_clips

if TYPE_CHECKING:
    from mutoscope.commands.generate import Options
    from mutoscope.commands.loading import Loading
    from mutoscope.commands.spoken import Told
    from mutoscope.models.checkpoint import Checkpoint


def check_whole(options: Options, loading: Loading) -> None:
    """Nothing is asked that belongs to a stream: it has no past, and all of its frames are one pass."""
    asked = {
        "--memory": options.memory is not None,
        "--start": options.start is not None,
        "--image": options.image is not None,
        "more than one --prompt": len(options.prompt) > 1,
        "--commits, --attention, --runner, --cache": loading.speed != PLAIN_SPEED,
    }
    if not options.prompt and not options.actions:
        raise ConfigError(
            f"{options.checkpoint} makes a clip as long as it is told: give --prompt 'words*frames' or --actions 'forward*20', "
            "as its world takes them"
        )
    if options.steps is not None and options.steps < 1:
        raise ConfigError(f"--steps must be at least 1, got {options.steps}")
    if refused := [name for name, given in asked.items() if given]:
        raise ConfigError(
            f"{options.checkpoint} is a bidirectional teacher, which makes a whole clip at once and has no memory; leave out "
            f"{'; '.join(refused)}, or give a checkpoint of a later stage"
        )


def whole_frames(options: Options, checkpoint: Checkpoint, lines: list[tuple[Told, int]]) -> np.ndarray:
    """A clip under a prompt, an action script, or both: uint8 `[T, H, W, 3]`, of as many frames as were asked for, or some more."""
    world, codec, stride = checkpoint.manifest.world, checkpoint.codec, checkpoint.codec.temporal_stride
    script = parse_script(options.actions, world.actions) if options.actions else np.zeros((0, world.actions.dim), np.float32)
    wanted = max([1 + len(script), *(count for _, count in lines)])
    frames = 1 + ceil((wanted - 1) / stride)
    actions = torch.zeros(1, pixel_frames(frames, stride), world.actions.dim)
    actions[0, 1 : 1 + len(script)] = torch.from_numpy(script)
    known = torch.arange(actions.shape[1])[None] > 0
    shape = (1, frames, codec.latent.channels, codec.latent.height, codec.latent.width)
    noise = torch.randn(shape, generator=stream(derive_seed(options.seed, "generate whole clip"), "noise"))
    steps, text = options.steps or checkpoint.manifest.student_steps, lines[0][0] if lines else None
    with Progress(steps, "denoising the clip") as bar:
        told = {"text": text, "steps": steps, "guidance": options.guidance, "progress": bar.advance}
        return whole_clips(checkpoint, noise, actions, known, **told)[0]  # type: ignore[arg-type]
