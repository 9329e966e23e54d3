"""A text encoder that needs no package, and a cache that it filled."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from mutoscope.core.streams import normal, stream
from mutoscope.models.text_cache import PromptCache, create_cache

WIDTH, TOKENS = 10, 6


@dataclass
class FakeEncoder:
    """One random state per word, the same for the same word, after a first one that begins every prompt; notes what it was asked."""

    identity: str = "fake-1"
    width: int = WIDTH
    tokens: int = TOKENS
    asked: list[str] = field(default_factory=list)

    def encode(self, prompts: Sequence[str]) -> list[Tensor]:
        """`[1 + words, width]` each."""
        self.asked += prompts
        return [normal((1 + len(prompt.split()), self.width), stream(len(prompt), prompt)) for prompt in prompts]


def fake_cache(folder: Path, prompts: Sequence[str] = ("a red disc", "a blue cross", "")) -> PromptCache:
    """A cache of the fake encoder's embeddings."""
    encoder = FakeEncoder()
    cache = create_cache(folder, encoder.identity, WIDTH, TOKENS)
    cache.add(dict(zip(prompts, encoder.encode(prompts), strict=True)))
    return cache
