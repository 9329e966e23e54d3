"""Own videos become clips of latents to train on, and clips of pictures to look at: what `mutoscope prepare` does.

    OUTPUT/train/        clips of latents, each encoded from its own first pixel frame on, with captions and their embeddings
    OUTPUT/held-out/     clips of pictures of videos that are never trained on
    OUTPUT/skipped.json  files that were left out, and why

Interrupted at any moment, the same call goes on where it stopped.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from mutoscope.core.config import config_hash
from mutoscope.core.errors import ConfigError, DataError
from mutoscope.core.files import read_json, write_json
from mutoscope.core.progress import Progress
from mutoscope.core.shapes import pixel_frames
from mutoscope.core.streams import derive_seed
from mutoscope.core.world import NO_ACTIONS, WorldSpec
from mutoscope.data.captions import PROMPTS
from mutoscope.data.clips import open_dataset
from mutoscope.data.format import MANIFEST, read_index
from mutoscope.data.worlds.captioned import FITS, CaptionedVideo, at_rate, check_rate, find_videos, frames_at_rate
from mutoscope.data.writer import DatasetWriter
from mutoscope.media.video import probe, video_frames
from mutoscope.models.checkpoint import CheckpointManifest, LoadedCodec, load_codec, read_manifest
from mutoscope.models.codec import to_model_pixels
from mutoscope.models.text_cache import PromptCache, open_cache
from mutoscope.models.wan_config import WanCodecConfig
from mutoscope.train.pictures import frames_shown
from mutoscope.train.sources import clip_rows

TRAIN, HELD_OUT, SKIPPED = "train", "held-out", "skipped.json"
FROM = " from frame "
Settings = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class PrepareOptions:
    """Clips of `clip_frames` frames at `rate` pixel frames per second; `held_out` videos are set aside.

    `fit`: how pictures of another shape are brought to the codec's size. `smaller`: what becomes of videos with smaller pictures.
    """

    clip_frames: int
    rate: float
    held_out: int = 8
    fit: Literal["crop", "stretch"] = "crop"
    smaller: Literal["skip", "enlarge"] = "skip"

    def __post_init__(self) -> None:
        if self.clip_frames < 2 or self.held_out < 1 or not self.rate > 0:
            raise ConfigError(f"clips need 2 frames at least, a rate above 0, and one video at least that is held out; got {self}")


@dataclass(frozen=True)
class Source:
    """A video that can be used: its rate, and how many frames it has at the wanted one."""

    item: CaptionedVideo
    rate: float
    frames: int

    @property
    def name(self) -> str:
        """The name of its file."""
        return self.item.video.name


@dataclass(frozen=True)
class Prepared:
    """What was made: clips of both data sets, and the files that were left out, with the reason."""

    train: int
    held_out: int
    skipped: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Preparation:
    """One run of `prepare`: the codec and what it is told."""

    manifest: CheckpointManifest
    codec: LoadedCodec
    output: Path
    options: PrepareOptions
    device: torch.device

    @property
    def world(self) -> WorldSpec:
        """What both data sets show."""
        return replace(self.manifest.world, content_rate=self.options.rate, actions=NO_ACTIONS)

    @property
    def clip_length(self) -> int:
        """Pixel frames of a training clip."""
        return pixel_frames(self.options.clip_frames, self.codec.temporal_stride)

    @property
    def shown_length(self) -> int:
        """Pixel frames of a held-out clip, long enough for the samples of training."""
        return pixel_frames(frames_shown(self.options.clip_frames), self.codec.temporal_stride)

    def settings(self, videos: Sequence[CaptionedVideo]) -> Settings:
        """What the data sets say about how they were made."""
        names = config_hash(tuple((item.video.name, item.caption) for item in videos))
        options = tuple((name, str(value)) for name, value in vars(self.options).items())
        return (("codec", self.manifest.codec_hash), ("videos", names), *options)


def prepare(checkpoint: Path, videos: Path, output: Path, options: PrepareOptions, prompts: Path | None, device: torch.device) -> Prepared:
    """Make both data sets; DataError where nothing can be made of the folder, and files that cannot be used are named in the result."""
    found = find_videos(videos)
    cache = None if prompts is None else open_cache(prompts)
    manifest = read_manifest(checkpoint)
    if not isinstance(manifest.codec, WanCodecConfig):
        raise ConfigError(
            f"{checkpoint} has a codec that its own recipe trains; clips are prepared for published weights (mutoscope import)"
        )
    work = Preparation(manifest, load_codec(checkpoint, device)[1], output, options, device)
    sources, skipped = survey(work, found)
    if cache is not None and (missing := cache.missing(source.item.caption for source in sources)):
        raise DataError(f"{cache.folder} has no embedding of {', '.join(map(repr, missing[:5]))}; add them with: mutoscope embed")
    settings = work.settings(found)
    shown = write_held_out(work, sources, settings, skipped)
    write_train(work, [source for source in sources if source.name not in shown], settings, skipped)
    keep_prompts(output, cache)
    clips = {name: open_dataset(output / name).manifest.num_episodes for name in (TRAIN, HELD_OUT)}
    return Prepared(clips[TRAIN], clips[HELD_OUT], tuple(sorted(skipped.items())))


def survey(work: Preparation, videos: Sequence[CaptionedVideo]) -> tuple[list[Source], dict[str, str]]:
    """What can be used, told from the head of every file and from earlier calls, and what cannot, with the reason."""
    usable, skipped = [], known_bad(work.output, videos)
    for item in videos:
        if item.video.name in skipped:
            continue
        try:
            usable.append(look_at(work, item))
        except DataError as error:
            skipped[item.video.name] = str(error)
    return usable, skipped


def look_at(work: Preparation, item: CaptionedVideo) -> Source:
    """A video's rate and length; DataError says why it cannot be used."""
    info, name, size = probe(item.video), item.video.name, work.world
    check_rate(item.video, info.rate, work.options.rate)
    if work.options.smaller == "skip" and (info.height < size.height or info.width < size.width):
        raise DataError(f"{name} is {info.height}x{info.width}, smaller than {size.height}x{size.width}; --smaller enlarge takes it anyway")
    if work.manifest.model is not None and work.manifest.model.text_dim and not item.caption:
        raise DataError(f"{name} has no caption: write it into {item.video.with_suffix('.txt').name}, or into captions.jsonl")
    total = info.num_frames if info.num_frames is not None else sum(1 for _ in video_frames(item.video))
    frames = frames_at_rate(total, info.rate, work.options.rate)
    if frames < work.clip_length:
        needed = work.clip_length / work.options.rate
        raise DataError(
            f"{name} is too short: {frames} frames at {work.options.rate:g} per second, a clip has {work.clip_length} ({needed:.1f} s)"
        )
    return Source(item, info.rate, frames)


