"""Micro-batches out of data sets: frames for the codec, stored latents for everything after it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mutoscope.core.errors import ConfigError, DataError
from mutoscope.core.progress import Progress
from mutoscope.core.streams import derive_seed
from mutoscope.data.batches import Batch, ClipSampler
from mutoscope.data.clips import ClipDataset, open_dataset
from mutoscope.data.writer import DatasetWriter
from mutoscope.models.checkpoint import LoadedCodec
from mutoscope.models.codec import to_model_pixels
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

    def __post_init__(self) -> None:
        parts = self.workers.readers * self.config.accumulate
        if self.config.batch_size % parts:
            raise ConfigError(
                f"a batch of {self.config.batch_size} clips does not divide among {self.workers.readers} processes "
                f"with {self.config.accumulate} micro-batches each; choose a multiple of {parts}"
            )

    def batch(self, turn: str, update: int, micro: int, accumulate: int, clips: tuple[str, int] | None = None) -> ClipBatch:
        """This rank's share of micro-batch `micro`; the same `clips`, by default (turn, update), are always the same ones."""
        reader, number = clips or (turn, update)
        parts, part = self.workers.readers * accumulate, self.workers.reader * accumulate + micro
        sampler = ClipSampler(
            self.dataset,
            clip_frames=self.clip_frames,
            batch_size=self.config.batch_size,
            seed=derive_seed(self.seed, f"clips/{reader}"),
            arrays=(self.array, "actions"),
            rank=part,
            world_size=parts,
        )
        size = self.config.batch_size // parts
        samples = tuple(range(part * size, (part + 1) * size))
        draws, clip_draws = (
            Draws(derive_seed(self.seed, f"draws/{name}"), step, samples, self.workers.device)
            for name, step in ((turn, update), (reader, number))
        )
        return ClipBatch(*clip_tensors(sampler.batch(number), self.array, self.workers.device), draws, clip_draws)


def clip_tensors(batch: Batch, array: str, device: torch.device) -> tuple[Tensor, Conditions]:
    """Clean clips (pixels in [-1, 1] or latents) and their conditions, for a world of temporal stride 1."""
    values = torch.from_numpy(np.ascontiguousarray(batch.arrays[array])).to(device)
    clean = to_model_pixels(values) if array == "frames" else values.float()
    actions = torch.from_numpy(np.ascontiguousarray(batch.arrays["actions"])).to(device).float()
    return clean, clip_conditions(actions, torch.from_numpy(batch.known).to(device), temporal_stride=1)


@torch.no_grad()
def encode_dataset(source: ClipDataset, codec: LoadedCodec, target: Path, device: torch.device) -> ClipDataset:
    """Encode every episode once, as float16 latents beside its actions; a finished target is reused, a half-written one goes on."""
    if (target / "manifest.json").is_file():
        finished = open_dataset(target)
        if not same_clips(finished, source):
            raise DataError(f"{target} holds the latents of other clips than those of {source.path}; delete it, or give another run folder")
        return finished
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


def same_clips(first: ClipDataset, second: ClipDataset) -> bool:
    """True if two data sets are of one world, with equally long episodes and equal actions."""
    lengths = [[episode.num_frames for episode in dataset.episodes] for dataset in (first, second)]
    if first.world != second.world or lengths[0] != lengths[1]:
        return False
    return all(np.array_equal(_actions(first, index), _actions(second, index)) for index in range(len(lengths[0])))


def _actions(dataset: ClipDataset, episode: int) -> np.ndarray:
    return dataset.read(episode, 0, dataset.episodes[episode].num_frames, ("actions",))["actions"]
