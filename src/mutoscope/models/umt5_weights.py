"""Wan's text encoder as the original repository ships it: one .pth under names of its own, its tokenizer in a folder beside it.

The names are mapped onto those of UMT5EncoderModel of the package transformers, and the sizes are read from the shapes: nothing else is
in such a file. Heads are the columns of the table of relative positions.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mutoscope.core.errors import CheckpointError, optional_import
from mutoscope.models.fitting import misfits
from mutoscope.models.foreign import read_foreign

FILE = "models_t5_umt5-xxl-enc-bf16.pth"
TOKENIZER = "google/umt5-xxl"
FARTHEST = 128  # tokens, from which on all distances share a row of the table; it is in no shape

# Original -> transformers', at the top and in each block.
WORDS = "token_embedding.weight"
TOP = {WORDS: "shared.weight", "norm.weight": "encoder.final_layer_norm.weight"}
ATTENTION = {f"attn.{name}.weight": f"layer.0.SelfAttention.{name}.weight" for name in "qkvo"}
BLOCK = ATTENTION | {
    "norm1.weight": "layer.0.layer_norm.weight",
    "pos_embedding.embedding.weight": "layer.0.SelfAttention.relative_attention_bias.weight",
    "norm2.weight": "layer.1.layer_norm.weight",
    "ffn.gate.0.weight": "layer.1.DenseReluDense.wi_0.weight",
    "ffn.fc1.weight": "layer.1.DenseReluDense.wi_1.weight",
    "ffn.fc2.weight": "layer.1.DenseReluDense.wo.weight",
}
TIED = "encoder.embed_tokens.weight"  # transformers' second name for the words' embeddings
SIZED_BY = (WORDS, "blocks.0.attn.q.weight", "blocks.0.ffn.fc1.weight", "blocks.0.pos_embedding.embedding.weight")


@dataclass(frozen=True)
class UMT5Sizes:
    """Dimensions of an encoder; `inner` channels of attention are shared out between `heads`."""

    words: int
    width: int
    inner: int
    hidden: int
    layers: int
    heads: int
    buckets: int


def read_umt5_sizes(tensors: Mapping[str, Tensor], source: Path) -> UMT5Sizes:
    """The dimensions that the shapes tell; a file without those that are needed for it is no text encoder."""
    if strange := [name for name in SIZED_BY if name not in tensors or tensors[name].ndim != 2]:
        raise CheckpointError(f"{source} is not Wan's text encoder: it has no matrix {', '.join(strange)}; it is the file {FILE}")
    words, attention, hidden, positions = (tuple(tensors[name].shape) for name in SIZED_BY)
    if attention[0] % positions[1]:
        raise CheckpointError(f"{source}: {attention[0]} channels of attention do not divide between {positions[1]} heads; copy it again")
    layers = {found[1] for name in tensors if (found := re.fullmatch(r"blocks\.(\d+)\.attn\.q\.weight", name))}
    return UMT5Sizes(words[0], words[1], attention[0], hidden[0], len(layers), positions[1], positions[0])


def umt5_names(layers: int) -> dict[str, str]:
    """Every name of an encoder with so many blocks: original -> transformers'."""
    blocks = range(layers)
    return TOP | {f"blocks.{block}.{own}": f"encoder.block.{block}.{theirs}" for block in blocks for own, theirs in BLOCK.items()}


def empty_umt5(sizes: UMT5Sizes) -> Any:
    """A UMT5EncoderModel on the meta device."""
    transformers = optional_import("transformers", package="transformers", extra="text")
    config = transformers.UMT5Config(
        vocab_size=sizes.words, d_model=sizes.width, d_kv=sizes.inner // sizes.heads, d_ff=sizes.hidden, num_layers=sizes.layers,
        num_heads=sizes.heads, relative_attention_num_buckets=sizes.buckets, relative_attention_max_distance=FARTHEST,
        feed_forward_proj="gated-gelu", layer_norm_epsilon=1e-6,
    )  # fmt: skip
    with torch.device("meta"):
        return transformers.UMT5EncoderModel(config)


def load_original_umt5(path: Path, dtype: torch.dtype) -> Any:
    """The UMT5EncoderModel of an original file; keys that are missing, left over or of another shape are all named as in the file."""
    tensors = read_foreign(path).tensors
    sizes = read_umt5_sizes(tensors, path)
    model, names = empty_umt5(sizes), umt5_names(sizes.layers)
    state = model.state_dict()
    if problems := misfits({own: state[theirs] for own, theirs in names.items()}, tensors):
        raise CheckpointError(f"{path} does not fit UMT5: {'; '.join(problems)}")
    filled = {theirs: tensors[own].to(dtype) for own, theirs in names.items()}
    model.load_state_dict(filled | {TIED: filled[TOP[WORDS]]}, assign=True)
    model.tie_weights()
    return model
