"""Checkpoints: a folder with a manifest, weights as safetensors, the codec, and real clips to start from.

manifest.json        who made it, from what, and how it wants to be used
model.safetensors    the raw weights; average.safetensors their exponential moving average, which is played
adapter.safetensors  (optional) the average's low-rank adapter, which its weights have merged in; adapter.json its config
codec.safetensors    the codec's weights and latent statistics; an imported Wan model may come without
starts.safetensors   (optional) real context clips: frames uint8, actions float32
prompts/             (with text) embeddings of the prompts that it learned, and of the negative one: no text encoder is needed to play
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from mutoscope.core.config import from_plain, to_plain
from mutoscope.core.errors import CheckpointError, ConfigError
from mutoscope.core.files import hash_file, read_json, write_bytes, write_json
from mutoscope.core.world import Beginning, WorldSpec
from mutoscope.memory.policy import PolicyConfig
from mutoscope.models.codec import ConvCodec, ConvCodecConfig
from mutoscope.models.fitting import misfits, shortened
from mutoscope.models.lora import Adapter, adapter_of, merged_tensors
from mutoscope.models.lora_config import LoraConfig
from mutoscope.models.split_codec import SplitCodec
from mutoscope.models.text_cache import INDEX, PromptCache, open_cache
from mutoscope.models.text_config import TextConfig
from mutoscope.models.tiled_codec import TiledCodec
from mutoscope.models.transformer import TransformerConfig, VideoTransformer
from mutoscope.models.wan_codec import WanCodec, wan_codec
from mutoscope.models.wan_config import WanCodecConfig

CodecConfig = ConvCodecConfig | WanCodecConfig
LoadedCodec = ConvCodec | WanCodec
FORMAT_VERSION = 1
# What `recipe_hash` begins with where the weights were imported; their own hash follows.
IMPORTED = "imported:"
PROMPTS = "prompts"
Module = TypeVar("Module", bound=nn.Module)
StageName = Literal["codec", "bidirectional", "autoregressive", "ode", "consistency", "matching"]


@dataclass(frozen=True)
class CheckpointManifest:
    """Everything that the next stage or a player must know and check."""

    format_version: int
    stage: StageName
    world: WorldSpec
    codec: CodecConfig
    model: TransformerConfig | None
    codec_hash: str
    memory: PolicyConfig | None
    chunk_frames: int
    clip_frames: int
    shift: float
    teacher_steps: int
    student_steps: int
    first_chunk_steps: int
    distilled_guidance: float
    action_dropout: float
    precision: str
    updates: int
    parents: tuple[str, ...]
    recipe: str
    recipe_hash: str
    latent_mean: tuple[float, ...]
    latent_std: tuple[float, ...]
    conditions: tuple[str, ...] = ("actions",)
    memory_modules: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    beginning: Beginning = "real frames"
    text: Literal["none"] | TextConfig = "none"

    @property
    def imported(self) -> bool:
        """True if the weights came from elsewhere, and no recipe made them."""
        return self.recipe_hash.startswith(IMPORTED)


@dataclass(frozen=True)
class Starts:
    """Real clips that a rollout may begin from: frames uint8 `[N, c, H, W, 3]`, actions float32 `[N, c, A]`, known bool `[N, c]`.

    The same places in the real world: reset it with `seeds` int64 `[N]`, then take the first `way_frames` int64 `[N]` actions of
    `ways` float32 `[N, L, A]`; the picture is then the clip's last frame.
    """

    frames: Tensor
    actions: Tensor
    known: Tensor
    seeds: Tensor
    ways: Tensor
    way_frames: Tensor


@dataclass
class Checkpoint:
    """A loaded checkpoint. `model` holds the averaged weights, in evaluation mode and without gradient; an adapter is merged into them.

    `device`: where its passes run, if that is not where its weights lie: parts of them may wait on the host (train.sharding).
    """

    path: Path
    manifest: CheckpointManifest
    model: VideoTransformer
    codec: LoadedCodec | TiledCodec | SplitCodec
    starts: Starts | None
    adapter: Adapter | None = None
    device: torch.device | None = None

    @cached_property
    def hash(self) -> str:
        """Names these weights in the manifests of their children."""
        return hash_file(self.path / "average.safetensors")[:16]

    @property
    def prompts(self) -> PromptCache:
        """The embeddings that lie beside these weights."""
        return open_cache(self.path / PROMPTS)

    def told(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The prompts' embeddings and the negative one's, each `[prompt or 1, token, text_dim]`."""
        text = self.manifest.text
        if text == "none":
            raise CheckpointError(f"{self.path} is not told in words what to show: it takes no prompts")
        return self.prompts.embeddings(prompts), self.prompts.embeddings([text.negative])


