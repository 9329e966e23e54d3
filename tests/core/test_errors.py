"""Errors say what was given, what is allowed, what to do."""

import json

import pytest

from mutoscope.core.errors import ConfigError, MissingPackageError, choose, optional_import


def test_an_absent_package_names_the_extra():
    with pytest.raises(MissingPackageError, match=r"'no-such'.*pip install 'mutoscope\[play\]'"):
        optional_import("no_such_module", package="no-such", extra="play")


def test_a_present_package_is_returned():
    assert optional_import("json", package="json", extra="play") is json


def test_an_unknown_name_lists_the_known_ones():
    assert choose({"a": 1, "b": 2}, "b", "letter") == 2
    with pytest.raises(ConfigError, match="unknown letter 'c'; known: a, b"):
        choose({"b": 2, "a": 1}, "c", "letter")
