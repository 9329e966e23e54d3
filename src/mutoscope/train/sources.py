"""Micro-batches out of data sets: frames for the codec, stored latents for everything after it.

A codec without a temporal stride encodes every pixel frame by itself, and any window of an episode's latents is a clip. With a temporal
stride a clip's first frame stands for one pixel frame and every later one for several: such latents are stored clip by clip, each encoded
from its own first pixel frame on, and a window begins where its clip begins.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mutoscope.core.config import config_hash
from mutoscope.core.errors import ConfigError, DataError
from mutoscope.core.progress import Progress
from mutoscope.core.shapes import pixel_frames
from mutoscope.core.streams import derive_seed
from mutoscope.data.batches import Batch, ClipSampler
from mutoscope.data.clips import ClipDataset, open_dataset
from mutoscope.data.writer import DatasetWriter
from mutoscope.models.camera import with_cameras
from mutoscope.models.camera_config import CameraConfig
from mutoscope.models.checkpoint import LoadedCodec
from mutoscope.models.codec import to_model_pixels
from mutoscope.models.conditions import Conditions, action_conditions, clip_conditions
from mutoscope.train.batch import ClipBatch, Draws
from mutoscope.train.config import UpdateConfig
from mutoscope.train.parallel import Workers
from mutoscope.train.prompts import NoPrompts, Prompts

# What a source reads: pixel frames, latents of single pixel frames, or latents of whole clips.
CLIPS = "clip latents"
ARRAYS = {"frames": ("frames", "actions"), "latents": ("latents", "actions"), CLIPS: ("latents", "actions", "known")}


@dataclass
class ClipSource:
    """Random clip windows as model input; `array` is one of ARRAYS, `prompts` say in words what the clips show, actions move `camera`."""

    dataset: ClipDataset
    array: str
    clip_frames: int
    config: UpdateConfig
    seed: int
    workers: Workers
    prompts: Prompts = NoPrompts()
    camera: CameraConfig | None = None

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
            arrays=ARRAYS[self.array],
            starts="first row" if self.array == CLIPS else "any row",
            rank=part,
            world_size=parts,
        )
        size = self.config.batch_size // parts
        samples = tuple(range(part * size, (part + 1) * size))
        draws, clip_draws = (
            Draws(derive_seed(self.seed, f"draws/{name}"), step, samples, self.workers.device)
            for name, step in ((turn, update), (reader, number))
        )
        batch, device = sampler.batch(number), self.workers.device
        clean, conditions = encoded_clips(batch, device) if self.array == CLIPS else clip_tensors(batch, self.array, device)
        conditions = with_cameras(self.prompts.tell(conditions, self.dataset.captions_of(batch.episodes)), self.camera)
        return ClipBatch(clean, conditions, draws, clip_draws)


def clip_tensors(batch: Batch, array: str, device: torch.device, temporal_stride: int = 1) -> tuple[Tensor, Conditions]:
    """Clips whose rows are pixel frames (pixels in [-1, 1], or latents of stride 1), and the conditions of their frames."""
    values = _tensor(batch, array, device)
    clean = to_model_pixels(values) if array == "frames" else values.float()
    return clean, clip_conditions(_tensor(batch, "actions", device).float(), torch.from_numpy(batch.known).to(device), temporal_stride)


def encoded_clips(batch: Batch, device: torch.device) -> tuple[Tensor, Conditions]:
    """Clips whose rows are frames of a codec with a temporal stride, as `encode_clips` stores them, and their conditions."""
    known = _tensor(batch, "known", device)
    return _tensor(batch, "latents", device).float(), action_conditions(_tensor(batch, "actions", device).float(), known)


def _tensor(batch: Batch, name: str, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(batch.arrays[name])).to(device)


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
            writer.add({"latents": np.concatenate(latents), "actions": arrays["actions"]}, caption=episode.caption)
            bar.advance()
    writer.close()
    return open_dataset(target)


@torch.no_grad()
def encode_clips(source: ClipDataset, codec: LoadedCodec, clip_frames: int, target: Path, device: torch.device) -> ClipDataset:
    """Cut every episode into whole clips of `clip_frames` frames and encode each from its own first pixel frame on.

    Clips do not overlap; what is left of an episode at its end is not used. Their latents are float16, `actions` `[frame, temporal stride,
    action]` and `known` those of the frames. A finished target is reused, a half-written one goes on.
    """
    content = tuple(shard.sha256 for shard in source.manifest.shards), tuple(episode.caption for episode in source.episodes)
    settings = (("clip_frames", str(clip_frames)), ("clips", config_hash(content)))
    if (target / "manifest.json").is_file():
        finished = open_dataset(target)
        if finished.world != source.world or finished.manifest.settings != settings:
            raise DataError(f"{target} holds the latents of other clips than those of {source.path}; delete it, or give another run folder")
        return finished
    length = pixel_frames(clip_frames, codec.temporal_stride)
    places = [(each, start) for each in source.episodes for start in range(0, each.num_frames - length + 1, length)]
    rows = codec.temporal_stride
    with (
        DatasetWriter(target, world=source.world, seed=source.manifest.seed, settings=settings, pixel_frames_per_row=rows) as writer,
        Progress(len(places), "encoding clips", done=writer.next_episode) as bar,
    ):
        for episode, start in places[writer.next_episode :]:
            arrays = source.read(episode.index, start, start + length, ("frames", "actions"))
            known = np.arange(start, start + length)[None] > 0
            latents = codec.encode(to_model_pixels(torch.from_numpy(arrays["frames"]).to(device))[None])[0]
            told = clip_rows(latents, arrays["actions"], known, rows)
            writer.add(told, name=f"episode {episode.index} from frame {start}", caption=episode.caption)
            bar.advance()
    return open_dataset(target)


def is_prepared(dataset: ClipDataset) -> bool:
    """True for latents of clips (`mutoscope prepare`), False for recorded frames."""
    return any(spec.name == "latents" for spec in dataset.manifest.arrays)


def clip_rows(latents: Tensor, actions: np.ndarray, known: np.ndarray, temporal_stride: int) -> dict[str, np.ndarray]:
    """A clip as it is stored: latents `[F, C, h, w]`, with `actions` `[T, A]` and `known` `[1, T]` of its pixel frames."""
    told = clip_conditions(torch.from_numpy(actions)[None], torch.from_numpy(known), temporal_stride)
    return {"latents": latents.half().cpu().numpy(), "actions": told.actions[0].numpy(), "known": told.known[0].numpy()}


def same_clips(first: ClipDataset, second: ClipDataset) -> bool:
    """True if two data sets are of one world, with equally long episodes, equal captions and equal actions."""
    lengths = [[(episode.num_frames, episode.caption) for episode in dataset.episodes] for dataset in (first, second)]
    if first.world != second.world or lengths[0] != lengths[1]:
        return False
    return all(np.array_equal(_actions(first, index), _actions(second, index)) for index in range(len(lengths[0])))


def _actions(dataset: ClipDataset, episode: int) -> np.ndarray:
    return dataset.read(episode, 0, dataset.episodes[episode].num_frames, ("actions",))["actions"]
