"""Somebody's own pictures to begin from: each is one pixel frame of real context, in place of a checkpoint's start clips.

A codec with a temporal stride makes one frame of the first pixel frame alone, so that a picture is exactly one frame in memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from mutoscope.core.world import WorldSpec
from mutoscope.data.worlds.captioned import FITS
from mutoscope.media.picture import read_picture
from mutoscope.models.checkpoint import Checkpoint, Starts, placeless

FitName = Literal["crop", "stretch"]


@dataclass(frozen=True)
class Pictures:
    """`names` as a page lists them, `images` uint8 `[h, w, 3]` of any size, `fit` how each becomes one of a world's size."""

    names: tuple[str, ...] = ()
    images: tuple[np.ndarray, ...] = ()
    fit: FitName = "crop"

    def starts(self, world: WorldSpec) -> Starts:
        """Clips of one pixel frame each, at the world's size. What was pressed before them nobody knows."""
        fitted = [torch.from_numpy(FITS[self.fit](image, world.height, world.width)) for image in self.images]
        count = len(fitted)
        return placeless(torch.stack(fitted)[:, None], torch.zeros(count, 1, world.actions.dim), torch.zeros(count, 1, dtype=torch.bool))

    def before(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint with these pictures as its starts; as it is where there are none."""
        return replace(checkpoint, starts=self.starts(checkpoint.manifest.world)) if self.images else checkpoint


def read_pictures(files: Sequence[Path], fit: FitName) -> Pictures:
    """Picture files under their names; a DataError names the one that cannot be read."""
    return Pictures(tuple(file.name for file in files), tuple(read_picture(file) for file in files), fit)
