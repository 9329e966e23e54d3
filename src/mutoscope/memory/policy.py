"""Which frames to remember, as integers. No torch here: policies are tested against brute force in microseconds.

Published window sizes count the chunk that is being denoised; so do these.
Positions are frame indices in time; what attention sees are their differences.
"""

from dataclasses import dataclass, fields
from typing import Literal, Protocol

from mutoscope.core.errors import CapacityError, ConfigError, choose


@dataclass(frozen=True)
class Source:
    """One frame of keys and values that a pass may read: which frame, and at which temporal position it stands."""

    frame: int
    position: int


@dataclass(frozen=True)
class Chunk:
    """The frames `start .. start + length - 1` that are denoised together, at positions equal to their indices."""

    start: int
    length: int

    @property
    def frames(self) -> range:
        """Their indices."""
        return range(self.start, self.start + self.length)


class Policy(Protocol):
    """Decides from integers alone what a chunk's passes may read, for denoising and for its commit alike."""

    def capacity(self, max_chunk: int) -> int:
        """Slots needed in all, the chunk's own included, when no chunk is longer than `max_chunk`."""
        ...

    def past(self, chunk: Chunk, remembered: tuple[int, ...]) -> tuple[Source, ...]:
        """Ordered key sources of `chunk` among the frames still remembered. What it leaves out is evicted for good."""
        ...


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"a memory policy needs {name} of at least 1, got {value}")


@dataclass(frozen=True)
class Full:
    """Keep everything up to `frames`; beyond that a CapacityError, never silence."""

    frames: int

    def __post_init__(self) -> None:
        _at_least_one("frames", self.frames)

    @classmethod
    def of_frames(cls, frames: int) -> "Full":
        """Room for `frames` in all."""
        return cls(frames)

    def capacity(self, max_chunk: int) -> int:
        """As declared."""
        return self.frames

    def past(self, chunk: Chunk, remembered: tuple[int, ...]) -> tuple[Source, ...]:
        """Every remembered frame, where it stood."""
        if len(remembered) + chunk.length > self.frames:
            raise CapacityError(
                f"the memory 'full' holds {self.frames} frames and frame {chunk.start + chunk.length - 1} does not fit; "
                "use 'window' or 'sink' to play on, or declare more frames"
            )
        return tuple(Source(frame, frame) for frame in remembered)


@dataclass(frozen=True)
class Window:
    """Keep the last `window` frames, the chunk being denoised included."""

    window: int

    def __post_init__(self) -> None:
        _at_least_one("window", self.window)

    @classmethod
    def of_frames(cls, frames: int) -> "Window":
        """A window of `frames` in all."""
        return cls(frames)

    def capacity(self, max_chunk: int) -> int:
        """`window` slots."""
        return _fits(self.window, max_chunk, "window")

    def past(self, chunk: Chunk, remembered: tuple[int, ...]) -> tuple[Source, ...]:
        """The newest `window - chunk.length` frames."""
        keep = self.window - chunk.length
        return tuple(Source(frame, frame) for frame in (remembered[-keep:] if keep > 0 else ()))


@dataclass(frozen=True)
class SinkWindow:
    """Keep the first `sink` frames and the last `window`; positions are places in the cache (StreamingLLM; LongLive, 2509.22622).

    Once frames between sink and window are gone, sink i stands right before the window, as if nothing had been
    there, so that no distance grows beyond sink + window. The window's own positions never change.
    """

    sink: int
    window: int

    def __post_init__(self) -> None:
        _at_least_one("sink", self.sink)
        _at_least_one("window", self.window)

    @classmethod
    def of_frames(cls, frames: int) -> "SinkWindow":
        """One sink, and a window of the rest: `frames` in all."""
        return cls(1, frames - 1)

    def capacity(self, max_chunk: int) -> int:
        """`sink + window` slots."""
        return self.sink + _fits(self.window, max_chunk, "sink + window")

    def past(self, chunk: Chunk, remembered: tuple[int, ...]) -> tuple[Source, ...]:
        """Sinks first, then the newest `window - chunk.length` other frames."""
        sinks = [frame for frame in remembered if frame < self.sink]
        others = [frame for frame in remembered if frame >= self.sink]
        keep = self.window - chunk.length
        recent = others[-keep:] if keep > 0 else []
        first = recent[0] if recent else chunk.start
        moved = [Source(frame, first - len(sinks) + place) for place, frame in enumerate(sinks)]
        return (*moved, *(Source(frame, frame) for frame in recent))


