"""Own clips: a folder of video files with one table of actions each becomes a data set.

    walk.mp4   walk.csv      a header with the action names, then one line per frame
    jump.mkv   jump.jsonl    one JSON object per frame, {"forward": 1, "turn_left": 0}
    world.json               optional: {"name": "garden", "actions": {"kind": "box", "names": [...], "low": [...], "high": [...]}}

Line k is the action that led to frame k; line 0 must be there and counts as "no action". Without `world.json` every column is
a button that is 0 or 1. A discrete world has one column "action" that holds names; a box world has values within low .. high.
"""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mutoscope.core.config import from_plain
from mutoscope.core.errors import ConfigError, DataError
from mutoscope.core.files import read_json
from mutoscope.core.progress import Progress
from mutoscope.core.world import ActionSpec, WorldSpec
from mutoscope.data.format import MANIFEST, DatasetManifest, read_manifest
from mutoscope.data.worlds.picture import scale
from mutoscope.data.writer import DatasetWriter
from mutoscope.media.video import probe, video_frames

VIDEOS, TABLES, DESCRIPTION = (".mp4", ".mkv", ".webm", ".avi", ".mov"), (".csv", ".jsonl"), "world.json"
CHOICE = "action"


@dataclass(frozen=True)
class ImportOptions:
    """Picture size in pixels, the longest episode in frames (a longer video becomes several), and how many video frames make one."""

    height: int = 96
    width: int = 128
    frames_per_episode: int = 300
    frame_skip: int = 1

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.frame_skip) < 1 or self.frames_per_episode < 2:
            raise ConfigError(f"a size and a frame skip must be at least 1 and an episode at least 2 frames, got {self}")


@dataclass(frozen=True)
class Clip:
    """A video file and its table of actions."""

    video: Path
    table: Path


def import_videos(folder: Path, path: Path, options: ImportOptions) -> DatasetManifest:
    """Turn the clips in `folder` into the data set `path`; DataError names the file that is at fault."""
    folder, path = Path(folder), Path(path)
    clips = find_clips(folder)
    world = describe_world(folder, clips, options)
    settings = (("folder", folder.name), ("frames_per_episode", str(options.frames_per_episode)), ("frame_skip", str(options.frame_skip)))
    if (path / MANIFEST).exists():
        return _finished(path, world, settings)
    with DatasetWriter(path, world, settings=settings) as writer, Progress(len(clips), "importing") as bar:
        written = writer.next_episode
        count = 0
        for clip in clips:
            for name, arrays in clip_episodes(clip, world, options):
                if count >= written:
                    writer.add(arrays, name=name)
                count += 1
            bar.advance(1, clip.video.name)
    return read_manifest(path)


def find_clips(folder: Path) -> tuple[Clip, ...]:
    """The clips of a folder in the order of their names; DataError when a video has no table or there is none."""
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; give one with video files and a table of actions for each")
    videos = sorted(file for file in folder.iterdir() if file.suffix.lower() in VIDEOS)
    if not videos:
        raise DataError(f"{folder} has no video files ({', '.join(VIDEOS)})")
    return tuple(Clip(video, _table_of(video)) for video in videos)


def describe_world(folder: Path, clips: tuple[Clip, ...], options: ImportOptions) -> WorldSpec:
    """Name and actions from `world.json` or the first table, the rate from the videos, which must agree on it."""
    rates = {clip.video: probe(clip.video).rate for clip in clips}
    rate = rates[clips[0].video]
    for video, other in rates.items():
        if abs(other - rate) > 0.01 * rate:
            raise DataError(f"{video} has {other:.3f} frames/s, {clips[0].video} has {rate:.3f}; convert them to one rate")
    name, actions = folder.name, None
    if (folder / DESCRIPTION).is_file():
        name, actions = _description(folder / DESCRIPTION, folder.name)
    actions = actions or ActionSpec("multi_binary", tuple(read_table(clips[0].table)[0]))
    return WorldSpec(name, options.height, options.width, rate / options.frame_skip, actions)


def clip_episodes(clip: Clip, world: WorldSpec, options: ImportOptions) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """The pieces of a clip, none longer than an episode, as (name, arrays); a last piece of one frame is left out."""
    given = clip_actions(clip, world.actions)
    _check_count(clip, probe(clip.video).num_frames, len(given))
    actions = join_actions(given, options.frame_skip, world.actions)
    frames: list[np.ndarray] = []
    start = count = 0
    for count, frame in enumerate(video_frames(clip.video), 1):
        if (count - 1) % options.frame_skip == 0:
            frames.append(scale(frame, world.height, world.width))
        if len(frames) == options.frames_per_episode:
            yield _piece(clip, frames, actions, start)
            start += len(frames)
            frames = []
    _check_count(clip, count, len(given))
    if len(frames) > 1:
        yield _piece(clip, frames, actions, start)


