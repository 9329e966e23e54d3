"""Adapters of others (LoRA, arXiv 2106.09685), merged into weights as these come in: W + strength (alpha / rank) B A.

    diffusers    transformer.blocks.0.attn1.to_q.lora_A.weight, lora_B; alpha, if any, is in B or beside it
    peft         base_model.model.blocks.0.attn1.to_q.lora_A.weight with adapter_config.json in the folder
    original     diffusion_model.blocks.0.self_attn.q.lora_down.weight, lora_up, alpha
    flat         lora_unet_blocks_0_self_attn_q.lora_down.weight, lora_up, alpha

Everything in the file belongs to a layer of the model, or is named in the error.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from mutoscope.core.errors import CheckpointError, ConfigError
from mutoscope.core.files import read_json
from mutoscope.models.foreign import TORCH_SUFFIXES, choose_part, read_safetensors, read_torch
from mutoscope.models.wan_keys import from_diffusers, listed

FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
PREFIXES = ("base_model.model.", "transformer.", "diffusion_model.", "model.")
FLAT = "lora_unet_"
HEAD = "lora_adapter_metadata"  # diffusers, in the head of a safetensors file
# How a factor's name ends -> which one it is: down [rank, in], up [out, rank], alpha a number.
ENDS = {
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_A.default.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".alpha": "alpha",
}


@dataclass(frozen=True)
class ForeignAdapter:
    """An adapter as its file has it, and how strongly it is merged; `config` is peft's, in a file beside it or in its head, or None."""

    source: Path
    tensors: Mapping[str, Tensor]
    strength: float
    config: Mapping[str, Any] | None = None

    @property
    def label(self) -> str:
        """For the manifest: which file, how strong."""
        return f"{self.source.name} x {self.strength:g}"


def read_adapter(source: Path, strength: float) -> ForeignAdapter:
    """A file, or a folder of diffusers or peft."""
    if not -10 <= strength <= 10:
        raise ConfigError(f"an adapter's strength must lie between -10 and 10, got {strength}; 1 is as it was trained")
    source = Path(source)
    if source.is_dir():
        file = next((source / name for name in FILES if (source / name).is_file()), None)
        if file is None:
            raise CheckpointError(f"{source} holds none of {', '.join(FILES)}; give an adapter's file, or the folder of diffusers or peft")
        source = file
    if source.suffix in TORCH_SUFFIXES:
        return ForeignAdapter(source, choose_part(read_torch(source), "", source)[1], strength)
    return ForeignAdapter(source, read_safetensors(source), strength, adapter_config(source))


def adapter_config(file: Path) -> Mapping[str, Any] | None:
    """What says how strong an adapter is: peft's config beside its file, or what diffusers writes into the file's head."""
    if file.name == FILES[1]:
        config = read_json(file.with_name("adapter_config.json"), CheckpointError)
    else:
        with safe_open(file, "pt") as opened:
            head = (opened.metadata() or {}).get(HEAD)
        if head is None:
            return None
        try:
            config = {name.removeprefix("transformer."): value for name, value in json.loads(head).items()}
        except (ValueError, AttributeError) as error:
            raise CheckpointError(f"{file} has a head ({HEAD}) that is no table; export the adapter again") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file.with_name('adapter_config.json')} is no table")
    if config.get("alpha_pattern"):
        raise CheckpointError(
            f"{file} gives layers an alpha of their own (alpha_pattern), which is not supported; merge it with peft first"
        )
    return config


def merged(weights: Mapping[str, Tensor], adapter: ForeignAdapter) -> dict[str, Tensor]:
    """The weights, by our names, with an adapter in them: sums in float32, each weight in its own type again."""
    result, factors, problems = dict(weights), by_layer(adapter, weights), []
    for name, parts in sorted(factors.items()):
        if problem := misfit(name, parts, weights[name]):
            problems.append(problem)
            continue
        scale = adapter.strength * scale_of(parts, adapter.config)
        change = scale * (parts["up"].float() @ parts["down"].float())
        result[name] = (weights[name].float() + change).to(weights[name].dtype)
    if problems:
        raise CheckpointError(f"{adapter.source} does not fit this model: {'; '.join(problems)}")
    return result


def by_layer(adapter: ForeignAdapter, names: Iterable[str]) -> dict[str, dict[str, Tensor]]:
    """Our name of a weight -> its factors; what belongs to no weight of the model is named."""
    known = {name: name for name in names} | {name.replace(".", "_"): name for name in names}
    found: dict[str, dict[str, Tensor]] = {}
    others = []
    for key, value in adapter.tensors.items():
        end = next((end for end in ENDS if key.endswith(end)), None)
        own = None if end is None else known.get(weight_name(key.removesuffix(end)))
        if end is None or own is None:
            others.append(key)
        elif ENDS[end] in found.setdefault(own, {}):
            raise CheckpointError(f"{adapter.source} holds the factors of {own} twice, the second as '{key}'")
        else:
            found[own][ENDS[end]] = value
    if others or not found:
        raise CheckpointError(
            f"{adapter.source} is no adapter of this model: {listed(others) or 'it is empty'} belongs to none of its layers; "
            f"factors end in {', '.join(ENDS)}"
        )
    return found


def weight_name(layer: str) -> str:
    """A layer's name in any layout -> our name of its weight, in the flat layout with underscores."""
    if layer.startswith(FLAT):
        return layer.removeprefix(FLAT) + "_weight"
    for prefix in PREFIXES:
        layer = layer.removeprefix(prefix)
    return from_diffusers(f"{layer}.weight")


def misfit(name: str, parts: Mapping[str, Tensor], weight: Tensor) -> str:
    """What is wrong with the factors of a weight, or nothing."""
    if lacking := {"up", "down"} - parts.keys():
        return f"{name} lacks the factor {' and '.join(sorted(lacking))}"
    up, down = tuple(parts["up"].shape), tuple(parts["down"].shape)
    if weight.ndim != 2 or len(up) != 2 or len(down) != 2 or (up[0], down[1]) != tuple(weight.shape) or up[1] != down[0]:
        return f"{name} is {tuple(weight.shape)}, its factors {up} and {down}"
    if not all(torch.isfinite(part).all() for part in parts.values()):
        return f"the factors of {name} are not finite"
    return ""


def scale_of(parts: Mapping[str, Tensor], config: Mapping[str, Any] | None) -> float:
    """alpha / rank: alpha beside the factors, or peft's; 1 where neither says so."""
    rank = parts["down"].shape[0]
    if "alpha" in parts:
        return float(parts["alpha"]) / rank
    if config is not None and isinstance(config.get("lora_alpha"), int | float):
        return float(config["lora_alpha"]) / (rank**0.5 if config.get("use_rslora") else rank)
    return 1.0
