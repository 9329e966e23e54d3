"""What the pieces of the study of depth and memory say together: a table, a picture, and the comparisons in words."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mutoscope.core.errors import DataError
from mutoscope.core.files import read_json, write_bytes, write_json
from mutoscope.core.provenance import provenance
from mutoscope.media.curves import Line, Panel, Point, draw_panels
from mutoscope.studies.depth_dreamed import DREAMED, draw_dreamed, dreamed_table, read_dreamed
from mutoscope.studies.depth_far import branch_effects, branch_table, far_table, matching_table, read_far
from mutoscope.studies.depth_memory import LAST_PASS
from mutoscope.studies.depth_memory import NAMES as ROWS
from mutoscope.studies.depth_probe import CHANCE
from mutoscope.studies.depth_speed import read_speed, speed_table
from mutoscope.studies.effects import Effect, effect, paired_effect

DEPTHS = ("teacher", "consistency", "4", "2", "1")
NAMES = {"teacher": "teacher, 16 steps", "consistency": "consistency, 4 steps", "4": "4 steps", "2": "2 steps", "1": "1 step"}
BASELINE = "sink+window"
# The landmarks leave a view of four columns column by column, and come back so: one that was last seen in frame 3 of a look away is back
# three frames before the end. From this distance on all of them come back after more frames than the window holds.
BEYOND = 16
# What is compared in `crossed`: each difference is that of two memories, by what their names end with.
CROSSED = {
    "last pass minus commit, stopped": (", last pass", ""),
    "last pass minus commit, let in": (", last pass, taught", ", taught"),
    "let in minus stopped, commit": (", taught", ""),
    "let in minus stopped, last pass": (", last pass, taught", ", last pass"),
}
CROSSED_DEPTHS = ("2", "1")


@dataclass(frozen=True)
class Pieces:
    """All figures by (memory, depth, away, name) and seed, and what is the same for all.

    `read` is what the probe read from hidden states, by (memory, depth, lag, pass, layer) and seed; pieces from before it have none.
    """

    values: dict[tuple[str, str, int, str], dict[int, float]]
    read: dict[tuple[str, str, int, str, int], dict[int, float]]
    distances: tuple[int, ...]
    chance: float
    copy_sink: dict[int, float]
    within_clip: dict[int, bool]

    def seeds(self, memory: str, depth: str, away: int, name: str = "identity") -> dict[int, float]:
        """A figure by seed."""
        return self.values.get((memory, depth, away, name), {})

    @property
    def beyond(self) -> tuple[int, ...]:
        """Distances inside a training clip, what training asked for, and wholly beyond the window where there are such."""
        inside = tuple(away for away in self.distances if self.within_clip[away])
        return tuple(away for away in inside if away >= BEYOND) or inside


def read_pieces(folder: Path) -> Pieces:
    """Every piece's file in a folder."""
    files = [read_json(file) for file in sorted(folder.glob("*-seed*.json"))]
    if not files:
        raise DataError(f"{folder} holds no finished piece; run: mutoscope study depth-memory")
    values: dict[tuple[str, str, int, str], dict[int, float]] = {}
    for file in files:
        for row in file["rows"]:
            for name in ("identity", "in_view", "moved", "psnr_db", "bytes"):
                values.setdefault((file["memory"], row["depth"], row["away"], name), {})[file["seed"]] = float(row[name])
    read: dict[tuple[str, str, int, str, int], dict[int, float]] = {}
    for file in files:
        for row in file["probe"]["rows"] if "probe" in file else ():
            key = file["memory"], row["depth"], row["lag"], row["pass"], row["layer"]
            read.setdefault(key, {})[file["seed"]] = float(row["accuracy"])
    within = {row["away"]: row["within_clip"] for file in files for row in file["rows"]}
    copies = {away: float(np.mean([file["copy_sink"][str(away)] for file in files])) for away in within}
    return Pieces(values, read, tuple(sorted(within)), float(np.mean([file["chance"] for file in files])), copies, within)


def recall_table(pieces: Pieces) -> str:
    """Landmarks right on return: a line per memory and depth, a column per distance."""
    heads = [f"k = {away}{'' if pieces.within_clip[away] else ' (x)'}" for away in pieces.distances]
    lines = [f"| memory | depth | {' | '.join(heads)} | seeds |", "| --- | --- |" + " --- |" * (len(heads) + 1)]
    for memory in ROWS:
        for depth in DEPTHS:
            cells = [_cell(pieces.seeds(memory, depth, away)) for away in pieces.distances]
            count = len(pieces.seeds(memory, depth, pieces.distances[0]))
            if count:
                lines.append(f"| {memory} | {NAMES[depth]} | {' | '.join(cells)} | {count} |")
    guesses = [f"{pieces.copy_sink[away]:.3f}" for away in pieces.distances]
    lines.append(f"| copy of the first frame | | {' | '.join(guesses)} | |")
    lines.append(f"| chance | | {' | '.join([f'{pieces.chance:.3f}'] * len(heads))} | |")
    return (
        "\n".join(lines)
        + "\n\n(x): the episode is longer than a training clip. Mean over seeds [95 % interval where there are two or more].\n"
    )


