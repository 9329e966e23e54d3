"""One connected page: its panes, its frame clock, its outbox. Two pages share nothing but the engine."""

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from mutoscope.core.errors import ConfigError, MutoscopeError
from mutoscope.serve.catalogue import Catalogue, PaneChoice, PaneOptions
from mutoscope.serve.engine import Engine, Moment, PaneSet, make_panes
from mutoscope.serve.keys import bindings, held_names
from mutoscope.serve.outbox import Outbox
from mutoscope.serve.prompts import Books, embed_for, first_prompt
from mutoscope.serve.recording import Recording, Shelf
from mutoscope.serve.scheduler import FrameClock, InputSlot
from mutoscope.serve.strip import Strip, StripMail
from mutoscope.serve.wire import (
    Ack,
    Input,
    Message,
    Open,
    Pause,
    Picture,
    PictureFormat,
    Record,
    Reset,
    Say,
    WireError,
    error_message,
    parse_message,
)

if TYPE_CHECKING:
    from mutoscope.rollout.session import PromptSwitch

STATS_INTERVAL_S = 1.0


@dataclass(frozen=True)
class Heard:
    """What a page said, as its panes take it; `matched` are the panes that it was said to."""

    message: Say
    words: tuple[Any, ...]
    matched: tuple[tuple[PaneChoice, PaneOptions], ...]


@dataclass(frozen=True)
class PlaySettings:
    """How the server plays: at the content rate, or as fast as it can (to measure it); how many pages at once."""

    pace: Literal["content", "free"] = "content"
    max_players: int = 8


class Connection(Protocol):
    """What a player needs of a web socket."""

    async def send_text(self, data: str) -> None:
        """Send JSON."""
        ...

    async def send_bytes(self, data: bytes) -> None:
        """Send a picture."""
        ...