def clips_of(work: Preparation, source: Source, length: int) -> Iterator[tuple[str, np.ndarray]]:
    """The whole clips of a video one after the other, as (name, frames uint8 `[length, H, W, 3]`)."""
    video, frames, start = source.item.video, list[np.ndarray](), 0
    fit = FITS[work.options.fit]
    for frame in at_rate(video_frames(video), source.rate, work.options.rate):
        frames.append(fit(frame, work.world.height, work.world.width))
        if len(frames) == length:
            yield f"{video.name}{FROM}{start}", np.stack(frames)
            frames, start = [], start + length


def write_held_out(work: Preparation, sources: Sequence[Source], settings: Settings, skipped: dict[str, str]) -> set[str]:
    """The first clip of each video that is set aside, as pictures; the names of these videos.

    They are those long enough whose names come first in a shuffled order, but for videos that turn out to be broken.
    """
    path, wanted = work.output / HELD_OUT, work.options.held_out
    if (path / MANIFEST).is_file():
        return finished(path, settings)
    long = [source for source in sources if source.frames >= work.shown_length]
    check_enough(work, len(sources), len(long), skipped)
    with DatasetWriter(path, work.world, settings=settings) as writer:
        taken = videos_in(path)
        for source in sorted(long, key=lambda source: derive_seed(0, f"held out/{source.name}")):
            if len(taken) == wanted or source.name in taken:
                continue
            try:
                name, frames = next(clips_of(work, source, work.shown_length))
            except DataError as error:
                leave_out(work, source, error, skipped)
                continue
            writer.add({"frames": frames, "actions": np.zeros((len(frames), 0), np.float32)}, name=name, caption=source.item.caption)
            taken.add(source.name)
        check_enough(work, len(sources), len(taken), skipped)
    return taken


