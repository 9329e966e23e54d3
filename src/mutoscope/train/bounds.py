"""Limits of the numbers in configurations."""

from mutoscope.core.errors import ConfigError


def at_least(lowest: int, config: object, *names: str) -> None:
    """These fields are numbers of at least `lowest`, or a ConfigError names the first that is not."""
    for name in names:
        if not getattr(config, name) >= lowest:
            raise ConfigError(f"{type(config).__name__}.{name} must be at least {lowest}, got {getattr(config, name)}")


def above_zero(config: object, *names: str) -> None:
    """These fields are above 0."""
    for name in names:
        if not getattr(config, name) > 0:
            raise ConfigError(f"{type(config).__name__}.{name} must be above 0, got {getattr(config, name)}")


def share(config: object, *names: str) -> None:
    """These fields are in 0 .. 1."""
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise ConfigError(f"{type(config).__name__}.{name} must be in 0 .. 1, got {getattr(config, name)}")


def trains_all(stage: str, trains: object) -> None:
    """A stage that starts from fresh weights trains them all: adapters would leave them as they are."""
    if trains != "all weights":
        raise ConfigError(f"stage '{stage}' starts from fresh weights, which adapters leave as they are; it trains all weights")
