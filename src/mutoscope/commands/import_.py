"""Turn published weights into a checkpoint: Wan 2.1 from diffusers or the original repository, or a student in Wan's layout.

The recipe says the size, and how the model is played. The weights are kept bit for bit; what does not fit is named, and then
nothing is written. docs/wan.md lists which files to download.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from mutoscope.core.errors import ConfigError

if TYPE_CHECKING:
    from mutoscope.models.checkpoint import CheckpointManifest
    from mutoscope.train.config import RunConfig, StageConfig

EXAMPLES = (
    "mutoscope import wan-1.3b Wan2.1-T2V-1.3B-Diffusers",
    "mutoscope import wan-1.3b Wan2.1-T2V-1.3B --codec Wan2.1-T2V-1.3B/Wan2.1_VAE.pth",
    "mutoscope import wan-1.3b causal-forcing++/framewise-2step.pt --stage matching-2 --output runs/framewise-2step",
    "mutoscope import wan-1.3b self_forcing_dmd.pt --stage matching-4 --set chunk_frames=3 --output runs/self-forcing",
    "mutoscope import wan-1.3b Wan2.1-T2V-1.3B-Diffusers --adapter style.safetensors --adapter-strength 0.8 --output runs/style",
    "mutoscope import wan-1.3b-camera Wan21/Action2V/dmd/model.pt --stage matching-4 --output runs/camera",
)


@dataclass(frozen=True)
class Options:
    """Which weights, what they are, and where they go."""

    recipe: tyro.conf.Positional[str]
    """The recipe that the model belongs to, or a run.json: its size, and how it is played."""
    source: tyro.conf.Positional[Path]
    """A folder of diffusers or of the original repository, a .safetensors file, or a .pt or .pth file."""
    output: Path | None = None
    """Checkpoint folder, which must not exist yet; default: where the recipe's run looks for that stage."""
    stage: str = "bidirectional"
    """The stage of the recipe whose result this is: bidirectional for Wan itself, matching-2 for a 2-step student."""
    part: str = ""
    """Which model of a training checkpoint: generator_ema, generator or model; default: the first of these that is there."""
    codec: Path | None = None
    """Wan's video autoencoder: a `vae` folder of diffusers, or Wan2.1_VAE.pth. Without it the checkpoint cannot be played."""
    adapter: tuple[Path, ...] = ()
    """Adapters (LoRA) to merge into the weights: files, or folders of diffusers or peft."""
    adapter_strength: float = 1.0
    """How strongly adapters are merged; 1 is as they were trained."""
    set: tuple[str, ...] = ()
    """Changes to the recipe, as path=value."""
    content_rate: float = 16.0
    """Pixel frames per second of the videos that the model learned from."""


def run(options: Options) -> int:
    """Read, check, write."""
    from mutoscope.commands.train import read_recipe
    from mutoscope.models.foreign import read_foreign
    from mutoscope.models.lora_in import read_adapter
    from mutoscope.models.wan_codec_weights import fit_codec
    from mutoscope.models.wan_config import WanCodecConfig
    from mutoscope.models.wan_weights import import_wan

    recipe = read_recipe(options.recipe, options.set)
    if not isinstance(recipe.codec, WanCodecConfig):
        raise ConfigError(
            f"'{recipe.name}' is no Wan recipe; weights are imported for wan-1.3b, wan-14b, wan-1.3b-camera, "
            "and run.json files made from them"
        )
    stage = recipe.stage(options.stage)
    manifest = imported_manifest(recipe, stage, options.content_rate)
    codec = None if options.codec is None else fit_codec(read_foreign(options.codec, folder="vae"), recipe.codec)
    weights = read_foreign(options.source, options.part)
    output = options.output or Path("runs") / recipe.name / stage.name / "checkpoint"
    adapters = [read_adapter(path, options.adapter_strength) for path in options.adapter]
    import_wan(weights, replace(manifest, adapters=tuple(adapter.label for adapter in adapters)), output, codec, adapters)
    part = f" ({weights.part})" if weights.part else ""
    without = "" if codec else "; without a codec: give --codec as well to be able to play it"
    inside = f", with {', '.join(adapter.label for adapter in adapters)}" if adapters else ""
    print(f"{output}: {len(weights.tensors)} tensors from {weights.source}{part} as '{stage.name}' of {recipe.name}{inside}{without}")
    return 0


def imported_manifest(run: RunConfig, stage: StageConfig, content_rate: float) -> CheckpointManifest:
    """What the recipe says about a stage whose weights come from elsewhere: a world that is told what to show in words.

    Where the recipe has a camera, keys move that.
    """
    from mutoscope.core.world import NO_ACTIONS, WorldSpec
    from mutoscope.models.camera_config import CAMERA_ACTIONS
    from mutoscope.models.wan_config import WanCodecConfig
    from mutoscope.train.build import expected_figures
    from mutoscope.train.manifests import recipe_manifest

    assert isinstance(run.codec, WanCodecConfig)
    actions = NO_ACTIONS if run.model.camera is None else CAMERA_ACTIONS
    world = WorldSpec(run.data.world, run.data.height, run.data.width, content_rate, actions)
    return recipe_manifest(run, stage, expected_figures(run, stage), world, run.codec)
