"""Where a pane's pictures come from: a learned world, the real one, or a small fake for tests. All look the same to the engine."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mutoscope.core.errors import ConfigError
from mutoscope.core.world import ActionSpec, WorldSpec
from mutoscope.memory.contents import most_frames, shelved_frames, slot_contents
from mutoscope.serve.scheduler import Durations
from mutoscope.serve.strip import Strip, Thumbnails

if TYPE_CHECKING:
    from mutoscope.rollout.session import PromptSwitch, Session


FROM_NOTHING = "from nothing"
"""What a page calls the beginning without a past; it stands before all start clips, and alone it needs no name."""


class PaneSource(Protocol):
    """One world of one player. Every method runs on the engine's thread."""

    @property
    def world(self) -> WorldSpec:
        """Picture size, content rate and actions."""
        ...

    @property
    def stride(self) -> int:
        """Pixel frames per step."""
        ...

    @property
    def memory_bytes(self) -> int:
        """Bytes that its memory of the past occupies."""
        ...

    @property
    def memory_ms(self) -> float:
        """Milliseconds that one frame spends on memory beyond what generating it takes: the median of the last frames."""
        ...

    def reset(self, start: int | None, seed: int | None) -> np.ndarray:
        """Begin anew; the context's pixel frames, uint8 `[n, height, width, 3]`."""
        ...

    def step(self, action: np.ndarray) -> np.ndarray:
        """One step under float32 `[dim]`; uint8 `[stride, height, width, 3]`."""
        ...

    def say(self, words: Any, switch: "PromptSwitch") -> None:
        """Be told what to show, as the prompts of its choice embed it; only where that has some."""
        ...

    def commit(self) -> None:
        """Write what was just shown into memory; called once the picture is on its way."""
        ...

    def strip(self) -> Strip:
        """What lies in its memory; before the commit, with the slots of the newest frames marked as open."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


class LearnedSource:
    """A learned world: a thin face on `rollout.session.Session`."""

    def __init__(self, session: "Session", *, stride: int = 1) -> None:
        self._session, self.stride = session, stride
        self.world: WorldSpec = session.world
        self._thumbnails, self._memory_times = Thumbnails(session.codec.temporal_stride), Durations()
        self._timed_frames, self._timed_seconds = 0, 0.0

    @property
    def memory_bytes(self) -> int:
        """Bytes of the cache."""
        return self._session.memory_bytes

    @property
    def memory_ms(self) -> float:
        """Median over the last frames of `Session.memory_seconds` per frame, in milliseconds; 0 before the first one."""
        return 1e3 * (self._memory_times.quantile(0.5) or 0.0)

    def reset(self, start: int | None, seed: int | None) -> np.ndarray:
        """Begin as a page's list of starts says, or where none is named as the world does; the pixel frames."""
        pixels = self._session.reset(self._listed(start), seed or 0)
        self._thumbnails.clear()
        self._thumbnails.note(0, self._session.num_frames, pixels)
        self._timed_frames, self._timed_seconds = self._session.num_frames, self._session.memory_seconds
        return pixels

    def _listed(self, start: int | None) -> int | None:
        """The session's start that a page lists there: before the clips stands FROM_NOTHING, in worlds that begin so."""
        checkpoint = self._session.checkpoint
        if start is None or checkpoint.manifest.beginning != "nothing":
            return start
        return start - 1 if start and checkpoint.starts is not None else None

    def step(self, action: np.ndarray) -> np.ndarray:
        """Denoise and decode the next frame."""
        first = self._session.num_frames
        pixels = self._session.step(action)
        self._thumbnails.note(first, self._session.num_frames - first, pixels)
        # Where no page asks for strips, pictures of frames that are gone must not pile up.
        store = self._session.store
        if len(self._thumbnails) > 2 * most_frames(store):
            self._thumbnails.keep(slot_contents(store), shelved_frames(store))
        return pixels

    def say(self, words: Any, switch: "PromptSwitch") -> None:
        """Embeddings of another prompt and of the negative one, from the next frame on."""
        text, negative = words
        self._session.say(text, negative, switch)

    def commit(self) -> None:
        """Write the last frame into memory."""
        self._session.commit()
        frames, seconds = self._session.num_frames, self._session.memory_seconds
        if frames > self._timed_frames:
            self._memory_times.add((seconds - self._timed_seconds) / (frames - self._timed_frames))
        self._timed_frames, self._timed_seconds = frames, seconds

    def strip(self) -> Strip:
        """The session's slots, with the pictures that were shown of them and those of the start's context."""
        slots = slot_contents(self._session.store)
        self._thumbnails.keep(slots, shelved_frames(self._session.store))
        return Strip(slots, self._thumbnails.coded(), self._session.codec.temporal_stride / self.world.content_rate)

    def close(self) -> None:
        """A session holds nothing outside itself."""


