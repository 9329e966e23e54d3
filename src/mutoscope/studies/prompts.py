"""Is the prompt followed? Every stage of the world of shapes, on combinations that training showed and on ones that it never did.

    mutoscope prompts runs/shapes --output results/shapes

Clips go on from frames of the empty ground, which are the same for every prompt: whatever is right afterwards was read in the words.
Beside each score stands that of the same pictures under the prompts of other clips, and of the real world.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mutoscope.core.errors import CheckpointError
from mutoscope.core.files import write_bytes, write_json
from mutoscope.core.progress import Progress
from mutoscope.core.provenance import provenance
from mutoscope.core.streams import derive_seed, stream
from mutoscope.data.worlds.shape_world import PAUSE_FRAMES, ShapeWorld
from mutoscope.data.worlds.shapes import CAPTIONS, SEEN, UNSEEN, Told, blank, detect
from mutoscope.evaluate.bootstrap import mean_interval
from mutoscope.evaluate.metrics.prompt_following import CHANCE, PromptScores, prompt_scores
from mutoscope.evaluate.tables import cell, table
from mutoscope.media.sheet import contact_sheet, write_png
from mutoscope.models.checkpoint import Checkpoint
from mutoscope.models.codec import to_frames, to_model_pixels
from mutoscope.rollout.generate import generate
from mutoscope.rollout.whole_clip import whole_clips
from mutoscope.studies.recall import BOOTSTRAP_REPEATS, Candidate, common_world

REAL, CODED, OTHER = "the world itself", "the world itself, through the codec", "the same pictures, other prompts"
MEASURES = {
    "appearances": "appearances right in everything",
    "colour": "frames of the right colour",
    "shape": "frames of the right shape",
    "direction": "steps in the right direction",
    "shown": "frames with shapes",
}
GROUPS = {"seen": "combinations of training", "unseen": "combinations never shown"}
SHEET_ROWS = 3


@dataclass(frozen=True)
class PromptOptions:
    """How much is asked: clips per prompt of either group, generated frames per clip, seed."""

    seen_clips: int = 1
    unseen_clips: int = 4
    frames: int = 24
    seed: int = 1_000_003

    def prompts(self) -> dict[str, list[Told]]:
        """What each group is told, clip by clip."""
        return {"seen": list(SEEN) * self.seen_clips, "unseen": list(UNSEEN) * self.unseen_clips}


def study(candidates: Sequence[Candidate], options: PromptOptions, output: Path) -> str:
    """Ask all candidates, write results.json, results.md and sheet.png into `output`; returns the table."""
    for candidate in candidates:
        check_prompts(candidate.checkpoint)
    prompts, spec = options.prompts(), common_world(candidates)
    world = ShapeWorld(height=spec.height, width=spec.width)
    clips = {REAL: {group: real_clips(world, told, options) for group, told in prompts.items()}}
    clips[CODED] = {group: coded(candidates[0].checkpoint, real) for group, real in clips[REAL].items()}
    with Progress(len(candidates), "following prompts") as bar:
        for candidate in candidates:
            clips[candidate.label] = {group: made_clips(candidate, told, options) for group, told in prompts.items()}
            bar.advance(1, candidate.label)
    rows = [row for label, groups in clips.items() for row in score_rows(label, groups, prompts)]
    plain = {
        "provenance": provenance(),
        "options": vars(options),
        "chance": CHANCE,
        "candidates": [candidate.plain() | {"guidance": candidate.config.guidance} for candidate in candidates],
        "rows": rows,
    }
    write_json(output / "results.json", to_plain_floats(plain))
    text = markdown(rows)
    write_bytes(output / "results.md", text.encode())
    write_png(output / "sheet.png", sheet(clips, prompts))
    return text


def check_prompts(checkpoint: Checkpoint) -> None:
    """The checkpoint is of the world of shapes, and its prompts lie beside it."""
    if any(caption not in checkpoint.prompts for caption in CAPTIONS):
        raise CheckpointError(f"{checkpoint.path} does not know the captions of the world of shapes; give a checkpoint of that world")


def start_frames(count: int, height: int, width: int) -> np.ndarray:
    """The pause before the first appearance, uint8 `[count, PAUSE_FRAMES, H, W, 3]`: equal for all prompts."""
    return np.broadcast_to(blank(height, width), (count, PAUSE_FRAMES, height, width, 3)).copy()


def real_clips(world: ShapeWorld, told: Sequence[Told], options: PromptOptions) -> np.ndarray:
    """What the world itself shows after its first pause, uint8 `[clip, n, H, W, 3]`."""
    clips = []
    for index, one in enumerate(told):
        world.reset(seed=derive_seed(options.seed, "real clip", index) % (1 << 31), options={"caption": one.caption})
        frames = [world.step(np.zeros(0))[0] for _ in range(PAUSE_FRAMES - 1 + options.frames)]
        clips.append(np.stack(frames[PAUSE_FRAMES - 1 :]))
    return np.stack(clips)


@torch.no_grad()
def coded(checkpoint: Checkpoint, clips: np.ndarray) -> np.ndarray:
    """Clips through a checkpoint's codec: the best that any of its models can show."""
    pixels = torch.from_numpy(clips).to(next(checkpoint.model.parameters()).device)
    return to_frames(checkpoint.codec.decode(checkpoint.codec.encode(to_model_pixels(pixels)))).cpu().numpy()