def _cell(seeds: dict[int, float]) -> str:
    if not seeds:
        return "-"
    found = effect(np.array(list(seeds.values())))
    return f"{found.mean:.3f}" if found.seeds == 1 else f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def mean_recall(pieces: Pieces, memory: str, depth: str) -> dict[int, float]:
    """Recall by seed, averaged over the distances beyond the window and inside a training clip."""
    columns = [pieces.seeds(memory, depth, away) for away in pieces.beyond]
    shared = set.intersection(*(set(column) for column in columns)) if columns else set()
    return {seed: float(np.mean([column[seed] for column in columns])) for seed in sorted(shared)}


def comparisons(pieces: Pieces) -> dict[str, dict[str, Effect]]:
    """Per memory and depth, paired by seed: "gain" over sink + window, and "cost", its loss from the teacher beyond sink + window's."""
    found: dict[str, dict[str, Effect]] = {}
    for memory in ROWS:
        if memory == BASELINE:
            continue
        for depth in DEPTHS:
            own, plain = mean_recall(pieces, memory, depth), mean_recall(pieces, BASELINE, depth)
            gain = paired_effect(own, plain)
            if gain is None:
                continue
            item = {"gain": gain}
            losses = [_loss(pieces, name, depth) for name in (memory, BASELINE)]
            cost = paired_effect(*losses)
            found[f"{memory}, {NAMES[depth]}"] = item if cost is None or depth == "teacher" else item | {"cost": cost}
    return found


def _loss(pieces: Pieces, memory: str, depth: str) -> dict[int, float]:
    teacher, student = mean_recall(pieces, memory, "teacher"), mean_recall(pieces, memory, depth)
    return {seed: teacher[seed] - student[seed] for seed in set(teacher) & set(student)}


