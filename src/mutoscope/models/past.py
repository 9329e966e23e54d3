"""The clean past of a clip as a layer remembers it, where remembering changes it: blends into sinks, and tokens chosen from frames."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mutoscope.memory.frames import Blend, Sift
from mutoscope.memory.sifting import sifted


@dataclass
class Past:
    """The frames of the clean half as one layer remembers them: unrotated keys, rotated keys, values.

    Some change on the way: sinks as blends enter them, and frames whose slots take chosen tokens. `homes` says for those where each of
    their tokens stands in its own frame, `[head, tokens]`.
    """

    original: list[Tensor]
    rotated: list[Tensor]
    values: list[Tensor]
    changed: set[int] = field(default_factory=set)
    homes: dict[int, Tensor] = field(default_factory=dict)

    def enter(self, blend: Blend) -> None:
        """An evicted frame's keys and values enter its heir's."""
        for frames in (self.original, self.values):
            frames[blend.heir] = torch.lerp(frames[blend.frame], frames[blend.heir], blend.keep)
        self.changed.add(blend.heir)

    def home(self, frame: int) -> Tensor:
        """Where a frame's tokens stand in their own frames, `[head, tokens]`: in a whole frame, one after the other."""
        heads, tokens = self.original[frame].shape[1:3]
        whole = torch.arange(tokens, device=self.original[frame].device)
        return self.homes.get(frame, whole.expand(heads, -1))

    def sift(self, item: Sift, layer: int) -> None:
        """The tokens that every head picked go into the heirs, in the order in which they stood."""
        picks, count = item.picks[layer], len(item.heirs)
        homes = torch.cat([self.home(frame) for frame in item.frames], dim=1).gather(1, picks).chunk(count, dim=1)
        for frames in (self.original, self.values):
            chosen = sifted(torch.cat([frames[frame] for frame in item.frames], dim=2), picks).chunk(count, dim=2)
            for heir, part in zip(item.heirs, chosen, strict=True):
                frames[heir] = part
        self.homes.update(zip(item.heirs, homes, strict=True))
        self.changed.update(item.heirs)
