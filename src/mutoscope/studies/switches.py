"""What does a change of the prompt do, with and without a second commit of the past? Exact, in the world of shapes.

    mutoscope prompts runs/shapes/matching-2 --ask switches --output results/shapes/switches

The prompt changes in the middle of an appearance, and in the middle of a pause. Three things are asked: what the rest of an appearance that
has begun shows, whether the next one is right in everything under the new words, and when the new words are first seen. Beside the two
ways to switch stand a session that never switches, and one that was told the new words from the beginning: the most that there is to reach.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from mutoscope.core.files import write_bytes, write_json
from mutoscope.core.progress import Progress
from mutoscope.core.provenance import provenance
from mutoscope.core.streams import derive_seed, numpy_stream
from mutoscope.data.worlds.shape_world import PAUSE_FRAMES, PERIOD, SHOWN_FRAMES
from mutoscope.data.worlds.shapes import COLOURS, SEEN, SHAPES, Shown, Told, detect
from mutoscope.evaluate.bootstrap import mean_interval, paired_difference
from mutoscope.evaluate.metrics.prompt_following import prompt_scores
from mutoscope.evaluate.tables import cell, table
from mutoscope.media.sheet import contact_sheet, write_png
from mutoscope.rollout.session import Session
from mutoscope.studies.prompts import check_prompts, start_frames, to_plain_floats
from mutoscope.studies.recall import BOOTSTRAP_REPEATS, Candidate

Way = Literal["recommit", "keep", "no switch", "from the beginning"]
WAYS: tuple[Way, ...] = ("recommit", "keep", "no switch", "from the beginning")
# Generated frames before the switch: clips go on from a pause, so that an appearance comes first. All are whole periods and a phase.
PHASES = {"in an appearance": PERIOD + SHOWN_FRAMES // 2, "in a pause": PERIOD + SHOWN_FRAMES + PAUSE_FRAMES // 2}
MEASURES = {
    "rest_new": "rest of the appearance: frames of the new colour and shape",
    "rest_old": "rest of the appearance: frames of the old colour and shape",
    "next_look": "next appearance: frames of the new colour and shape",
    "next": "next appearance right in everything",
    "later": "all later appearances right in everything",
    "wait": "frames until the new colour and shape are first seen",
}


@dataclass(frozen=True)
class SwitchOptions:
    """How many clips, how many frames after the switch, and the seed of prompts and noise."""

    clips: int = 64
    after: int = 3 * PERIOD
    seed: int = 1_000_003

    def pairs(self) -> list[tuple[Told, Told]]:
        """Old and new words of every clip: of combinations that training showed, with nothing in common."""
        drawn, pairs = numpy_stream(self.seed, "switched prompts"), list[tuple[Told, Told]]()
        while len(pairs) < self.clips:
            old, new = (SEEN[int(index)] for index in drawn.integers(len(SEEN), size=2))
            if old.shape != new.shape and old.colour != new.colour and old.direction != new.direction:
                pairs.append((old, new))
        return pairs


def study(candidates: Sequence[Candidate], options: SwitchOptions, output: Path) -> str:
    """Ask all candidates, write results.json, results.md and sheet.png into `output`; returns the tables."""
    pairs, rows, sheets = options.pairs(), [], []
    for candidate in candidates:
        check_prompts(candidate.checkpoint)
    with Progress(len(candidates) * len(PHASES) * len(WAYS), "switching prompts") as bar:
        for candidate in candidates:
            for phase, before in PHASES.items():
                scores = {}
                for way in WAYS:
                    clips = switched_clips(candidate, pairs, way, before, options)
                    scores[way] = score(detect(clips[:, before:]), pairs, before)
                    sheets.append((f"{candidate.label}, {phase}: {way}", clips[0, before - SHOWN_FRAMES :]))
                    bar.advance()
                rows += [row(candidate.label, phase, way, scores) for way in WAYS]
    head = {"provenance": provenance(), "options": vars(options), "candidates": [candidate.plain() for candidate in candidates]}
    write_json(output / "results.json", to_plain_floats({**head, "rows": rows}))
    text = markdown(rows)
    write_bytes(output / "results.md", text.encode())
    write_png(output / "sheet.png", contact_sheet([clip for _, clip in sheets], [label for label, _ in sheets], shown=16))
    return text


def switched_clips(candidate: Candidate, pairs: Sequence[tuple[Told, Told]], way: Way, before: int, options: SwitchOptions) -> np.ndarray:
    """Generated frames uint8 `[clip, before + after, H, W, 3]`; the noise is the same in every way, and so is all before the switch."""
    checkpoint, count = candidate.checkpoint, len(pairs)
    world, session = checkpoint.manifest.world, Session(checkpoint, candidate.config, rows=count)
    old, new = ([pair[index].caption for pair in pairs] for index in (0, 1))
    session.say(*checkpoint.told(new if way == "from the beginning" else old))
    known = np.broadcast_to(np.arange(PAUSE_FRAMES) > 0, (count, PAUSE_FRAMES))
    context = start_frames(count, world.height, world.width)
    seeds = [derive_seed(options.seed, "switched clip", clip) for clip in range(count)]
    session.reset_from(context, np.zeros((count, PAUSE_FRAMES, 0), np.float32), known, seeds)
    frames = [session.step_rows(np.zeros((count, 1, 0), np.float32)) for _ in range(before)]
    if way in ("recommit", "keep"):
        session.say(*checkpoint.told(new), "recommit" if way == "recommit" else "keep")
    frames += [session.step_rows(np.zeros((count, 1, 0), np.float32)) for _ in range(options.after)]
    return np.concatenate(frames, axis=1)


def score(shown: Shown, pairs: Sequence[tuple[Told, Told]], before: int) -> dict[str, np.ndarray]:
    """Every measure per clip, float `[clip]`, of what is shown after a switch that came `before` frames after the first pause."""
    rest = SHOWN_FRAMES - before % PERIOD if before % PERIOD < SHOWN_FRAMES else 0
    begin = PERIOD - before % PERIOD
    news, olds = [new for _, new in pairs], [old for old, _ in pairs]
    is_new, is_old = looks_like(shown, news), looks_like(shown, olds)
    nothing = np.full(len(pairs), np.nan)
    return {
        "rest_new": is_new[:, :rest].mean(axis=1) if rest else nothing,
        "rest_old": is_old[:, :rest].mean(axis=1) if rest else nothing,
        "next_look": share_of(is_new[:, begin : begin + PERIOD], shown.there[:, begin : begin + PERIOD]),
        "next": np.nan_to_num(prompt_scores(part(shown, begin, begin + PERIOD), news).appearances),
        "later": np.nan_to_num(prompt_scores(part(shown, begin + PERIOD, None), news).appearances),
        "wait": np.where(is_new.any(axis=1), is_new.argmax(axis=1), is_new.shape[1]).astype(float),
    }


def share_of(right: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Per clip, the share of frames with shapes that are right; 0 where there are none."""
    return (right & there).sum(axis=1) / np.maximum(there.sum(axis=1), 1)