def comparison_table(found: dict[str, dict[str, Effect]]) -> str:
    """Both comparisons with their intervals and the smallest effect that these seeds would have shown."""
    lines = [
        f"| memory, depth | recall minus {BASELINE}'s | detectable | loss from teacher minus {BASELINE}'s | detectable | seeds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, item in found.items():
        gain, cost = item["gain"], item.get("cost")
        second = (_signed(cost), _detectable(cost)) if cost else ("-", "-")
        lines.append(f"| {name} | {_signed(gain)} | {_detectable(gain)} | {second[0]} | {second[1]} | {gain.seeds} |")
    return "\n".join(lines) + "\n"


def _signed(item: Effect) -> str:
    if item.seeds == 1:
        return f"{item.mean:+.3f}, one seed"
    verdict = "undecided" if not item.excludes_zero else "more" if item.mean > 0 else "less"
    return f"{item.mean:+.3f} [{item.low:+.3f}, {item.high:+.3f}], {verdict}"


def _detectable(item: Effect) -> str:
    return f"{item.detectable:.3f}" if np.isfinite(item.detectable) else "-"


def crossed(pieces: Pieces) -> dict[str, dict[str, Effect]]:
    """The two factors of writing, paired by seed: the pass that a memory is written from, and gradient into its writes in matching."""
    found: dict[str, dict[str, Effect]] = {}
    for base in (name.removesuffix(", last pass") for name in LAST_PASS):
        for depth in CROSSED_DEPTHS:
            recall = {end: mean_recall(pieces, base + end, depth) for pair in CROSSED.values() for end in pair}
            pairs = {name: paired_effect(recall[more], recall[less]) for name, (more, less) in CROSSED.items()}
            if known := {name: item for name, item in pairs.items() if item is not None}:
                found[f"{base}, {NAMES[depth]}"] = known
    return found


def crossed_table(found: dict[str, dict[str, Effect]]) -> str:
    """Differences of recall with their intervals and the smallest that these seeds would have shown."""
    lines = [f"| memory, depth | {' | '.join(CROSSED)} |", "| --- |" + " --- |" * len(CROSSED)]
    for name, items in found.items():
        cells = [f"{_signed(items[kind])} (detectable {_detectable(items[kind])})" if kind in items else "-" for kind in CROSSED]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def probe_table(pieces: Pieces) -> str:
    """Tiles out of sight that a linear classifier reads from the last layer's keys and values: a line per memory and depth."""
    lags, layers = sorted({key[2] for key in pieces.read}), sorted({key[4] for key in pieces.read})
    columns = [(name, lag) for name in ("commit", "last") for lag in lags]
    heads = [f"{'commit' if name == 'commit' else 'last pass'}, {lag} before" for name, lag in columns]
    lines = [f"| memory | depth | {' | '.join(heads)} | seeds |", "| --- | --- |" + " --- |" * (len(heads) + 1)]
    for memory, depth in ((memory, depth) for memory in ROWS for depth in DEPTHS):
        cells = [pieces.read.get((memory, depth, lag, name, layers[-1]), {}) for name, lag in columns] if layers else []
        if any(cells):
            lines.append(f"| {memory} | {NAMES[depth]} | {' | '.join(map(_cell, cells))} | {len(cells[0])} |")
    return (
        "\n".join(lines)
        + f"\n\nBalanced accuracy on episodes kept for it, guessing gives {CHANCE:.3f}. All layers: in the pieces' files.\n"
    )


def cost_table(pieces: Pieces) -> str:
    """Beside recall: how near the return is to the true picture, what is kept in view, whether the world still moves, and bytes."""
    lines = ["| memory | depth | PSNR on return, dB | in view | moved | KiB |", "| --- | --- | --- | --- | --- | --- |"]
    longest = max(pieces.beyond)
    for memory in ROWS:
        for depth in DEPTHS:
            rows = [pieces.seeds(memory, depth, longest, name) for name in ("psnr_db", "in_view", "moved", "bytes")]
            if rows[0]:
                psnr, view, moved, size = (float(np.mean(list(row.values()))) for row in rows)
                lines.append(f"| {memory} | {NAMES[depth]} | {psnr:.1f} | {view:.3f} | {moved:.3f} | {size / 1024:.0f} |")
    return "\n".join(lines) + "\n"


def draw(pieces: Pieces, output: Path) -> None:
    """Recall against distance, a panel per depth, a line per memory; bars reach from the lowest seed to the highest."""
    panels = [Panel(NAMES[depth], "frames looked away", "landmark tiles right", _lines(pieces, depth), (0, 1.05)) for depth in DEPTHS]
    draw_panels([panels[:3], panels[3:]], output)


def _lines(pieces: Pieces, depth: str) -> tuple[Line, ...]:
    """A line per memory that has pieces, and the two baselines."""
    lines = []
    for memory in ROWS:
        seeds = [(away, list(pieces.seeds(memory, depth, away).values())) for away in pieces.distances]
        points = tuple(Point(away, float(np.mean(values)), min(values), max(values)) for away, values in seeds if values)
        lines += [Line(memory, points)] if points else []
    sink = tuple(Point(away, value, value, value) for away, value in sorted(pieces.copy_sink.items()))
    chance = tuple(Point(away, pieces.chance, pieces.chance, pieces.chance) for away in pieces.distances)
    return (*lines, Line("copy of the first frame", sink, "baseline"), Line("chance", chance, "baseline"))


def _plain(item: Effect) -> dict[str, float | int | None]:
    """An effect as JSON knows it: what one seed leaves open is null."""
    return {name: value if np.isfinite(value) else None for name, value in asdict(item).items()}


def write_report(folder: Path) -> str:
    """summary.json, summary.md and recall.png beside the pieces; returns the text."""
    pieces = read_pieces(folder)
    found, factors = comparisons(pieces), crossed(pieces)
    inside = ", ".join(map(str, pieces.beyond))
    text = (
        f"## Recall\n\n{recall_table(pieces)}\n## Comparisons, paired by seed, mean over k = {inside}\n\n{comparison_table(found)}\n"
        f"## Which pass writes, and gradient into the writes, mean over k = {inside}\n\n{crossed_table(factors)}\n"
        f"## The past in hidden states\n\n{probe_table(pieces)}\n## Beside recall\n\n{cost_table(pieces)}"
    )
    if speed := read_speed(folder):
        text += f"\n## Time\n\n{speed_table(speed, NAMES)}"
    if dreamed := read_dreamed(folder):
        text += f"\n## Landmarks that were dreamed\n\n{dreamed_table(dreamed, NAMES)}"
        draw_dreamed(dreamed, folder / DREAMED / "dreamed.png")
    if far := read_far(folder):
        text += f"\n## Far beyond the clips\n\n{far_table(far, NAMES)}"
        text += f"\n## Far beyond the clips: what the consistency student recalls more than its matching students\n\n{matching_table(far)}"
        if branch_effects(far):
            text += f"\n## Far beyond the clips: what longer rollouts in matching recall more\n\n{branch_table(far, NAMES)}"
    plain, factors_plain = (
        {name: {kind: _plain(value) for kind, value in item.items()} for name, item in effects.items()} for effects in (found, factors)
    )
    head = {"provenance": provenance(), "chance": pieces.chance}
    write_json(folder / "summary.json", {**head, "comparisons": plain, "crossed": factors_plain})
    write_bytes(folder / "summary.md", text.encode())
    draw(pieces, folder / "recall.png")
    return text
