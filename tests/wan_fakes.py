"""A tiny Wan and its weights in every published layout, written as their authors' programs write them."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from fakes import scatter_parameters
from mutoscope.core.streams import normal, stream
from mutoscope.models.camera_config import CAMERA_ACTIONS, CameraConfig
from mutoscope.models.transformer import TransformerConfig, VideoTransformer
from mutoscope.models.wan_codec_weights import expected
from mutoscope.models.wan_config import WanCodecConfig
from mutoscope.models.wan_keys import to_diffusers
from mutoscope.recipes import recipe
from mutoscope.train.build import transformer_config
from mutoscope.train.config import ModelConfig, RunConfig

CODEC = WanCodecConfig(
    32, 48, base_dim=4, z_dim=4, dim_mult=(1, 2, 4, 4), num_res_blocks=2, temporal_downsample=(False, True, True),
    latents_mean=(0.1, 0.2, 0.3, 0.4), latents_std=(1.0, 2.0, 3.0, 4.0),
)  # fmt: skip
MODEL = ModelConfig(dim=24, ffn_dim=40, num_heads=2, num_layers=3, patch=2, freq_dim=16, text_dim=10)
RUN: RunConfig = replace(
    recipe("wan-1.3b"), name="tiny-wan", model=MODEL, codec=CODEC, data=replace(recipe("wan-1.3b").data, height=32, width=48)
)
CONFIG: TransformerConfig = transformer_config(MODEL, CODEC, 0, None)
# With minWM's camera branch, which its checkpoints have beside Wan's own names.
SEEN_RUN: RunConfig = replace(RUN, name="tiny-camera", model=replace(MODEL, camera=CameraConfig(move=0.5, turn=25.0)))
SEEN: TransformerConfig = transformer_config(SEEN_RUN.model, CODEC, CAMERA_ACTIONS.dim, None)
DIFFUSERS_JSON = {
    "_class_name": "WanTransformer3DModel", "_diffusers_version": "0.33.0.dev0", "added_kv_proj_dim": None, "attention_head_dim": 12,
    "cross_attn_norm": True, "eps": 1e-06, "ffn_dim": 40, "freq_dim": 16, "image_dim": None, "in_channels": 4,
    "num_attention_heads": 2, "num_layers": 3, "out_channels": 4, "patch_size": [1, 2, 2], "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 1024, "text_dim": 10,
}  # fmt: skip
ORIGINAL_JSON = {
    "_class_name": "WanModel", "_diffusers_version": "0.30.0", "dim": 24, "eps": 1e-06, "ffn_dim": 40, "freq_dim": 16, "in_dim": 4,
    "model_type": "t2v", "num_heads": 2, "num_layers": 3, "out_dim": 4, "text_len": 512, "text_dim": 10,
}  # fmt: skip


def wan_tensors(seed: int = 0, dtype: torch.dtype = torch.float32, config: TransformerConfig = CONFIG) -> dict[str, Tensor]:
    """Random weights under the original names, which are ours."""
    model = VideoTransformer(config).initialise(stream(seed, "tiny wan"))
    scatter_parameters(model, seed)
    return {name: value.to(dtype).clone() for name, value in model.state_dict().items()}


def write_diffusers(folder: Path, tensors: Mapping[str, Tensor], shards: int = 1) -> Path:
    """A `transformer` folder."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(DIFFUSERS_JSON))
    return write_shards(folder, {to_diffusers(name): tensor for name, tensor in tensors.items()}, shards)


def write_original(folder: Path, tensors: Mapping[str, Tensor], shards: int = 1) -> Path:
    """The folder of the original repository: files that have the names of diffusers' (14B: six shards), but other names in them."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(ORIGINAL_JSON))
    return write_shards(folder, tensors, shards)


def write_shards(folder: Path, tensors: Mapping[str, Tensor], shards: int) -> Path:
    """One file, or several with their index; every n-th tensor goes to the n-th shard."""
    if shards == 1:
        save_file(dict(tensors), folder / "diffusion_pytorch_model.safetensors", {"format": "pt"})
        return folder
    places = {name: f"diffusion_pytorch_model-{index % shards + 1:05d}-of-{shards:05d}.safetensors" for index, name in enumerate(tensors)}
    for place in set(places.values()):
        save_file({name: tensors[name] for name in tensors if places[name] == place}, folder / place, {"format": "pt"})
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def codec_tensors(seed: int = 0) -> dict[str, Tensor]:
    """Random weights of the codec under diffusers' names."""
    wanted = expected(CODEC)[0]
    return {name: normal(tuple(one.shape), stream(seed, "tiny codec", index)) for index, (name, one) in enumerate(wanted.items())}


def write_codec(folder: Path, tensors: Mapping[str, Tensor], **changes: object) -> Path:
    """A `vae` folder of diffusers."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKLWan", **expected(CODEC)[1], **changes}))
    save_file(dict(tensors), folder / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    return folder


def write_training(path: Path, **parts: object) -> Path:
    """A training checkpoint: entries at the top, such as generator, critic and step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(parts, path)
    return path


def prefixed(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Every name behind a prefix."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def sharded_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names as FSDP, activation checkpointing and torch.compile leave them when blocks are wrapped one by one."""
    inside = {name: name.split(".", 2) for name in tensors}
    wrapped = {
        name: f"blocks.{parts[1]}._fsdp_wrapped_module._checkpoint_wrapped_module.{parts[2]}" if parts[0] == "blocks" else name
        for name, parts in inside.items()
    }
    return {f"model._orig_mod._fsdp_wrapped_module.{wrapped[name]}": tensor for name, tensor in tensors.items()}


def same_bits(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Equal names, types and bytes."""
    if first.keys() != second.keys():
        return False
    pairs = [(first[name], second[name]) for name in first]
    return all(
        one.dtype == two.dtype
        and one.shape == two.shape
        and torch.equal(one.contiguous().view(torch.uint8), two.contiguous().view(torch.uint8))
        for one, two in pairs
    )
