"""Write a checkpoint's video model in diffusers' layout, for other software: safetensors, their index, and config.json.

The folder loads with diffusers' WanTransformer3DModel.from_pretrained. Weights are written bit for bit. A model with a camera, for
which diffusers has no place, is written under the original names instead. Models with inputs that Wan does not have (actions, travel,
a learned memory) are refused by name. The low-rank adapter of a stage that trained one is written
for diffusers (load_lora_weights) and for peft, in one folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from mutoscope.core.errors import ConfigError

EXAMPLES = (
    "mutoscope export runs/wan-1.3b/matching-2 --output student/transformer",
    "mutoscope export runs/wan-1.3b/autoregressive --output teacher/transformer --weights model --shard-gib 2",
    "mutoscope export runs/wan-1.3b/matching-2 --output student/lora --weights adapter",
)


@dataclass(frozen=True)
class Options:
    """Which checkpoint, which of its weights, and where they go."""

    checkpoint: tyro.conf.Positional[str]
    """A checkpoint folder, or a stage's folder in a run."""
    output: Path
    """The folder to write, which must not exist yet."""
    weights: Literal["average", "model", "adapter"] = "average"
    """The averaged weights, which are played, or the raw ones, both with adapters merged; or the averaged adapter alone."""
    shard_gib: float = 5.0
    """Size of a file at most, in GiB."""


def run(options: Options) -> int:
    """Check and write."""
    from mutoscope.commands.checkpoints import find_checkpoint
    from mutoscope.models.lora_files import export_adapter
    from mutoscope.models.wan_weights import export_wan

    if not options.shard_gib > 0:
        raise ConfigError(f"--shard-gib must be above 0, got {options.shard_gib}")
    source = find_checkpoint(options.checkpoint)
    if options.weights == "adapter":
        print(f"{options.output}: adapters of {export_adapter(source, options.output)} layers, for diffusers and for peft")
        return 0
    shards = export_wan(source, options.output, weights=options.weights, shard_bytes=int(options.shard_gib * 2**30))
    tensors = sum(len(shard.holds) for shard in shards)
    print(f"{options.output}: {tensors} tensors in {len(shards)} file{'s' * (len(shards) > 1)}")
    return 0
