"""The data set on disk, format version 1: what stands in its files, and how they are named.

A data set is a folder:

    manifest.json      DatasetManifest: world, seed, counts, named arrays, shards with size and hash
    episodes.jsonl     one Episode a line, in order
    shard-00000.safetensors ...   every array of a run of episodes, joined along the first axis
    prompts/           embeddings of the episodes' captions, where there are captions (`mutoscope embed`)

While it is being written the folder holds `recording.json` instead of `manifest.json`. Row k of every array belongs
to pixel frame k, and row k of "actions" is the action that led to frame k; row 0 is "no action" (zeros).
Rows of encoded clips are frames of a codec with a temporal stride: row 0 belongs to the clip's first pixel frame, and every
later row to the next `stride` ones.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mutoscope.core.config import from_plain
from mutoscope.core.errors import ConfigError, DataError
from mutoscope.core.files import read_json
from mutoscope.core.world import WorldSpec

FORMAT_VERSION = 1
MANIFEST, RECORDING, INDEX = "manifest.json", "recording.json", "episodes.jsonl"
UNITS = {
    "frames": "uint8 RGB, 0 to 255",
    "actions": "the vector of world.actions; the action that led to this row's frame, zeros in row 0",
    "latents": "standardised latents of a codec: of this row's pixel frame, or with a temporal stride of its pixel frames",
    "known": "whether an action is known for this row's frame",
    "pose": "world.pose_names; map units and degrees",
}


@dataclass(frozen=True)
class ArraySpec:
    """One named array: its rows have `dtype` (a NumPy name) and `shape`; `rate` is rows per second."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    rate: float
    unit: str = ""


@dataclass(frozen=True)
class ShardSpec:
    """One shard file: its name, size and SHA-256."""

    name: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Episode:
    """One line of the index: rows `offset .. offset + num_frames` of the file `shard`, made from `seed`.

    `caption` says in words what is shown; lines of episodes that have none leave it out.
    """

    index: int
    num_frames: int
    shard: str
    offset: int
    seed: int = 0
    name: str = ""
    caption: str = ""


@dataclass(frozen=True)
class DatasetManifest:
    """All that a reader must know before it opens a shard. `settings` are the maker's options, as text."""

    format_version: int
    world: WorldSpec
    seed: int
    num_episodes: int
    num_frames: int
    arrays: tuple[ArraySpec, ...]
    shards: tuple[ShardSpec, ...]
    settings: tuple[tuple[str, str], ...] = ()

    def array(self, name: str) -> ArraySpec:
        """The array called `name`; DataError lists the names that exist."""
        for spec in self.arrays:
            if spec.name == name:
                return spec
        raise DataError(f"this data set has no array '{name}'; it has {', '.join(spec.name for spec in self.arrays)}")


def read_manifest(path: Path) -> DatasetManifest:
    """The manifest of the data set in folder `path`; DataError when it is missing, unfinished, newer or broken."""
    if not (path / MANIFEST).is_file() and (path / RECORDING).is_file():
        raise DataError(f"{path} is an unfinished recording; run the command that began it again, and it will go on where it stopped")
    if not (path / MANIFEST).is_file():
        raise DataError(f"{path} is no data set: it has no {MANIFEST}. Make one with 'mutoscope record'")
    data = read_json(path / MANIFEST)
    version = data.get("format_version") if isinstance(data, dict) else None
    if version != FORMAT_VERSION:
        raise DataError(f"{path} has format version {version}; this Mutoscope reads version {FORMAT_VERSION}")
    try:
        return from_plain(DatasetManifest, data, "manifest")
    except ConfigError as error:
        raise DataError(f"{path / MANIFEST} is broken: {error}") from error


def read_index(path: Path) -> tuple[Episode, ...]:
    """The episodes that are whole on disk; a last line that was cut off while writing does not count."""
    if not (path / INDEX).is_file():
        return ()
    text = (path / INDEX).read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    try:
        return tuple(from_plain(Episode, json.loads(line), f"line {number}") for number, line in enumerate(whole.splitlines(), 1))
    except (json.JSONDecodeError, ConfigError) as error:
        raise DataError(f"{path / INDEX} is broken: {error}") from error


def first_bad_row(array: np.ndarray) -> int | None:
    """The first row of a float array that holds NaN or infinity, or None."""
    if array.dtype.kind != "f":
        return None
    finite = np.isfinite(array.reshape(len(array), -1)).all(axis=1)
    return None if finite.all() else int(finite.argmin())
