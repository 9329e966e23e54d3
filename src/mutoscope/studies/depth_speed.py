"""What a frame takes under each memory of the study: sessions in turns, so that what else the machine does hits all of them alike."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mutoscope.core.files import read_json, write_json
from mutoscope.core.progress import Progress
from mutoscope.core.provenance import provenance
from mutoscope.core.streams import numpy_stream
from mutoscope.models.checkpoint import load_checkpoint
from mutoscope.rollout.session import Session
from mutoscope.studies.depth_memory import DEPTH_STAGES, LAST_PASS, MEMORIES, Piece, session_config

FILE = "speed.json"
SINCE = "sink+window"


@dataclass(frozen=True)
class SpeedConfig:
    """Rounds in which every memory makes a frame and commits it, in an order that is drawn; the first ones are not counted."""

    rounds: int = 100
    warm_up: int = 20
    seed: int = 0


def one_frame(session: Session) -> float:
    """Seconds of a frame and its commit, standing still."""
    began = time.perf_counter()
    session.step(np.zeros(session.world.actions.dim, np.float32))
    session.commit()
    return time.perf_counter() - began


def in_rounds(sessions: Mapping[str, Session], config: SpeedConfig, bar: Progress) -> dict[str, np.ndarray]:
    """Seconds of every counted frame, by name."""
    names, draw = list(sessions), numpy_stream(config.seed, "speed order")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(config.rounds):
        for place in draw.permutation(len(names)):
            seconds[names[place]].append(one_frame(sessions[names[place]]))
        bar.advance()
    return {name: np.array(values[config.warm_up :]) for name, values in seconds.items()}


def time_memories(folder: Path, results: Path, seed: int, config: SpeedConfig) -> tuple[str, ...]:
    """Time all memories of a seed whose checkpoints are in `folder`, at every depth, and write speed.json; returns their names.

    Medians in milliseconds, and over sink+window's the median of the ratios within a round with its quartiles.
    """
    runs = {name: folder / f"seed-{seed}" / Piece(name, seed).folder for name in (*MEMORIES, *LAST_PASS)}
    stages = [stage for stage, _ in DEPTH_STAGES.values()]
    there = {name: run for name, run in runs.items() if all((run / stage / "checkpoint" / "manifest.json").is_file() for stage in stages)}
    rows = []
    with Progress(len(DEPTH_STAGES) * config.rounds, "frames in turns") as bar:
        for depth, (stage, steps) in DEPTH_STAGES.items():
            sessions = {}
            for name, run in there.items():
                checkpoint = load_checkpoint(run / stage / "checkpoint")
                assert checkpoint.starts is not None
                frames = checkpoint.starts.frames.shape[1] + config.rounds
                sessions[name] = Session(checkpoint, session_config(checkpoint, steps, frames))
                sessions[name].reset(0, 0)
            rows += _rows(depth, in_rounds(sessions, config, bar))
    write_json(results / FILE, {"provenance": provenance(), "seed": seed, "rounds": config.rounds - config.warm_up, "rows": rows})
    return tuple(there)


def _rows(depth: str, seconds: dict[str, np.ndarray]) -> list[dict]:
    rows = []
    for name, values in seconds.items():
        row = {"memory": name, "depth": depth, "ms": 1000 * float(np.median(values))}
        if SINCE in seconds:
            low, middle, high = np.quantile(values / seconds[SINCE], [0.25, 0.5, 0.75])
            row |= {"ratio": float(middle), "ratio_quartiles": [float(low), float(high)]}
        rows.append(row)
    return rows


def read_speed(results: Path) -> dict[tuple[str, str], dict]:
    """The rows by (memory, depth); none where nothing was timed."""
    file = results / FILE
    return {(row["memory"], row["depth"]): row for row in read_json(file)["rows"]} if file.is_file() else {}


def speed_table(rows: dict[tuple[str, str], dict], names: dict[str, str]) -> str:
    """A line per memory, a column per depth: milliseconds, and the ratio to sink+window's."""
    lines = [f"| memory | {' | '.join(names.values())} |", "| --- |" + " --- |" * len(names)]
    for memory in dict.fromkeys(name for name, _ in rows):
        lines.append(f"| {memory} | {' | '.join(_cell(rows[memory, depth]) for depth in names)} |")
    note = f"Milliseconds of a frame and its commit (over {SINCE}'s [quartiles over rounds]), in turns in one process."
    return "\n".join(lines) + f"\n\n{note}\n"


def _cell(row: dict) -> str:
    if "ratio" not in row:
        return f"{row['ms']:.1f}"
    low, high = row["ratio_quartiles"]
    return f"{row['ms']:.1f} ({row['ratio']:.2f} [{low:.2f}, {high:.2f}])"
