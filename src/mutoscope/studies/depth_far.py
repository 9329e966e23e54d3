"""Recall far beyond the training clips, by depth: what `mutoscope recall` measured of the study's checkpoints, paired by seed.

Inside a clip the memories that remember stand at their ceiling, where a small loss cannot show. Far beyond it they do not.
"""

from pathlib import Path

import numpy as np

from mutoscope.core.errors import DataError
from mutoscope.core.files import read_json
from mutoscope.studies.depth_memory import LONGER, NAMES, Piece
from mutoscope.studies.effects import Effect, effect, paired_effect

FAR = "far"
DEPTH_OF = {"autoregressive": "teacher", "consistency": "consistency", "matching-4": "4", "matching-2": "2", "matching-1": "1"}
MATCHED = ("4", "2", "1")
Far = dict[tuple[str, str, int], dict[int, float]]
"""Share of landmark tiles that are right by (memory, depth, away) and seed."""


def read_far(folder: Path) -> Far:
    """Every recall.json under `folder/far`; a checkpoint that is none of the study's is a DataError."""
    found: Far = {}
    for file in sorted((folder / FAR).glob("**/recall.json")):
        plain = read_json(file)
        places = {candidate["label"]: _place(candidate["checkpoint"], file) for candidate in plain["candidates"]}
        for row in plain["rows"]:
            if row["label"] in places:
                memory, depth, seed = places[row["label"]]
                found.setdefault((memory, depth, row["away"]), {})[seed] = float(row["identity"]["value"])
    return found


def _place(checkpoint: str, file: Path) -> tuple[str, str, int]:
    """Memory, depth and seed of `.../seed-3/window+fast-weights/matching-2/checkpoint`."""
    seed, folder, stage, _ = Path(checkpoint).parts[-4:]
    number = seed.removeprefix("seed-")
    memory = next((name for name in NAMES if number.isdigit() and Piece(name, int(number)).folder == folder), None)
    if memory is None or stage not in DEPTH_OF:
        raise DataError(f"{file} measured {checkpoint}, which is no checkpoint of this study; move the file elsewhere")
    return memory, DEPTH_OF[stage], int(number)


def far_effects(far: Far) -> dict[tuple[str, str, int], Effect]:
    """What each depth recalls less than its teacher, paired by seed (negative: more)."""
    found = {}
    for (memory, depth, away), own in far.items():
        loss = paired_effect(far.get((memory, "teacher", away), {}), own)
        if depth != "teacher" and loss is not None:
            found[memory, depth, away] = loss
    return found


def matching_losses(far: Far) -> dict[tuple[str, int], Effect]:
    """What matching recalls less than the consistency student that it began from: the mean of its students, paired by seed."""
    found = {}
    for memory, depth, away in far:
        students = [far.get((memory, steps, away), {}) for steps in MATCHED]
        seeds = set.intersection(*map(set, students))
        means = {seed: float(np.mean([student[seed] for student in students])) for seed in seeds}
        loss = paired_effect(far[memory, depth, away], means) if depth == "consistency" else None
        if loss is not None:
            found[memory, away] = loss
    return found


def matching_table(far: Far) -> str:
    """A line per memory, a column per distance."""
    losses, distances = matching_losses(far), sorted({away for _, _, away in far})
    lines = ["| memory | " + " | ".join(f"k = {away}" for away in distances) + " |", "| --- |" + " --- |" * len(distances)]
    for memory in NAMES:
        cells = [losses.get((memory, away)) for away in distances]
        if any(cells):
            told = ["-" if cell is None else f"{_interval(cell, '+')}, {cell.seeds}" for cell in cells]
            lines.append(f"| {memory} | {' | '.join(told)} |")
    return "\n".join(lines) + "\n\nMean [95 % interval over seeds], number of seeds.\n"


def branch_effects(far: Far) -> dict[tuple[str, str, int], Effect]:
    """What longer rollouts in matching recall more than rollouts of a clip's length, by depth and distance, paired by seed."""
    found = {}
    for memory, depth, away in far:
        if memory in LONGER and depth in MATCHED:
            more = paired_effect(far[memory, depth, away], far.get((LONGER[memory], depth, away), {}))
            if more is not None:
                found[memory, depth, away] = more
    return found


def branch_table(far: Far, names: dict[str, str]) -> str:
    """A line per memory and depth, a column per distance."""
    effects, distances = branch_effects(far), sorted({away for _, _, away in far})
    lines = ["| memory | depth | " + " | ".join(f"k = {away}" for away in distances) + " |", "| --- | --- |" + " --- |" * len(distances)]
    for memory in LONGER:
        for depth in MATCHED:
            cells = [effects.get((memory, depth, away)) for away in distances]
            if any(cells):
                told = ["-" if cell is None else f"{_interval(cell, '+')}, {cell.seeds}" for cell in cells]
                lines.append(f"| {memory} | {names[depth]} | {' | '.join(told)} |")
    return "\n".join(lines) + "\n\nMean [95 % interval over seeds], number of seeds.\n"


def far_table(far: Far, names: dict[str, str]) -> str:
    """A line per memory and depth, two columns per distance: recall by seed, and the loss from the teacher. `names` are the depths'."""
    distances = sorted({away for _, _, away in far})
    heads = [f"k = {away}, seeds | mean | loss from teacher" for away in distances]
    lines = [f"| memory | depth | {' | '.join(heads)} |", "| --- | --- |" + " --- |" * (3 * len(distances))]
    losses = far_effects(far)
    for memory in NAMES:
        for depth, name in names.items():
            cells = [_cells(far.get((memory, depth, away), {}), losses.get((memory, depth, away))) for away in distances]
            if any(cell != ("-", "-", "-") for cell in cells):
                lines.append(f"| {memory} | {name} | {' | '.join(part for cell in cells for part in cell)} |")
    return (
        "\n".join(lines)
        + "\n\nEvery episode is longer than a training clip. Each seed's recall, in the seeds' order; mean [95 % interval over seeds].\n"
    )


def _cells(seeds: dict[int, float], loss: Effect | None) -> tuple[str, str, str]:
    if not seeds:
        return "-", "-", "-"
    each = " ".join(f"{seeds[seed]:.2f}" for seed in sorted(seeds))
    found = effect(np.array(list(seeds.values())))
    return each, _interval(found, ""), "-" if loss is None else _interval(loss, "+")


def _interval(item: Effect, sign: str) -> str:
    if item.seeds == 1:
        return f"{item.mean:{sign}.2f}"
    return f"{item.mean:{sign}.2f} [{item.low:{sign}.2f}, {item.high:{sign}.2f}]"
