"""The commands that launch what `mutoscope plan --gpu-memory` proposes, and the whole recipe as one plan."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mutoscope.memory.policy import DeepSink, PolicyConfig, RecencyBias, RollingWindow, SinkWindow, Window, policy_name
from mutoscope.models.wan_config import WanCodecConfig
from mutoscope.train.config import RunConfig
from mutoscope.train.placement import PLAIN, Placement

OWN_CLIPS = ("--data", "CLIPS/train", "--held-out", "CLIPS/held-out")  # as `mutoscope prepare --output CLIPS` leaves them


@dataclass(frozen=True)
class Launch:
    """What is to be launched: a recipe with the changes that were asked for, and of it the run that they make."""

    recipe: str
    asked: tuple[str, ...]
    run: RunConfig

    def train(self, stages: Sequence[str], changes: Sequence[str], placement: Placement, processes: int) -> str:
        """The command that trains some stages (all where none is named), ready for a shell."""
        parts = ["torchrun", "--nproc-per-node", str(processes), "-m"] if processes > 1 else []
        parts += ["mutoscope", "train", self.recipe]
        parts += ["--stages", *stages] if stages else []
        parts += ["--set", *self.asked, *changes] if self.asked or changes else []
        parts += placement_options(placement)
        parts += OWN_CLIPS if isinstance(self.run.codec, WanCodecConfig) else ()
        return shlex.join(parts)


def placement_options(placement: Placement) -> list[str]:
    """The options of `mutoscope train` that lay it out so."""
    parts = []
    if placement.weights != PLAIN.weights:
        parts += ["--placement.weights", placement.weights]
    if placement.activations != PLAIN.activations:
        parts += ["--placement.activations", placement.activations]
    if placement.off_load:
        parts += ["--placement.off-load", *placement.off_load]
    return parts


def memory_option(policy: PolicyConfig) -> str:
    """`--memory window:window=14`, for the policies of which fewer frames are proposed."""
    sized: tuple[type, ...] = (Window, SinkWindow, RecencyBias, RollingWindow, DeepSink)
    assert isinstance(policy, sized)
    return f"--memory {policy_name(policy)}:{','.join(f'{name}={value}' for name, value in vars(policy).items())}"


@dataclass(frozen=True)
class Whole:
    """A recipe on one size of memory: its stages' names, seconds and updates in order, and commands; or what does not fit."""

    memory_gib: float
    clip_frames: int
    stages: tuple[tuple[str, float, int], ...]
    missing: tuple[str, ...]
    commands: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Of all updates of all stages."""
        return sum(seconds * updates for _, seconds, updates in self.stages)

    def plain(self) -> dict[str, Any]:
        """As it stands in a results file."""
        stages = [{"name": name, "seconds": seconds, "updates": updates} for name, seconds, updates in self.stages]
        told = {"memory_gib": self.memory_gib, "clip_frames": self.clip_frames, "stages": stages, "missing": list(self.missing)}
        return {**told, "total_seconds": self.seconds, "commands": list(self.commands)}


def seconds(amount: float) -> str:
    """0.0123 -> "12.3 ms", 441.2 -> "441 s", 4000 -> "67 min", 4.4e6 -> "51 days"."""
    if amount < 1:
        return f"{1e3 * amount:.1f} ms"
    for unit, size, most in (("s", 1, 600), ("min", 60, 7200), ("hours", 3600, 172800)):
        if amount < most:
            return f"{amount:.1f} s" if amount < 10 else f"{amount / size:.0f} {unit}"
    return f"{amount / 86400:,.0f} days"
