"""Wan weights in and out: a foreign checkpoint fitted to a transformer of ours, and ours written in diffusers' layout."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from mutoscope.core.config import to_plain
from mutoscope.core.errors import CheckpointError
from mutoscope.core.files import hash_file, write_atomically, write_folder, write_json
from mutoscope.models.checkpoint import IMPORTED, CheckpointManifest, read_manifest
from mutoscope.models.foreign import INDEX, WEIGHT_STEMS, ForeignWeights, read_safetensors
from mutoscope.models.lora_in import ForeignAdapter, merged
from mutoscope.models.transformer import TransformerConfig, VideoTransformer
from mutoscope.models.wan_config import WanSizes, diffusers_config, original_config, read_sizes
from mutoscope.models.wan_keys import CAMERA, listed, names_in_file, our_names, to_diffusers

STEM = WEIGHT_STEMS[0]
CODEC_PREFIX = "vae."
FORMAT = {"format": "pt"}  # which diffusers and transformers ask for


def sizes_of(config: TransformerConfig) -> WanSizes:
    """The dimensions that a transformer of ours shares with Wan; inputs that Wan does not have are refused.

    A camera is none: what it adds are weights of its own, in the original layout.
    """
    others = {"actions": config.embeds_actions, "travel": config.travel, "a learned memory": config.recall}
    if added := [name for name, value in others.items() if value]:
        raise CheckpointError(f"this model also takes {', '.join(added)}, which Wan's layout has no place for; it stays in our own format")
    if not config.text_dim:
        raise CheckpointError("this model takes no text, and every Wan model does; it stays in our own format")
    return WanSizes(
        config.latent.channels, config.dim, config.ffn_dim, config.num_heads, config.num_layers, config.patch,
        config.freq_dim, config.text_dim, config.eps,
    )  # fmt: skip


def parameter_shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight of a transformer, without making one."""
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in VideoTransformer(config).state_dict().items()}


def fit(weights: ForeignWeights, config: TransformerConfig) -> dict[str, Tensor]:
    """The tensors under our names; keys that are missing, left over or of another shape are all named, as the file has them."""
    if weights.config is not None:
        compare_sizes(read_sizes(weights.config, str(weights.source / "config.json")), sizes_of(config), weights.source)
    ours, wanted = our_names(weights.tensors), parameter_shapes(config)
    check_branch(weights, config)
    tensors, theirs = {ours[name]: tensor for name, tensor in weights.tensors.items()}, names_in_file(ours)
    problems = []
    if missing := wanted.keys() - tensors.keys():
        problems.append(f"missing {listed(map(theirs, missing))}")
    if extra := tensors.keys() - wanted.keys():
        problems.append(f"unmatched {listed(name for name, own in ours.items() if own in extra)}")
    for name in sorted(wanted.keys() & tensors.keys()):
        if tuple(tensors[name].shape) != wanted[name]:
            problems.append(f"{theirs(name)} is {tuple(tensors[name].shape)}, needed {wanted[name]}")
        elif not tensors[name].is_floating_point():
            problems.append(f"{theirs(name)} is of type {tensors[name].dtype}, needed a floating-point one")
    if problems:
        raise CheckpointError(f"{weights.source} does not fit this model: {'; '.join(problems)}")
    return tensors


def check_branch(weights: ForeignWeights, config: TransformerConfig) -> None:
    """Weights and model both have the camera branch, or neither has; leaving it out, or adding one, would be another model."""
    branch = [name for name in weights.tensors if CAMERA in name.split(".")]
    if branch and config.camera is None:
        raise CheckpointError(
            f"{weights.source} holds the camera branch of minWM's checkpoints ({listed(branch)}), and this recipe has no camera; "
            "import it as wan-1.3b-camera, or as a recipe whose model.camera says what lens it was trained with"
        )
    if not branch and config.camera is not None:
        raise CheckpointError(
            f"{weights.source} has no camera branch (blocks.*.self_attn.{CAMERA}.*), and this recipe has a camera; take a checkpoint with "
            "camera control, or import this one as a recipe without, such as wan-1.3b"
        )


