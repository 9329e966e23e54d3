"""Read a data set in slices, write one shard by shard. Needs NumPy and safetensors only; nothing is ever whole in RAM."""

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from safetensors import SafetensorError, safe_open

from mutoscope.core.errors import DataError
from mutoscope.core.world import WorldSpec
from mutoscope.data.format import DatasetManifest, Episode, first_bad_row, read_index, read_manifest


class ClipDataset:
    """A finished data set: `manifest`, `world`, `episodes`, and `read` for any rows of any episode."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.manifest: DatasetManifest = read_manifest(self.path)
        self.episodes: tuple[Episode, ...] = read_index(self.path)
        self._shards: dict[str, Any] = {}
        self._check_files()

    @property
    def world(self) -> WorldSpec:
        """What was recorded."""
        return self.manifest.world

    def captions_of(self, episodes: Iterable[int]) -> list[str]:
        """What these episodes say that they show; nothing where there are no captions."""
        return [self.episodes[int(episode)].caption for episode in episodes]

    def read(self, episode: int, start: int, stop: int, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        """Rows `start .. stop` of the named arrays of one episode; DataError on a broken file, a bad range or NaN."""
        entry = self.episodes[episode]
        if not 0 <= start < stop <= entry.num_frames:
            raise DataError(f"rows {start}..{stop} of episode {episode} of {self.path}: it has rows 0..{entry.num_frames}")
        shard = self._shard(entry.shard)
        return {name: self._rows(shard, entry, name, start, stop) for name in names}

    def _rows(self, shard: Any, entry: Episode, name: str, start: int, stop: int) -> np.ndarray:
        self.manifest.array(name)
        try:
            rows = shard.get_slice(name)[entry.offset + start : entry.offset + stop]
        except SafetensorError as error:
            raise DataError(f"{self.path / entry.shard} cannot be read ({error}); record the data set again") from error
        bad = first_bad_row(rows)
        if bad is not None:
            raise DataError(f"NaN or infinity in '{name}', row {start + bad} of episode {entry.index} of {self.path}")
        return rows

    def _shard(self, name: str) -> Any:
        if name not in self._shards:
            self._shards[name] = open_shard(self.path / name)
        return self._shards[name]

    def _check_files(self) -> None:
        manifest = self.manifest
        if len(self.episodes) != manifest.num_episodes or sum(item.num_frames for item in self.episodes) != manifest.num_frames:
            raise DataError(f"the index of {self.path} does not hold the {manifest.num_episodes} episodes of its manifest")
        for shard in manifest.shards:
            file = self.path / shard.name
            size = file.stat().st_size if file.is_file() else 0
            if size != shard.num_bytes:
                raise DataError(f"{file} has {size} bytes, not {shard.num_bytes}: it was cut off or replaced; copy or record it again")

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_shards": {}}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._shards.clear()


def open_dataset(path: Path) -> ClipDataset:
    """The data set in folder `path`, whose shards are opened when first needed."""
    return ClipDataset(Path(path))


def open_shard(path: Path) -> Any:
    """A memory-mapped safetensors file; DataError names a file that is missing or broken."""
    try:
        return safe_open(str(path), framework="numpy")
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be opened ({error}); copy or record it again") from error
