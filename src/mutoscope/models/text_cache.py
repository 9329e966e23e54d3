"""Embeddings of prompts on disk, so that training and play need no text encoder.

A cache is a folder of one encoder:

    index.json                which encoder, how wide, to how many tokens embeddings are padded, and the file of every prompt
    <key>.safetensors         "embedding" `[token, width]` without padding; the key is a hash of encoder and prompt

A file is whole or absent, and the index names whole ones alone.
"""

import difflib
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from mutoscope.core.errors import ConfigError, DataError
from mutoscope.core.files import read_json, write_bytes, write_json

FORMAT_VERSION = 1
INDEX = "index.json"
MOST_LISTED = 12


def padded(embedding: Tensor, tokens: int) -> Tensor:
    """An embedding `[token, width]` with zeros after it, `[tokens, width]`: as Wan reads prompts; one that is too long is an error."""
    if len(embedding) > tokens:
        raise ConfigError(f"an embedding has {len(embedding)} tokens, and the model reads {tokens}")
    return torch.cat([embedding, embedding.new_zeros(tokens - len(embedding), embedding.shape[1])])


@dataclass
class PromptCache:
    """An open cache. `encoder` names the weights that made it; embeddings are given out padded with zeros to `tokens`."""

    folder: Path
    encoder: str
    width: int
    tokens: int
    files: dict[str, str]
    read: dict[str, Tensor] = field(default_factory=dict)

    def __contains__(self, prompt: str) -> bool:
        return prompt in self.files

    @property
    def prompts(self) -> tuple[str, ...]:
        """What is in it, in the order in which it came."""
        return tuple(self.files)

    def check_maker(self, encoder: str, width: int, tokens: int) -> None:
        """Refuse another encoder, width or length than those of this cache: a folder holds the embeddings of one encoder alone."""
        if (self.encoder, self.width, self.tokens) != (encoder, width, tokens):
            raise DataError(
                f"{self.folder} was made by {self.encoder} ({self.tokens} tokens of {self.width}), not by {encoder} ({tokens} of {width}); "
                "give that encoder in that type, or another folder, or delete this one"
            )

    def missing(self, prompts: Iterable[str]) -> list[str]:
        """Those of the prompts that are not in it, each once."""
        return [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.files]

    def embeddings(self, prompts: Sequence[str]) -> Tensor:
        """The prompts' embeddings `[prompt, tokens, width]` in float32; one that is not there is an error that lists what is."""
        return torch.stack([padded(self.embedding(prompt), self.tokens) for prompt in prompts])

    def embedding(self, prompt: str) -> Tensor:
        """One prompt's embedding without padding, `[token, width]`."""
        if prompt not in self.files:
            raise DataError(f"{self.folder} has no embedding of {prompt!r}{self._alternatives(prompt)}; add it with: mutoscope embed")
        if prompt not in self.read:
            self.read[prompt] = read_embedding(self.folder / self.files[prompt], self.width)
        return self.read[prompt]

    def add(self, embeddings: Mapping[str, Tensor]) -> None:
        """Keep embeddings `[token, width]` by their prompts; the files come first and the index after them, each whole or not at all."""
        for prompt, embedding in embeddings.items():
            self._check(prompt, embedding)
        for prompt, embedding in embeddings.items():
            name = f"{prompt_key(self.encoder, prompt)}.safetensors"
            write_bytes(self.folder / name, save({"embedding": embedding.detach().contiguous().cpu()}))
            self.files[prompt] = name
            self.read.pop(prompt, None)
        self._write_index()

    def copy(self, target: Path, prompts: Iterable[str]) -> "PromptCache":
        """These prompts in a cache of their own, which may exist if it is of the same encoder."""
        other = create_cache(target, self.encoder, self.width, self.tokens)
        other.add({prompt: self.embedding(prompt) for prompt in other.missing(prompts)})
        return other

    def _check(self, prompt: str, embedding: Tensor) -> None:
        if embedding.ndim != 2 or embedding.shape[1] != self.width or not torch.isfinite(embedding).all():
            raise DataError(f"the embedding of {prompt!r} is {tuple(embedding.shape)}; it must be finite and [token, {self.width}]")
        if len(embedding) > self.tokens:
            raise DataError(f"{prompt!r} has {len(embedding)} tokens, and {self.folder} keeps at most {self.tokens}; shorten the prompt")

    def _alternatives(self, prompt: str) -> str:
        listed = difflib.get_close_matches(prompt, self.files, n=MOST_LISTED, cutoff=0.0)
        more = f" and {len(self.files) - len(listed)} more" if len(self.files) > len(listed) else ""
        return f"; it has {', '.join(map(repr, listed)) or 'none at all'}{more}"

    def _write_index(self) -> None:
        described = {"format_version": FORMAT_VERSION, "encoder": self.encoder, "width": self.width, "tokens": self.tokens}
        write_json(self.folder / INDEX, {**described, "prompts": self.files})


def prompt_key(encoder: str, prompt: str) -> str:
    """What the file of a prompt under an encoder is called: 32 hex digits."""
    return hashlib.sha256(f"{encoder}\0{prompt}".encode()).hexdigest()[:32]


def open_cache(folder: Path) -> PromptCache:
    """The cache in a folder; what is missing or broken is named."""
    folder = Path(folder)
    if not (folder / INDEX).is_file():
        raise DataError(f"{folder} holds no embeddings of prompts (no {INDEX}); make them with: mutoscope embed")
    index: Any = read_json(folder / INDEX)
    kinds = {"format_version": int, "encoder": str, "width": int, "tokens": int, "prompts": dict}
    if not isinstance(index, dict) or any(not isinstance(index.get(key), kind) for key, kind in kinds.items()):
        raise DataError(f"{folder / INDEX} is broken: it must say {', '.join(kinds)}; delete {folder} and embed its prompts again")
    if index["format_version"] != FORMAT_VERSION:
        raise DataError(f"{folder} has format version {index['format_version']}; this Mutoscope reads version {FORMAT_VERSION}")
    return PromptCache(folder, index["encoder"], index["width"], index["tokens"], index["prompts"])


def create_cache(folder: Path, encoder: str, width: int, tokens: int) -> PromptCache:
    """A new cache, or the one that is there; one of another encoder or length is refused."""
    folder = Path(folder)
    if not (folder / INDEX).is_file():
        cache = PromptCache(folder, encoder, width, tokens, {})
        cache._write_index()
        return cache
    cache = open_cache(folder)
    cache.check_maker(encoder, width, tokens)
    return cache


def read_embedding(path: Path, width: int) -> Tensor:
    """One file of a cache as float32 `[token, width]`; a missing, corrupt or strange one is named."""
    advice = "delete it and embed the prompt again"
    if not path.is_file():
        raise DataError(f"{path} does not exist, though the index names it; embed the prompt again")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise DataError(f"{path} is corrupt ({error}); {advice}") from error
    embedding = tensors.get("embedding")
    if embedding is None or embedding.ndim != 2 or embedding.shape[1] != width or not torch.isfinite(embedding).all():
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        raise DataError(f"{path} holds {found}, not a finite 'embedding' of [token, {width}]; {advice}")
    return embedding.float()
