"""What a checkpoint can be told in words: the embeddings that lie beside it or in a folder, and those that an encoder makes on demand."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

from torch import Tensor

from mutoscope.core.errors import CheckpointError, ConfigError
from mutoscope.models.checkpoint import PROMPTS, CheckpointManifest
from mutoscope.models.text_cache import INDEX, PromptCache, create_cache, open_cache, padded
from mutoscope.models.text_config import TextConfig
from mutoscope.models.text_encoders import TextEncoder
from mutoscope.serve.prompts import PromptBook

EncoderType = Literal["float32", "bfloat16"]
Told = tuple[Tensor, Tensor]
"""Embeddings of a prompt and of the negative one, `[1, tokens, width]` each."""


@dataclass(frozen=True)
class Spoken:
    """Where embeddings come from: `folder` of a cache ("" for the checkpoint's own), `encoder` for what it lacks ("" for none).

    `device` and `dtype` are the encoder's, not the video model's.
    """

    folder: str = ""
    encoder: str = ""
    device: str = "cpu"
    dtype: EncoderType = "float32"


@dataclass(frozen=True)
class Voice:
    """The embeddings of a checkpoint's prompts; what its cache lacks is made by the encoder, kept in memory, and added to the cache."""

    text: TextConfig
    cache: PromptCache
    spoken: Spoken

    def embed(self, prompt: str) -> Told:
        """What a world hears of a prompt."""
        first, second = (self._one(item)[None] for item in (prompt, self.text.negative))
        return first, second

    def _one(self, prompt: str) -> Tensor:
        if prompt not in self.cache and self.spoken.encoder:
            encoder = resident_encoder(self.spoken)
            self.cache.check_maker(encoder.identity, encoder.width, self.cache.tokens)
            (embedding,) = encoder.encode([prompt])
            self.cache.add({prompt: embedding})
        return padded(self.cache.embedding(prompt), self.text.tokens)

    @property
    def known(self) -> tuple[str, ...]:
        """The prompts that are at hand, without the negative one."""
        return tuple(prompt for prompt in self.cache.prompts if prompt != self.text.negative)

    def book(self) -> PromptBook:
        """What a page may say."""
        if not self.known:
            raise ConfigError(f"{self.cache.folder} holds no prompt to begin with; add some with: mutoscope embed")
        return PromptBook(self.embed, self.known, bool(self.spoken.encoder))


@cache
def resident_encoder(spoken: Spoken) -> TextEncoder:
    """A text encoder that stays loaded while a world is played: the next prompt comes soon."""
    return new_encoder(spoken)


def new_encoder(spoken: Spoken) -> TextEncoder:
    """The encoder that was asked for, where and in which type."""
    import torch

    from mutoscope.models.text_encoders import load_encoder

    return load_encoder(spoken.encoder, spoken.device, {"float32": torch.float32, "bfloat16": torch.bfloat16}[spoken.dtype])


def open_voice(path: Path, manifest: CheckpointManifest, spoken: Spoken) -> Voice:
    """The voice of a checkpoint that takes prompts; embeddings of another width, or none at all, are an error in words."""
    text, folder = told_in_words(path, manifest), cache_folder(path, spoken)
    if (folder / INDEX).is_file():
        cached = open_cache(folder)
        check_width(path, manifest, cached.encoder, cached.width)
    elif spoken.encoder:
        encoder = resident_encoder(spoken)
        check_width(path, manifest, encoder.identity, encoder.width)
        cached = create_cache(folder, encoder.identity, encoder.width, text.tokens)
    else:
        raise ConfigError(
            f"{folder} holds no embeddings of prompts; make some (mutoscope embed prompts.txt --encoder ... --output {folder}), "
            "name their folder with --prompts, or name an encoder with --encoder"
        )
    voice = Voice(text, cached, spoken)
    voice.embed(text.negative)
    return voice


def embed_beforehand(path: Path, manifest: CheckpointManifest, spoken: Spoken, prompts: Sequence[str]) -> list[Told]:
    """What a checkpoint hears of prompts that are all known before it is loaded.

    An encoder is loaded only for what the cache lacks, and is gone again when this returns: the video model has its room.
    """
    from mutoscope.models.text_encoders import embed_prompts

    text, folder = told_in_words(path, manifest), cache_folder(path, spoken)

    def load() -> TextEncoder:
        encoder = new_encoder(spoken)
        check_width(path, manifest, encoder.identity, encoder.width)
        return encoder

    if spoken.encoder:
        tokens = open_cache(folder).tokens if (folder / INDEX).is_file() else text.tokens
        embed_prompts(folder, (text.negative, *prompts), load, tokens)
    voice = open_voice(path, manifest, replace(spoken, encoder=""))
    return [voice.embed(prompt) for prompt in prompts]


def told_in_words(path: Path, manifest: CheckpointManifest) -> TextConfig:
    """How a checkpoint's prompts are made; one that takes none is an error."""
    if manifest.text == "none" or manifest.model is None:
        raise CheckpointError(f"{path} is not told in words what to show: it takes no prompts")
    return manifest.text


def cache_folder(path: Path, spoken: Spoken) -> Path:
    """The folder of embeddings that was named, or the checkpoint's own."""
    return Path(spoken.folder) if spoken.folder else path / PROMPTS


def check_width(path: Path, manifest: CheckpointManifest, encoder: str, width: int) -> None:
    """Refuse embeddings that the checkpoint cannot read, before any is made."""
    assert manifest.model is not None and manifest.text != "none"
    if width != manifest.model.text_dim:
        raise ConfigError(
            f"{encoder} makes embeddings {width} wide, and {path} reads those of {manifest.text.encoder}, {manifest.model.text_dim} wide; "
            "name another folder with --prompts, or another encoder with --encoder"
        )
