"""How a model's prompts are made, as plain data."""

from dataclasses import dataclass
from typing import Literal

from mutoscope.core.errors import ConfigError


@dataclass(frozen=True)
class TextConfig:
    """How a model's prompts are made: by which encoder (`minilm`, or `umt5` from its own folder), padded to how many tokens.

    `negative` is the prompt that stands where there is none: in guidance's null and in training's dropout.
    """

    encoder: Literal["minilm", "umt5"]
    tokens: int
    negative: str = ""

    def __post_init__(self) -> None:
        if self.tokens < 2:
            raise ConfigError(f"a prompt needs room for at least 2 tokens, got {self.tokens}")
