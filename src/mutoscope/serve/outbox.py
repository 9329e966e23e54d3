"""The way out to one page: the newest moment, encoded only when the page has room for it."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from mutoscope.core.world import WorldSpec
from mutoscope.serve.encode import Encoder, make_encoder
from mutoscope.serve.engine import Moment
from mutoscope.serve.scheduler import SendWindow
from mutoscope.serve.wire import MAX_NUMBER, PictureFormat, PictureHeader, pack_picture


class Outbox:
    """Holds at most one moment that was not sent. A newer one replaces it, and the loss is counted.

    The drop comes before the encoder, so that an H.264 stream has no gaps and needs no new key picture.
    `sent` and `answered` are the newest frame numbers that went out and that the page has acknowledged.
    """

    def __init__(self, send: Callable[[bytes], Awaitable[None]], clock: Callable[[], float] = time.monotonic) -> None:
        self._send, self._clock = send, clock
        self._lock = asyncio.Lock()
        self._window = SendWindow(1.0)
        self._encoders: tuple[Encoder, ...] = ()
        self._waiting: tuple[int, Moment] | None = None
        self.generated, self.dropped = 0, 0
        self.sent, self.answered = 0, 0

    async def configure(self, worlds: tuple[WorldSpec, ...], interval: float, picture: PictureFormat) -> None:
        """New panes or a new format: new encoders, and nothing that was sent before counts."""
        async with self._lock:
            self._waiting, self._window = None, SendWindow(interval)
            self._encoders = tuple(make_encoder(picture, world.height, world.width, world.content_rate) for world in worlds)

    @property
    def has_room(self) -> bool:
        """Whether a moment put now would be sent at once."""
        return self._waiting is None and self._window.is_open

    async def put(self, moment: Moment) -> None:
        """Send the moment, or keep it until the page has room. Returns when one of the two is done."""
        if self._waiting is not None:
            self.dropped += 1
        self.generated += 1
        self._waiting = (self.generated % (MAX_NUMBER + 1), moment)
        await self._flush()

    async def acknowledge(self, frame: int) -> None:
        """The page has decoded `frame`: there may be room for the one that waits."""
        self._window.acknowledged(frame, self._clock())
        self.answered = max(self.answered, min(frame, self.sent))
        await self._flush()

    async def _flush(self) -> None:
        async with self._lock:
            while self._waiting is not None and self._window.is_open:
                (frame, moment), self._waiting = self._waiting, None
                self._window.sent(frame, self._clock())
                self.sent = frame
                for message in await asyncio.to_thread(self._encode, frame, moment):
                    await self._send(message)

    def _encode(self, frame: int, moment: Moment) -> list[bytes]:
        messages = []
        for pane, (encoder, picture) in enumerate(zip(self._encoders, moment.pictures, strict=True)):
            kind, payload = encoder.encode(picture)
            header = PictureHeader(kind, pane, len(self._encoders), moment.input_id, frame, moment.content_time)
            messages.append(pack_picture(header, payload))
        return messages
