"""What can be played: named choices, each of which makes a pane source. The command line fills it; the server only reads it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from mutoscope.core.errors import ConfigError, choose
from mutoscope.core.world import WorldSpec
from mutoscope.serve.prompts import PromptBook
from mutoscope.serve.sources import PaneSource
from mutoscope.serve.wire import PaneRequest

T = TypeVar("T")


@dataclass(frozen=True)
class PaneOptions:
    """What a page may choose about a pane; None where a choice has nothing to choose from."""

    steps: int | None = None
    policy: str | None = None


@dataclass(frozen=True)
class PaneChoice:
    """One entry: a world with a label, the options it has (first = default), the names of its starts, and its maker;
    `prompts` where it is told in words what to show. `opening`: the start that a page opens with; None is one drawn at random."""

    id: str
    label: str
    kind: Literal["real", "learned", "fake"]
    world: WorldSpec
    make_source: Callable[[PaneOptions], PaneSource]
    steps: tuple[int, ...] = ()
    policies: tuple[str, ...] = ()
    starts: tuple[str, ...] = ()
    note: str = ""
    prompts: PromptBook | None = None
    opening: int | None = None

    def options(self, request: PaneRequest) -> PaneOptions:
        """The request's options, checked; what it leaves open becomes the default."""
        steps = _pick(request.steps, self.steps, f"steps of '{self.label}'")
        policy = _pick(request.policy, self.policies, f"memory policy of '{self.label}'")
        return PaneOptions(steps, policy)

    def describe(self) -> dict:
        """As plain data, for the page."""
        return {
            "id": self.id,
            "label": self.label,
            "kind": self.kind,
            "world": self.world.name,
            "height": self.world.height,
            "width": self.world.width,
            "rate": self.world.content_rate,
            "steps": list(self.steps),
            "policies": list(self.policies),
            "starts": list(self.starts),
            "note": self.note,
            "prompts": None if self.prompts is None else self.prompts.describe(),
        }


@dataclass(frozen=True)
class Catalogue:
    """All choices, and the panes that a page opens first."""

    choices: tuple[PaneChoice, ...]
    panes: tuple[PaneRequest, ...]
    title: str = "Mutoscope"

    def __post_init__(self) -> None:
        if not self.choices or not self.panes:
            raise ConfigError("there is nothing to play: a catalogue needs at least one choice and one pane")
        if len({choice.id for choice in self.choices}) < len(self.choices):
            raise ConfigError(f"the ids of a catalogue must be distinct, got {[choice.id for choice in self.choices]}")
        self.match(self.panes)

    def match(self, requests: tuple[PaneRequest, ...]) -> tuple[tuple[PaneChoice, PaneOptions], ...]:
        """Choice and options of each requested pane; all panes of one page keep one content rate."""
        table = {choice.id: choice for choice in self.choices}
        found = [(choose(table, request.choice, "world"), request) for request in requests]
        rates = {choice.world.content_rate for choice, _ in found}
        if len(rates) > 1:
            raise ConfigError(f"worlds side by side must have one content rate, these have {sorted(rates)} frames/s; choose others")
        return tuple((choice, choice.options(request)) for choice, request in found)

    def describe(self) -> dict:
        """As plain data, for the page."""
        panes = [{"choice": pane.choice, "steps": pane.steps, "policy": pane.policy} for pane in self.panes]
        return {"title": self.title, "choices": [choice.describe() for choice in self.choices], "panes": panes}


def _pick(value: T | None, allowed: tuple[T, ...], name: str) -> T | None:
    if value is None:
        return allowed[0] if allowed else None
    if value not in allowed:
        raise ConfigError(f"{name}: {value!r}; allowed: {', '.join(map(str, allowed)) or 'nothing to choose here'}")
    return value
