"""Grids of test cases: some cells in `make test`, all of them in `make test-long`."""

from collections.abc import Iterable
from itertools import product
from typing import Any

import pytest


def taking_turns(first: Iterable[Any], second: Iterable[Any]) -> list[Any]:
    """Every pair (a tuple in `first` is unpacked); in `make test` each of `first` meets one of `second`, which take turns."""
    others = tuple(second)
    return [
        pytest.param(*(one if isinstance(one, tuple) else (one,)), other, marks=() if index % len(others) == place else pytest.mark.long)
        for index, one in enumerate(first)
        for place, other in enumerate(others)
    ]


def pairs(first: Iterable[Any], second: Iterable[Any]) -> list[tuple[Any, Any]]:
    """Every pair."""
    return list(product(first, second))


def every_third(values: Iterable[Any]) -> list[Any]:
    """All values; in `make test` every third of them, the first among them."""
    return [pytest.param(value, marks=pytest.mark.long if index % 3 else ()) for index, value in enumerate(values)]
