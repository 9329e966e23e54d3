"""Fail when a source breaks one of the house's limits that formatters and linters do not know."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 400
FORBIDDEN_MODULES = {"util", "utils", "helpers", "misc", "common"}
TEXT_SUFFIXES = {"", ".py", ".md", ".toml", ".txt", ".json", ".yaml", ".yml", ".js", ".html", ".css", ".cfg", ".sh"}
# Written so that the patterns do not match themselves.
FORBIDDEN_TEXT = {
    r"\bpypi\.(?:[o]rg|[p]ython)|pythonhosted\.[o]rg|(?:download\.pytorch|npmjs|deb\.debian)\.[o]rg": "names a registry's host",
    r"--(?:extra-)?index-url[ =]|--find-links[ =]": "points pip at one registry; leave that to the machine's own settings",
    r"(?<![\w.])/(?:wor[k]|hom[e]|roo[t]|User[s])/[\w.]": "holds an absolute path of one machine",
}
Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = Function | ast.ClassDef


def source_problems(path: Path, text: str) -> Iterator[str]:
    """Problems of one Python file: its length, its name, its functions, its calls."""
    lines = len(text.splitlines())
    if lines > MAX_FILE_LINES:
        yield f"{path}: {lines} lines; at most {MAX_FILE_LINES}"
    if path.stem in FORBIDDEN_MODULES:
        yield f"{path}: '{path.stem}' says nothing; name the module after what it holds"
    tree = ast.parse(text, str(path))
    for node in ast.walk(tree):
        if isinstance(node, Function):
            yield from _function_problems(path, node)
        elif isinstance(node, ast.Call):
            yield from _call_problems(path, node)
        elif isinstance(node, (ast.Import, ast.ImportFrom)) and path.parts[:1] == ("src",):
            yield from _import_problems(path, node)
    if path.parts[:1] == ("src",):
        yield from _undocumented(path, tree)


def _function_problems(path: Path, node: Function) -> Iterator[str]:
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    if lines > MAX_FUNCTION_LINES:
        yield f"{path}:{node.lineno}: {node.name} has {lines} lines; at most {MAX_FUNCTION_LINES}"


def _call_problems(path: Path, node: ast.Call) -> Iterator[str]:
    name = ast.unparse(node.func)
    if name == "getattr" and len(node.args) == 3:
        yield f"{path}:{node.lineno}: getattr with a default hides a missing field"
    if name == "torch.load" and not _is_true(node, "weights_only"):
        yield f"{path}:{node.lineno}: torch.load without weights_only=True runs foreign code"


def _is_true(node: ast.Call, keyword: str) -> bool:
    values = [word.value for word in node.keywords if word.arg == keyword]
    return any(isinstance(value, ast.Constant) and value.value is True for value in values)


def _import_problems(path: Path, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
    for name in names:
        if name.split(".")[0] in {"pickle", "cloudpickle", "dill", "joblib"}:
            yield f"{path}:{node.lineno}: {name} runs foreign code on loading; use safetensors or JSON"


def _undocumented(path: Path, tree: ast.Module) -> Iterator[str]:
    """Public modules, classes, functions and methods without a docstring; overrides of a base class may go without."""
    if not ast.get_docstring(tree) and path.name != "__init__.py":
        yield f"{path}:1: the module has no docstring"
    for owner in [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]:
        inherits = isinstance(owner, ast.ClassDef) and bool(owner.bases)
        for node in owner.body:
            if isinstance(node, Documented) and _needs_docstring(node, inherits):
                yield f"{path}:{node.lineno}: {node.name} has no docstring"


def _needs_docstring(node: Documented, inherits: bool) -> bool:
    return not (node.name.startswith("_") or inherits or ast.get_docstring(node))


def text_problems(path: Path, text: str) -> Iterator[str]:
    """Registry hosts and paths of one machine, in any text file."""
    for number, line in enumerate(text.splitlines(), start=1):
        for pattern, what in FORBIDDEN_TEXT.items():
            if re.search(pattern, line):
                yield f"{path}:{number}: {what}"


def tracked_files(root: Path) -> list[Path]:
    """Files that git tracks or would track, relative to `root`; without git, every file outside hidden folders."""
    try:
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
        names = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        names = [
            str(path.relative_to(root)) for path in root.rglob("*") if not any(part[0] == "." for part in path.relative_to(root).parts)
        ]
    return [Path(name) for name in sorted(set(names)) if name and (root / name).is_file()]


def problems(root: Path) -> list[str]:
    """Everything wrong in the files of the repository at `root`."""
    found: list[str] = []
    for path in tracked_files(root):
        if path.suffix not in TEXT_SUFFIXES:
            continue
        text = (root / path).read_text(encoding="utf-8")
        found += text_problems(path, text)
        if path.suffix == ".py":
            found += source_problems(path, text)
    return found


def main(root: Path = ROOT) -> int:
    """Print the problems; the exit code is 1 if there are any."""
    found = problems(root)
    print("\n".join(found) if found else "style: within the limits", file=sys.stderr if found else sys.stdout)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
