"""Look a data set over before training on it: what is in it, and what is wrong with it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mutoscope.core.errors import DataError
from mutoscope.core.files import hash_file
from mutoscope.core.progress import Progress
from mutoscope.core.world import ActionSpec
from mutoscope.data.alignment import Alignment, find_alignment
from mutoscope.data.clips import ClipDataset, open_dataset
from mutoscope.data.motion import motion

FROZEN_SHARE = 0.9
BLANK_DEVIATION = 1.0
BLANK_SHARE = 0.1
SHORT_SHARE = 0.5
LEAST_ROWS, MEASURED_ROWS = 16, 250
SHOWN_PROBLEMS = 40


@dataclass(frozen=True)
class Problem:
    """Something wrong: its kind, the episode it concerns (None: the data set), and what to do about it."""

    kind: str
    episode: int | None
    text: str


@dataclass(frozen=True)
class CheckReport:
    """What `check_dataset` found; `histogram` is (action, share of frames), most frequent first."""

    path: str
    num_episodes: int
    num_frames: int
    histogram: tuple[tuple[str, float], ...]
    alignment: Alignment | None
    problems: tuple[Problem, ...]

    def text(self) -> str:
        """The report for people."""
        lines = [f"{self.path}: {self.num_episodes} episodes, {self.num_frames} frames", "", "Actions (share of frames):"]
        lines += [f"  {share:6.1%}  {name}" for name, share in self.histogram]
        lines += ["", f"Alignment: {_alignment_text(self.alignment)}", ""]
        lines += [f"{len(self.problems)} problems" if self.problems else "No problems found."]
        lines += [f"  [{problem.kind}] {problem.text}" for problem in self.problems[:SHOWN_PROBLEMS]]
        if len(self.problems) > SHOWN_PROBLEMS:
            lines += [f"  ... and {len(self.problems) - SHOWN_PROBLEMS} more"]
        return "\n".join(lines)


@dataclass(frozen=True)
class Clip:
    """What the checks look at in one episode."""

    index: int
    frames: np.ndarray
    actions: np.ndarray


def check_dataset(path: Path) -> CheckReport:
    """Read every episode once, one at a time in RAM; DataError only when `path` is no data set at all."""
    dataset = open_dataset(path)
    problems = [*_check_shards(dataset), *_check_lengths(dataset)]
    counts: Counter[str] = Counter()
    seen: dict[int, int] = {}
    measured: list[tuple[int, np.ndarray, np.ndarray]] = []
    with Progress(len(dataset.episodes), "checking") as bar:
        for index in range(len(dataset.episodes)):
            clip = _read(dataset, index, problems)
            if clip is not None:
                problems += [problem for check in CLIP_CHECKS for problem in check(clip, dataset.world.actions)]
                problems += _check_duplicate(clip, seen)
                counts.update(_action_names(clip.actions[1:], dataset.world.actions))
                if len(clip.actions) >= LEAST_ROWS:
                    measured.append((index, motion(clip.frames[:MEASURED_ROWS]), clip.actions[:MEASURED_ROWS]))
            bar.advance()
    alignment = find_alignment([row[1] for row in measured], [row[2] for row in measured]) if measured else None
    problems += _check_alignment(alignment, [row[0] for row in measured])
    total = max(1, sum(counts.values()))
    histogram = tuple((name, count / total) for name, count in counts.most_common())
    return CheckReport(str(path), len(dataset.episodes), dataset.manifest.num_frames, histogram, alignment, tuple(problems))


def _read(dataset: ClipDataset, index: int, problems: list[Problem]) -> Clip | None:
    names = tuple(spec.name for spec in dataset.manifest.arrays)
    try:
        arrays = dataset.read(index, 0, dataset.episodes[index].num_frames, names)
    except DataError as error:
        problems.append(Problem("unreadable", index, str(error)))
        return None
    wrong = {name: len(array) for name, array in arrays.items() if len(array) != dataset.episodes[index].num_frames}
    if wrong:
        problems.append(Problem("length", index, f"episode {index} should have {dataset.episodes[index].num_frames} rows, but {wrong}"))
        return None
    return Clip(index, arrays["frames"], arrays["actions"])


def _check_shards(dataset: ClipDataset) -> list[Problem]:
    changed = [shard.name for shard in dataset.manifest.shards if hash_file(dataset.path / shard.name) != shard.sha256]
    return [Problem("changed", None, f"{name} is not the file that was written (SHA-256 differs); copy it again") for name in changed]


def _check_lengths(dataset: ClipDataset) -> list[Problem]:
    usual = float(np.median([episode.num_frames for episode in dataset.episodes]))
    short = [episode for episode in dataset.episodes if episode.num_frames < SHORT_SHARE * usual]
    return [Problem("length", item.index, f"episode {item.index} has {item.num_frames} frames, usual are {usual:.0f}") for item in short]


def _check_frozen(clip: Clip, spec: ActionSpec) -> list[Problem]:
    if len(clip.frames) < 3:
        return []
    still = np.array([np.array_equal(before, after) for before, after in zip(clip.frames[:-1], clip.frames[1:], strict=True)])
    pressed = _pressed(clip.actions[1:], spec)
    share = still[pressed].mean() if pressed.any() else 0.0
    if share < FROZEN_SHARE:
        return []
    return [Problem("frozen", clip.index, f"episode {clip.index} stands still in {share:.0%} of the frames in which something is pressed")]


def _check_blank(clip: Clip, spec: ActionSpec) -> list[Problem]:
    deviation = clip.frames.reshape(len(clip.frames), -1).std(axis=1)
    share = float((deviation < BLANK_DEVIATION).mean())
    return (
        [Problem("broken", clip.index, f"episode {clip.index}: {share:.0%} of the frames have one colour")] if share > BLANK_SHARE else []
    )


def _check_actions(clip: Clip, spec: ActionSpec) -> list[Problem]:
    found = []
    if clip.actions.shape[1] != spec.dim:
        return [Problem("actions", clip.index, f"episode {clip.index} has {clip.actions.shape[1]} action values, the world has {spec.dim}")]
    if clip.actions[0].any():
        found.append(Problem("actions", clip.index, f"episode {clip.index}: row 0 holds an action; it must be 'no action', all zeros"))
    if bad := np.flatnonzero(~_valid(clip.actions[1:], spec)).tolist():
        found.append(Problem("actions", clip.index, f"episode {clip.index}: row {bad[0] + 1} holds no valid {spec.kind} action"))
    return found


CLIP_CHECKS: tuple[Callable[[Clip, ActionSpec], list[Problem]], ...] = (_check_frozen, _check_blank, _check_actions)


def _check_duplicate(clip: Clip, seen: dict[int, int]) -> list[Problem]:
    first = seen.setdefault(hash(clip.frames.tobytes()), clip.index)
    return [] if first == clip.index else [Problem("duplicate", clip.index, f"episode {clip.index} has the frames of episode {first}")]


def _check_alignment(alignment: Alignment | None, episodes: list[int]) -> list[Problem]:
    if alignment is None or alignment.shift is None:
        return []
    shifted = {episode: shift for episode, shift in zip(episodes, alignment.shifts, strict=True) if shift}
    if alignment.shift and set(alignment.shifts) == {alignment.shift}:
        return [Problem("alignment", None, f"all clips: {_shift_text(alignment.shift)}")]
    return [Problem("alignment", episode, f"episode {episode}: {_shift_text(shift)}") for episode, shift in shifted.items()]


def _alignment_text(alignment: Alignment | None) -> str:
    if alignment is None:
        return f"not measured, no clip has {LEAST_ROWS} frames"
    gains = ", ".join(f"{gain:.3f}" for gain in alignment.gains)
    if alignment.shift is None:
        return f"unknown, the actions explain no motion (rows k-1, k, k+1 explain {gains})"
    state = "right" if not alignment.shift else _shift_text(alignment.shift)
    return f"{state} (rows k-1, k, k+1 explain {gains} of the motion of frame k)"


def _shift_text(shift: int) -> str:
    direction = ("late", "up") if shift > 0 else ("early", "down")
    return f"the actions are shifted by {shift:+d}, {abs(shift)} row too {direction[0]}; move them {direction[1]} by {abs(shift)}"


def _pressed(actions: np.ndarray, spec: ActionSpec) -> np.ndarray:
    if spec.kind == "discrete" and "stand" in spec.names:
        return np.asarray(actions[:, spec.names.index("stand")] == 0)
    return np.asarray(actions.any(axis=1))


def _valid(actions: np.ndarray, spec: ActionSpec) -> np.ndarray:
    if spec.kind == "box":
        return np.asarray((np.abs(actions) <= 1.0 + 1e-5).all(axis=1))
    binary = np.isin(actions, (0, 1)).all(axis=1)
    return np.asarray(binary & (actions.sum(axis=1) == 1) if spec.kind == "discrete" else binary)


def _action_names(actions: np.ndarray, spec: ActionSpec) -> list[str]:
    if spec.kind == "box":
        return [
            f"{name} {'low' if value < -1 / 3 else 'high' if value > 1 / 3 else 'middle'}"
            for row in actions
            for name, value in _axes(row, spec)
        ]
    return ["+".join(name for name, value in _axes(row, spec) if value) or "stand" for row in actions]


def _axes(row: np.ndarray, spec: ActionSpec) -> list[tuple[str, float]]:
    return list(zip(spec.names, row.tolist(), strict=True))
