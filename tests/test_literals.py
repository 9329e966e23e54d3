"""No dimension of one published model stands in the code: sizes come from recipes, configs and checkpoints."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parent.parent / "src" / "mutoscope"
# Wan 2.1's channels (1.3B and 14B), their hidden layers, its pictures and clips, and what these make in tokens.
SIZES = {1536, 5120, 8960, 13824, 480, 832, 81, 1560, 32760}
# Where published sizes belong: recipes say them. Elsewhere a number is allowed by file, because it is something else.
RECIPES = "recipes"
ELSEWHERE = {"data/worlds/doom.py": {480}}  # heights of VizDoom's screens


def sizes_in(text: str) -> set[int]:
    """Those of the sizes that a source holds as numbers; words in strings and comments are none."""
    numbers = (node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant))
    return {number for number in numbers if type(number) is int and number in SIZES}


def literals(root: Path) -> Iterator[tuple[str, set[int]]]:
    """Every source with sizes in it, but for recipes."""
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if not name.startswith(f"{RECIPES}/") and (found := sizes_in(path.read_text())):
            yield name, found


def test_sizes_of_one_model_stand_in_recipes_alone():
    assert dict(literals(SOURCES)) == ELSEWHERE


def test_recipes_do_say_them():
    assert sizes_in((SOURCES / RECIPES / "wan.py").read_text()) >= {1536, 5120, 8960, 13824, 480, 832}


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("models/attention.py", "tokens = 21 * 1_560", {1560}),
        ("rollout/planner.py", "def f(limit=32760): ...", {32760}),
        ("models/layers.py", "DIM = 0x600 if large else 1535", {1536}),
        ("train/loop.py", "FRAMES = (81, 21, 480.0, True)", {81}),
    ],
)
def test_a_planted_size_is_found(tmp_path, name, text, found):
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text(text)
    assert dict(literals(tmp_path)) == {name: found}


def test_words_are_no_sizes(tmp_path):
    (tmp_path / "a.py").write_text('"""At 480x832, 81 frames."""\n# 1536\nx = "5120"\n')
    assert dict(literals(tmp_path)) == {}
