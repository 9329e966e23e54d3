"""The memory strip: what lies in every slot of a pane's memory, with small pictures, told to the page a few times a second.

Everything in it comes from the ledger and the cache's declared bytes. A frame of which no picture is known travels without one.
"""

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from mutoscope.memory.contents import BESIDE_SLOTS, SlotContent
from mutoscope.serve.encode import jpeg_encoder
from mutoscope.serve.wire import VERSION

STRIP_INTERVAL_S = 0.25
MAX_SHOWN_SLOTS = 64
OLDEST_SHOWN = 8
THUMBNAIL_WIDTH = 64
THUMBNAIL_QUALITY = 75


@dataclass(frozen=True)
class Strip:
    """A memory at one moment: its slots, the JPEG of each frame in it that is known, and the seconds of one frame."""

    slots: tuple[SlotContent, ...] = ()
    pictures: dict[int, bytes] = field(default_factory=dict)
    frame_seconds: float = 0.0


class Thumbnails:
    """Small pictures of the frames of one play, by frame. Cutting is cheap and done at once; coding waits until a strip asks."""

    def __init__(self, temporal_stride: int) -> None:
        self._stride = temporal_stride
        self._encoder = jpeg_encoder(THUMBNAIL_QUALITY)
        self._raw: dict[int, np.ndarray] = {}
        self._coded: dict[int, bytes] = {}

    def clear(self) -> None:
        """Forget all of them."""
        self._raw, self._coded = {}, {}

    def note(self, first: int, count: int, pixels: np.ndarray) -> None:
        """Frames `first .. first + count - 1`, whose pixel frames end `pixels` uint8 `[n, height, width, 3]`; each shows its last one."""
        for place in range(count):
            self._raw[first + place] = shrink(pixels[len(pixels) - 1 - (count - 1 - place) * self._stride])

    def keep(self, slots: Sequence[SlotContent], shelved: Iterable[int] = ()) -> None:
        """Forget all frames but those in these slots and those on shelves, which may come back."""
        frames = {content.frame for content in slots}.union(shelved)
        self._raw = {frame: picture for frame, picture in self._raw.items() if frame in frames}
        self._coded = {frame: picture for frame, picture in self._coded.items() if frame in frames}

    def coded(self) -> dict[int, bytes]:
        """The JPEG of every frame that is kept."""
        self._coded.update({frame: self._encoder.encode(picture)[1] for frame, picture in self._raw.items()})
        self._raw = {}
        return dict(self._coded)

    def __len__(self) -> int:
        """Pictures held, coded or not."""
        return len(self._raw) + len(self._coded)


def shrink(picture: np.ndarray) -> np.ndarray:
    """Every k-th pixel of uint8 `[height, width, 3]`, so that at most about 64 columns are left; a copy."""
    step = max(1, round(picture.shape[1] / THUMBNAIL_WIDTH))
    return np.ascontiguousarray(picture[::step, ::step])


class StripMail:
    """What one page knows of its panes' memories: a message now and then, at most one under way, each picture once."""

    def __init__(self, interval: float = STRIP_INTERVAL_S) -> None:
        self._interval = interval
        self.restart()

    def restart(self) -> None:
        """New panes or a new play: the page knows nothing, and the next message need not wait."""
        self._known: dict[tuple[int, int], int] = {}
        self._due, self._sent_after = 0.0, -1

    def is_due(self, now: float, answered: int) -> bool:
        """Whether the next message may go out at `now` (seconds), when the page has answered the picture `answered`.

        A page that has answered a picture sent after the last message has that message as well.
        """
        return now >= self._due and answered > self._sent_after

    def message(self, strips: Sequence[Strip], now: float, sent: int) -> str:
        """The JSON of one strip per pane, to be sent after the picture `sent`; a pane that remembers nothing has no slots."""
        self._due, self._sent_after = now + self._interval, sent
        panes = [self._pane(index, strip) for index, strip in enumerate(strips)]
        return json.dumps({"type": "memory", "version": VERSION, "panes": panes})

    def _pane(self, pane: int, strip: Strip) -> dict:
        shown = fold(strip.slots)
        count = sum(content.kind in ("frame", "sink", "chosen", "mosaic") for content in strip.slots)
        return {
            "slots": [self._slot(pane, content, strip) for content in shown],
            "num_slots": sum(content.kind not in BESIDE_SLOTS for content in strip.slots),
            "num_remembered": count,
            "frame_seconds": strip.frame_seconds,
        }

    def _slot(self, pane: int, content: SlotContent, strip: Strip) -> dict:
        """The slot, with its picture where the page does not have it in that slot already."""
        place, frame, entry = (pane, content.slot), content.frame, asdict(content)
        if frame is None or frame not in strip.pictures:
            self._known.pop(place, None)
        elif self._known.get(place) != frame:
            self._known[place] = frame
            entry["picture"] = base64.b64encode(strip.pictures[frame]).decode()
        return entry


def fold(slots: Sequence[SlotContent], most: int = MAX_SHOWN_SLOTS, oldest: int = OLDEST_SHOWN) -> list[SlotContent]:
    """At most `most`: what stands beside slots; all slots if they fit, else the `oldest` first frames, the newest, empty ones."""
    beside = [content for content in slots if content.kind in BESIDE_SLOTS]
    if beside:
        return beside + fold([content for content in slots if content.kind not in BESIDE_SLOTS], most - len(beside), oldest)
    held = [content for content in slots if content.kind != "empty"]
    if len(held) > most:
        return held[:oldest] + held[oldest - most :]
    return [*held, *(content for content in slots if content.kind == "empty")][:most]
