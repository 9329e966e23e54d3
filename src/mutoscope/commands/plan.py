"""How many bytes would it take? Cache bytes per memory policy for any model, and with --gpu-memory whether its training and play fit.

A model is a recipe (wan-1.3b and wan-14b among them: 480x832, 1,560 tokens per frame) or a checkpoint. With --gpu-memory, for recipes: peak
memory and time of every stage and of play, settings that fit, what each costs, and the commands that launch them. Nothing is allocated.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from mutoscope.core.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    import torch

    from mutoscope.memory.head_store import AnySpec
    from mutoscope.memory.policy import PolicyConfig
    from mutoscope.models.camera_config import CameraConfig

EXAMPLES = (
    "mutoscope plan",
    "mutoscope plan wan-1.3b --frames 7500 --tokens 1024 --dtype bf16",
    "mutoscope plan doom --policies window=16 sink=4,window=12 full=1000 --rows 8",
    "mutoscope plan wan-1.3b --gpu-memory 24",
    "mutoscope plan wan-14b --gpu-memory 24 80 --gpus 8 --output what_fits.json",
)
USUAL = (
    "window=21",
    "sink=3,window=9",
    "deep-sink=21",
    "ema-sink=3,window=6",
    "rolling=6",
    "anchored=3,anchor=3,window=9",
    "recency=21",
    "participative=16",
    "merging=21",
    "different=21",
    "retrieval=8,window=13,host_mib=16384",
    "window=21+linear",
    "window=21+gated-delta",
    "window=21+fast-mlp",
    "window=21+fast-swiglu",
    "window=3+fast-swiglu",
)
# Options that say something on one side of --gpu-memory only, and for those of a table what to give instead.
OF_FITS = ("device", "gpus", "measured", "with_proposed", "text_tokens", "output")
OF_TABLES = {
    "frames": "a plan's clips have the recipe's length: --set clip_frames=21",
    "policies": "change the recipe's memory: --set memory=window=12",
    "tokens": "they follow from the size of the pictures: --set data.height=720 data.width=1280 (for Wan codec.height and codec.width too)",
    "chunk": "change the recipe's chunks: --set chunk_frames=3",
    "dtype": "the plan chooses the type of keys and values, for training it is the recipe's",
}
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True)
class Options:
    """Which model, how long a world, which policies."""

    model: tyro.conf.Positional[str] = ""
    """A recipe, a checkpoint or a bundled name; default: the bundled world."""
    frames: int = 7500
    """Frames of the world: what the policy "full" has to hold. 7,500 are five minutes at 25 frames/s."""
    policies: tuple[str, ...] = ()
    """Memory policies, such as window=16, sink=2,window=14, full=200, retrieval=8 or window=8+fast-swiglu; default: one of each kind."""
    tokens: int = 0
    """Tokens of a frame; 0: the model's own."""
    chunk: int = 3
    """Frames denoised together, at most."""
    rows: int = 1
    """Players side by side."""
    dtype: Literal["fp32", "bf16", "int8", "fp8"] = "bf16"
    """Type of keys and values. Those of eight bits stand beside a model in bf16, with a scale per token and head."""
    gpu_memory: tuple[float, ...] = ()
    """GiB of a device, one or several: what of the recipe fits on it, and with which settings."""
    device: str = ""
    """Whose speed is taken for the times; default: the smallest in the table with that much memory."""
    gpus: int = 1
    """Devices at hand for training."""
    set: tuple[str, ...] = ()
    """Changes to the recipe, as path=value, as in `mutoscope train`."""
    with_proposed: bool = False
    """Show steps too that are modelled and cannot be launched."""
    measured: bool = False
    """Take the speed of this machine, from a small pass that is timed here."""
    text_tokens: int = 512
    """Tokens of a prompt, for models that read text; Wan fills prompts up to 512."""
    output: Path | None = None
    """A JSON file for what fits."""


def run(options: Options) -> int:
    """Print the table."""
    import torch

    from mutoscope.commands.checkpoints import parse_policy

    if options.gpu_memory:
        return run_fitting(options)
    refuse(options, dict.fromkeys(OF_FITS, "give --gpu-memory too"), "without --gpu-memory")

    if min(options.frames, options.chunk, options.rows) < 1 or options.tokens < 0:
        raise ConfigError(f"--frames, --chunk and --rows must be at least 1 and --tokens at least 0, got {options}")
    dtype = torch.float32 if options.dtype == "fp32" else torch.bfloat16
    halved = f"head-wise={dimensions(options.model, options.set).heads // 2},frames=21"
    texts = options.policies or tuple(filter(lambda text: possible(options, text), (f"full={options.frames}", *USUAL, halved)))
    specs = [(text, cache_spec(options, parse_policy(text))) for text in texts]
    print(table(specs, options, dtype))
    return 0