@dataclass(frozen=True)
class LinearState:
    """Linear attention over all frames that the cache gave up: one matrix and one vector per layer and head (Hybrid Forcing)."""

    @property
    def written_at(self) -> "WrittenAt":
        """A frame enters when it is evicted, so that cache and state never hold the same frame."""
        return "eviction"

    def floats(self, head_dim: int) -> int:
        """Numbers of one layer and head."""
        return head_dim * (head_dim + 1)


@dataclass(frozen=True)
class GatedDelta:
    """A linear state that forgets: what a key says replaces what it said before, and all of it decays (SANA-WM)."""

    @property
    def written_at(self) -> "WrittenAt":
        """A frame enters when it is evicted."""
        return "eviction"

    def floats(self, head_dim: int) -> int:
        """Numbers of one layer and head."""
        return head_dim * (head_dim + 1)


@dataclass(frozen=True)
class FastWeights:
    """A small network per layer and head whose weights are the memory: one gradient step per commit (TTT, 2407.04620; LaCT, 2505.23884).

    `form`: "mlp" is two layers, "swiglu" LaCT's three matrices; `hidden` is their width in multiples of the head's channels.
    """

    form: Literal["mlp", "swiglu"] = "swiglu"
    hidden: int = 2

    def __post_init__(self) -> None:
        _at_least_one("hidden", self.hidden)

    @property
    def written_at(self) -> "WrittenAt":
        """Every chunk is learned by its own commit, whether or not the cache still holds it."""
        return "commit"

    @property
    def matrices(self) -> int:
        """Matrices of `hidden * head_dim x head_dim` numbers."""
        return 2 if self.form == "mlp" else 3

    def floats(self, head_dim: int) -> int:
        """Numbers of one layer and head."""
        return self.matrices * self.hidden * head_dim**2


WrittenAt = Literal["eviction", "commit"]
StateConfig = LinearState | GatedDelta | FastWeights


@dataclass(frozen=True)
class Stateful:
    """A cache of frames, and beside it a state of constant size for what the frames told. A cache of one chunk leaves the state alone."""

    cache: Window | SinkWindow
    state: StateConfig

    def capacity(self, max_chunk: int) -> int:
        """The cache's slots: the state needs none."""
        return self.cache.capacity(max_chunk)

    def past(self, chunk: Chunk, remembered: tuple[int, ...]) -> tuple[Source, ...]:
        """The cache's sources."""
        return self.cache.past(chunk, remembered)


PolicyConfig = Full | Window | SinkWindow | Stateful
POLICIES: dict[str, type[Full] | type[Window] | type[SinkWindow]] = {"full": Full, "window": Window, "sink": SinkWindow}
STATES: dict[str, StateConfig] = {
    "linear": LinearState(),
    "gated-delta": GatedDelta(),
    "fast-mlp": FastWeights("mlp"),
    "fast-swiglu": FastWeights("swiglu"),
}


def state_of(policy: "PolicyConfig") -> StateConfig | None:
    """The state that a policy keeps beside its frames, None if it keeps none."""
    return policy.state if isinstance(policy, Stateful) else None


def cache_of(policy: "PolicyConfig") -> Full | Window | SinkWindow:
    """The part of a policy that keeps frames."""
    return policy.cache if isinstance(policy, Stateful) else policy


def policy_by_name(name: str, **sizes: int) -> Full | Window | SinkWindow:
    """`policy_by_name("window", window=16)`; unknown names and sizes are a ConfigError that lists the known ones."""
    kind = choose(POLICIES, name, "memory policy")
    try:
        return kind(**sizes)
    except TypeError as error:
        raise ConfigError(f"memory policy '{name}' takes {', '.join(field.name for field in fields(kind))}, got {sizes}") from error


def policy_name(policy: PolicyConfig) -> str:
    """The registry's name of a policy; a state's stands behind a plus sign: "window+linear"."""
    name = next(name for name, kind in POLICIES.items() if isinstance(cache_of(policy), kind))
    state = state_of(policy)
    return name if state is None else f"{name}+{state_name(state)}"


def state_name(state: StateConfig) -> str:
    """The registry's name of a kind of state, whatever its size."""
    if isinstance(state, FastWeights):
        return f"fast-{state.form}"
    return next(name for name, known in STATES.items() if isinstance(state, type(known)))


def _fits(window: int, max_chunk: int, name: str) -> int:
    if max_chunk > window:
        raise ConfigError(f"a memory '{name}' of {window} frames cannot hold a chunk of {max_chunk}; make the window longer")
    return window
