"""Tiny random UMT5s with a tokenizer of eleven words, in the layouts that Wan's text encoder is published in."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

WORDS = ("a", "red", "disc", "moves", "left", "right", "&", "fast", "</s>", "<pad>", "<unk>")
# The published proportions (as many channels inside as outside), more inside, and other tables of positions.
SIZES: dict[str, dict[str, int]] = {
    "published proportions": dict(d_model=16, d_kv=4, d_ff=40, num_layers=2, num_heads=4),
    "wider attention": dict(d_model=12, d_kv=6, d_ff=20, num_layers=3, num_heads=3),
    "other positions": dict(
        d_model=16, d_kv=4, d_ff=24, num_layers=1, num_heads=2, relative_attention_num_buckets=8, relative_attention_max_distance=16
    ),
}
LAYOUT = (
    (r"^shared\.", "token_embedding."),
    (r"^encoder\.final_layer_norm", "norm"),
    (r"^encoder\.block\.", "blocks."),
    (r"layer\.0\.layer_norm", "norm1"),
    (r"layer\.1\.layer_norm", "norm2"),
    (r"layer\.0\.SelfAttention\.relative_attention_bias", "pos_embedding.embedding"),
    (r"layer\.0\.SelfAttention", "attn"),
    (r"layer\.1\.DenseReluDense\.wi_0", "ffn.gate.0"),
    (r"layer\.1\.DenseReluDense\.wi_1", "ffn.fc1"),
    (r"layer\.1\.DenseReluDense\.wo", "ffn.fc2"),
)


def write_umt5(folder: Path, name: str = "published proportions", dtype: torch.dtype = torch.float32) -> Path:
    """A folder in diffusers' layout."""
    from transformers import UMT5Config, UMT5EncoderModel

    write_tokenizer(folder / "tokenizer")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = UMT5EncoderModel(UMT5Config(vocab_size=len(WORDS), pad_token_id=WORDS.index("<pad>"), **SIZES[name]))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    model.to(dtype).save_pretrained(folder / "text_encoder")
    return folder


def write_tokenizer(folder: Path) -> None:
    """Eleven words, and an end after every prompt."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", WORDS.index("</s>"))])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)


def original_tensors(folder: Path) -> dict[str, Tensor]:
    """The weights of a folder in diffusers' layout under the original names."""
    tensors = {}
    for name, tensor in load_file(folder / "text_encoder" / "model.safetensors").items():
        if name != "encoder.embed_tokens.weight":
            for pattern, place in LAYOUT:
                name = re.sub(pattern, place, name)
            tensors[name] = tensor
    return tensors


def write_original_umt5(folder: Path, tensors: Mapping[str, Tensor]) -> Path:
    """The text encoder's part of a folder of the original repository."""
    write_tokenizer(folder / "google" / "umt5-xxl")
    torch.save(dict(tensors), folder / "models_t5_umt5-xxl-enc-bf16.pth")
    return folder
