"""What a scored window is that begins inside a rollout, for a codec with a temporal stride.

The first frame of a clip stands for one pixel frame, and a frame from the middle of a rollout for several: whole-clip models have never
seen such a one in front. So the window's first frame is decoded, its last pixel frame is encoded again as the first of a clip, and nothing
is asked of it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from mutoscope.models.codec import Codec
from mutoscope.rollout.training import Rollout, ScoreWindow

WindowStart = Callable[[Rollout, ScoreWindow], ScoreWindow]


def as_generated(rollout: Rollout, window: ScoreWindow) -> ScoreWindow:
    """Nothing to do where every frame is one pixel frame."""
    return window


@dataclass(frozen=True)
class EncodedAgain:
    """The window with a first frame that is one pixel frame, and the first whole chunk after it as the first that is scored."""

    codec: Codec

    def __call__(self, rollout: Rollout, window: ScoreWindow) -> ScoreWindow:
        """A window at the very start of a rollout begins with a clip's first frame and stays as it is."""
        if window.start == 0:
            return window
        first = next(border for border in accumulate(rollout.lengths, initial=0) if border > window.start)
        scored = window.scored.clone()
        scored[:, : first - window.start] = 0
        clean = torch.cat([self.first_frame(rollout.clean[:, : window.start + 1]), window.clean[:, 1:]], dim=1)
        return replace(window, first=first, clean=clean, conditions=window.conditions.as_first(), scored=scored)

    @torch.no_grad()
    def first_frame(self, latents: Tensor) -> Tensor:
        """The last pixel frame of a rollout so far `[B, n, C, h, w]`, as the first frame of a clip `[B, 1, C, h, w]`."""
        state = self.codec.start_decoding(len(latents))
        with torch.autocast(latents.device.type, enabled=False):
            for frame in latents.split(1, dim=1):
                pixels, state = self.codec.decode_next(frame, state)
            return self.codec.encode(pixels[:, -1:])


def window_start(codec: Codec) -> WindowStart:
    """How windows begin under a codec."""
    return as_generated if codec.temporal_stride == 1 else EncodedAgain(codec)