def save_checkpoint(
    path: Path, manifest: CheckpointManifest, *, model: nn.Module | None, average: nn.Module | None, codec: nn.Module, starts: Starts | None
) -> None:
    """Write a checkpoint folder; the manifest comes last, so that a folder with a manifest is whole.

    Weights are written with their adapters merged, so that who plays them need not know; the average's adapter lies beside them.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    for stale in ("manifest.json", "starts.safetensors", "adapter.json", "adapter.safetensors"):
        (path / stale).unlink(missing_ok=True)
    for name, module in (("model", model), ("average", average), ("codec", codec)):
        if module is not None:
            write_bytes(path / f"{name}.safetensors", save({key: value.contiguous() for key, value in merged_tensors(module).items()}))
    adapter = None if average is None else adapter_of(average)
    if adapter is not None:
        write_bytes(path / "adapter.safetensors", save({key: value.contiguous() for key, value in adapter.tensors.items()}))
        write_json(path / "adapter.json", to_plain(adapter.config))
        manifest = replace(manifest, adapters=(adapter.config.text,))
    if starts is not None:
        write_bytes(path / "starts.safetensors", save({field.name: getattr(starts, field.name) for field in fields(starts)}))
    write_json(path / "manifest.json", to_plain(manifest))


def read_manifest(path: Path) -> CheckpointManifest:
    """The manifest of a checkpoint folder; other formats and unknown fields are a CheckpointError."""
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(f"{path} is not a checkpoint folder (a folder with manifest.json and *.safetensors)")
    plain = read_json(path / "manifest.json", CheckpointError)
    version = plain.get("format_version") if isinstance(plain, dict) else None
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path} has checkpoint format {version!r}; this version of mutoscope reads format {FORMAT_VERSION}")
    try:
        return from_plain(CheckpointManifest, plain, "manifest")
    except ConfigError as error:
        raise CheckpointError(f"{path / 'manifest.json'} does not fit: {error}") from error


def load_codec(path: Path, device: torch.device | str = "cpu") -> tuple[CheckpointManifest, LoadedCodec]:
    """The codec of any checkpoint folder, frozen; an imported model that came without one is a CheckpointError."""
    manifest = read_manifest(path)
    codec = new_codec(manifest.codec)
    load_weights(codec, codec_file(path, manifest))
    return manifest, freeze(codec.to(device))


def codec_file(path: Path, manifest: CheckpointManifest) -> Path:
    """Where the weights of a checkpoint's codec lie; an imported model that came without one is a CheckpointError."""
    file = Path(path) / "codec.safetensors"
    if isinstance(manifest.codec, WanCodecConfig) and not file.is_file():
        raise CheckpointError(f"{path} was imported without its codec; import it once more, with --codec")
    return file


def new_codec(config: CodecConfig) -> LoadedCodec:
    """A codec with weights of no meaning, to be loaded."""
    if isinstance(config, ConvCodecConfig):
        return ConvCodec(config)
    codec = wan_codec(config)
    codec.vae.to_empty(device="cpu")
    return codec


def load_checkpoint(path: Path, device: torch.device | str = "cpu", mapped: bool = False) -> Checkpoint:
    """Load a model to play or evaluate: the averaged weights (`mapped`: see load_model), the codec and the starts."""
    path = Path(path)
    manifest, codec = load_codec(path, device)
    model = load_model(path, device, mapped)[1]
    return Checkpoint(path, manifest, model, codec, load_starts(path / "starts.safetensors", manifest.world), load_adapter(path, device))


def load_adapter(path: Path, device: torch.device | str = "cpu") -> Adapter | None:
    """The adapter that a checkpoint's weights have merged in, None where none lies beside them."""
    if not (path / "adapter.json").is_file():
        return None
    config = from_plain(LoraConfig, read_json(path / "adapter.json", CheckpointError), "adapter.json")
    return Adapter(config, {name: value.to(device) for name, value in read_tensors(path / "adapter.safetensors").items()})


def load_model(
    path: Path, device: torch.device | str = "cpu", mapped: bool = False, dtype: torch.dtype = torch.float32
) -> tuple[CheckpointManifest, VideoTransformer]:
    """The video model of a checkpoint folder without its codec: the averaged weights, frozen, in numbers of `dtype`.

    With `mapped` they stay in their file until somebody writes into them, where it has them in this type: processes of a machine that load
    the same one share its pages. Otherwise they lie as arithmetic likes them, which in the file they do not.
    """
    manifest = read_manifest(path)
    if manifest.model is None:
        raise CheckpointError(f"{path} is a '{manifest.stage}' checkpoint and holds no video model; give one of a later stage")
    with torch.device("meta"):
        model = VideoTransformer(manifest.model)
    load_weights(model, Path(path) / "average.safetensors", mapped, dtype, device)
    return manifest, freeze(model.to(device))


