"""The engine owns the device: one thread on which all pane sources run, job after job in order of arrival."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from mutoscope.core.errors import ConfigError, MutoscopeError
from mutoscope.serve.catalogue import PaneChoice, PaneOptions
from mutoscope.serve.keys import action_vector
from mutoscope.serve.scheduler import InputSlot
from mutoscope.serve.sources import PaneSource
from mutoscope.serve.strip import Strip

if TYPE_CHECKING:
    from mutoscope.rollout.session import PromptSwitch

LOG = logging.getLogger(__name__)
T = TypeVar("T")


class EngineError(MutoscopeError):
    """A pane source failed in a way that it did not foresee. The page is told, the log has the traceback."""


class Engine:
    """One worker thread. A player has at most one job here, so the queue is no longer than the number of players."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="engine")

    async def run(self, job: Callable[[], T]) -> T:
        """Run `job` on the engine's thread after all that came before it; what goes wrong there is an EngineError."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, job)
        except MutoscopeError:
            raise
        except Exception as error:
            LOG.exception("a job on the engine failed")
            raise EngineError(f"the world failed ({type(error).__name__}: {error}); reset it, or see the server's log") from error

    def submit(self, job: Callable[[], None]) -> None:
        """Run `job` after all that came before it, even if nobody is left to wait for it; a failure is only logged."""
        self._pool.submit(_log_failure, job)

    def close(self) -> None:
        """Finish what was begun and end the thread."""
        self._pool.shutdown()


def _log_failure(job: Callable[[], None]) -> None:
    try:
        job()
    except Exception:
        LOG.exception("a job on the engine failed")


@dataclass(frozen=True)
class Moment:
    """One pixel frame of every pane: uint8 `[height, width, 3]` each, the newest input in it, seconds since the reset."""

    pictures: tuple[np.ndarray, ...]
    input_id: int
    content_time: float


class PaneSet:
    """The panes of one page, under the same keys and the same clock. Used on the engine's thread only."""

    def __init__(self, sources: tuple[PaneSource, ...]) -> None:
        self._sources = sources
        self.rate = sources[0].world.content_rate
        self.stride = max(source.stride for source in sources)
        if any(self.stride % source.stride for source in sources):
            strides = [source.stride for source in sources]
            raise ConfigError(f"panes with {strides} pixel frames per step cannot share a clock; one must be a multiple of all others")
        self._count = 0

    def reset(self, start: int | None, seed: int | None) -> Moment:
        """Begin anew everywhere; the last picture of each context."""
        self._count = 0
        return Moment(tuple(source.reset(start, seed)[-1] for source in self._sources), 0, 0.0)

    def step(self, inputs: InputSlot) -> tuple[Moment, ...]:
        """Take the newest input, now, and advance every pane by `stride` pixel frames under it."""
        input_id, held = inputs.take()
        frames = [self._advance(source, held) for source in self._sources]
        moments = []
        for pictures in zip(*frames, strict=True):
            self._count += 1
            moments.append(Moment(tuple(pictures), input_id, self._count / self.rate))
        return tuple(moments)

    def _advance(self, source: PaneSource, held: tuple[str, ...]) -> list[np.ndarray]:
        action = action_vector(source.world.actions, held)
        frames: list[np.ndarray] = []
        while len(frames) < self.stride:
            frames.extend(source.step(action))
        return frames

    def say(self, words: tuple[Any, ...], switch: "PromptSwitch") -> None:
        """Tell every pane that listens what to show; None for those that do not."""
        for source, heard in zip(self._sources, words, strict=True):
            if heard is not None:
                source.say(heard, switch)

    def commit(self) -> None:
        """Write what was shown into every pane's memory."""
        for source in self._sources:
            source.commit()

    def strips(self) -> tuple[Strip, ...]:
        """What lies in each pane's memory."""
        return tuple(source.strip() for source in self._sources)

    def strips_and_commit(self) -> tuple[Strip, ...]:
        """What each pane's memory held while the newest frame was made from it; then `commit`."""
        strips = self.strips()
        self.commit()
        return strips

    @property
    def memory_bytes(self) -> tuple[int, ...]:
        """Bytes of each pane's memory."""
        return tuple(source.memory_bytes for source in self._sources)

    @property
    def memory_ms(self) -> tuple[float, ...]:
        """Milliseconds per frame that each pane's memory costs."""
        return tuple(round(source.memory_ms, 2) for source in self._sources)

    def close(self) -> None:
        """Close every source."""
        for source in self._sources:
            source.close()


def make_panes(matched: tuple[tuple[PaneChoice, PaneOptions], ...]) -> PaneSet:
    """Make every source; when one fails, those made before it are closed again."""
    with ExitStack() as stack:
        sources = []
        for choice, options in matched:
            sources.append(choice.make_source(options))
            stack.callback(sources[-1].close)
        panes = PaneSet(tuple(sources))
        stack.pop_all()
        return panes