def looks_like(shown: Shown, told: Sequence[Told]) -> np.ndarray:
    """Whether a frame shows the colour and the shape of its clip's words, bool `[clip, frame]`."""
    shapes = np.array([SHAPES.index(one.shape) for one in told])[:, None]
    colours = np.array([tuple(COLOURS).index(one.colour) for one in told])[:, None]
    return (shown.shape == shapes) & (shown.colour == colours)


def part(shown: Shown, start: int, stop: int | None) -> Shown:
    """Frames start .. stop - 1 of all clips."""
    span = slice(start, stop)
    return Shown(shown.shape[:, span], shown.colour[:, span], shown.row[:, span], shown.column[:, span])


def row(label: str, phase: str, way: Way, scores: dict[Way, dict[str, np.ndarray]]) -> dict:
    """Mean and interval over clips of every measure, and the paired difference from the switch that keeps the memory as it is."""
    own, kept = scores[way], scores["keep"]
    means = {name: vars(mean_interval(own[name], BOOTSTRAP_REPEATS, 0)) for name in MEASURES}
    gains = {f"{name}_minus_keep": vars(paired_difference(own[name], kept[name], BOOTSTRAP_REPEATS, 0)) for name in MEASURES}
    return {"label": label, "phase": phase, "way": way, **means, **gains}


def markdown(rows: list[dict]) -> str:
    """A table per phase: a line per candidate and way."""
    rows = [to_plain_floats(each) for each in rows]
    parts = []
    for phase in PHASES:
        names = [name for name in MEASURES if any(each[name]["value"] is not None for each in rows if each["phase"] == phase)]
        lines = [[each["label"], each["way"], *(cell(each[name]) for name in names)] for each in rows if each["phase"] == phase]
        parts.append(f"## Switched {phase}\n\n{table(['', 'way', *(MEASURES[name] for name in names)], lines)}")
    return "# What a change of the prompt does\n\n" + "\n\n".join(parts) + "\n\nIntervals are 95 % bootstraps over clips.\n"
