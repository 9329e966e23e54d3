"""Weight files of others, read without running what is in them: safetensors, sharded or not, and torch's .pt and .pth.

Tensors are mapped from the file where the format allows it, so that a model is not held in memory twice.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mutoscope.core.errors import CheckpointError
from mutoscope.core.files import read_json

WEIGHT_STEMS = ("diffusion_pytorch_model", "model")
TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
# Where training checkpoints keep a model, the one that is played first: Self Forcing, Causal Forcing and minWM.
PARTS = ("generator_ema", "generator", "model")
INDEX = ".safetensors.index.json"


@dataclass(frozen=True)
class ForeignWeights:
    """Tensors under the names of the file; `part` is the top-level entry of a training checkpoint they came from, or "".

    `config` is the config.json of a folder; None for a file, which has none.
    """

    source: Path
    part: str
    tensors: dict[str, Tensor]
    config: dict[str, Any] | None


def read_foreign(source: Path, part: str = "", folder: str = "transformer") -> ForeignWeights:
    """A folder with config.json and safetensors (or its `folder`), or a file; `part` is an entry of a training checkpoint."""
    source = Path(source)
    if source.is_dir():
        if part:
            raise CheckpointError(f"{source} is a folder, and only training checkpoints (.pt) have parts; leave part '{part}' out")
        place = source / folder if (source / folder).is_dir() else source
        config = read_folder_config(place)
        return ForeignWeights(place, "", read_folder(place), config)
    if not source.is_file():
        raise CheckpointError(f"{source} does not exist; give a folder with config.json and safetensors, or a weight file")
    if source.suffix == ".safetensors":
        if part:
            raise CheckpointError(f"{source} is safetensors, and only training checkpoints (.pt) have parts; leave part '{part}' out")
        return ForeignWeights(source, "", read_safetensors(source), None)
    if source.suffix not in TORCH_SUFFIXES:
        raise CheckpointError(
            f"{source} ends in '{source.suffix}'; weights are read from .safetensors, {', '.join(TORCH_SUFFIXES)} or a folder"
        )
    return ForeignWeights(source, *choose_part(read_torch(source), part, source), None)


def read_folder_config(folder: Path) -> dict[str, Any]:
    """config.json of a folder, a table."""
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} has no config.json; download the folder whole, or give its weight file alone")
    config = read_json(folder / "config.json", CheckpointError)
    if not isinstance(config, dict):
        raise CheckpointError(f"{folder / 'config.json'} is no table of dimensions")
    return config


def read_folder(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder: the shards that its index lists, or its one safetensors file."""
    for stem in WEIGHT_STEMS:
        if (folder / f"{stem}{INDEX}").is_file():
            return read_shards(folder / f"{stem}{INDEX}")
        if (folder / f"{stem}.safetensors").is_file():
            return read_safetensors(folder / f"{stem}.safetensors")
    allowed = ", ".join(f"{stem}{suffix}" for stem in WEIGHT_STEMS for suffix in (INDEX, ".safetensors"))
    raise CheckpointError(f"{folder} holds none of {allowed}; give the folder of a transformer, or a weight file")


def read_shards(index: Path) -> dict[str, Tensor]:
    """The tensors that an index lists, each from the shard that it names; shards hold these and no others."""
    table = read_json(index, CheckpointError)
    places = table.get("weight_map") if isinstance(table, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(f"{index} has no weight_map from names to shards; copy it again")
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(places.values())):
        if Path(shard).name != shard:
            raise CheckpointError(f"{index} names the shard '{shard}', which does not lie beside it")
        held, wanted = read_safetensors(index.with_name(shard)), {name for name, place in places.items() if place == shard}
        if held.keys() != wanted:
            missing, extra = ", ".join(sorted(wanted - held.keys())), ", ".join(sorted(held.keys() - wanted))
            raise CheckpointError(
                f"{index.with_name(shard)} is not the shard of its index: missing {missing or 'none'}; extra {extra or 'none'}"
            )
        tensors |= held
    return tensors


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file in their own types, mapped, not copied."""
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; its folder is not whole: copy or download it again")
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is corrupt or cut off ({error}); download it again") from error


def read_torch(path: Path) -> dict[str, Any]:
    """What torch.save wrote, a table; nothing but tensors and plain values is read."""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a broken file may raise anything
        if type(error).__name__ == "UnpicklingError" and zipfile.is_zipfile(path):
            raise CheckpointError(
                f"{path} holds more than tensors and plain values, and loading it would run what is in it; it is not read. "
                "Save the weights alone, as safetensors or as a plain dictionary of tensors"
            ) from error
        raise CheckpointError(
            f"{path} is corrupt, cut off, or no file of torch.save ({type(error).__name__}); download it again"
        ) from error
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path} holds a {type(loaded).__name__}; needed: a dictionary of tensors, or one with {' or '.join(PARTS)}")
    return dict(loaded)


def choose_part(loaded: dict[str, Any], part: str, source: Path) -> tuple[str, dict[str, Tensor]]:
    """The entry that was asked for, else the first of PARTS that is there, else the whole where it is tensors alone."""
    present = [name for name in PARTS if isinstance(loaded.get(name), Mapping)]
    if part and part not in present:
        raise CheckpointError(f"{source} has no part '{part}'; it has: {', '.join(present) or 'none, it is one model'}")
    chosen = part or next(iter(present), "")
    tensors = dict(loaded[chosen]) if chosen else loaded
    if others := [str(name) for name, value in tensors.items() if not isinstance(value, Tensor) or not isinstance(name, str)]:
        known = "" if chosen else f"; known entries of training checkpoints: {', '.join(PARTS)}"
        raise CheckpointError(f"{source}{f' ({chosen})' if chosen else ''} holds what is no tensor: {', '.join(others)}{known}")
    return chosen, tensors
