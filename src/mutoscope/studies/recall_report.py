"""Recall as tables and curves, from the plain data that stands in recall.json: of worlds of tiles, and of worlds with a camera."""

from pathlib import Path

from mutoscope.evaluate.tables import cell, table
from mutoscope.media.curves import Line, Panel, Point, draw_panels

COPY_SINK, CHANCE = "copy of the first frame", "chance"
LAST_REAL, FIRST_FRAME = "memory of the last real frame (upper bound)", "copy of the first frame (a sink)"
MEAN_FRAME, ANOTHER = "mean of the other episodes' returns (no memory)", "true return of another episode"
BASELINES = (COPY_SINK, LAST_REAL, FIRST_FRAME, MEAN_FRAME, ANOTHER, CHANCE)
WAYS = {"look": "look away and back", "turn": "a full turn", "leave": "walk away and back"}
MEASURES = {
    "identified": "share of returns nearest to their own true frame",
    "recalled": "SSIM of the return, from the mean of other episodes' returns (0) to a memory of the last real one (1)",
    "ssim": "SSIM of the return",
    "psnr_db": "PSNR of the return, dB",
    "moved": "share of frames that move when they should",
}
NOTE = (
    "(m): the last real frame is beyond the memory's frames; (x): the episode is longer than a training clip. "
    "Intervals are 95 % bootstraps over episodes."
)
DRAWN = {"identified": ("returns identified", (-0.03, 1.05)), "ssim": ("SSIM of the return", None)}


def tile_table(plain: dict) -> str:
    """Landmarks: a line per candidate, a column per distance."""
    distances = sorted({row["away"] for row in plain["rows"]})
    lines = []
    for label in _labels(plain):
        found = {row["away"]: row for row in plain["rows"] if row["label"] == label}
        lines.append([label, *(_cell(found[away], "identity") if away in found else "-" for away in distances)])
    lines.append([CHANCE, *[f"{plain['chance']:.3f}"] * len(distances)])
    return table(["landmark tiles right after k frames away", *(f"k = {away}" for away in distances)], lines)


def draw_tiles(plain: dict, output: Path) -> None:
    """Landmarks over the distance."""
    chance = tuple(Point(away, *[plain["chance"]] * 3) for away in sorted({row["away"] for row in plain["rows"]}))
    lines = (*_lines(plain, plain["rows"], "identity"), Line(CHANCE, chance, "baseline"))
    draw_panels([[Panel("recall of landmarks", "frames looked away", "landmark tiles right", lines, (0, 1.02))]], output)


def camera_markdown(plain: dict) -> str:
    """The whole report of a world with a camera."""
    world, options = plain["world"], plain["options"]
    parts = [
        f"# Recall in `{world['name']}`",
        f"{options['episodes']} episodes each, after {options['lead']} real turns and {options['look']} real frames of standing.",
        "![recall against distance](recall.png)",
        "![the returns](returns.png)",
        *(f"## {title[0].upper()}{title[1:]}\n\n{measure_table(plain, measure)}" for measure, title in MEASURES.items()),
        NOTE,
        f"## The true episodes\n\n{truth_table(plain)}",
        *(f"Left out: {reason}." for reason in plain["left_out"]),
    ]
    return "\n\n".join(parts) + "\n"


def measure_table(plain: dict, measure: str) -> str:
    """One measure: a line per way and candidate, a column per distance."""
    distances = sorted({row["away"] for row in plain["rows"]})
    lines = []
    for way in _ways(plain):
        for label in _labels(plain):
            found = {row["away"]: row for row in plain["rows"] if (row["way"], row["label"]) == (way, label)}
            if any(row[measure]["value"] is not None for row in found.values()):
                lines.append([WAYS[way], label, *(_cell(found[away], measure) if away in found else "-" for away in distances)])
    return table(["", "", *(f"k = {away}" for away in distances)], lines)


def _cell(row: dict, measure: str) -> str:
    marks = (("(m)", not row["within_memory"]), ("(x)", not row["within_clip"]))
    told = [mark for mark, stands in marks if stands and row["label"] not in BASELINES]
    return " ".join([cell(row[measure]), *told])


def truth_table(plain: dict) -> str:
    """How far the episodes went, how near they came back, and how many were refused."""
    rows = []
    for item in plain["truth"]:
        refused = ", ".join(f"{count} {reason}" for reason, count in sorted(item["refused"].items())) or "0"
        far, error = (
            f"{item[f'{kind}_units'][which]:.0f} units, {item[f'{kind}_degrees'][which]:.1f} degrees"
            for kind, which in (("far", "mean"), ("error", "most"))
        )
        rows.append([WAYS[item["way"]], str(item["away"]), str(item["episodes"]), refused, far, error])
    return table(["", "k", "episodes", "refused", "farthest, mean", "missed on return, at most"], rows)


def draw_camera(plain: dict, output: Path) -> None:
    """A column of panels per way: who was identified, and SSIM, over the distance."""
    draw_panels([[_panel(plain, way, measure) for way in _ways(plain)] for measure in DRAWN], output)


def _panel(plain: dict, way: str, measure: str) -> Panel:
    title, limits = DRAWN[measure]
    rows = [row for row in plain["rows"] if row["way"] == way]
    return Panel(WAYS[way], "frames from the last real one to the return", title, _lines(plain, rows, measure), limits)


def _lines(plain: dict, rows: list[dict], measure: str) -> tuple[Line, ...]:
    lines = []
    for label in _labels(plain):
        own = [row for row in rows if row["label"] == label and row[measure]["value"] is not None]
        points = [Point(row["away"], *(row[measure][end] for end in ("value", "low", "high"))) for row in own]
        if points:
            lines.append(Line(label, tuple(sorted(points)), "baseline" if label in BASELINES else "measured"))
    return tuple(lines)


def _ways(plain: dict) -> list[str]:
    return list(dict.fromkeys(item["way"] for item in plain["truth"]))


def _labels(plain: dict) -> list[str]:
    """Candidates first, then what they are measured by."""
    labels = list(dict.fromkeys(row["label"] for row in plain["rows"]))
    return sorted(labels, key=lambda label: label in BASELINES)
