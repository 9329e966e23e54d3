"""Own videos with words: which files a folder holds, what each of them shows, and its pictures at another rate and size.

walk.mp4   walk.txt         the caption of walk.mp4
captions.jsonl              or of all of them: {"file": "walk.mp4", "caption": "a dog walks"} a line
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mutoscope.core.errors import DataError
from mutoscope.data.worlds.picture import scale
from mutoscope.data.worlds.videos import VIDEOS

TABLE = "captions.jsonl"
RATE_TOLERANCE = 0.01


@dataclass(frozen=True)
class CaptionedVideo:
    """A video file and what it shows; "" where nobody said it."""

    video: Path
    caption: str


def find_videos(folder: Path) -> tuple[CaptionedVideo, ...]:
    """The videos of a folder in the order of their names; DataError where there are none, or captions contradict each other."""
    folder = Path(folder)
    videos = sorted(file for file in folder.iterdir() if file.suffix.lower() in VIDEOS) if folder.is_dir() else []
    if not videos:
        raise DataError(f"{folder} holds no video files ({', '.join(VIDEOS)})")
    listed = read_captions(folder / TABLE) if (folder / TABLE).is_file() else {}
    if strangers := listed.keys() - {video.name for video in videos}:
        raise DataError(f"{folder / TABLE} has captions of {', '.join(sorted(strangers))}, which {folder} does not hold")
    return tuple(CaptionedVideo(video, _caption(video, listed)) for video in videos)


def read_captions(path: Path) -> dict[str, str]:
    """The table of captions by file name; DataError names the line that is at fault."""
    found: dict[str, str] = {}
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number}: {error}") from error
        if not isinstance(row, dict) or set(row) != {"file", "caption"} or not all(isinstance(value, str) for value in row.values()):
            raise DataError(f'{path}, line {number}: it must be like {{"file": "walk.mp4", "caption": "a dog walks"}}')
        if row["file"] in found:
            raise DataError(f"{path}, line {number}: {row['file']} has a caption already")
        found[row["file"]] = row["caption"].strip()
    return found


def _caption(video: Path, listed: dict[str, str]) -> str:
    beside = video.with_suffix(".txt")
    if not beside.is_file():
        return listed.get(video.name, "")
    if video.name in listed:
        raise DataError(f"{video} has a caption in {beside.name} and another in {TABLE}; leave one of them out")
    return " ".join(_text(beside).split())


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8 ({error})") from error


def check_rate(video: Path, found: float, rate: float) -> None:
    """DataError where a video has fewer frames per second than are wanted: none are invented."""
    if found < (1 - RATE_TOLERANCE) * rate:
        raise DataError(f"{video.name} has {found:.3g} frames/s, and clips of {rate:.3g} are wanted; give a video or a --rate that fits")


def at_rate(frames: Iterable[np.ndarray], found: float, rate: float) -> Iterator[np.ndarray]:
    """Of a video of `found` frames per second those that are on show at 0, 1 / rate, 2 / rate .. seconds."""
    shown = 0
    for index, frame in enumerate(frames):
        while int(shown * found / rate + 1e-6) == index:
            yield frame
            shown += 1


def frames_at_rate(num_frames: int, found: float, rate: float) -> int:
    """How many frames `at_rate` gives."""
    return sum(1 for _ in at_rate((np.zeros(0) for _ in range(num_frames)), found, rate))


def crop(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The largest part in the middle that has the wanted shape, scaled: uint8 `[h, w, 3]` -> `[height, width, 3]`."""
    ratio = min(image.shape[0] / height, image.shape[1] / width)
    kept = [min(max(1, round(ratio * side)), whole) for side, whole in zip((height, width), image.shape, strict=False)]
    top, left = (image.shape[0] - kept[0]) // 2, (image.shape[1] - kept[1]) // 2
    return scale(image[top : top + kept[0], left : left + kept[1]], height, width)


# How a picture of another shape becomes one of the wanted size: its middle is kept, or all of it is stretched.
FITS: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {"crop": crop, "stretch": scale}
