"""What the numbers of a configuration may be, said by their names."""

from mutoscope.core.errors import ConfigError


def at_least(lowest: int, config: object, *names: str) -> None:
    """Refuse numbers of a configuration that are below `lowest`, by name."""
    for name in names:
        if not getattr(config, name) >= lowest:
            raise ConfigError(f"{type(config).__name__}.{name} must be at least {lowest}, got {getattr(config, name)}")


def above_zero(config: object, *names: str) -> None:
    """Refuse numbers that are not above 0."""
    for name in names:
        if not getattr(config, name) > 0:
            raise ConfigError(f"{type(config).__name__}.{name} must be above 0, got {getattr(config, name)}")


def share(config: object, *names: str) -> None:
    """Refuse numbers outside 0 .. 1."""
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise ConfigError(f"{type(config).__name__}.{name} must be in 0 .. 1, got {getattr(config, name)}")
