"""From settings that do not fit to some that do: one option after the other, those that cost least first, and none that is not needed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

State = TypeVar("State")
Price = Literal["time", "devices", "result"]
PRICES: tuple[Price, ...] = ("time", "devices", "result")
"""What an option costs: time for the same result, more devices, or another result. In the order in which they are tried."""


@dataclass(frozen=True)
class Cost:
    """What settings take: bytes at the peak, and seconds."""

    bytes: float
    seconds: float


@dataclass(frozen=True)
class Option(Generic[State]):
    """A change of settings, which may be made again and again; `change` gives None where there is nothing left to change.

    `ready`: whether the package does it today.
    """

    name: str
    price: Price
    ready: bool
    change: Callable[[State], State | None]


@dataclass(frozen=True)
class Step(Generic[State]):
    """An option that was taken, the settings after it and what they take."""

    option: Option[State]
    state: State
    cost: Cost


def propose(start: State, options: Sequence[Option[State]], measure: Callable[[State], Cost], budget: float) -> list[Step[State]]:
    """The steps from `start` to settings whose bytes are within the budget; what is left of them where nothing fits.

    What saves time and takes no more bytes comes first, and always. Then, of those that cost time, the one with the least time per byte; of
    others the first that saves anything. At the end those are dropped without which it fits too, the dearest first.
    """
    taken = _free(start, options, measure)
    steps = _walk(start, taken, measure)
    state, cost = (steps[-1].state, steps[-1].cost) if steps else (start, measure(start))
    while cost.bytes > budget:
        best = _best(state, cost, options, measure)
        if best is None:
            return _walk(start, taken, measure)
        taken.append(best.option)
        state, cost = best.state, best.cost
    return _walk(start, _needed(start, taken, measure, budget), measure)


def _free(start: State, options: Sequence[Option[State]], measure: Callable[[State], Cost]) -> list[Option[State]]:
    taken, state, cost = [], start, measure(start)
    for option in (option for option in options if option.price == "time"):
        changed = option.change(state)
        if changed is not None and (after := measure(changed)).seconds < cost.seconds and after.bytes <= cost.bytes:
            taken.append(option)
            state, cost = changed, after
    return taken


def _best(state: State, cost: Cost, options: Sequence[Option[State]], measure: Callable[[State], Cost]) -> Step[State] | None:
    for price in PRICES:
        steps = []
        for option in (option for option in options if option.price == price):
            changed = option.change(state)
            if changed is not None and (after := measure(changed)).bytes < cost.bytes:
                steps.append(Step(option, changed, after))
        if steps and price != "time":
            return steps[0]
        if steps:
            return min(steps, key=lambda step: (step.cost.seconds - cost.seconds) / (cost.bytes - step.cost.bytes))
    return None


def _needed(start: State, taken: list[Option[State]], measure: Callable[[State], Cost], budget: float) -> list[Option[State]]:
    """Without the options that are not: of each price those first without which it is fastest; but none that saves time."""
    for price in reversed(PRICES):
        while True:
            now = _last(start, taken, measure)
            fewer = [taken[:index] + taken[index + 1 :] for index, option in enumerate(taken) if option.price == price]
            costs = [(_last(start, rest, measure), rest) for rest in fewer]
            slower = now.seconds * (1 + 1e-9) if price == "time" else float("inf")
            good = [(cost.seconds, rest) for cost, rest in costs if cost.bytes <= budget and cost.seconds <= slower]
            if not good:
                break
            taken = min(good, key=lambda pair: pair[0])[1]
    return taken


def _last(start: State, taken: Sequence[Option[State]], measure: Callable[[State], Cost]) -> Cost:
    steps = _walk(start, taken, measure)
    return steps[-1].cost if steps else measure(start)


def _walk(start: State, taken: Sequence[Option[State]], measure: Callable[[State], Cost]) -> list[Step[State]]:
    """The steps again; an option that has nothing left to change without one before it is left out."""
    steps: list[Step[State]] = []
    state = start
    for option in taken:
        changed = option.change(state)
        if changed is not None:
            state = changed
            steps.append(Step(option, state, measure(state)))
    return steps
