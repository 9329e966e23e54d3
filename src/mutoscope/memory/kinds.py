"""Kinds of learned memory, as configurations: when they are written, from which pass, and how large they are. No torch here."""

from dataclasses import dataclass
from typing import Literal

from mutoscope.core.config import added_later
from mutoscope.core.errors import ConfigError

WrittenAt = Literal["eviction", "chunk"]
MemoryWrites = Literal["frozen", "taught"]
# Whose keys and values enter. "commit": those of the pass at sigma 0. "last pass": those of the chunk's last denoising pass, under its own
# conditions; frames that nobody denoised, a world's real beginning, have their commit alone and enter by it.
WrittenFrom = Literal["commit", "last pass"]


@dataclass(frozen=True)
class LinearState:
    """Linear attention over all frames that the cache gave up: one matrix and one vector per layer and head (Hybrid Forcing)."""

    written_from: WrittenFrom = added_later("commit")

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

    written_from: WrittenFrom = added_later("commit")

    @property
    def written_at(self) -> WrittenAt:
        """A frame enters when it is evicted."""
        return "eviction"

    def floats(self, head_dim: int) -> int:
        """Numbers of one layer and head."""
        return head_dim * (head_dim + 1)


@dataclass(frozen=True)
class FastWeights:
    """A small network per layer and head whose weights are the memory: one gradient step per chunk (TTT, 2407.04620; LaCT, 2505.23884).

    `form`: "mlp" is two layers, "swiglu" LaCT's three matrices; `hidden` is their width in multiples of the head's channels.
    """

    form: Literal["mlp", "swiglu"] = "swiglu"
    hidden: int = 1
    written_from: WrittenFrom = added_later("commit")

    def __post_init__(self) -> None:
        if self.hidden < 1:
            raise ConfigError(f"fast weights need a hidden width of at least 1, got {self.hidden}")

    @property
    def written_at(self) -> WrittenAt:
        """Every chunk is learned as it is made (by its commit, or by its last pass), whether or not the cache still holds it."""
        return "chunk"

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
    """The registry's name of a kind of state, whatever its size and whichever pass writes it."""
    if isinstance(state, FastWeights):
        return f"fast-{state.form}"
    return next(name for name, known in STATES.items() if isinstance(state, type(known)))