class Player:
    """Reads one page's messages and plays to it. `play` runs as a task of its own; `receive` is called per message."""

    def __init__(self, catalogue: Catalogue, engine: Engine, shelf: Shelf, connection: Connection, settings: PlaySettings) -> None:
        self._catalogue, self._engine, self._shelf, self._connection, self._settings = catalogue, engine, shelf, connection, settings
        self._inputs, self._names = InputSlot(), frozenset[str]()
        self._outbox, self._strip_mail = Outbox(connection.send_bytes), StripMail()
        self._todo: dict[type, Message | Heard] = {}
        self._wake = asyncio.Event()
        self._matched: tuple[tuple[PaneChoice, PaneOptions], ...] = ()
        self._panes: PaneSet | None = None
        self._clock = FrameClock(1.0)
        self._pacer: asyncio.Task[None] | None = None
        self._recording: Recording | None = None
        self._start: int | None = None
        self._prompt: str | None = None
        self._embedding: asyncio.Task[None] | None = None
        self._paused, self._seed, self._stats_due = False, 0, 0.0

    async def receive(self, text: str) -> None:
        """One message. Keys and acknowledgements count at once; of every other kind only the newest is kept until its turn."""
        try:
            message = parse_message(text)
        except WireError as error:
            await self._connection.send_text(error_message(str(error)))
            return
        if isinstance(message, Input):
            self._inputs.put(message.id, tuple(name for name in message.held if name in self._names))
        elif isinstance(message, Ack):
            await self._outbox.acknowledge(message.frame)
            if self._settings.pace == "free":
                self._wake.set()
        else:
            self._todo[type(message)] = message
            self._wake.set()

    async def play(self) -> None:
        """Obey and generate until cancelled. Errors are told to the page; one in the world pauses it; nothing else ends."""
        while True:
            await self._tell_errors(self._obey, pause=False)
            if self._panes is None or self._paused or not self._may_generate():
                await self._wake.wait()
            elif not await self._woken_before(self._begin_at()):
                await self._tell_errors(self._generate, pause=True)

    def close(self) -> None:
        """Give back the panes, after all that the engine still does for them; called once `play` is cancelled."""
        for task in (self._pacer, self._embedding):
            if task is not None:
                task.cancel()
        self._engine.submit(self._drop_panes)

    def _may_generate(self) -> bool:
        return self._settings.pace == "content" or self._outbox.has_room

    def _begin_at(self) -> float:
        return self._clock.begin_at() if self._settings.pace == "content" else 0.0

    async def _woken_before(self, moment: float) -> bool:
        """Sleep until `moment` (monotonic seconds); True when something else came up first."""
        delay = moment - time.monotonic()
        if delay <= 0:
            await asyncio.sleep(0)
            return self._wake.is_set() and bool(self._todo)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), delay)
            return True
        return False

    async def _tell_errors(self, act: Callable[[], Awaitable[None]], *, pause: bool) -> None:
        try:
            await act()
        except MutoscopeError as error:
            self._paused = self._paused or pause
            await self._connection.send_text(error_message(str(error)))
            await self._tell_state()
            if pause:
                # A world that has just failed may fail at this too; one error is enough.
                with suppress(MutoscopeError):
                    await self._tell_strips_now()

    # What the page asks for.

    async def _obey(self) -> None:
        self._wake.clear()
        acts: dict[type, Callable[[Any], Awaitable[None]]] = {
            Open: self._open,
            Picture: self._change_picture,
            Reset: self._reset,
            Pause: self._pause,
            Record: self._record,
            Say: self._say,
            Heard: self._hear,
        }
        for kind, act in acts.items():
            message = self._todo.pop(kind, None)
            if message is not None and (kind is Open or self._panes is not None):
                await act(message)

    async def _open(self, message: Open) -> None:
        matched = self._catalogue.match(message.panes)
        await self._finish_recording()
        await self._finish_pacer()
        await self._engine.run(self._drop_panes)
        self._matched = matched
        self._panes = await self._engine.run(self._make_panes)
        self._names = frozenset(name for choice, _ in matched for name in held_names(choice.world.actions))
        self._clock = FrameClock(self._panes.stride / self._panes.rate)
        await self._begin_prompt(message.prompt)
        await self._change_picture(Picture(message.picture))
        await self._tell_ready(message.picture)
        # A page that changes its panes asks for the start it is at; panes that lack it draw another.
        known = message.start is not None and message.start < len(self._starts())
        await self._reset(Reset(message.start if known else None, message.seed))

    def _make_panes(self) -> PaneSet:
        """On the engine's thread, where `_drop_panes` comes after it even when the page has gone meanwhile."""
        self._panes = make_panes(self._matched)
        return self._panes

    def _drop_panes(self) -> None:
        panes, self._panes = self._panes, None
        if panes is not None:
            panes.close()

    async def _change_picture(self, message: Picture) -> None:
        interval = 1 / self._matched[0][0].world.content_rate
        await self._outbox.configure(tuple(choice.world for choice, _ in self._matched), interval, message.format)

    async def _reset(self, message: Reset) -> None:
        assert self._panes is not None
        starts = self._starts()
        if message.start is not None and message.start >= len(starts):
            raise ConfigError(f"start {message.start} does not exist; there are {len(starts)}, counted from 0")
        self._start = self._opening() if message.start is None else message.start
        if self._start is None and starts:
            self._start = secrets.randbelow(len(starts))
        self._seed = secrets.randbits(31) if message.seed is None else message.seed
        panes, start, seed = self._panes, self._start, self._seed
        await self._finish_pacer()
        moment = await self._engine.run(lambda: panes.reset(start, seed))
        self._strip_mail.restart()
        await self._show(moment)
        await self._pause(Pause(False))

    async def _begin_prompt(self, wanted: str | None) -> None:
        """Panes that are told in words what to show are told it before they begin."""
        assert self._panes is not None
        panes, self._prompt = self._panes, first_prompt(self._books, wanted)
        if self._prompt is not None:
            words = await asyncio.to_thread(embed_for, self._books, self._prompt)
            await self._engine.run(lambda: panes.say(words, "keep"))

    async def _say(self, message: Say) -> None:
        """Embed it beside the running stream, which goes on; only the newest words count."""
        if not any(self._books):
            raise ConfigError("no world on this page is told in words what to show")
        if self._embedding is not None:
            self._embedding.cancel()
        self._embedding = asyncio.create_task(self._tell_errors(lambda: self._embed(message, self._matched), pause=False))

    async def _embed(self, message: Say, matched: tuple[tuple[PaneChoice, PaneOptions], ...]) -> None:
        words = await asyncio.to_thread(embed_for, self._books, message.text)
        self._todo[Heard] = Heard(message, words, matched)
        self._wake.set()

    async def _hear(self, heard: Heard) -> None:
        """What was said is embedded; panes that were opened meanwhile began with words of their own."""
        assert self._panes is not None
        if heard.matched is not self._matched:
            return
        panes, cut = self._panes, heard.message.switch == "cut"
        switch: PromptSwitch = "keep" if heard.message.switch == "cut" else heard.message.switch
        await self._engine.run(lambda: panes.say(heard.words, switch))
        self._prompt = heard.message.text
        await (self._reset(Reset(self._start)) if cut else self._tell_state())

    @property
    def _books(self) -> Books:
        return tuple(choice.prompts for choice, _ in self._matched)

    async def _pause(self, message: Pause) -> None:
        self._paused = message.paused
        self._inputs.take()
        self._clock.restart(time.monotonic())
        await self._tell_state()
        await self._tell_strips_now()

    async def _record(self, message: Record) -> None:
        if message.recording and self._recording is None:
            self._recording = Recording(self._matched[0][0].world.content_rate)
        elif not message.recording:
            await self._finish_recording()
        await self._tell_state()

    async def _finish_recording(self) -> None:
        recording, self._recording = self._recording, None
        if recording is not None:
            name = self._shelf.put(await asyncio.to_thread(recording.finish))
            await self._tell({"type": "recording", "url": f"/recordings/{name}", "frames": recording.num_frames})

    def _lister(self) -> PaneChoice | None:
        """The pane whose starts every pane with starts has; None where no pane has any."""
        return min((choice for choice, _ in self._matched if choice.starts), key=lambda choice: len(choice.starts), default=None)

    def _starts(self) -> tuple[str, ...]:
        lister = self._lister()
        return () if lister is None else lister.starts

    def _opening(self) -> int | None:
        lister = self._lister()
        return None if lister is None else lister.opening

    # What the page gets.

    async def _generate(self) -> None:
        assert self._panes is not None
        panes, began = self._panes, time.monotonic()
        moments = await self._engine.run(lambda: panes.step(self._inputs))
        now = time.monotonic()
        shown = self._clock.finished(began, now)
        await self._finish_pacer()
        if self._settings.pace == "content" and shown > now:
            await asyncio.sleep(shown - now)
        await self._show(moments[0])
        self._pacer = asyncio.create_task(self._show_rest(moments[1:], shown)) if moments[1:] else None
        await self._commit(panes)
        await self._tell_stats()

    async def _commit(self, panes: PaneSet) -> None:
        """Once the picture is on its way; now and then the page is told what the memory held that it was made from."""
        if self._strip_mail.is_due(time.monotonic(), self._outbox.answered):
            await self._tell_strips(await self._engine.run(panes.strips_and_commit))
        else:
            await self._engine.run(panes.commit)

    async def _show_rest(self, moments: tuple[Moment, ...], shown: float) -> None:
        """The further pixel frames of a step, at the content rate."""
        for index, moment in enumerate(moments, start=1):
            if self._settings.pace == "content":
                due = shown + index * self._clock.interval / (len(moments) + 1)
                await asyncio.sleep(max(due - time.monotonic(), 0.0))
            await self._show(moment)

    async def _finish_pacer(self) -> None:
        """Wait for the rest of a step. To cancel it could lose a picture between encoder and page, which H.264 does not allow."""
        pacer, self._pacer = self._pacer, None
        if pacer is not None:
            await pacer

    async def _show(self, moment: Moment) -> None:
        await self._outbox.put(moment)
        if self._recording is not None:
            await asyncio.to_thread(self._recording.add, moment.pictures)
            if self._recording.is_full:
                await self._finish_recording()
                await self._tell_state()

    async def _tell(self, value: dict) -> None:
        await self._connection.send_text(json.dumps(value))

    async def _tell_ready(self, picture: PictureFormat) -> None:
        table: dict[str, str] = {}
        for choice, _ in self._matched:
            table = bindings(choice.world.actions) | table
        panes = [choice.describe() | {"chosen_steps": chosen.steps, "chosen_policy": chosen.policy} for choice, chosen in self._matched]
        rate, starts = self._matched[0][0].world.content_rate, list(self._starts())
        prompts = next((book.describe() for book in self._books if book is not None), None)
        told = {"bindings": table, "starts": starts, "opening": self._opening(), "picture": picture, "prompts": prompts}
        await self._tell({"type": "ready", "panes": panes, "rate": rate, **told})

    async def _tell_state(self) -> None:
        recording = self._recording is not None
        where = {"start": self._start, "seed": self._seed, "prompt": self._prompt}
        await self._tell({"type": "state", "paused": self._paused, "recording": recording, **where})

    async def _tell_strips(self, strips: tuple[Strip, ...]) -> None:
        await self._connection.send_text(self._strip_mail.message(strips, time.monotonic(), self._outbox.sent))

    async def _tell_strips_now(self) -> None:
        """When play stops or begins no further message follows soon, so that this one does not wait for its turn."""
        if self._panes is not None:
            await self._tell_strips(await self._engine.run(self._panes.strips))

    async def _tell_stats(self) -> None:
        now = time.monotonic()
        if now < self._stats_due or self._panes is None:
            return
        self._stats_due = now + STATS_INTERVAL_S
        share = {f"generate_p{percent}_ms": round(1e3 * (self._clock.durations.quantile(percent / 100) or 0.0), 2) for percent in (50, 95)}
        counts = {"generated": self._outbox.generated, "dropped": self._outbox.dropped}
        memory = {"memory_bytes": self._panes.memory_bytes, "memory_ms": self._panes.memory_ms}
        await self._tell({"type": "stats", **share, **counts, **memory})