def made_clips(candidate: Candidate, told: Sequence[Told], options: PromptOptions) -> np.ndarray:
    """What a checkpoint shows after the pause, uint8 `[clip, n, H, W, 3]`; a bidirectional teacher makes whole clips from noise."""
    checkpoint, captions = candidate.checkpoint, [one.caption for one in told]
    world = checkpoint.manifest.world
    if checkpoint.manifest.stage == "bidirectional":
        return dreamed_clips(candidate, captions, options.seed)
    return generate(
        checkpoint,
        candidate.config,
        frames=start_frames(len(told), world.height, world.width),
        context_actions=np.zeros((len(told), PAUSE_FRAMES, 0), np.float32),
        known=np.broadcast_to(np.arange(PAUSE_FRAMES) > 0, (len(told), PAUSE_FRAMES)),
        actions=np.zeros((len(told), options.frames, 0), np.float32),
        prompts=captions,
    )


def dreamed_clips(candidate: Candidate, captions: Sequence[str], seed: int) -> np.ndarray:
    """Clips of a bidirectional teacher with guidance, uint8 `[clip, clip_frames, H, W, 3]`."""
    checkpoint, config, length = candidate.checkpoint, candidate.config, candidate.checkpoint.manifest.clip_frames
    latent, rows = checkpoint.codec.latent, len(captions)
    noise = torch.randn((rows, length, latent.channels, latent.height, latent.width), generator=stream(seed, "whole prompted clips"))
    nothing = torch.zeros(rows, length, 0), torch.ones(rows, length, dtype=torch.bool)
    return whole_clips(checkpoint, noise, *nothing, text=checkpoint.told(captions), steps=config.steps, guidance=config.guidance)


def score_rows(label: str, groups: dict[str, np.ndarray], prompts: dict[str, list[Told]]) -> list[dict]:
    """One row per group, and one of the same pictures under the prompts of other clips; intervals are over clips."""
    rows = []
    for group, clips in groups.items():
        shown, told = detect(clips), prompts[group]
        for which, asked in ((label, told), (f"{label}: {OTHER}", shuffled(told))):
            if label not in (REAL, CODED) or asked is told:
                rows.append({"label": which, "group": group, **summary(prompt_scores(shown, asked))})
    return rows


def shuffled(told: Sequence[Told]) -> list[Told]:
    """Every clip gets the prompt of another one, drawn anew."""
    order = torch.randperm(len(told), generator=stream(0, "other prompts", len(told))).tolist()
    return [told[index] for index in order]


def summary(scores: PromptScores) -> dict:
    """Mean and interval over clips of every measure; a clip without an appearance has none right."""
    values = vars(scores) | {"appearances": np.nan_to_num(scores.appearances)}
    return {name: vars(mean_interval(values[name], BOOTSTRAP_REPEATS, 0)) for name in MEASURES}


def to_plain_floats(value: Any) -> Any:
    """NaN becomes null."""
    if isinstance(value, dict):
        return {key: to_plain_floats(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain_floats(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def markdown(rows: list[dict]) -> str:
    """The whole report."""
    return f"# Are prompts followed?\n\n{tables(rows)}\n\n![clips](sheet.png)\n"


def tables(rows: list[dict]) -> str:
    """A table per group: a line per candidate, with chance."""
    parts = []
    for group, title in GROUPS.items():
        lines = [[row["label"], *(cell(to_plain_floats(row[name])) for name in MEASURES)] for row in rows if row["group"] == group]
        lines.append(["chance", *(f"{CHANCE[name]:.3f}" if name in CHANCE else "-" for name in MEASURES)])
        parts.append(table([title[0].upper() + title[1:], *MEASURES.values()], lines))
    return "\n\n".join([*parts, "Intervals are 95 % bootstraps over clips."])


def sheet(clips: dict[str, dict[str, np.ndarray]], prompts: dict[str, list[Told]]) -> np.ndarray:
    """The first clips of some prompts of either group, by the world itself and by every candidate."""
    rows, labels = [], []
    for group, told in prompts.items():
        for index in np.linspace(0, len(told) - 1, SHEET_ROWS).round().astype(int):
            for label, groups in clips.items():
                rows.append(groups[group][index][:16])
                labels.append(f"{told[index].caption} ({group}): {label}")
    return contact_sheet(rows, labels, shown=16)
