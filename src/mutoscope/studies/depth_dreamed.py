"""Landmarks that nobody saw but the model: does it show again what it dreamed itself?

The pieces' own landmarks are real frames, and a real frame enters every memory by its commit, for nobody denoised it. Where memories
differ in the pass that they are written from, that is no question. Here the landmarks are turned to in the dream: each of their tiles is
made by the model, enters the memory as the model's passes made it, and is right on return if it is what was dreamed at first.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from mutoscope.core.files import read_json, write_json
from mutoscope.core.progress import Progress
from mutoscope.core.provenance import provenance
from mutoscope.data.worlds import make_world
from mutoscope.data.worlds.tiles import TILE_PIXELS, classify_tiles
from mutoscope.evaluate.recall import RecallClips, RecallTask, play_truth
from mutoscope.media.curves import Line, Panel, Point, draw_panels
from mutoscope.models.checkpoint import Checkpoint, load_checkpoint
from mutoscope.studies.depth_memory import DEPTH_STAGES, NAMES, Piece, session_config
from mutoscope.studies.effects import Effect, paired_effect
from mutoscope.studies.recall import dream
from mutoscope.train.config import DataConfig

DREAMED, BASELINE = "dreamed", "full"
# What is compared: the pass that a memory is written from, everything else being equal.
PAIRS = {f"{memory}{end}": f"{memory}, last pass{end}" for memory in ("window+fast-weights", "window+linear") for end in ("", ", taught")}


@dataclass(frozen=True)
class DreamedConfig:
    """Real turns before the dream begins, frames from the landmarks' first full view to their return, episodes."""

    lead: int = 8
    away: tuple[int, ...] = (24, 48)
    episodes: int = 96
    seed: int = 3_000_017


def landmarks(truth: RecallClips, columns: int) -> RecallClips:
    """The same episodes, given so much less of that every column of the landmarks comes into view in the dream.

    And none of them in the dream's first frame, which has more steps than the others.
    """
    return replace(truth, context=truth.context - columns - 1)


@dataclass(frozen=True)
class Agreement:
    """Shares of tiles, `[episode]` each, of which both pictures show the same kind.

    same    on return, with the landmarks' first full view
    others  with the first view of the next episode: what a model reaches that shows every episode alike
    kept    one turn after the first view, of the columns that stay in view: what is lost by drawing tiles that are no certain kind
    """

    same: np.ndarray
    others: np.ndarray
    kept: np.ndarray


def agreement(made: np.ndarray, columns: int) -> Agreement:
    """Of dreams uint8 `[episode, T, H, W, 3]` whose frame `columns` shows the landmarks in full for the first time, the last one again.

    Which way a turn moves the columns is not asked: `kept` takes the way that fits better.
    """
    first, later, again = (classify_tiles(made[:, frame]) for frame in (columns, columns + 1, -1))
    kept = [(first[:, :, 1:] == later[:, :, :-1]).mean(axis=(1, 2)), (first[:, :, :-1] == later[:, :, 1:]).mean(axis=(1, 2))]
    best = max(kept, key=np.mean)
    return Agreement((first == again).mean(axis=(1, 2)), (np.roll(first, 1, axis=0) == again).mean(axis=(1, 2)), best)


def dreamed_rows(depth: str, checkpoint: Checkpoint, steps: int, config: DreamedConfig, data: DataConfig, bar: Progress) -> list[dict]:
    """One depth at all distances."""
    rows, columns = [], data.width // TILE_PIXELS
    for truth in true_episodes(config, data):
        made = dream(checkpoint, session_config(checkpoint, steps, truth.frames.shape[1]), landmarks(truth, columns), bar.advance)
        found = agreement(made, columns)
        means = {name: float(values.mean()) for name, values in vars(found).items()}
        rows.append({"depth": depth, "away": truth.frames.shape[1] - truth.context, **means})
    return rows


def true_episodes(config: DreamedConfig, data: DataConfig) -> list[RecallClips]:
    """Real episodes, of which the dream is given the beginning and the actions."""
    env = make_world(data.world, height=data.height, width=data.width, frame_skip=data.frame_skip)
    lead = config.lead + data.width // TILE_PIXELS
    return [play_truth(env, RecallTask(lead, away), config.episodes, config.seed) for away in config.away]


def ask_dreamed(piece: Piece, data: DataConfig, folder: Path, results: Path, config: DreamedConfig) -> bool:
    """Ask a piece's checkpoints, if all of them are there and have not been asked; says whether it did."""
    run, file = folder / f"seed-{piece.seed}" / piece.folder, results / DREAMED / f"{piece.name}.json"
    paths = {depth: run / stage / "checkpoint" for depth, (stage, _) in DEPTH_STAGES.items()}
    if file.is_file() or not all((path / "manifest.json").is_file() for path in paths.values()):
        return False
    rows, weights, earlier = [], {}, data.width // TILE_PIXELS + 1
    with Progress(len(paths) * sum(away + earlier for away in config.away), f"{piece.name}: landmarks that were dreamed, frames") as bar:
        for depth, (_, steps) in DEPTH_STAGES.items():
            checkpoint = load_checkpoint(paths[depth])
            weights[depth] = checkpoint.hash
            rows += dreamed_rows(depth, checkpoint, steps, config, data, bar)
    head = {"provenance": provenance(), "memory": piece.memory, "seed": piece.seed, "episodes": config.episodes, "weights": weights}
    write_json(file, {**head, "rows": rows})
    return True


