"""Files that are either whole or absent: write beside, flush, rename."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mutoscope.core.errors import DataError, MutoscopeError


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write(temporary path)`, then rename to `path`. On any failure `path` is as it was before."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise MutoscopeError(f"could not write {path}: {error}; nothing was changed. Free space or choose another folder") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Call `write(temporary folder)`, then rename it to `folder`, which must not exist yet or be empty. On any failure there is none."""
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise MutoscopeError(f"{folder} exists and is not empty; give another folder, or delete it")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        write(temporary)
        os.replace(temporary, folder)
    except OSError as error:
        raise MutoscopeError(f"could not write {folder}: {error}; nothing was changed. Free space or choose another folder") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    write_atomically(path, lambda temporary: _write(temporary, data))


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, atomically."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path, error: type[MutoscopeError] = DataError) -> Any:
    """Read JSON; a missing or malformed file is an `error` that names the file."""
    path = Path(path)
    if not path.is_file():
        raise error(f"{path} does not exist")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as reason:
        raise error(f"{path} is not valid JSON ({reason}); it may have been cut off or edited by hand") from reason


def portable(path: Path) -> str:
    """A path for a file that is shared: from the folder that one works in, or its last two parts where it lies elsewhere."""
    whole, here = Path(path).resolve(), Path.cwd().resolve()
    return str(whole.relative_to(here)) if whole.is_relative_to(here) else "/".join(whole.parts[-2:])


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
