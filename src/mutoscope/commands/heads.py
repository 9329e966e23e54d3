"""Measure which attention heads are static: those that look at sinks, the last frames and themselves, whatever is shown.

What is printed last is a memory policy that names them layer by layer, for --memory of `play`, `generate` and `recall`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from mutoscope.core.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from mutoscope.memory.heads import HeadWise
    from mutoscope.memory.policy import PolicyConfig
    from mutoscope.models.checkpoint import Checkpoint

EXAMPLES = (
    "mutoscope heads doom-cover/matching-2 runs/doom-cover/data/held-out --memory head-wise=2,window=4,frames=8",
    "mutoscope heads runs/scroll/matching-2 runs/scroll/data/held-out --clips 16 --output results/heads.json",
)


@dataclass(frozen=True)
class Options:
    """Which checkpoint, on which clips, and for what memory."""

    checkpoint: tyro.conf.Positional[str]
    """A checkpoint folder, a stage's folder of a run, or a bundled name."""
    data: tyro.conf.Positional[Path]
    """Folder of a data set of the checkpoint's world; its clips say where the heads look."""
    memory: str = "head-wise"
    """The head-wise memory: how many heads of every layer are to be static, and what they keep. Without sizes: as many frames as the
    checkpoint's own memory, half of the heads static."""
    clips: int = 8
    """Clips to look at, drawn from the data."""
    seed: int = 0
    """Seed of the draw."""
    output: Path | None = None
    """A JSON file for the shares and the policy."""


def run(options: Options) -> int:
    """Measure, print the shares and the policy, and write both where asked."""
    from mutoscope.commands.checkpoints import find_checkpoint, policy_text
    from mutoscope.core.files import write_json
    from mutoscope.core.provenance import provenance
    from mutoscope.models.checkpoint import load_checkpoint
    from mutoscope.models.static_heads import clip_shares, with_heads

    checkpoint = load_checkpoint(find_checkpoint(options.checkpoint))
    policy = asked_policy(options.memory, checkpoint.manifest.memory, checkpoint.model.config.num_heads)
    policy.groups(checkpoint.model.config.num_layers, checkpoint.model.config.num_heads)
    shares = clip_shares(checkpoint, policy, *draw_clips(options, policy, checkpoint))
    found = with_heads(policy, shares)
    print(shares_table(shares, found))
    print(policy_text(found))
    if options.output is not None:
        weights = {"checkpoint": options.checkpoint, "weights": checkpoint.hash}
        asked = {"data": str(options.data), "clips": options.clips, "seed": options.seed}
        write_json(
            options.output, {"provenance": provenance(), **weights, **asked, "policy": policy_text(found), "shares": shares.tolist()}
        )
    return 0


def asked_policy(text: str, own: PolicyConfig | None, heads: int) -> HeadWise:
    """The policy that a text names; sizes that it leaves out come from the checkpoint's own memory."""
    from dataclasses import replace

    from mutoscope.commands.checkpoints import named_policy
    from mutoscope.memory.heads import HeadWise
    from mutoscope.memory.policy import Full

    frames = 21 if own is None or isinstance(own, Full) else own.capacity(1)
    policy = named_policy(text, frames)
    if not isinstance(policy, HeadWise):
        raise ConfigError(f"--memory is '{text}', and static heads are those of a head-wise memory; write it like head-wise=2,window=6")
    return policy if "=" in text else replace(policy, static=max(1, heads // 2))


def draw_clips(options: Options, policy: HeadWise, checkpoint: Checkpoint) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames, actions and what is known of them, of clips long enough to show something beyond what static heads keep."""
    from mutoscope.data.batches import ClipSampler
    from mutoscope.data.clips import open_dataset
    from mutoscope.evaluate.run import check_world

    manifest, dataset = checkpoint.manifest, open_dataset(options.data)
    check_world(checkpoint, dataset.world.name, (dataset.world.height, dataset.world.width), dataset.world.actions.names)
    step = manifest.chunk_frames * checkpoint.codec.temporal_stride
    length = 1 + step * -(-2 * max(policy.sink + policy.window, policy.frames) // manifest.chunk_frames)
    batch = ClipSampler(dataset, clip_frames=length, batch_size=options.clips, seed=options.seed).batch(0)
    return batch.arrays["frames"], batch.arrays["actions"], batch.known


def shares_table(shares: Tensor, policy: HeadWise) -> str:
    """What share of its attention every head gives to what static heads keep, the chosen ones marked by a star."""
    lines = [f"share of attention on {policy.sink} sink{'s' * (policy.sink > 1)}, the newest {policy.window} frames and the chunk itself:"]
    for layer, row in enumerate(shares.tolist()):
        cells = (f"{share:6.1%}{'*' if head in policy.heads[layer] else ' '}" for head, share in enumerate(row))
        lines.append(f"layer {layer:2d}  " + " ".join(cells))
    return "\n".join(lines)