def run_fitting(options: Options) -> int:
    """Print what fits and with which settings; the exit code is 0 whether it does or not."""
    from mutoscope.commands import fitting
    from mutoscope.commands.train import read_recipe
    from mutoscope.core.files import write_json
    from mutoscope.core.provenance import provenance
    from mutoscope.recipes import RECIPES

    refuse(options, OF_TABLES, "with --gpu-memory")
    if options.model not in RECIPES and not options.model.endswith(".json"):
        raise ConfigError(f"--gpu-memory plans a recipe, and '{options.model}' is none; recipes: {', '.join(RECIPES)}")
    if min(options.gpus, options.rows) < 1 or options.text_tokens < 0:
        raise ConfigError(f"--gpus and --rows must be at least 1 and --text-tokens at least 0, got {options}")
    found, wholes = fitting.fits(options)
    print(fitting.report(found, wholes, read_recipe(options.model, options.set), human, fitting.assumed(options)))
    if options.output:
        head = {"provenance": provenance(), "recipe": options.model, "gpus": options.gpus, "text_tokens": options.text_tokens}
        plain = {"fits": [fit.plain() for fit in found], "wholes": [whole.plain() for whole in wholes]}
        write_json(options.output, {**head, "set": list(options.set), "assumed": fitting.assumed(options), **plain})
        print(f"{options.output}: written")
    return 0


def refuse(options: Options, names: dict[str, str], where: str) -> None:
    """A ConfigError that names the options which say nothing here, and what to do instead."""
    defaults = {field.name: field.default for field in fields(options)}
    given = [name for name in names if getattr(options, name) != defaults[name]]
    if given:
        told = "; ".join(f"--{name.replace('_', '-')} {getattr(options, name)}: {names[name]}" for name in given)
        raise ConfigError(f"{where} these options say nothing: {told}")


def cache_spec(options: Options, policy: PolicyConfig) -> AnySpec:
    """The cache of the named model under a policy."""
    from mutoscope.memory import head_store
    from mutoscope.memory.extras import StoreExtras, with_extras
    from mutoscope.models.camera_config import check_camera_memory

    size = dimensions(options.model, options.set)
    check_camera_memory(size.camera, policy)
    times = 1 if size.camera is None else 2
    tokens = options.tokens or size.tokens
    spec = head_store.cache_spec(times * size.layers, size.heads, size.head_dim, tokens, policy, options.chunk, options.rows)
    return with_extras(spec, StoreExtras(options.dtype if options.dtype in ("int8", "fp8") else "plain"))


def possible(options: Options, text: str) -> bool:
    """Whether the named model can have a policy; a camera excludes some, and eight bits do."""
    from mutoscope.commands.checkpoints import parse_policy

    try:
        cache_spec(options, parse_policy(text))
    except ConfigError:
        return False
    return True


@dataclass(frozen=True)
class Dimensions:
    """Layers, heads, channels of a head and tokens of a frame of a model, and its camera, with which every layer attends twice."""

    layers: int
    heads: int
    head_dim: int
    tokens: int
    camera: CameraConfig | None


def dimensions(name: str, changes: tuple[str, ...] = ()) -> Dimensions:
    """Those of a recipe with some changes, of a checkpoint, or of a bundled name."""
    from mutoscope.commands.checkpoints import bundled_first, find_checkpoint
    from mutoscope.commands.train import read_recipe
    from mutoscope.models.checkpoint import read_manifest
    from mutoscope.recipes import RECIPES

    if name in RECIPES:
        run_config = read_recipe(name, changes)
        model, data = run_config.model, run_config.data
        cell = run_config.codec_stride * model.patch
        tokens = (data.height // cell) * (data.width // cell)
        return Dimensions(model.num_layers, model.num_heads, model.dim // model.num_heads, tokens, model.camera)
    if changes:
        raise ConfigError(f"--set changes a recipe, and '{name}' is none; recipes: {', '.join(RECIPES)}")
    try:
        path = find_checkpoint(name) if name else bundled_first()
    except CheckpointError as error:
        raise CheckpointError(f"{error}; recipes: {', '.join(RECIPES)}") from error
    config = read_manifest(path).model
    if config is None:
        raise ConfigError(f"{path} is a codec; give a checkpoint of a later stage")
    return Dimensions(config.num_layers, config.num_heads, config.head_dim, config.grid.tokens, config.camera)


def table(specs: list[tuple[str, AnySpec]], options: Options, dtype: torch.dtype) -> str:
    """One line per policy: slots, bytes, and how the memory grows with the world."""
    first = specs[0][1]
    own = dimensions(options.model, options.set)
    layers = f"{own.layers} layers{'' if own.camera is None else ' that attend twice'}"
    size = f"{layers}, {first.heads} heads of {first.head_dim}, {first.tokens} tokens per frame, {options.dtype}"
    lines = [f"{options.model or 'the bundled world'}: {size}, {options.rows} player{'s' * (options.rows > 1)}"]
    width = max(len(text) for text, _ in specs) + 2
    lines.append(f"{'policy':<{width}}{'slots':>8}{'bytes':>32}   after {options.frames:,} frames")
    for text, spec in specs:
        amount = spec.bytes(dtype)
        verdict = "everything is kept" if spec.slots >= options.frames else f"reads back at most {spec.slots - 1} frames"
        for part in (part for part in spec.parts if part.slots < spec.slots):
            verdict += f", {part.heads} of {spec.heads} heads at most {part.slots - 1}"
        if archived := spec.host_bytes(dtype):
            verdict += f", {spec.shelves(dtype):,} of those that left are on the host: {human(archived)}"
        if spec.state_floats:
            verdict += f", and a state of {human(spec.state_bytes(dtype))} for what all frames left"
        lines.append(f"{text:<{width}}{spec.slots:>8}{amount:>21,}{human(amount):>11}   {verdict}")
    return "\n".join(lines)


def human(amount: float) -> str:
    """12582912 -> "12.0 MiB"."""
    for unit in UNITS[:-1]:
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == UNITS[0] else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} {UNITS[-1]}"
