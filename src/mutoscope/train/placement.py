"""Where the numbers of a training lie: over processes, on the host, or nowhere until they are computed again."""

from dataclasses import dataclass
from typing import Literal

from mutoscope.core.errors import ConfigError

OffLoaded = Literal["optimiser", "frozen models"]


@dataclass(frozen=True)
class Placement:
    """How a stage is laid out over processes and memory.

    It belongs to a launch and not to a recipe, and no hash knows it: it changes no result beyond rounding, and a run begun under one
    placement goes on under another.
    """

    weights: Literal["replicated", "sharded"] = "replicated"
    """replicated: every process holds all models. sharded: every process holds its part of each (FSDP2)."""
    activations: Literal["kept", "recomputed"] = "kept"
    """kept: until the backward pass. recomputed: of each block only its input is kept (activation checkpointing)."""
    off_load: tuple[OffLoaded, ...] = ()
    """What waits on the host while it is not used."""
    clip_processes: int = 1
    """Processes that share the frames of one clip (sequence parallelism); it divides the processes and the heads."""

    @property
    def together(self) -> bool:
        """Whether a model's pass takes all processes: whoever asks for one alone waits for ever."""
        return self.weights == "sharded" or self.clip_processes > 1

    def __post_init__(self) -> None:
        if self.clip_processes < 1:
            raise ConfigError(f"clip_processes must be at least 1, got {self.clip_processes}")
        if len(set(self.off_load)) < len(self.off_load):
            raise ConfigError(f"off_load names something twice: {', '.join(self.off_load)}")


PLAIN = Placement()
