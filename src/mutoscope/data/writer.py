"""Write a data set shard by shard, so that it can be interrupted at any moment and go on where it stopped."""

import json
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from safetensors.numpy import save

from mutoscope.core.config import to_plain
from mutoscope.core.errors import DataError
from mutoscope.core.files import hash_file, read_json, write_bytes, write_json
from mutoscope.core.world import WorldSpec
from mutoscope.data.clips import open_shard
from mutoscope.data.format import (
    FORMAT_VERSION,
    INDEX,
    MANIFEST,
    RECORDING,
    UNITS,
    ArraySpec,
    DatasetManifest,
    Episode,
    ShardSpec,
    first_bad_row,
    read_index,
)

SHARD_BYTES = 32 << 20


class DatasetWriter:
    """Episodes of named arrays -> shards, index and, at `close`, the manifest.

    An unfinished folder made with the same world, seed and settings is resumed: `next_episode` says where. Shards are
    cut by content alone, so that an interrupted and a straight recording are the same bytes.
    """

    def __init__(
        self,
        path: Path,
        world: WorldSpec,
        *,
        seed: int = 0,
        settings: tuple[tuple[str, str], ...] = (),
        shard_bytes: int = SHARD_BYTES,
        pixel_frames_per_row: int = 1,
    ) -> None:
        self.path, self.world, self.seed, self.settings = Path(path), world, seed, settings
        self._shard_bytes, self._rate = shard_bytes, world.content_rate / pixel_frames_per_row
        self._pending: list[tuple[Episode, dict[str, np.ndarray]]] = []
        self._pending_bytes = 0
        self._claim_folder()
        self._episodes = list(read_index(self.path))
        self._rewrite_index()
        self._layout = self._stored_layout()

    @property
    def next_episode(self) -> int:
        """Index of the episode that `add` will take next."""
        return len(self._episodes) + len(self._pending)

    def add(self, arrays: dict[str, np.ndarray], *, seed: int = 0, name: str = "", caption: str = "") -> None:
        """Append one episode: arrays `[num_frames, ...]` of equal length; DataError on NaN or other arrays than before."""
        arrays = {key: np.ascontiguousarray(arrays[key]) for key in sorted(arrays)}
        num_frames = self._check(arrays)
        shard = self._shard_name()
        offset = sum(episode.num_frames for episode, _ in self._pending)
        self._pending.append((Episode(self.next_episode, num_frames, shard, offset, seed, name, caption), arrays))
        self._pending_bytes += sum(array.nbytes for array in arrays.values())
        if self._pending_bytes >= self._shard_bytes:
            self._flush()

    def close(self) -> DatasetManifest:
        """Write the last shard and the manifest; from here on the folder is a data set."""
        self._flush()
        if not self._episodes:
            raise DataError(f"{self.path} would be a data set without episodes; add at least one")
        manifest = DatasetManifest(
            format_version=FORMAT_VERSION,
            world=self.world,
            seed=self.seed,
            num_episodes=len(self._episodes),
            num_frames=sum(episode.num_frames for episode in self._episodes),
            arrays=self._array_specs(),
            shards=self._shard_specs(),
            settings=self.settings,
        )
        write_json(self.path / MANIFEST, to_plain(manifest))
        (self.path / RECORDING).unlink(missing_ok=True)
        return manifest

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()

    def _claim_folder(self) -> None:
        if (self.path / MANIFEST).exists():
            raise DataError(f"{self.path} already holds a finished data set; choose another folder or delete it first")
        wanted = {"world": to_plain(self.world), "seed": self.seed, "settings": to_plain(self.settings)}
        if not (self.path / RECORDING).exists():
            if self.path.exists() and any(self.path.iterdir()):
                raise DataError(f"{self.path} is not empty and no unfinished recording; choose another folder")
            write_json(self.path / RECORDING, wanted)
            return
        begun = read_json(self.path / RECORDING)
        if begun != wanted:
            changed = [key for key in wanted if begun.get(key) != wanted[key]]
            raise DataError(
                f"{self.path} holds a recording begun with other {', '.join(changed)}; give those again or choose another folder"
            )

    def _stored_layout(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        if not self._episodes:
            return {}
        shard = open_shard(self.path / self._episodes[0].shard)
        rows = {name: shard.get_slice(name)[0:1] for name in shard.keys()}  # noqa: SIM118 (a safetensors file is no dict)
        return {name: _layout(row) for name, row in rows.items()}

    def _check(self, arrays: dict[str, np.ndarray]) -> int:
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            raise DataError(f"episode {self.next_episode}: the arrays of an episode must have the same number of rows, got {lengths}")
        for name, array in arrays.items():
            bad = first_bad_row(array)
            if bad is not None:
                raise DataError(f"episode {self.next_episode}: NaN or infinity in '{name}', row {bad}")
        layout = {name: _layout(array) for name, array in arrays.items()}
        self._layout = self._layout or layout
        if layout != self._layout:
            raise DataError(f"episode {self.next_episode} has arrays {layout}; the episodes before have {self._layout}")
        return next(iter(lengths.values()))

    def _flush(self) -> None:
        if not self._pending:
            return
        joined = {name: np.concatenate([arrays[name] for _, arrays in self._pending]) for name in self._layout}
        write_bytes(self.path / self._shard_name(), save(joined))
        self._episodes.extend(episode for episode, _ in self._pending)
        self._pending, self._pending_bytes = [], 0
        self._rewrite_index()

    def _shard_name(self) -> str:
        return f"shard-{len({episode.shard for episode in self._episodes}):05d}.safetensors"

    def _rewrite_index(self) -> None:
        write_bytes(self.path / INDEX, "".join(_index_line(episode) + "\n" for episode in self._episodes).encode())

    def _array_specs(self) -> tuple[ArraySpec, ...]:
        return tuple(
            ArraySpec(name, dtype, shape, self._rate, UNITS.get(name, "")) for name, (dtype, shape) in sorted(self._layout.items())
        )

    def _shard_specs(self) -> tuple[ShardSpec, ...]:
        files = [self.path / name for name in sorted({episode.shard for episode in self._episodes})]
        return tuple(ShardSpec(file.name, file.stat().st_size, hash_file(file)) for file in files)


def _index_line(episode: Episode) -> str:
    """An episode as JSON; without a caption it reads as it did before there were captions."""
    plain = to_plain(episode)
    return json.dumps(plain if episode.caption else {key: value for key, value in plain.items() if key != "caption"})


def _layout(array: np.ndarray) -> tuple[str, tuple[int, ...]]:
    return str(array.dtype), tuple(array.shape[1:])