def load_starts(path: Path, world: WorldSpec) -> Starts | None:
    """Start clips of `world`, or None where the checkpoint has none; clips of another shape are a CheckpointError."""
    if not path.is_file():
        return None
    tensors = read_tensors(path)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    clips, count = shapes.get("frames", ())[:2], shapes.get("frames", ())[:1]
    longest = shapes.get("ways", (0, 0))[1:2]
    wanted = {"frames": (*clips, world.height, world.width, 3), "actions": (*clips, world.actions.dim), "known": clips}
    wanted |= {"seeds": count, "ways": (*count, *longest, world.actions.dim), "way_frames": count}
    if shapes != wanted or 0 in clips:
        raise CheckpointError(f"{path} holds {shapes}; start clips of this world are tensors of shapes {wanted}")
    if not 0 <= int(tensors["way_frames"].min()) <= int(tensors["way_frames"].max()) <= longest[0]:
        raise CheckpointError(f"{path}: the ways have {longest[0]} actions; way_frames {tensors['way_frames'].tolist()} do not fit")
    return Starts(**tensors)


def placeless(frames: Tensor, actions: Tensor, known: Tensor) -> Starts:
    """Start clips that are nowhere in the real world: beside them it begins an episode of seed 0."""
    count = len(frames)
    return Starts(frames, actions, known, torch.zeros(count).long(), torch.zeros(count, 0, actions.shape[2]), torch.zeros(count).long())


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A safetensors file as float32 (halves are widened) or integer tensors; a broken one is a CheckpointError."""
    return {name: in_type(tensor, torch.float32) for name, tensor in map_tensors(path).items()}


def map_tensors(path: Path) -> dict[str, Tensor]:
    """A safetensors file in its own types, mapped: pages are read when somebody looks at them."""
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; the checkpoint is not whole")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is corrupt ({error}); copy or train it again") from error


def in_type(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor of floats as `dtype`; integers stay."""
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def load_weights(
    module: nn.Module, path: Path, mapped: bool = False, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> None:
    """Load a module's weights; missing, extra, mis-shaped keys and NaN are named in the error.

    A module on the meta device, which has no memory yet, takes tensors of its own in `dtype` on `device`, or with `mapped` those that lie
    in the file. They go there one by one, and in that type already: the device never holds wider numbers than it keeps. Any other module
    keeps its types and its device.
    """
    tensors = map_tensors(path)
    if problems := misfits(module.state_dict(), tensors):
        raise CheckpointError(f"{path} does not fit the model: {shortened(problems)}")
    if any(value.is_meta for value in module.state_dict().values()):
        module.load_state_dict({name: _landed(value, mapped, dtype, device) for name, value in tensors.items()}, assign=True)
    else:
        module.load_state_dict(tensors)


def _landed(value: Tensor, mapped: bool, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """A file's tensor in a type on a device, narrowed before it goes there; a copy, unless it may stay in the file."""
    there = in_type(value, dtype).to(device)
    return there.clone() if there is value and not mapped else there


def freeze(module: Module) -> Module:
    """The module in evaluation mode and without gradient."""
    return module.eval().requires_grad_(False)


def export_checkpoint(source: Path, target: Path) -> None:
    """A copy to ship: averaged weights and codec in half precision, no raw weights."""
    source, target = Path(source), Path(target)
    manifest = read_manifest(source)
    if source.resolve() == target.resolve():
        raise CheckpointError(f"{source} cannot be exported onto itself; give another folder")
    target.mkdir(parents=True, exist_ok=True)
    for stale in ("manifest.json", "starts.safetensors"):
        (target / stale).unlink(missing_ok=True)
    for name in ("average", "codec"):
        tensors = {
            key: value.half() if value.is_floating_point() else value for key, value in read_tensors(source / f"{name}.safetensors").items()
        }
        write_bytes(target / f"{name}.safetensors", save(tensors))
    if (source / "starts.safetensors").is_file():
        shutil.copyfile(source / "starts.safetensors", target / "starts.safetensors")
    if (source / PROMPTS / INDEX).is_file():
        cache = open_cache(source / PROMPTS)
        cache.copy(target / PROMPTS, cache.prompts)
    write_json(target / "manifest.json", to_plain(manifest))
