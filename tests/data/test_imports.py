import subprocess
import sys

READERS = "import mutoscope.data.clips, mutoscope.data.batches, mutoscope.data.writer, mutoscope.data.check"
BLOCK = """
import sys
for name in ("gymnasium", "av", "cv2", "vizdoom", "matplotlib", "PIL"):
    sys.modules[name] = None
"""


def runs_without_optional_packages(statement: str) -> bool:
    return subprocess.run([sys.executable, "-c", BLOCK + statement], capture_output=True, timeout=200, check=False).returncode == 0


def test_reading_writing_and_sampling_need_no_optional_package() -> None:
    assert runs_without_optional_packages(READERS)


def test_broken_twin_a_world_does_need_one() -> None:
    assert not runs_without_optional_packages("import mutoscope.data.worlds.tile_worlds")