@dataclass(frozen=True)
class RealStart:
    """A place in the real world: the episode's seed, and the actions (vectors `[n, dim]`) that lead there."""

    seed: int
    actions: tuple[tuple[float, ...], ...] = ()


class RealSource:
    """The real world: a Gymnasium environment that gives uint8 pictures. With `starts` it begins where the learned one does."""

    stride = 1
    memory_bytes, memory_ms = 0, 0.0

    def __init__(self, environment: Any, world: WorldSpec, starts: tuple[RealStart, ...] = ()) -> None:
        self._environment, self.world, self._starts = environment, world, starts
        self._seed = 0

    def reset(self, start: int | None, seed: int | None) -> np.ndarray:
        """A new episode; where starts are known, their actions are replayed and the frames on the way returned."""
        if not self._starts:
            self._seed = seed if seed is not None else self._seed + 1
            return self._begin()[None]
        place = self._starts[(start or 0) % len(self._starts)]
        self._seed = place.seed
        frames = [self._begin()] + [self.step(np.asarray(action, np.float32))[0] for action in place.actions]
        return np.stack(frames)

    def step(self, action: np.ndarray) -> np.ndarray:
        """One step of the environment; an episode that ends is followed by the next one."""
        frame, _, terminated, truncated, _ = self._environment.step(self.world.actions.decode(action))
        if terminated or truncated:
            self._seed += 1
            frame = self._begin()
        return np.asarray(frame, np.uint8)[None]

    def _begin(self) -> np.ndarray:
        frame, _ = self._environment.reset(seed=self._seed)
        return np.asarray(frame, np.uint8)

    def say(self, words: Any, switch: "PromptSwitch") -> None:
        """The real world cannot be told what to be."""
        raise ConfigError(f"the real world '{self.world.name}' is not told in words what to show")

    def commit(self) -> None:
        """The real world remembers by itself."""

    def strip(self) -> Strip:
        """No slots."""
        return Strip()

    def close(self) -> None:
        """Close the environment."""
        self._environment.close()


class FakeSource:
    """A bright square on a dark ground that the keys move: fast, exact, and easy to recognise in a screenshot."""

    ACTIONS = ActionSpec("multi_binary", ("forward", "backward", "turn_left", "turn_right"))
    MOVES = {"forward": (0, -1), "backward": (0, 1), "turn_left": (-1, 0), "turn_right": (1, 0)}
    BACKGROUND, SQUARE = (24, 32, 56), (240, 220, 120)

    def __init__(self, *, height: int = 48, width: int = 64, rate: float = 17.5, stride: int = 1, speed: int = 2, side: int = 8) -> None:
        self.world = WorldSpec("fake", height, width, rate, self.ACTIONS)
        self.stride, self._speed, self._side = stride, speed, side
        self.commits, self.memory_bytes, self.memory_ms, self.closed = 0, 0, 0.0, False
        self.said: list[tuple[Any, PromptSwitch]] = []
        self.reset(0, 0)

    def reset(self, start: int | None, seed: int | None) -> np.ndarray:
        """The square in the middle; start k is k squares further right."""
        self.x = (self.world.width - self._side) // 2 + (start or 0) * self._side
        self.y = (self.world.height - self._side) // 2
        return self._draw()[None]

    def step(self, action: np.ndarray) -> np.ndarray:
        """Move by `speed` pixels per pixel frame in each direction that is held, up to the edge."""
        if action.shape != (self.ACTIONS.dim,):
            raise ConfigError(f"an action of shape {action.shape}; the fake world takes ({self.ACTIONS.dim},)")
        frames = []
        for _ in range(self.stride):
            for value, (x, y) in zip(action, self.MOVES.values(), strict=True):
                self.x = min(max(self.x + int(value) * x * self._speed, 0), self.world.width - self._side)
                self.y = min(max(self.y + int(value) * y * self._speed, 0), self.world.height - self._side)
            frames.append(self._draw())
        return np.stack(frames)

    def _draw(self) -> np.ndarray:
        frame = np.empty((self.world.height, self.world.width, 3), np.uint8)
        frame[:] = self.BACKGROUND
        frame[self.y : self.y + self._side, self.x : self.x + self._side] = self.SQUARE
        return frame

    def say(self, words: Any, switch: "PromptSwitch") -> None:
        """Note what was said."""
        self.said.append((words, switch))

    def commit(self) -> None:
        """Count the call."""
        self.commits += 1

    def strip(self) -> Strip:
        """No slots."""
        return Strip()

    def close(self) -> None:
        """Note the call."""
        self.closed = True
