"""Files that are whole or absent, also when the process is killed or the disk is full in mid-write."""

import subprocess
import sys
from pathlib import Path

import pytest

from mutoscope.core.errors import CheckpointError, MutoscopeError
from mutoscope.core.files import hash_file, portable, read_json, write_atomically, write_bytes, write_folder, write_json

KILLED_IN_MID_WRITE = """
import os, sys
from pathlib import Path
from mutoscope.core.files import write_atomically

def write_half(path):
    with open(path, "wb") as handle:
        handle.write(b"half")
        handle.flush()
        os.kill(os.getpid(), 9)

{writer}
"""


def content_after_kill(path: Path, writer: str) -> bytes:
    path.write_bytes(b"before")
    done = subprocess.run([sys.executable, "-c", KILLED_IN_MID_WRITE.format(writer=writer), str(path)], timeout=60)
    assert done.returncode == -9
    return path.read_bytes()


def test_killed_in_mid_write_leaves_the_file_as_it_was(tmp_path):
    assert content_after_kill(tmp_path / "a", "write_atomically(Path(sys.argv[1]), write_half)") == b"before"


def test_killed_in_mid_write_broken_twin_that_writes_in_place(tmp_path):
    assert content_after_kill(tmp_path / "a", "write_half(sys.argv[1])") == b"half"


def test_full_disk_changes_nothing_and_says_so(tmp_path):
    def write(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    path = tmp_path / "a"
    path.write_bytes(b"before")
    with pytest.raises(MutoscopeError, match="No space left on device.*nothing was changed. Free space"):
        write_atomically(path, write)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_write_and_read(tmp_path):
    write_bytes(tmp_path / "new" / "a", b"content")
    assert (tmp_path / "new" / "a").read_bytes() == b"content"
    write_json(tmp_path / "a.json", {"name": "é", "values": [1, 2.5, None]})
    assert read_json(tmp_path / "a.json") == {"name": "é", "values": [1, 2.5, None]}


def write_two(folder: Path) -> None:
    (folder / "a").write_bytes(b"a")
    (folder / "b").write_bytes(b"b")


def test_a_folder_is_whole(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "new" / "folder", tmp_path / "empty"):
        write_folder(folder, write_two)
        assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]
        with pytest.raises(MutoscopeError, match="exists and is not empty; give another folder, or delete it"):
            write_folder(folder, write_two)
    (tmp_path / "file").touch()
    with pytest.raises(MutoscopeError, match="exists and is not empty"):
        write_folder(tmp_path / "file", write_two)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("defect"), KeyboardInterrupt()])
def test_a_folder_that_was_not_finished_is_absent(tmp_path, error):
    def write(folder: Path) -> None:
        write_two(folder)
        raise error

    with pytest.raises(MutoscopeError if isinstance(error, OSError) else type(error)):
        write_folder(tmp_path / "folder", write)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe"])
def test_json_that_was_cut_off_names_the_file(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(CheckpointError, match="a.json is not valid JSON"):
        read_json(tmp_path / "a.json", CheckpointError)


def test_missing_json_names_the_file(tmp_path):
    with pytest.raises(MutoscopeError, match="none.json does not exist"):
        read_json(tmp_path / "none.json")


def test_hash_of_a_file_longer_than_one_block(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * ((1 << 20) + 1))
    (tmp_path / "b").write_bytes(b"x" * (1 << 20) + b"y")
    assert len(hash_file(tmp_path / "a")) == 64
    assert hash_file(tmp_path / "a") != hash_file(tmp_path / "b")


def test_shared_files_name_no_place_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert portable(tmp_path / "runs" / "scroll" / "data") == portable(Path("runs/scroll/data")) == "runs/scroll/data"
    assert portable(Path("/somewhere/else/data/held-out")) == "data/held-out"
