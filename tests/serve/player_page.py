"""A player without a browser: a page in Python and a script that drives it."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from serve_fakes import FakeConnection, fake_catalogue

from mutoscope.serve.catalogue import Catalogue
from mutoscope.serve.engine import Engine
from mutoscope.serve.player import Player, PlaySettings
from mutoscope.serve.recording import Shelf
from mutoscope.serve.wire import PictureHeader, unpack_picture


class Page(FakeConnection):
    """A page in Python: acknowledges each frame once all panes have it, unless it is told to be deaf."""

    def __init__(self) -> None:
        super().__init__()
        self.player: Player | None = None
        self.deaf = False
        self.events: list[str] = []

    async def send_bytes(self, data: bytes) -> None:
        """Note a picture, and answer it a moment later, as a network would."""
        await super().send_bytes(data)
        self.events.append("picture")
        header = unpack_picture(data)[0]
        if header.pane == header.panes - 1 and not self.deaf:
            asyncio.get_running_loop().call_soon(lambda: asyncio.create_task(self.say("ack", frame=header.frame)))

    async def say(self, kind: str, **fields: object) -> None:
        """A message to the player."""
        assert self.player is not None
        await self.player.receive(json.dumps({"type": kind, **fields}))

    def last(self, kind: str) -> int:
        """Where among all that was received the newest message of a type stands."""
        return max(index for index, message in enumerate(self.received) if isinstance(message, dict) and message["type"] == kind)

    def headers(self) -> list[PictureHeader]:
        """The headers of all pictures."""
        return [unpack_picture(data)[0] for data in self.pictures()]

    async def until(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        """Wait until something is so."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"it did not happen; received {self.received[-3:]}"
            await asyncio.sleep(0.005)

    async def frames(self, count: int) -> None:
        """Wait for so many more pictures."""
        goal = len(self.pictures()) + count
        await self.until(lambda: len(self.pictures()) >= goal)


def play(script: Callable[[Page], Awaitable[None]], catalogue: Catalogue | None = None, settings: PlaySettings | None = None) -> Page:
    """Run a script against a player until the script ends."""

    async def run() -> Page:
        page, engine, shelf = Page(), Engine(), Shelf()
        page.player = Player(catalogue or fake_catalogue(), engine, shelf, page, settings or PlaySettings())
        task = asyncio.create_task(page.player.play())
        await script(page)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        page.player.close()
        engine.close()
        return page

    return asyncio.run(run())


async def open_fake(page: Page, *panes: str, picture: str = "jpeg") -> None:
    """Open panes and wait for the first picture."""
    await page.say("open", panes=[{"choice": choice} for choice in panes or ("fake",)], start=1, seed=5, picture=picture)
    await page.frames(1)
