"""Fail when one room of the package imports another that it must not know, or a package that it must do without."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "mutoscope"
SOURCES = Path(__file__).resolve().parent.parent / "src" / PACKAGE

_BELOW_TRAINING = {"core", "noise", "objectives", "memory", "models", "rollout", "data", "media"}
_STUDENTS = _BELOW_TRAINING | {"train", "evaluate", "serve"}
# Each room and the rooms that it may import besides itself: docs say `cli -> recipes, studies -> train | evaluate | serve -> ...`.
ALLOWED = {
    "core": set(),
    "noise": {"core"},
    "objectives": {"noise", "core"},
    "memory": {"core"},
    "models": {"memory", "noise", "core"},
    "rollout": {"models", "memory", "objectives", "noise", "core"},
    "data": {"media", "core"},
    "media": {"core"},
    "train": _BELOW_TRAINING,
    "evaluate": _BELOW_TRAINING,
    "serve": _BELOW_TRAINING,
    "recipes": _STUDENTS,
    "studies": _STUDENTS,
    "cli": _STUDENTS | {"recipes", "studies"},
}
# The command line is more than one file; the files at the top of the package belong to it.
CLI_PARTS = {"cli", "commands", "__main__", "__init__"}
# Modules (or rooms) and the packages that they do without: policy is integers, training needs torch, numpy and safetensors alone.
WITHOUT = {
    "memory.frames": {"torch", "numpy"},
    "memory.choosing": {"torch", "numpy"},
    "memory.heads": {"torch", "numpy"},
    "memory.policy": {"torch", "numpy"},
    "memory.kinds": {"torch", "numpy"},
    "memory.ledger": {"torch"},
    "models.wan_codec": {"diffusers"},
    "models.codec_weights": {"diffusers"},
    "models.text_cache": {"transformers", "ftfy"},
    "models.text_encoders": {"transformers", "ftfy"},
    "serve.scheduler": {"torch"},
    "data.clips": {"gymnasium", "av", "cv2", "vizdoom"},
    "data.batches": {"gymnasium", "av", "cv2", "vizdoom"},
    "cli": {"torch", "numpy"},
}


@dataclass(frozen=True)
class Import:
    """One import: the file and line it stands in, the importing module and what it names, both in dots."""

    path: Path
    line: int
    source: str
    target: str


def imports(root: Path) -> Iterator[Import]:
    """Every import in the package at `root`, those inside functions and `import_module("...")` included."""
    for path in sorted(root.rglob("*.py")):
        module = (PACKAGE, *path.relative_to(root).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
            for target in _targets(node, module):
                yield Import(path, node.lineno, ".".join(module), target)


def _targets(node: ast.AST, module: tuple[str, ...]) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = module[: len(module) - node.level] if node.level else ()
        prefix = ".".join((*base, *((node.module,) if node.module else ())))
        return [f"{prefix}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
        return [word.value for word in node.args[:1] if isinstance(word, ast.Constant) and isinstance(word.value, str)]
    return []


def room_of(module: str) -> str:
    """The room of a dotted module of the package: `mutoscope.memory.store` -> memory; unknown names stand for themselves."""
    part = module.split(".")[1] if "." in module else "__init__"
    return "cli" if part in CLI_PARTS else part


def violations(root: Path) -> list[str]:
    """One sentence for each import that breaks the table, with its file and line."""
    return [f"{found.path}:{found.line}: {reason}" for found in imports(root) if (reason := _reason(found))]


def _reason(found: Import) -> str | None:
    if found.target.split(".")[0] != PACKAGE:
        return _foreign_reason(found)
    source, target = room_of(found.source), _target_room(found.target)
    if source not in ALLOWED:
        return f"'{source}' is not a room; the rooms are {', '.join(ALLOWED)}"
    if target == source or target in ALLOWED[source]:
        return None
    allowed = ", ".join(sorted(ALLOWED[source])) or "none"
    return f"{source} imports {target} ({found.target}); it may import: {allowed}"


def _target_room(target: str) -> str:
    """`from mutoscope import __version__` names the package itself, which every room may ask for its version."""
    return "core" if target in (PACKAGE, f"{PACKAGE}.__version__") else room_of(target)


def _foreign_reason(found: Import) -> str | None:
    package = found.target.split(".")[0]
    for name, forbidden in WITHOUT.items():
        if package in forbidden and f"{found.source}.".startswith(f"{PACKAGE}.{name}."):
            return f"{name} must do without {package}"
    return None


def main(root: Path = SOURCES) -> int:
    """Print the violations; the exit code is 1 if there are any."""
    found = violations(root)
    print("\n".join(found) if found else f"rooms: every import of {root.name} points down", file=sys.stderr if found else sys.stdout)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