def compare_sizes(found: WanSizes, wanted: WanSizes, source: Path) -> None:
    """Both dimensions are the same, or the error names those that differ."""
    differing = [name for name, value in vars(wanted).items() if vars(found)[name] != value]
    if differing:
        each = ", ".join(f"{name} is {vars(found)[name]}, needed {vars(wanted)[name]}" for name in differing)
        raise CheckpointError(f"{source} is of another size than the recipe: {each}")


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Safetensors, atomically and in the tensors' own types."""
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}

    def save(temporary: Path) -> None:
        try:
            save_file(whole, temporary, FORMAT)
        except SafetensorError as error:
            raise OSError(str(error)) from error

    write_atomically(path, save)


def import_wan(
    weights: ForeignWeights,
    manifest: CheckpointManifest,
    target: Path,
    codec: Mapping[str, Tensor] | None = None,
    adapters: Sequence[ForeignAdapter] = (),
) -> None:
    """Write foreign weights as a checkpoint folder, bit for bit and in their own types. Nothing is written unless all of it fits.

    Adapters are merged into them, one after the other.

    The codec's weights, under diffusers' names, lie beside them where they are given, as `vae.*`; `codec_hash` then names them, and
    `recipe_hash` the model's.
    """
    if manifest.model is None:
        raise CheckpointError("a checkpoint of a transformer needs its dimensions")
    tensors = fit(weights, manifest.model)
    for adapter in adapters:
        tensors = merged(tensors, adapter)

    def write(folder: Path) -> None:
        write_tensors(folder / "average.safetensors", tensors)
        named = replace(manifest, recipe_hash=f"{IMPORTED}{hash_file(folder / 'average.safetensors')[:16]}")
        if codec is not None:
            write_tensors(folder / "codec.safetensors", {f"{CODEC_PREFIX}{name}": tensor for name, tensor in codec.items()})
            named = replace(named, codec_hash=hash_file(folder / "codec.safetensors")[:16])
        write_json(folder / "manifest.json", to_plain(named))

    write_folder(target, write)


@dataclass(frozen=True)
class Shard:
    """One file of an export: its name and the names, ours, of what it holds."""

    name: str
    holds: tuple[str, ...]


def plan_shards(sizes: Mapping[str, int], limit: int) -> tuple[Shard, ...]:
    """Tensors of these sizes in bytes, in order, in files of at most `limit` bytes (a larger tensor has one of its own)."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if groups[-1] and filled + size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    if len(groups) == 1:
        return (Shard(f"{STEM}.safetensors", tuple(groups[0])),)
    return tuple(Shard(f"{STEM}-{number:05d}-of-{len(groups):05d}.safetensors", tuple(group)) for number, group in enumerate(groups, 1))


def export_wan(source: Path, target: Path, *, weights: str, shard_bytes: int) -> tuple[Shard, ...]:
    """Write a checkpoint's `average` or raw `model` weights in diffusers' layout, bit for bit and in their own types.

    A model with a camera is written under the original names, as minWM has them: diffusers' class has no place for the branch.
    """
    manifest = read_manifest(source)
    if manifest.model is None:
        raise CheckpointError(f"{source} is a '{manifest.stage}' checkpoint and holds no video model; give one of a later stage")
    sizes, rename = sizes_of(manifest.model), layout_names(manifest.model)
    config = diffusers_config(sizes) if manifest.model.camera is None else original_config(sizes)
    file = Path(source) / f"{weights}.safetensors"
    if manifest.imported and not file.is_file():
        raise CheckpointError(f"{source} was imported and holds one set of weights, its average; export that, without --weights {weights}")
    own = ForeignWeights(file, "", read_safetensors(file), None)
    tensors = fit(own, manifest.model)
    shards = plan_shards({name: tensor.numel() * tensor.element_size() for name, tensor in tensors.items()}, shard_bytes)

    def write(folder: Path) -> None:
        for shard in shards:
            write_tensors(folder / shard.name, {rename(name): tensors[name] for name in shard.holds})
        if len(shards) > 1:
            write_json(folder / f"{STEM}{INDEX}", shard_index(shards, tensors, rename))
        write_json(folder / "config.json", config)

    write_folder(target, write)
    return shards


def layout_names(config: TransformerConfig) -> Callable[[str], str]:
    """Our names -> those of the layout that a model is exported in."""
    return to_diffusers if config.camera is None else str


def shard_index(shards: tuple[Shard, ...], tensors: Mapping[str, Tensor], rename: Callable[[str], str]) -> dict[str, Any]:
    """The index beside several shards: the layout's name -> file, and the size of all in bytes."""
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    return {"metadata": {"total_size": total}, "weight_map": {rename(name): shard.name for shard in shards for name in shard.holds}}
