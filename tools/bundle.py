"""Put a finished run into the package as the bundled world: `python tools/bundle.py runs/doom-basic`.

Copies the averaged weights of the stages that play uses, in half precision, with codec, start clips and a card.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from mutoscope.core.config import from_plain
from mutoscope.core.errors import CheckpointError, MutoscopeError
from mutoscope.core.files import read_json, write_bytes
from mutoscope.models.checkpoint import CheckpointManifest, export_checkpoint, read_manifest
from mutoscope.train.config import AverageStage, CodecStage, RunConfig

BUNDLED = Path(__file__).resolve().parent.parent / "src" / "mutoscope" / "bundled"
STAGES = ("matching-2", "matching-1", "consistency", "autoregressive")
LIMIT_FILE, LIMIT_ALL = 15 << 20, 25 << 20


def bundle(run_folder: Path, target: Path, note: str) -> None:
    """Export into a folder beside `target`, check sizes, then put it in place; the card ends with the note."""
    run = from_plain(RunConfig, read_json(run_folder / "run.json"), "run.json")
    fresh = target.with_name(f".{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    manifests = {}
    for stage in STAGES:
        export_checkpoint(run_folder / stage / "checkpoint", fresh / stage)
        manifests[stage] = read_manifest(fresh / stage)
    write_bytes(fresh / "CARD.md", card(run, run_folder, manifests, note).encode())
    check_sizes(fresh)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)


def check_sizes(folder: Path) -> None:
    """Files of at most 15 MB, 25 MB in all."""
    sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    largest = max(sizes.values())
    if largest > LIMIT_FILE or sum(sizes.values()) > LIMIT_ALL:
        raise CheckpointError(f"{folder} has {sum(sizes.values()) >> 20} MiB, its largest file {largest >> 20} MiB; allowed are 25 and 15")


def card(run: RunConfig, run_folder: Path, manifests: dict[str, CheckpointManifest], note: str) -> str:
    """What it is, what it was trained on, where and how long; under the mean of students, the students."""
    data, sessions = run.data, read_json(run_folder / "environment.json")["sessions"]
    machine, commits = sessions[0], ", ".join(dict.fromkeys(session["commit"] for session in sessions))
    trained: dict[str, tuple[CheckpointManifest, str]] = {}
    for name in manifests:
        stage = run.stage(name)
        parts = stage.of if isinstance(stage, AverageStage) else (name,)
        trained |= {part: (read_manifest(run_folder / part / "checkpoint"), f" (its mean is {name})" * (part != name)) for part in parts}
    rows = [
        f"| {name}{mean} | {manifest.updates} | {seconds(run_folder / name):.0f} | {manifest.recipe_hash} |"
        for name, (manifest, mean) in trained.items()
    ]
    codec = next(stage for stage in run.stages if isinstance(stage, CodecStage))
    return (
        f"# {run.name}\n\n"
        f"World `{data.world}` at {data.width}x{data.height}, frame skip {data.frame_skip}; {data.episodes} training episodes of "
        f"{data.frames_per_episode} frames (seed {data.seed}), {data.held_out_episodes} held-out episodes of other seeds.\n\n"
        f"Model: dim {run.model.dim}, {run.model.num_layers} layers, {run.model.num_heads} heads; memory `{run.memory}`; "
        f"clips of {run.clip_frames} frames; codec with {codec.latent_channels} channels at stride {2 ** len(codec.widths)}.\n\n"
        f"Trained with `mutoscope train {run.name}` on {machine['processor']} ({machine['cores']} cores, accelerator "
        f"{machine['accelerator']}), commits {commits}, from {machine['date']}.\n\n"
        "| stage | updates | seconds of updates | recipe hash |\n| --- | --- | --- | --- |\n" + "\n".join(rows) + "\n\n"
        "How it scores, and which of the project's targets it misses: `results/` and the README.\n" + (f"\n{note}\n" if note else "")
    )


def seconds(stage_folder: Path) -> float:
    """Time spent in updates, from the metrics: those of a logged update are the mean since the one before."""
    lines = [json.loads(line) for line in (stage_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    gaps = [after["update"] - before["update"] for before, after in zip(lines[:-1], lines[1:], strict=True)]
    return sum(line["seconds"] * gap for line, gap in zip(lines[1:], gaps, strict=True))


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run folder with finished stages")
    parser.add_argument("--note", default="", help="what else is to be known of these weights: the last sentence of the card")
    options = parser.parse_args()
    name = read_json(options.run / "run.json")["name"]
    try:
        bundle(options.run, BUNDLED / name, options.note)
    except MutoscopeError as error:
        print(f"bundle: {error}", file=sys.stderr)
        return 2
    print(f"bundled {options.run} as {BUNDLED / name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
