"""What a stage shows while it trains: curves, and a video of real clips beside generated ones under the same actions."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from mutoscope.core.errors import MissingPackageError
from mutoscope.core.shapes import pixel_frames
from mutoscope.core.streams import derive_seed
from mutoscope.data.batches import Batch, ClipSampler
from mutoscope.media.curves import plot_curves
from mutoscope.media.sheet import contact_sheet, write_png
from mutoscope.media.video import write_video
from mutoscope.memory.elements import ElementName
from mutoscope.memory.extras import takes_extras
from mutoscope.memory.head_store import AnySpec
from mutoscope.models.camera import with_cameras
from mutoscope.models.checkpoint import Checkpoint, CheckpointManifest, LoadedCodec
from mutoscope.models.codec import ConvCodec, to_frames
from mutoscope.models.conditions import Conditions
from mutoscope.models.decoders import TILES, with_decoder
from mutoscope.models.split_codec import SplitCodec
from mutoscope.models.tiled_codec import TiledCodec
from mutoscope.models.transformer import VideoTransformer
from mutoscope.models.wan_codec import WanCodec
from mutoscope.models.wan_config import WanCodecConfig
from mutoscope.noise.schedule import uniform_grid
from mutoscope.rollout.generate import generate
from mutoscope.rollout.session import default_config
from mutoscope.rollout.speed import Speed
from mutoscope.rollout.whole_clip import denoise_clip
from mutoscope.train.config import BidirectionalStage, CodecStage, RunConfig, StageConfig
from mutoscope.train.loop import StageRun
from mutoscope.train.manifests import temporal_stride
from mutoscope.train.sources import clip_tensors

if TYPE_CHECKING:
    from mutoscope.train.chain import Chain

ROWS, CONTEXT, SAMPLE_STEPS = 4, 4, 16


def draw_samples(
    chain: "Chain", stage: StageConfig, run_stage: StageRun, codec: LoadedCodec, manifest: CheckpointManifest, update: int
) -> None:
    """Write `samples/update-N.mp4` and `.png` and refresh `curves.png`; packages that are absent are named once, and nothing stops."""
    folder, batch = chain.folder / stage.name, sample_clips(chain, stage)
    real = np.ascontiguousarray(batch.arrays["frames"])
    clip, conditions = clip_tensors(batch, "frames", chain.workers.device, codec.temporal_stride)
    if isinstance(stage, CodecStage):
        made = reconstruct(run_stage, clip)
    elif isinstance(stage, BidirectionalStage):
        length = chain.run.clip_frames
        real = real[:, : pixel_frames(length, codec.temporal_stride)]
        made = sample_whole_clips(chain, run_stage, codec, told(chain, batch, conditions.frames(0, length)))
    else:
        made = continue_clips(chain, run_stage.learners["model"].average, codec, manifest, batch)
    if not chain.workers.leads:  # it helped with passes that take all processes
        return
    with absent_packages_named(folder):
        save_pictures(folder, real, made, chain.train_data.world.content_rate, update)
        plot_curves(folder / "metrics.jsonl", folder / "curves.png")


def draw_average(chain: "Chain", stage: StageConfig, model: VideoTransformer, codec: LoadedCodec, manifest: CheckpointManifest) -> None:
    """The samples of a stage that made no updates, and so has no curves."""
    folder, batch = chain.folder / stage.name, sample_clips(chain, stage)
    real, made = np.ascontiguousarray(batch.arrays["frames"]), continue_clips(chain, model, codec, manifest, batch)
    with absent_packages_named(folder):
        save_pictures(folder, real, made, chain.train_data.world.content_rate, 0)


@contextmanager
def absent_packages_named(folder: Path) -> Iterator[None]:
    """Pictures that need a package which is not there are left out, and a file says so."""
    try:
        yield
    except MissingPackageError as error:
        (folder / "pictures-missing.txt").write_text(f"{error}\n", encoding="utf-8")


def sample_clips(chain: "Chain", stage: StageConfig) -> Batch:
    """The held-out clips that every stage's samples continue."""
    frames = 1 if isinstance(stage, CodecStage) else pixel_frames(sample_frames(chain.run), temporal_stride(chain.run))
    seed, rows = derive_seed(chain.run.seed, "samples"), sample_rows(chain.run)
    return ClipSampler(chain.held_out, clip_frames=frames, batch_size=rows, seed=seed, arrays=("frames", "actions")).batch(0)


def sample_rows(run: RunConfig) -> int:
    """Clips per sample: one where codec and memory are those of a published model, whose rows are gigabytes each."""
    return 1 if is_published(run) else ROWS


def sample_context(run: RunConfig) -> int:
    """Real frames that a sample goes on from; of a published model one, whose pictures are all that its codec encodes at once."""
    return 1 if is_published(run) else CONTEXT


