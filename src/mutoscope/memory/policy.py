"""Which frames to remember, as integers. No torch here: policies are tested against brute force in microseconds.

Published window sizes count the chunk that is being denoised; so do these.
Positions are frame indices in time; what attention sees are their differences.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

from mutoscope.core.errors import CapacityError, ConfigError, choose
from mutoscope.memory.anchored import Anchored
from mutoscope.memory.choosing import Different, Merging, Participative, Retrieval
from mutoscope.memory.frames import Blend, Chunk, Policy, Source, at_least_one, fits
from mutoscope.memory.heads import HeadTable, HeadWise
from mutoscope.memory.kinds import StateConfig, state_name


@dataclass(frozen=True)
class Full:
    """Keep everything up to `frames`; beyond that a CapacityError, never silence."""

    frames: int

    def __post_init__(self) -> None:
        at_least_one("frames", self.frames)

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
        at_least_one("window", self.window)

    @classmethod
    def of_frames(cls, frames: int) -> "Window":
        """A window of `frames` in all."""
        return cls(frames)

    def capacity(self, max_chunk: int) -> int:
        """`window` slots."""
        return fits(self.window, max_chunk, "window")

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
        at_least_one("sink", self.sink)
        at_least_one("window", self.window)

    @classmethod
    def of_frames(cls, frames: int) -> "SinkWindow":
        """One sink, and a window of the rest: `frames` in all."""
        return cls(1, frames - 1)

    def capacity(self, max_chunk: int) -> int:
        """`sink + window` slots."""
        return self.sink + fits(self.window, max_chunk, "sink + window")

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
class DeepSink:
    """About half of the cache are sinks, 10 of 21 as published; they stand right before the window (Deep Forcing)."""

    frames: int = 21

    def __post_init__(self) -> None:
        if self.frames < 2:
            raise ConfigError(f"a memory policy needs frames of at least 2 to hold a sink and a window, got {self.frames}")

    @classmethod
    def of_frames(cls, frames: int) -> "DeepSink":
        """`frames` in all."""
        return cls(frames)

    @property
    def parts(self) -> SinkWindow:
        """Sinks and window."""
        sink = max(1, round(self.frames * 10 / 21))
        return SinkWindow(sink, self.frames - sink)

    def capacity(self, max_chunk: int) -> int:
        """`frames` slots."""
        return self.parts.capacity(max_chunk)

    def past(self, chunk: Chunk, remembered: tuple[int, ...]) -> tuple[Source, ...]:
        """Sinks, then the newest frames."""
        return self.parts.past(chunk, remembered)


@dataclass(frozen=True)
class EmaSink:
    """Sinks that take in what leaves the window: sink <- a sink + (1 - a) evicted (Reward Forcing).

    `decay` is a per chunk of three frames, as published; a frame enters the sink of its number modulo `sink` with a^(1/3).
    """

    sink: int = 3
    window: int = 6
    decay: float = 0.999

    def __post_init__(self) -> None:
        at_least_one("sink", self.sink)
        at_least_one("window", self.window)
        if not 0 <= self.decay <= 1:
            raise ConfigError(f"a memory policy's decay must be in 0 .. 1, got {self.decay}")

    @classmethod
    def of_frames(cls, frames: int) -> "EmaSink":
        """A third of `frames` are sinks."""
        sink = max(1, frames // 3)
        return cls(sink, frames - sink)

    def capacity(self, max_chunk: int) -> int:
        """`sink + window` slots."""
        return SinkWindow(self.sink, self.window).capacity(max_chunk)

    def past(self, chunk: Chunk, remembered: tuple[int, ...]) -> tuple[Source, ...]:
        """Sinks right before the newest frames."""
        return SinkWindow(self.sink, self.window).past(chunk, remembered)

    def blend(self, frame: int) -> Blend:
        """Where an evicted frame goes."""
        return Blend(frame, frame % self.sink, self.decay ** (1 / 3))


@dataclass(frozen=True)
class RollingWindow:
    """A window whose positions are places in the cache, the chunk last, whatever the frames' numbers (Infinity-RoPE).

    Rotary positions being relative, it attends exactly as `window` does (tested); but no position ever leaves 0 .. frames - 1, so that a
    model with a table of positions (Wan's ends at 1,024) plays on for ever. It pays with turning all keys at every chunk.
    """

    frames: int = 6

    def __post_init__(self) -> None:
        at_least_one("frames", self.frames)

    @classmethod
    def of_frames(cls, frames: int) -> "RollingWindow":
        """`frames` in all."""
        return cls(frames)

    def capacity(self, max_chunk: int) -> int:
        """`frames` slots."""
        return fits(self.frames, max_chunk, "rolling")

    def past(self, chunk: Chunk, remembered: tuple[int, ...]) -> tuple[Source, ...]:
        """The newest frames, numbered from 0."""
        keep = self.frames - chunk.length
        kept = remembered[-keep:] if keep > 0 else ()
        return tuple(Source(frame, place) for place, frame in enumerate(kept))


@dataclass(frozen=True)
class RecencyBias:
    """A window in which older frames speak softly: logits - strength x^power, x = (distance - 3) / 12; the last 3 frames are unbiased."""

    window: int = 21
    strength: float = 12.0
    power: float = 1.0

    def __post_init__(self) -> None:
        at_least_one("window", self.window)
        if not (self.strength >= 0 and self.power > 0):
            raise ConfigError(f"a recency bias needs strength >= 0 and power > 0, got {self.strength} and {self.power}")

    @classmethod
    def of_frames(cls, frames: int) -> "RecencyBias":
        """`frames` in all."""
        return cls(frames)

    def capacity(self, max_chunk: int) -> int:
        """`window` slots."""
        return fits(self.window, max_chunk, "recency")

    def past(self, chunk: Chunk, remembered: tuple[int, ...]) -> tuple[Source, ...]:
        """The newest frames, with their biases; distances count from the chunk's first frame."""
        kept = Window(self.window).past(chunk, remembered)
        return tuple(replace(source, bias=self.bias(chunk.start - source.frame)) for source in kept)

    def bias(self, distance: int) -> float:
        """What is added to the logits of a frame so many frames ago."""
        return -self.strength * max(0.0, (distance - UNBIASED_FRAMES) / BIAS_FRAMES) ** self.power


UNBIASED_FRAMES, BIAS_FRAMES = 3, 12


@dataclass(frozen=True)
class Stateful:
    """A cache of frames, and beside it a state of constant size for what the frames told. A cache of one chunk leaves the state alone."""

    cache: "WindowedConfig"
    state: StateConfig

    def capacity(self, max_chunk: int) -> int:
        """The cache's slots: the state needs none."""
        return self.cache.capacity(max_chunk)

    def past(self, chunk: Chunk, remembered: tuple[int, ...]) -> tuple[Source, ...]:
        """The cache's sources."""
        return self.cache.past(chunk, remembered)


WindowedConfig = Window | SinkWindow | DeepSink | RollingWindow | RecencyBias | Anchored
ChoosingConfig = Participative | Retrieval | Merging | Different
ContentConfig = ChoosingConfig | HeadWise  # what is remembered is known once it is played, row by row
CacheConfig = Full | WindowedConfig | EmaSink | ChoosingConfig
LedgerConfig = CacheConfig | Stateful  # one ledger for all heads
PolicyConfig = LedgerConfig | HeadWise


def for_frames(policy: PolicyConfig, frames: int) -> PolicyConfig:
    """The same memory for a stream of at most so many frames: a window, or room for all, without slots that it would never fill."""
    if isinstance(policy, Window) and policy.window > frames:
        return Window(frames)
    return Full(frames) if isinstance(policy, Full) and policy.frames > frames else policy


AnyPolicy = Policy | ChoosingConfig
AnyMemory = AnyPolicy | HeadWise
POLICIES: dict[str, type[CacheConfig] | type[HeadWise]] = {
    "full": Full,
    "window": Window,
    "sink": SinkWindow,
    "deep-sink": DeepSink,
    "ema-sink": EmaSink,
    "rolling": RollingWindow,
    "recency": RecencyBias,
    "anchored": Anchored,
    "participative": Participative,
    "retrieval": Retrieval,
    "merging": Merging,
    "different": Different,
    "head-wise": HeadWise,
}


def state_of(policy: "PolicyConfig") -> StateConfig | None:
    """The state that a policy keeps beside its frames, None if it keeps none."""
    return policy.state if isinstance(policy, Stateful) else None


def cache_of(policy: AnyMemory) -> AnyMemory:
    """The part of a policy that keeps frames."""
    return policy.cache if isinstance(policy, Stateful) else policy


def head_parts(policy: HeadWise, layers: int, heads: int) -> tuple[tuple[SinkWindow | Different, HeadTable], ...]:
    """The head groups of a model: how each remembers, and its heads in every layer; a group without heads is none."""
    static, dynamic = policy.groups(layers, heads)
    parts = ((SinkWindow(policy.sink, policy.window), static), (policy.dynamic, dynamic))
    return tuple((part, table) for part, table in parts if table[0])


def training_base(policy: ContentConfig) -> SinkWindow | Window:
    """What to train under for a policy that chooses by content: the same sinks and slots, or the same window, without a choice."""
    if isinstance(policy, Retrieval):
        return Window(policy.window)
    if isinstance(policy, (Merging, Different, HeadWise)):
        return Window(policy.frames)
    slots = policy.budget + policy.room
    return SinkWindow(policy.sink, slots - policy.sink) if policy.sink else Window(slots)


def integer_base(policy: AnyMemory) -> Policy:
    """A policy, or what it is without its choice by content."""
    return training_base(policy) if isinstance(policy, ContentConfig) else policy


def sinks_of(policy: AnyPolicy) -> int:
    """How many of the first frames are never given up."""
    match cache_of(policy):
        case SinkWindow(sink=sink) | EmaSink(sink=sink) | Participative(sink=sink) | Anchored(sink=sink):
            return sink
        case DeepSink(parts=parts):
            return parts.sink
    return 0


def archive_bytes(policy: AnyPolicy) -> int:
    """What one player's archive on the host may take."""
    return policy.host_bytes if isinstance(policy, Retrieval) else 0


def blends_of(policy: AnyPolicy, evicted: tuple[int, ...]) -> tuple[Blend, ...]:
    """What a policy makes of the frames that it gives up: nothing, but for sinks that take them in."""
    return tuple(policy.blend(frame) for frame in evicted) if isinstance(policy, EmaSink) else ()


def chunk_position(policy: AnyPolicy, chunk: Chunk, sources: tuple[Source, ...]) -> int:
    """The temporal position of a chunk's first frame: its index, but for policies that number the places in the cache."""
    return len(sources) if isinstance(cache_of(policy), RollingWindow) else chunk.start


def moving_slots(policy: AnyPolicy, slots: int) -> int:
    """Leading slots whose frames may change position or content, and so keep their unrotated keys."""
    match cache_of(policy):
        case SinkWindow(sink=sink):
            return sink
        case DeepSink(parts=parts):
            return parts.sink
        case EmaSink() | RollingWindow() | Participative() | Retrieval() | Merging() | Different() | Anchored():
            return slots
    return 0


def policy_by_name(name: str, **sizes: Any) -> CacheConfig | HeadWise:
    """`policy_by_name("window", window=16)`; unknown names and sizes are a ConfigError that lists the known ones."""
    kind = choose(POLICIES, name, "memory policy")
    types = {field.name: field.type for field in fields(kind)}
    if broken := [f"{size}={value}" for size, value in sizes.items() if types.get(size) is int and not isinstance(value, int)]:
        raise ConfigError(f"memory policy '{name}': {', '.join(broken)} must be a whole number of frames")
    if broken := [f"{size}={value}" for size, value in sizes.items() if types.get(size) is float and isinstance(value, str)]:
        raise ConfigError(f"memory policy '{name}': {', '.join(broken)} must be a number")
    try:
        return kind(**sizes)
    except TypeError as error:
        raise ConfigError(f"memory policy '{name}' takes {', '.join(field.name for field in fields(kind))}, got {sizes}") from error


def policy_name(policy: PolicyConfig) -> str:
    """The registry's name of a policy; a state's stands behind a plus sign: "window+linear"."""
    name = next(name for name, kind in POLICIES.items() if isinstance(cache_of(policy), kind))
    state = state_of(policy)
    return name if state is None else f"{name}+{state_name(state)}"