def check_enough(work: Preparation, usable: int, long: int, skipped: dict[str, str]) -> None:
    """DataError where too few videos are long enough to be held out, or none is left to learn from."""
    wanted = work.options.held_out
    if long < wanted or usable <= wanted:
        reasons = "".join(f"\n  left out: {reason}" for reason in skipped.values())
        raise DataError(
            f"{usable} videos can be used, {long} of them with {work.shown_length} frames or more; {wanted} are to be held out, and one "
            f"more at least is needed to learn from. Give more videos, cut a long one in pieces, or lower --held-out{reasons}"
        )


@torch.no_grad()
def write_train(work: Preparation, sources: Sequence[Source], settings: Settings, skipped: dict[str, str]) -> None:
    """All whole clips of all other videos as latents. A video that turns out to be broken is left out as a whole."""
    path, stride = work.output / TRAIN, work.codec.temporal_stride
    if (path / MANIFEST).is_file():
        finished(path, settings)
        return
    total = sum(source.frames // work.clip_length for source in sources)
    with DatasetWriter(path, work.world, settings=settings, pixel_frames_per_row=stride) as writer:
        written = {episode.name for episode in read_index(path)}
        with Progress(total, "encoding clips", done=len(written)) as bar:
            for source in sources:
                clips = ((name, frames) for name, frames in clips_of(work, source, work.clip_length) if name not in written)
                try:
                    made = [(name, encode(work, frames, bar, source.name)) for name, frames in clips]
                except DataError as error:
                    leave_out(work, source, error, skipped)
                    continue
                for name, rows in made:
                    writer.add(rows, name=name, caption=source.item.caption)


def encode(work: Preparation, frames: np.ndarray, bar: Progress, note: str) -> dict[str, np.ndarray]:
    """One clip's rows."""
    latents = work.codec.encode(to_model_pixels(torch.from_numpy(frames).to(work.device))[None])[0]
    bar.advance(1, note)
    nothing = np.zeros((len(frames), 0), np.float32), np.zeros((1, len(frames)), bool)
    return clip_rows(latents, *nothing, work.codec.temporal_stride)


def finished(path: Path, settings: Settings) -> set[str]:
    """The videos in a finished data set, which must be this one."""
    if open_dataset(path).manifest.settings != settings:
        raise DataError(f"{path} was made with other options or from other videos; give another folder, or delete it")
    return videos_in(path)


def videos_in(path: Path) -> set[str]:
    """The names of the videos whose clips are whole on disk."""
    return {episode.name.rpartition(FROM)[0] for episode in read_index(path)}


def keep_prompts(output: Path, cache: PromptCache | None) -> None:
    """The embeddings beside both data sets, where there are any."""
    if cache is not None:
        for name in (TRAIN, HELD_OUT):
            cache.copy(output / name / PROMPTS, cache.prompts)


def known_bad(output: Path, videos: Sequence[CaptionedVideo]) -> dict[str, str]:
    """Files that an earlier call could not decode to their end, and that have not changed in size since."""
    before = read_json(output / SKIPPED) if (output / SKIPPED).is_file() else {}
    sizes = {item.video.name: item.video.stat().st_size for item in videos}
    return {name: reason for name, (size, reason) in before.items() if sizes.get(name) == size}


def leave_out(work: Preparation, source: Source, error: DataError, skipped: dict[str, str]) -> None:
    """Remember a file that cannot be decoded to its end."""
    path = work.output / SKIPPED
    skipped[source.name] = str(error)
    before = read_json(path) if path.is_file() else {}
    write_json(path, {**before, source.name: [source.item.video.stat().st_size, str(error)]})
