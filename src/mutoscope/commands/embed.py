"""Write the embeddings of prompts, so that training and play need no text encoder.

PROMPTS is a text file with a prompt a line, or a data set whose captions are meant; its cache then lies in the data set. Prompts that
are there already are left alone. The negative prompt is embedded too: it stands where there is no prompt, in guidance and in training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from mutoscope.core.errors import ConfigError

EXAMPLES = (
    "mutoscope embed prompts.txt --encoder Wan2.1-T2V-1.3B-Diffusers --output prompts",
    "mutoscope embed prompts.txt --encoder Wan2.1-T2V-1.3B --dtype bfloat16 --output prompts",
    "mutoscope embed data/tokens --encoder minilm --tokens 16",
)


@dataclass(frozen=True)
class Options:
    """Which prompts, by which encoder, and where to."""

    prompts: tyro.conf.Positional[Path]
    """A text file with a prompt a line, or a data set with captions."""
    encoder: str = "minilm"
    """minilm, or Wan's folder: with text_encoder/ and tokenizer/ (diffusers), or with models_t5_umt5-xxl-enc-bf16.pth and google/umt5-xxl/
    (the original repository)."""
    output: Path | None = None
    """Folder of the cache; default: prompts/ in the data set."""
    tokens: int = 0
    """Length to which embeddings are padded with zeros; default: 512 for Wan's encoder, which its models need, 256 for minilm."""
    negative: str = ""
    """The negative prompt."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of Wan's encoder while it works: its 5.7e9 weights are 22.7 GB in float32 and 11.4 GB in bfloat16."""
    device: str = "cpu"
    """cpu or cuda."""


def run(options: Options) -> int:
    """Embed what is missing."""
    import torch

    from mutoscope.data.captions import read_prompts
    from mutoscope.models.text_cache import open_cache
    from mutoscope.models.text_encoders import MINILM, MINILM_TOKENS, WAN_TOKENS, embed_prompts, load_encoder

    prompts = (options.negative, *read_prompts(options.prompts))
    folder = cache_folder(options)
    tokens = options.tokens or (MINILM_TOKENS if options.encoder == MINILM else WAN_TOKENS)
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[options.dtype]
    before = len(open_cache(folder).prompts) if (folder / "index.json").is_file() else 0
    cache = embed_prompts(folder, prompts, lambda: load_encoder(options.encoder, options.device, dtype), tokens)
    made = f"{len(cache.prompts) - before} new embeddings, {len(cache.prompts)} in all"
    print(f"{folder}: {made}, by {cache.encoder}, {cache.tokens} tokens of {cache.width}")
    return 0


def cache_folder(options: Options) -> Path:
    """Where the cache lies."""
    from mutoscope.data.captions import PROMPTS

    if options.output is not None:
        return options.output
    if not options.prompts.is_dir():
        raise ConfigError("--output is needed where the prompts come from a file: give the folder of the cache")
    return options.prompts / PROMPTS
