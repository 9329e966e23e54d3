"""What training clips are told in words: the captions of their episodes, as embeddings from a cache."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mutoscope.core.config import config_hash
from mutoscope.core.errors import ConfigError
from mutoscope.data.captions import PROMPTS, captions
from mutoscope.data.clips import ClipDataset
from mutoscope.models.conditions import Conditions
from mutoscope.models.text_cache import PromptCache, open_cache
from mutoscope.models.text_config import TextConfig


class Prompts(Protocol):
    """Adds to the conditions of clips what the episodes that they come from say."""

    def tell(self, conditions: Conditions, told: Sequence[str]) -> Conditions:
        """Conditions of clips with the prompts of these captions, one per clip."""
        ...

    def keep(self, checkpoint: Path) -> None:
        """Lay the prompts beside a checkpoint's weights, so that playing them needs no text encoder."""
        ...


@dataclass(frozen=True)
class NoPrompts:
    """For worlds without text."""

    def tell(self, conditions: Conditions, told: Sequence[str]) -> Conditions:
        """The conditions as they are."""
        return conditions

    def keep(self, checkpoint: Path) -> None:
        """There are none."""


@dataclass(frozen=True)
class CachedPrompts:
    """Embeddings from a cache; `negative` stands where a prompt is dropped."""

    cache: PromptCache
    negative: str

    def tell(self, conditions: Conditions, told: Sequence[str]) -> Conditions:
        """Each clip's caption, and the negative prompt, `[clip, token, text_dim]`."""
        text = self.cache.embeddings(told).to(conditions.actions)
        return conditions.told(text, self.cache.embeddings([self.negative]).to(text).expand_as(text))

    def keep(self, checkpoint: Path) -> None:
        """All of the cache."""
        self.cache.copy(checkpoint / PROMPTS, self.cache.prompts)


def gather_prompts(folder: Path, text: TextConfig, width: int, datasets: Sequence[ClipDataset]) -> PromptCache:
    """The run's own cache, in its folder: what lies beside its data sets, checked against the recipe and against the captions."""
    for dataset in datasets:
        told = captions(dataset)
        if not told:
            raise ConfigError(f"the recipe trains with prompts, and the episodes of {dataset.path} have no captions")
        source = open_cache(dataset.path / PROMPTS)
        if (source.width, source.tokens) != (width, text.tokens):
            raise ConfigError(
                f"{source.folder} holds {source.tokens} tokens of {source.width}, and the recipe wants {text.tokens} of {width}; "
                f"embed the captions with: mutoscope embed {dataset.path} --tokens {text.tokens}"
            )
        source.embeddings((*told, text.negative))
        source.copy(folder / PROMPTS, source.prompts)
    return open_cache(folder / PROMPTS)


def prompts_identity(folder: Path, text: TextConfig, dataset: ClipDataset) -> str:
    """A hash of which episode says what, and of the encoder of a run's prompts."""
    return config_hash((open_cache(folder / PROMPTS).encoder, text, tuple(episode.caption for episode in dataset.episodes)))