Dreamed = dict[tuple[str, str, int], dict[int, dict[str, float]]]
"""The fields of Agreement by (memory, depth, away) and seed, means over episodes."""


def read_dreamed(results: Path) -> Dreamed:
    """Every file of `results/dreamed`."""
    found: Dreamed = {}
    for file in sorted((results / DREAMED).glob("*-seed*.json")):
        plain = read_json(file)
        for row in plain["rows"]:
            figures = {field.name: float(row[field.name]) for field in fields(Agreement)}
            found.setdefault((plain["memory"], row["depth"], row["away"]), {})[plain["seed"]] = figures
    return found


def mean_figure(found: Dreamed, memory: str, depth: str, name: str) -> dict[int, float]:
    """A field by seed, averaged over the distances; "net" is `same` less `others`."""
    columns = [seeds for (other, at, _), seeds in found.items() if (other, at) == (memory, depth)]
    shared = set.intersection(*map(set, columns)) if columns else set()

    def value(figures: dict[str, float]) -> float:
        return figures["same"] - figures["others"] if name == "net" else figures[name]

    return {seed: float(np.mean([value(column[seed]) for column in columns])) for seed in sorted(shared)}


def dreamed_effects(found: Dreamed) -> dict[tuple[str, str], dict[str, Effect]]:
    """By (memory, depth), paired by seed.

    "forgotten": `kept` less `same`, what is lost between the first turn and the return. Of `same` less `others`: "loss", from the teacher;
    "cost", that loss beyond the full cache's; "last pass", what a memory written from last passes shows again more than this one, which
    is written from commits.
    """
    effects: dict[tuple[str, str], dict[str, Effect]] = {}
    for memory in dict.fromkeys(name for name, _, _ in found):
        for depth in DEPTH_STAGES:
            own, loss = mean_figure(found, memory, depth, "net"), _loss(found, memory, depth)
            pairs = {
                "forgotten": paired_effect(mean_figure(found, memory, depth, "kept"), mean_figure(found, memory, depth, "same")),
                "loss": paired_effect(loss, dict.fromkeys(loss, 0.0)) if depth != "teacher" else None,
                "cost": paired_effect(loss, _loss(found, BASELINE, depth)) if depth != "teacher" and memory != BASELINE else None,
                "last pass": paired_effect(mean_figure(found, PAIRS[memory], depth, "net"), own) if memory in PAIRS else None,
            }
            effects[memory, depth] = {name: item for name, item in pairs.items() if item is not None}
    return effects


def _loss(found: Dreamed, memory: str, depth: str) -> dict[int, float]:
    """Of the teacher's net agreement, by seed."""
    teacher, student = mean_figure(found, memory, "teacher", "net"), mean_figure(found, memory, depth, "net")
    return {seed: teacher[seed] - student[seed] for seed in teacher.keys() & student.keys()}


def dreamed_table(found: Dreamed, names: dict[str, str]) -> str:
    """A line per memory and depth: means over seeds and distances, then the differences."""
    heads = ["same on return", "other episodes", "kept one turn later", "forgotten since", "loss from teacher", f"loss minus {BASELINE}'s"]
    lines = [
        f"| memory | depth | {' | '.join(heads)} | last pass minus commit | seeds |",
        "| --- | --- |" + " --- |" * (len(heads) + 2),
    ]
    effects = dreamed_effects(found)
    for memory in NAMES:
        for depth, name in names.items():
            figures = [mean_figure(found, memory, depth, field.name) for field in fields(Agreement)]
            if figures[0]:
                means = [f"{np.mean(list(values.values())):.3f}" for values in figures]
                told = [_told(effects[memory, depth].get(kind)) for kind in ("forgotten", "loss", "cost", "last pass")]
                lines.append(f"| {memory} | {name} | {' | '.join(means + told)} | {len(figures[0])} |")
    distances = ", ".join(str(away) for away in sorted({away for _, _, away in found}))
    return (
        "\n".join(lines)
        + f"\n\nMeans over k = {distances} and seeds. Differences are paired by seed, with 95 % intervals and what so many seeds would "
        "have shown: forgotten is kept less same; the others are of same less other episodes.\n"
    )


# Who is drawn, from the many, and at which depths: the consistency student has as many steps as one of matching.
STEPS = {depth: steps for depth, (stage, steps) in DEPTH_STAGES.items() if stage != "consistency"}
DRAWN = ("full", "fast-weights", "window+fast-weights", "window+fast-weights, last pass", "sink+window")


def draw_dreamed(found: Dreamed, output: Path) -> None:
    """What is the same on return by steps, and what was kept after one turn; bars reach from the lowest seed to the highest."""
    panels = []
    for title, field in (("dreamed, left and come back", "same"), ("one turn after it was dreamed", "kept")):
        lines = []
        for memory in DRAWN:
            seeds = [(steps, list(mean_figure(found, memory, depth, field).values())) for depth, steps in STEPS.items()]
            points = tuple(Point(steps, float(np.mean(values)), min(values), max(values)) for steps, values in seeds if values)
            lines += [Line(memory, points)] if points else []
        panels.append(Panel(title, "denoising steps (16: the teacher)", "tiles as they were dreamed", tuple(lines), (0, 1.05)))
    draw_panels([panels], output)


def _told(item: Effect | None) -> str:
    if item is None:
        return "-"
    if item.seeds == 1:
        return f"{item.mean:+.3f}, one seed"
    return f"{item.mean:+.3f} [{item.low:+.3f}, {item.high:+.3f}] (detectable {item.detectable:.3f}), {item.seeds}"
