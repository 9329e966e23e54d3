"""Micro-batches out of data sets: frames for the codec, stored latents for everything after it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mutoscope.core.progress import Progress
from mutoscope.core.streams import derive_seed
from mutoscope.data.batches import Batch, ClipSampler
from mutoscope.data.clips import ClipDataset, open_dataset
from mutoscope.data.writer import DatasetWriter
from mutoscope.models.codec import ConvCodec, to_model_pixels
from mutoscope.models.conditions import Conditions, clip_conditions
from mutoscope.train.batch import ClipBatch, Draws
from mutoscope.train.config import UpdateConfig
from mutoscope.train.parallel import Workers


@dataclass
class ClipSource:
    """Random clip windows as model input. `array` is "frames" (pixels) or "latents"."""

    dataset: ClipDataset
    array: str
    clip_frames: int
    config: UpdateConfig
    seed: int
    workers: Workers

    def batch(self, turn: str, update: int, micro: int, accumulate: int) -> ClipBatch:
        """This rank's share of micro-batch `micro`; the same (turn, update) always gives the same clips."""
        sampler = ClipSampler(
            self.dataset,
            clip_frames=self.clip_frames,
            batch_size=self.config.batch_size,
            seed=derive_seed(self.seed, f"clips/{turn}"),
            arrays=(self.array, "actions"),
            rank=self.workers.rank,
            world_size=self.workers.world_size,
        )
        whole = sampler.batch(update)
        share = self.config.batch_size // self.workers.world_size
        size = share // accumulate
        rows = slice(micro * size, (micro + 1) * size)
        first = self.workers.rank * share + micro * size
        draws = Draws(derive_seed(self.seed, f"draws/{turn}"), update, tuple(range(first, first + size)), self.workers.device)
        clean, conditions = clip_tensors(whole, self.array, self.workers.device)
        return ClipBatch(clean[rows], conditions.rows(rows), draws)


def clip_tensors(batch: Batch, array: str, device: torch.device) -> tuple[Tensor, Conditions]:
    """Clean clips (pixels in [-1, 1] or latents) and their conditions, for a world of temporal stride 1."""
    values = torch.from_numpy(np.ascontiguousarray(batch.arrays[array])).to(device)
    clean = to_model_pixels(values) if array == "frames" else values.float()
    actions = torch.from_numpy(np.ascontiguousarray(batch.arrays["actions"])).to(device).float()
    return clean, clip_conditions(actions, torch.from_numpy(batch.known).to(device), temporal_stride=1)


@torch.no_grad()
def encode_dataset(source: ClipDataset, codec: ConvCodec, target: Path, device: torch.device) -> ClipDataset:
    """Encode every episode once, as float16 latents beside its actions; a finished target is reused, a half-written one goes on."""
    if (target / "manifest.json").is_file():
        return open_dataset(target)
    writer = DatasetWriter(target, world=source.world, seed=source.manifest.seed)
    done = writer.next_episode
    with Progress(len(source.episodes), "encoding latents", done=done) as bar:
        for episode in source.episodes[done:]:
            arrays = source.read(episode.index, 0, episode.num_frames, ("frames", "actions"))
            latents = [
                codec.encode(to_model_pixels(torch.from_numpy(part).to(device))[None])[0].half().cpu().numpy()
                for part in np.array_split(arrays["frames"], max(1, episode.num_frames // 256))
            ]
            writer.add({"latents": np.concatenate(latents), "actions": arrays["actions"]})
            bar.advance()
    writer.close()
    return open_dataset(target)
