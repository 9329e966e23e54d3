"""Kinds of learned memory, as configurations: when they are written and how large they are. No torch here."""

from dataclasses import dataclass
from typing import Literal

from mutoscope.core.errors import ConfigError

WrittenAt = Literal["eviction", "commit"]
MemoryWrites = Literal["frozen", "taught"]


@dataclass(frozen=True)
class LinearState:
    """Linear attention over all frames that the cache gave up: one matrix and one vector per layer and head (Hybrid Forcing)."""

    @property
    def written_at(self) -> WrittenAt:
        """A frame enters when it is evicted, so that cache and state never hold the same frame."""
        return "eviction"

    def floats(self, head_dim: int) -> int:
        """Numbers of one layer and head."""
        return head_dim * (head_dim + 1)


@dataclass(frozen=True)
class GatedDelta:
    """A linear state that forgets: what a key says replaces what it said before, and all of it decays (SANA-WM)."""

    @property
    def written_at(self) -> WrittenAt:
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
        if self.hidden < 1:
            raise ConfigError(f"fast weights need a hidden width of at least 1, got {self.hidden}")

    @property
    def written_at(self) -> WrittenAt:
        """Every chunk is learned by its own commit, whether or not the cache still holds it."""
        return "commit"

    @property
    def inner_rows(self) -> int:
        """Rows of the matrix that keys enter, in multiples of the head's channels: SwiGLU has its gate and its up side by side."""
        return self.hidden if self.form == "mlp" else 2 * self.hidden

    def floats(self, head_dim: int) -> int:
        """Numbers of one layer and head."""
        return (self.inner_rows + self.hidden) * head_dim**2


StateConfig = LinearState | GatedDelta | FastWeights


STATES: dict[str, StateConfig] = {
    "linear": LinearState(),
    "gated-delta": GatedDelta(),
    "fast-mlp": FastWeights("mlp"),
    "fast-swiglu": FastWeights("swiglu"),
}


def state_name(state: StateConfig) -> str:
    """The registry's name of a kind of state, whatever its size."""
    if isinstance(state, FastWeights):
        return f"fast-{state.form}"
    return next(name for name, known in STATES.items() if isinstance(state, type(known)))