def sample_cache(run: RunConfig, spec: AnySpec) -> ElementName:
    """The type of keys and values in a sample's memory: of a published model's eight bits, where the policy allows."""
    return "int8" if is_published(run) and takes_extras(spec) else "plain"


def is_published(run: RunConfig) -> bool:
    """Whether a run trains a model of published size: its samples are made to fit beside its training."""
    return isinstance(run.codec, WanCodecConfig)


def told(chain: "Chain", batch: Batch, conditions: Conditions) -> Conditions:
    """The sample clips' conditions with what their captions say, and where their cameras stand."""
    return with_cameras(chain.prompts.tell(conditions, chain.held_out.captions_of(batch.episodes)), chain.run.model.camera)


def sample_frames(run: RunConfig) -> int:
    """Length of a run's sample clips in frames."""
    return frames_shown(run.clip_frames)


def frames_shown(clip_frames: int) -> int:
    """A training clip, or twelve frames after the context where that is more."""
    return max(clip_frames, CONTEXT + 12)


def save_pictures(folder: Path, real: np.ndarray, made: np.ndarray, rate: float, update: int) -> None:
    """Contact sheet (real above generated, row by row) and video (side by side)."""
    samples = folder / "samples"
    samples.mkdir(parents=True, exist_ok=True)
    rows = [clip for pair in zip(real, made, strict=True) for clip in pair]
    write_png(samples / f"update-{update:08d}.png", contact_sheet(rows, [name for _ in real for name in ("real", "made")]))
    if real.shape[1] > 1:
        left, right = np.concatenate(list(real), axis=1), np.concatenate(list(made), axis=1)
        write_video(samples / f"update-{update:08d}.mp4", np.concatenate([left, right], axis=2), rate)


@torch.no_grad()
def reconstruct(run_stage: StageRun, clip: Tensor) -> np.ndarray:
    """The codec's view of real frames."""
    codec = run_stage.learners["codec"].average
    assert isinstance(codec, ConvCodec)
    restored = codec.decode_raw(codec.encode_raw(clip.flatten(0, 1))).unflatten(0, clip.shape[:2])
    return to_frames(restored.clamp(-1, 1)).cpu().numpy()


@torch.no_grad()
def sample_whole_clips(chain: "Chain", run_stage: StageRun, codec: LoadedCodec, conditions: Conditions) -> np.ndarray:
    """Clips of the bidirectional teacher from noise, under real actions."""
    model, latent = run_stage.learners["model"].average, codec.latent
    shape = (sample_rows(chain.run), chain.run.clip_frames, latent.channels, latent.height, latent.width)
    generator = torch.Generator().manual_seed(derive_seed(chain.run.seed, "sample noise"))
    x = torch.randn(shape, generator=generator).to(chain.workers.device)
    x = denoise_clip(model, x, conditions, uniform_grid(SAMPLE_STEPS, chain.run.shift).tolist())
    return to_frames(in_tiles(codec).decode(x)).cpu().numpy()


def in_tiles(codec: LoadedCodec) -> LoadedCodec | TiledCodec | SplitCodec:
    """Wan's codec with a decoder that works in tiles; a small one as it is."""
    return with_decoder(codec, TILES if isinstance(codec, WanCodec) else "whole")


def continue_clips(chain: "Chain", model: nn.Module, codec: LoadedCodec, manifest: CheckpointManifest, batch: Batch) -> np.ndarray:
    """Real context, then the stage's model in the regime that its manifest names; Wan's decoder works in tiles."""
    context = pixel_frames(sample_context(chain.run), codec.temporal_stride)
    assert isinstance(model, VideoTransformer) and not any(parameter.requires_grad for parameter in model.parameters())
    checkpoint, config = (
        Checkpoint(chain.folder, manifest, model, in_tiles(codec), None, device=chain.workers.device),
        default_config(manifest),
    )
    cache = sample_cache(chain.run, model.config.cache(config.policy, manifest.chunk_frames))
    config = replace(config, speed=Speed(cache=cache))
    config = replace(config, steps=min(config.steps, SAMPLE_STEPS), first_chunk_steps=min(config.first_chunk_steps, SAMPLE_STEPS))
    real, actions, known = np.ascontiguousarray(batch.arrays["frames"]), batch.arrays["actions"], batch.known[:, :context]
    seen, done, asked = real[:, :context], actions[:, :context], actions[:, context:]
    prompts = chain.held_out.captions_of(batch.episodes) if model.config.text_dim else ()
    made = generate(checkpoint, config, frames=seen, context_actions=done, known=known, actions=asked, prompts=prompts)
    return np.concatenate([seen, made], axis=1)
