"""One teacher-forcing update (forward and backward) in float32 and in bfloat16, alternating in one process; random weights and clips.

python benchmarks/train_step.py --recipe doom-cover --output results/train_step.json
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from mutoscope.commands.untrained import untrained_checkpoint
from mutoscope.core.files import write_json
from mutoscope.core.provenance import provenance
from mutoscope.core.streams import stream
from mutoscope.models.conditions import action_conditions
from mutoscope.models.denoise import clip_layout, teacher_forced
from mutoscope.models.transformer import VideoTransformer
from mutoscope.recipes import recipe
from mutoscope.train.config import AutoregressiveStage, RunConfig
from mutoscope.train.state import computes_bf16, precision_context

PRECISIONS, ROUNDS, WARM_UP = ("fp32", "bf16"), 12, 2


def update_seconds(model: VideoTransformer, run: RunConfig, batch: int, precision: str, device: torch.device) -> float:
    """Seconds of one loss and its gradient on a batch of random clips."""
    latent, generator = model.config.latent, stream(0, "train step")
    shape = (batch, run.clip_frames, latent.channels, latent.height, latent.width)
    clean, noise = (torch.randn(shape, generator=generator).to(device) for _ in range(2))
    sigma = torch.rand(shape[:2], generator=generator).to(device)
    actions = torch.rand(*shape[:2], 1, model.config.action_dim, generator=generator).to(device)
    conditions = action_conditions(actions, torch.ones(shape[:2], dtype=torch.bool, device=device))
    chunks = (1,) + (run.chunk_frames,) * ((run.clip_frames - 1) // run.chunk_frames)
    clip = clip_layout(model, run.memory, chunks, device)
    began = time.perf_counter()
    with precision_context(precision, device):
        loss = (teacher_forced(model, clean, noise, sigma, conditions, conditions, clip).float() - noise).square().mean()
    loss.backward()
    if device.type == "cuda":
        torch.cuda.synchronize()
    model.zero_grad(set_to_none=True)
    return time.perf_counter() - began


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="doom-cover")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    run, device = recipe(options.recipe), torch.device(options.device)
    batch = next(stage.update.batch_size for stage in run.stages if isinstance(stage, AutoregressiveStage))
    model = untrained_checkpoint(run, options.device).model.train().requires_grad_(True)
    times: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    for _ in range(WARM_UP + ROUNDS):
        for precision in PRECISIONS:
            times[precision].append(update_seconds(model, run, batch, precision, device))
    warm = {precision: np.array(values[WARM_UP:]) for precision, values in times.items()}
    figures = {
        "provenance": provenance(),
        "recipe": options.recipe,
        "clips": batch,
        "frames": run.clip_frames,
        "rounds": ROUNDS,
        "has_bf16_instructions": computes_bf16(device),
        "seconds": {precision: {f"p{q}": float(np.percentile(values, q)) for q in (5, 50, 95)} for precision, values in warm.items()},
        "fp32_over_bf16": {f"p{q}": float(np.percentile(warm["fp32"] / warm["bf16"], q)) for q in (5, 50, 95)},
    }
    write_json(options.output, figures)
    print(figures["seconds"], figures["fp32_over_bf16"])


if __name__ == "__main__":
    main()