def clip_actions(clip: Clip, spec: ActionSpec) -> np.ndarray:
    """The action vectors of a clip's table, float32 `[lines, dim]`; DataError names file and line of a bad value."""
    columns = (CHOICE,) if spec.kind == "discrete" else spec.names
    vectors = []
    for number, row in enumerate(read_table(clip.table), 1):
        if sorted(row) != sorted(columns):
            raise DataError(f"{clip.table}, frame {number - 1}: columns {', '.join(row)}; they must be {', '.join(columns)}")
        try:
            vectors.append(_vector(row, spec))
        except (ValueError, TypeError, ConfigError) as error:
            raise DataError(f"{clip.table}, frame {number - 1}: {error}") from error
    return np.stack(vectors)


def join_actions(actions: np.ndarray, frame_skip: int, spec: ActionSpec) -> np.ndarray:
    """Of every `frame_skip`-th video frame: the action that led to it, from those since the frame kept before, float32 `[kept, dim]`.

    Box values are averaged; a button counts as held, and a choice as made, if it was so for most of the time (even: at the end).
    """
    kept = [actions[0]]
    for last in range(frame_skip, len(actions), frame_skip):
        since = actions[last - frame_skip + 1 : last + 1]
        if spec.kind == "box":
            kept.append(since.mean(axis=0))
        elif spec.kind == "multi_binary":
            kept.append((since.mean(axis=0) + (since[-1] - 0.5) / (2 * frame_skip) > 0.5).astype(np.float32))
        else:
            votes = since.sum(axis=0) + since[-1] / 2
            kept.append(np.eye(spec.dim, dtype=np.float32)[votes.argmax()])
    return np.stack(kept).astype(np.float32)


def read_table(path: Path) -> list[dict]:
    """The lines of a CSV or JSONL table as dicts; DataError when it is empty or malformed."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = [json.loads(line) for line in text.splitlines() if line.strip()] if path.suffix == ".jsonl" else _csv_rows(text)
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path} is no valid table of actions: {error}") from error
    if not rows or not all(isinstance(row, dict) and row for row in rows):
        raise DataError(f"{path} must hold one line per frame with named actions, and holds {len(rows)} lines")
    return rows


def _csv_rows(text: str) -> list[dict]:
    rows = list(csv.DictReader(text.splitlines(), skipinitialspace=True))
    for number, row in enumerate(rows):
        if None in row or None in row.values():
            raise ValueError(f"frame {number} has more or fewer values than the header has names")
    return rows


def _vector(row: dict, spec: ActionSpec) -> np.ndarray:
    if spec.kind == "discrete":
        return spec.vector(str(row[CHOICE]).strip())
    values = np.array([float(row[name]) for name in spec.names], np.float32)
    if spec.kind == "multi_binary" and not np.isin(values, (0, 1)).all():
        raise ValueError(f"a button must be 0 or 1, got {values.tolist()}; describe other actions in {DESCRIPTION}")
    if spec.kind == "box" and not ((values >= spec.low) & (values <= spec.high)).all():
        raise ValueError(f"values {values.tolist()} are outside {spec.low} .. {spec.high}")
    return spec.encode(values)


def _piece(clip: Clip, frames: list[np.ndarray], actions: np.ndarray, start: int) -> tuple[str, dict[str, np.ndarray]]:
    chosen = actions[start : start + len(frames)].copy()
    if len(chosen) != len(frames):
        raise DataError(f"{clip.video} has more frames than {clip.table} has lines of actions; give one line per frame")
    chosen[0] = 0
    return f"{clip.video.name} from frame {start}", {"frames": np.stack(frames), "actions": chosen}


def _check_count(clip: Clip, num_frames: int | None, num_actions: int) -> None:
    if num_frames is not None and num_frames != num_actions:
        raise DataError(f"{clip.table} has {num_actions} lines of actions, {clip.video} has {num_frames} frames; give one line per frame")


def _table_of(video: Path) -> Path:
    tables = [video.with_suffix(suffix) for suffix in TABLES if video.with_suffix(suffix).is_file()]
    if len(tables) != 1:
        names = " or ".join(video.with_suffix(suffix).name for suffix in TABLES)
        raise DataError(f"{video} needs exactly one table of actions, {names}, beside it; found {len(tables)}")
    return tables[0]


def _description(path: Path, default_name: str) -> tuple[str, ActionSpec | None]:
    data = read_json(path)
    if not isinstance(data, dict) or set(data) - {"name", "actions"}:
        raise DataError(f"{path} must be a table with 'name' and 'actions'")
    try:
        actions = from_plain(ActionSpec, data["actions"], "actions") if "actions" in data else None
    except ConfigError as error:
        raise DataError(f"{path}: {error}") from error
    return str(data.get("name", default_name)), actions


def _finished(path: Path, world: WorldSpec, settings: tuple[tuple[str, str], ...]) -> DatasetManifest:
    manifest = read_manifest(path)
    if manifest.world != world or manifest.settings != settings:
        raise DataError(f"{path} holds a data set made with other options; choose another folder")
    return manifest
