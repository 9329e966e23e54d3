"""Choosing among options: what is free first, then what costs least per byte, and nothing that is not needed."""

import math
from collections.abc import Callable

import pytest

from mutoscope.core import proposals
from mutoscope.core.devices import DEVICES, GIB, UNPLANNED, device_for
from mutoscope.core.errors import ConfigError
from mutoscope.core.proposals import Cost, Option, Price, propose

State = frozenset[str]
# Bytes and seconds that each option saves and costs.
EFFECTS = {"swift": (10, -5.0), "dear": (30, 9.0), "cheap": (30, 1.0), "small": (2, 0.01), "other": (50, 0.0), "more": (40, -20.0)}
PRICES: dict[str, Price] = {"other": "result", "more": "devices"}


def once(name: str) -> Callable[[State], State | None]:
    return lambda state: None if name in state else state | {name}


def cost(state: State) -> Cost:
    return Cost(200 - sum(EFFECTS[name][0] for name in state), math.fsum((10, *(EFFECTS[name][1] for name in state))))


OPTIONS = [Option(name, PRICES.get(name, "time"), True, once(name)) for name in EFFECTS]


def taken(budget: float) -> list[str]:
    steps = propose(frozenset(), OPTIONS, cost, budget)
    if steps:
        assert steps[-1].cost == cost(frozenset(step.option.name for step in steps))
    return [step.option.name for step in steps]


@pytest.mark.parametrize(
    ("budget", "wanted"),
    [
        (300, ["swift"]),  # it fits as it is, and this costs nothing
        (189, ["swift", "small"]),
        (160, ["swift", "cheap"]),  # what was small is not needed any more
        (130, ["swift", "cheap", "dear"]),
        (90, ["swift", "cheap", "dear", "more"]),
        (50, ["swift", "cheap", "dear", "more", "other"]),
        (0, ["swift", "small", "cheap", "dear", "more", "other"]),  # all there is, and it does not fit
    ],
)
def test_the_cheapest_that_fit_and_no_more(budget, wanted):
    assert taken(budget) == wanted


def test_the_cheapest_broken_twin(monkeypatch):
    """Without letting go of what became needless, a small option stays for nothing."""
    monkeypatch.setattr(proposals, "_needed", lambda start, taken, measure, budget: taken)
    assert taken(160) == ["swift", "small", "cheap"]


def test_a_device_is_the_smallest_that_is_large_enough():
    assert device_for(8, "").name == "rtx-4060" and device_for(20, "").name == "rtx-4090" and device_for(500, "").name == "h200"
    chosen = device_for(40, "h100")
    assert chosen.flops == DEVICES["h100"].flops and chosen.planned_bytes == 40 * GIB * (1 - UNPLANNED)
    with pytest.raises(ConfigError, match="unknown device 'z80'; known: rtx-4060"):
        device_for(1, "z80")
    with pytest.raises(ConfigError, match="above 0"):
        device_for(0, "")
