"""At which stage is quality lost? Every finished stage scored on the same held-out clips, in the regime it was trained for.

A bidirectional teacher cannot continue a clip: its row says how sharp its own clips are. An autoregressive teacher is
sampled with many steps; an ode or consistency student with its steps, first on real context (every frame after real
frames), then on its own frames; a matching student on its own frames, as in play.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from mutoscope.core.files import read_json, write_bytes, write_json
from mutoscope.core.provenance import provenance
from mutoscope.core.streams import derive_seed, stream
from mutoscope.data.batches import Batch, ClipSampler
from mutoscope.data.clips import open_dataset
from mutoscope.evaluate.metrics.psnr import psnr
from mutoscope.evaluate.metrics.sharpness import sharpness
from mutoscope.evaluate.metrics.ssim import ssim
from mutoscope.models.checkpoint import Checkpoint, load_checkpoint, load_codec, read_manifest
from mutoscope.models.codec import to_frames, to_model_pixels
from mutoscope.rollout.generate import generate
from mutoscope.rollout.session import default_config
from mutoscope.rollout.whole_clip import whole_clips

CONTEXT, HORIZON, CLIPS, SEED, WHOLE_CLIP_STEPS = 4, 8, 24, 77, 32


@dataclass(frozen=True)
class Row:
    """A line of the table: means over clips and frames of the horizon, with standard errors over clips."""

    stage: str
    regime: str
    psnr_db: tuple[float, float]
    ssim: tuple[float, float]
    sharpness: tuple[float, float]


def score_stage(name: str, path: Path, data: Path) -> list[Row]:
    """The rows of one checkpoint."""
    manifest = read_manifest(path)
    dataset = open_dataset(data)
    frames = max(CONTEXT + HORIZON, manifest.clip_frames)
    batch = ClipSampler(dataset, clip_frames=frames, batch_size=CLIPS, seed=SEED, arrays=("frames", "actions")).batch(0)
    real = np.ascontiguousarray(batch.arrays["frames"])
    if manifest.stage == "codec":
        _, codec = load_codec(path)
        with torch.no_grad():
            restored = to_frames(codec.decode(codec.encode(to_model_pixels(torch.from_numpy(real[:, :HORIZON]))))).numpy()
        return [row(name, "reconstruction", restored, real[:, :HORIZON])]
    checkpoint = load_checkpoint(path)
    told = () if manifest.text == "none" else tuple(dataset.captions_of(batch.episodes))
    if manifest.stage == "bidirectional":
        length = manifest.clip_frames
        return [row(name, f"whole clips, {WHOLE_CLIP_STEPS} steps", dreamed_clips(checkpoint, batch, length, told), real[:, :length])]
    steps, target = manifest.student_steps, real[:, CONTEXT : CONTEXT + HORIZON]
    rows = []
    if manifest.stage in ("ode", "consistency"):
        rows.append(row(name, f"real context, {steps} steps", next_frames(checkpoint, batch, told), target))
    return [*rows, row(name, f"own frames, {steps} steps", continuation(checkpoint, batch, CONTEXT, HORIZON, told), target)]


def row(stage: str, regime: str, made: np.ndarray, real: np.ndarray) -> Row:
    """Compare clips uint8 `[clips, n, H, W, 3]`."""
    return Row(stage, regime, *(summary(metric(made, real)) for metric in (psnr, ssim, sharpness)))


def summary(values: np.ndarray) -> tuple[float, float]:
    """`[clips, n]` -> mean over everything, standard error over clips."""
    clips = values.mean(axis=1)
    return float(clips.mean()), float(clips.std(ddof=1) / len(clips) ** 0.5)


def continuation(checkpoint: Checkpoint, batch: Batch, context: int, horizon: int, told: Sequence[str]) -> np.ndarray:
    """`horizon` frames after `context` real ones, under the real actions and captions."""
    frames, actions = batch.arrays["frames"], batch.arrays["actions"]
    config = replace(default_config(checkpoint.manifest), seed=SEED)
    return generate(
        checkpoint,
        config,
        frames=frames[:, :context],
        context_actions=actions[:, :context],
        known=batch.known[:, :context],
        actions=actions[:, context : context + horizon],
        prompts=told,
    )


def next_frames(checkpoint: Checkpoint, batch: Batch, told: Sequence[str]) -> np.ndarray:
    """Every frame of the horizon generated after real frames alone, a chunk at a time."""
    chunk = checkpoint.manifest.chunk_frames
    pieces = [continuation(checkpoint, batch, CONTEXT + start, chunk, told) for start in range(0, HORIZON, chunk)]
    return np.concatenate(pieces, axis=1)[:, :HORIZON]


def dreamed_clips(checkpoint: Checkpoint, batch: Batch, length: int, told: Sequence[str]) -> np.ndarray:
    """Clips of a bidirectional teacher from noise, under the real actions and captions."""
    latent, actions, known = checkpoint.codec.latent, batch.arrays["actions"][:, :length], batch.known[:, :length]
    shape = (len(actions), length, latent.channels, latent.height, latent.width)
    noise, text = torch.randn(shape, generator=stream(derive_seed(SEED, "whole clips"), "noise")), checkpoint.told(told) if told else None
    given = torch.from_numpy(actions), torch.from_numpy(known)
    return whole_clips(checkpoint, noise, *given, text=text, steps=WHOLE_CLIP_STEPS)


def update_table(folder: Path, rows: list[Row]) -> None:
    """Merge rows into `scores.json` and `scores.md` of a run folder; a stage's new rows replace its old ones."""
    file = folder / "scores.json"
    before = read_json(file)["rows"] if file.is_file() else []
    fresh = {item.stage for item in rows}
    merged = [item for item in before if item["stage"] not in fresh] + [vars(item) for item in rows]
    write_json(file, {"provenance": provenance(), "clips": CLIPS, "context": CONTEXT, "horizon": HORIZON, "rows": merged})
    write_bytes(folder / "scores.md", markdown(merged).encode())


def markdown(rows: list[dict]) -> str:
    """The table as Markdown: mean +- standard error over clips."""
    lines = ["| stage | regime | PSNR dB | SSIM | sharpness (0 is real) |", "| --- | --- | --- | --- | --- |"]
    for item in rows:
        cells = [f"{mean:.2f} +- {error:.2f}" for mean, error in (item["psnr_db"], item["ssim"], item["sharpness"])]
        lines.append(f"| {item['stage']} | {item['regime']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
