"""What a checkpoint can be told in words: the embeddings that lie beside it or in a folder, and those that an encoder makes on demand."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from torch import Tensor

from mutoscope.core.errors import CheckpointError, ConfigError
from mutoscope.models.checkpoint import PROMPTS, CheckpointManifest
from mutoscope.models.text_cache import INDEX, PromptCache, create_cache, open_cache, padded
from mutoscope.models.text_config import TextConfig
from mutoscope.serve.prompts import PromptBook


@dataclass(frozen=True)
class Spoken:
    """Where embeddings come from: `folder` of a cache ("" for the checkpoint's own), `encoder` for what it lacks ("" for none)."""

    folder: str = ""
    encoder: str = ""
    device: str = "cpu"


@dataclass(frozen=True)
class Voice:
    """The embeddings of a checkpoint's prompts; what its cache lacks is made by the encoder, kept in memory, and added to the cache."""

    text: TextConfig
    cache: PromptCache
    spoken: Spoken

    def embed(self, prompt: str) -> tuple[Tensor, Tensor]:
        """Embeddings of a prompt and of the negative one, `[1, tokens, width]` each."""
        first, second = (self._one(item)[None] for item in (prompt, self.text.negative))
        return first, second

    def _one(self, prompt: str) -> Tensor:
        if prompt not in self.cache and self.spoken.encoder:
            encoder = resident_encoder(self.spoken.encoder, self.spoken.device)
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
def resident_encoder(name: str, device: str):  # type: ignore[no-untyped-def]
    """A text encoder that stays loaded while a world is played: the next prompt comes soon."""
    from mutoscope.models.text_encoders import load_encoder

    return load_encoder(name, device)


def open_voice(path: Path, manifest: CheckpointManifest, spoken: Spoken) -> Voice:
    """The voice of a checkpoint that takes prompts; embeddings of another width, or none at all, are an error in words."""
    if manifest.text == "none" or manifest.model is None:
        raise CheckpointError(f"{path} is not told in words what to show: it takes no prompts")
    folder = Path(spoken.folder) if spoken.folder else path / PROMPTS
    if (folder / INDEX).is_file():
        cached = open_cache(folder)
    elif spoken.encoder:
        encoder = resident_encoder(spoken.encoder, spoken.device)
        cached = create_cache(folder, encoder.identity, encoder.width, manifest.text.tokens)
    else:
        raise ConfigError(
            f"{folder} holds no embeddings of prompts; make some (mutoscope embed prompts.txt --encoder ... --output {folder}), "
            "name their folder with --prompts, or name an encoder with --encoder"
        )
    if cached.width != manifest.model.text_dim:
        raise ConfigError(
            f"{folder} has embeddings {cached.width} wide ({cached.encoder}), and {path} reads those of {manifest.text.encoder}, "
            f"{manifest.model.text_dim} wide; name another folder with --prompts"
        )
    voice = Voice(manifest.text, cached, spoken)
    voice.embed(manifest.text.negative)
    return voice
