"""Errors for people: what was given, what is allowed, what to do."""

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import TypeVar

V = TypeVar("V")


class MutoscopeError(Exception):
    """Base of every error that this package raises on purpose. The command line prints it without a traceback."""


class ConfigError(MutoscopeError):
    """A run configuration that cannot be: unknown key, wrong type, impossible combination."""


class DataError(MutoscopeError):
    """A data set, clip, video or action table that is missing, broken or of another kind than needed."""


class CheckpointError(MutoscopeError):
    """A checkpoint that is missing, corrupt, or made for something else."""


class CapacityError(MutoscopeError):
    """A memory that was declared too small for what it is asked to hold."""


class MissingPackageError(MutoscopeError):
    """An optional package is not installed."""


def optional_import(module: str, *, package: str, extra: str) -> ModuleType:
    """Import `module` now, or say which extra to install. Heavy packages are only ever imported through this."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPackageError(
            f"this needs the package '{package}', which is not installed ({error}); install it with: pip install 'mutoscope[{extra}]'"
        ) from error


def choose(table: Mapping[str, V], name: str, kind: str) -> V:
    """Look `name` up in a registry; the error lists the names that exist."""
    if name not in table:
        raise ConfigError(f"unknown {kind} '{name}'; known: {', '.join(sorted(table))}")
    return table[name]
