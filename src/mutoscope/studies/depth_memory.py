"""Do few-step distillation and compressive memory compose? Distillation depth x memory, exact, on the world `ring`.

One piece is one memory and one seed: autoregressive teacher, consistency student, matching students of 4, 2 and 1 steps, each asked
after landmarks that left its window. Its figures are one small file; a piece whose file carries the hash of its recipe is done, so that
the grid grows from day to day and at any size. Codec and bidirectional teacher of a seed serve all its memories.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mutoscope.core.config import config_hash, to_plain
from mutoscope.core.files import read_json, write_json
from mutoscope.core.progress import Progress
from mutoscope.core.provenance import provenance
from mutoscope.data.worlds import make_world
from mutoscope.data.worlds.tiles import classify_tiles
from mutoscope.evaluate.recall import RecallClips, RecallTask, copy_sink, landmark_chance, play_truth, score, within_memory
from mutoscope.memory.kinds import FastWeights, GatedDelta, LinearState
from mutoscope.memory.policy import Full, PolicyConfig, SinkWindow, Stateful, Window
from mutoscope.models.checkpoint import Checkpoint, load_checkpoint
from mutoscope.rollout.session import Session, SessionConfig, default_config, with_steps
from mutoscope.studies.depth_probe import CHANCE, ProbeConfig, probe_rows
from mutoscope.studies.recall import dream
from mutoscope.train.chain import Chain, open_chain, train_chain
from mutoscope.train.config import MatchingStage, RunConfig
from mutoscope.train.parallel import Workers

WINDOW, SINKS = 8, 2
MEMORIES: dict[str, Callable[[int], PolicyConfig]] = {
    "sink+window": lambda frames: SinkWindow(SINKS, WINDOW),
    "window+fast-weights": lambda frames: Stateful(Window(WINDOW), FastWeights("mlp", 1)),
    "fast-weights": lambda frames: Stateful(Window(1), FastWeights("mlp", 1)),
    "full": Full,
    "window": lambda frames: Window(WINDOW),
    "window+linear": lambda frames: Stateful(Window(WINDOW), LinearState()),
    "window+gated-delta": lambda frames: Stateful(Window(WINDOW), GatedDelta()),
    "window+fast-weights, swiglu": lambda frames: Stateful(Window(WINDOW), FastWeights("swiglu", 1)),
}
# The same memories written from the last denoising pass in place of the commit: layers of their own, trained so from the teacher on.
LAST_PASS: dict[str, Callable[[int], PolicyConfig]] = {
    "window+fast-weights, last pass": lambda frames: Stateful(Window(WINDOW), FastWeights("mlp", 1, "last pass")),
    "window+linear, last pass": lambda frames: Stateful(Window(WINDOW), LinearState(written_from="last pass")),
}
# Matching that lets gradient into the writes, on top of the same teacher and consistency student.
TAUGHT = {f"{name}, taught": name for name in ("window+fast-weights", "window+linear", *LAST_PASS)}
# Matching on rollouts of up to twice a clip, on top of the same too: asked for after far recall was seen to suffer in matching.
LONGER = {"fast-weights, longer rollouts": "fast-weights"}
LONGER_BY = 64  # frames
# In the order in which they are run and shown: what is written from last passes comes after the others.
NAMES = (
    *MEMORIES,
    *(name for name, base in TAUGHT.items() if base in MEMORIES),
    *LONGER,
    *LAST_PASS,
    *(f"{name}, taught" for name in LAST_PASS),
)
FIRST_FIVE: tuple[int, ...] = (0, 1, 2, 3, 4)
FIRST_THREE = FIRST_FIVE[:3]
SEEDS = dict.fromkeys(("sink+window", "window+fast-weights", "fast-weights", "full"), FIRST_FIVE)
SEEDS |= dict.fromkeys(LONGER, FIRST_FIVE[2:])  # seeds whose far recall is known
TEACHER_STEPS = 16
CODE_VERSION = 4  # raise it when the code changes what a piece would find: pieces of another version are run again
# The stage and the steps of every depth.
DEPTH_STAGES = {
    "teacher": ("autoregressive", TEACHER_STEPS),
    "consistency": ("consistency", 4),
    **{str(steps): (f"matching-{steps}", steps) for steps in (4, 2, 1)},
}
OF_SEED, OF_MEMORY = ("codec", "bidirectional"), ("autoregressive", "consistency")
TIMED_FRAMES, WARM_UP = 40, 8


@dataclass(frozen=True)
class StudyConfig:
    """What is asked of every checkpoint: leading turns, frames looked away, episodes; and of its hidden states."""

    lead: int = 12
    away: tuple[int, ...] = (8, 12, 24, 48, 96)
    episodes: int = 48
    seed: int = 1_000_003
    probe: ProbeConfig = ProbeConfig()


@dataclass(frozen=True)
class Piece:
    """A memory by its name (of NAMES), and a seed."""

    memory: str
    seed: int

    @property
    def name(self) -> str:
        """File name without ending."""
        return f"{self.slug}-seed{self.seed}"

    @property
    def slug(self) -> str:
        """The memory's name as part of a path."""
        return self.memory.replace(", ", "-").replace(" ", "-")

    @property
    def branches(self) -> bool:
        """Whether it differs from its base in matching alone."""
        return self.base != self

    @property
    def folder(self) -> str:
        """The folder of its run."""
        return self.name if self.branches else self.slug

    @property
    def base(self) -> "Piece":
        """The piece whose teacher and consistency student this one shares: itself, unless it branches off at matching."""
        return Piece((TAUGHT | LONGER).get(self.memory, self.memory), self.seed)


MakeRun = Callable[[PolicyConfig, int], RunConfig]


def grid() -> tuple[Piece, ...]:
    """All pieces, seed by seed, so that an unfinished grid is balanced."""
    return tuple(Piece(name, seed) for seed in FIRST_FIVE for name in NAMES if seed in SEEDS.get(name, FIRST_THREE))


def piece_run(make_run: MakeRun, piece: Piece) -> RunConfig:
    """The run of a piece; a full memory holds the clip."""
    frames = make_run(Window(WINDOW), piece.seed).clip_frames
    run = make_run((MEMORIES | LAST_PASS)[piece.base.memory](frames), piece.seed)
    return replace(run, stages=tuple(_matched(stage, piece) if isinstance(stage, MatchingStage) else stage for stage in run.stages))


def _matched(stage: MatchingStage, piece: Piece) -> MatchingStage:
    """How a piece does its matching."""
    if piece.memory in TAUGHT:
        return replace(stage, memory_writes="taught")
    return replace(stage, frames_beyond_clip=LONGER_BY) if piece.memory in LONGER else stage


def piece_hash(make_run: MakeRun, piece: Piece, config: StudyConfig) -> str:
    """Names everything that a piece's figures depend on."""
    return config_hash((piece_run(make_run, piece), config, TEACHER_STEPS, CODE_VERSION))


def is_done(results: Path, make_run: MakeRun, piece: Piece, config: StudyConfig) -> bool:
    """True if the piece's file is there and of this recipe."""
    file = results / f"{piece.name}.json"
    return file.is_file() and read_json(file)["recipe_hash"] == piece_hash(make_run, piece, config)


def run_piece(
    make_run: MakeRun, piece: Piece, config: StudyConfig, data: tuple[Path, Path], folder: Path, results: Path, workers: Workers
) -> None:
    """Train what is missing of a piece on `data` (training, held-out) and write its figures. Ctrl-C saves; the next call goes on."""
    began = time.monotonic()
    seed = folder / f"seed-{piece.seed}"
    train_chain(open_chain(make_run(Window(WINDOW), piece.seed), seed / "base", *data, workers), OF_SEED, _say)
    share(seed / "base", seed / piece.base.slug, (*OF_SEED, "latents"))
    chain = open_chain(piece_run(make_run, piece.base), seed / piece.base.slug, *data, workers)
    if piece.branches:
        train_chain(chain, OF_MEMORY, _say)
        share(seed / piece.base.slug, seed / piece.folder, (*OF_SEED, "latents", *OF_MEMORY))
        chain = open_chain(piece_run(make_run, piece), seed / piece.folder, *data, workers)
    train_chain(chain, (), _say)
    if workers.leads:
        figures = score_piece(chain, config)
        head = {"provenance": provenance(), "memory": piece.memory, "seed": piece.seed, "minutes": (time.monotonic() - began) / 60}
        policy = to_plain(chain.run.memory)
        write_json(
            results / f"{piece.name}.json", {**head, "policy": policy, "recipe_hash": piece_hash(make_run, piece, config), **figures}
        )


def share(source: Path, target: Path, names: tuple[str, ...]) -> None:
    """Let a run folder use what another one has."""
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        if not (target / name).is_symlink():
            (target / name).symlink_to(os.path.relpath(source / name, target))


def score_piece(chain: Chain, config: StudyConfig) -> dict:
    """All depths at all distances, with what the baselines score on the same episodes, and what their hidden states tell of the past."""
    data = chain.run.data
    env = make_world(data.world, height=data.height, width=data.width, frame_skip=data.frame_skip)
    clips = [play_truth(env, RecallTask(config.lead, away), config.episodes, config.seed) for away in config.away]
    turns, read = play_truth(env, config.probe.task, config.probe.episodes, config.probe.seed), []
    rows, speeds = [], {}
    with Progress(len(DEPTH_STAGES) * sum(config.away), "recall, frames") as bar:
        for depth, (stage, steps) in DEPTH_STAGES.items():
            checkpoint = load_checkpoint(chain.checkpoint_path(stage), chain.workers.device)
            rows += [score_depth(depth, checkpoint, steps, truth, bar) for truth in clips]
            policy = session_config(checkpoint, steps, turns.frames.shape[1]).policy
            read += probe_rows(depth, checkpoint, policy, steps, turns, config.probe)
            speeds[depth] = frame_seconds(checkpoint, session_config(checkpoint, steps, TIMED_FRAMES + 8))
    baseline = {str(away): float(score(copy_sink(truth), truth).identity.mean()) for away, truth in zip(config.away, clips, strict=True)}
    probe = {"chance": CHANCE, "rows": read}
    return {"rows": rows, "seconds_per_frame": speeds, "copy_sink": baseline, "chance": landmark_chance(clips[0]), "probe": probe}


def session_config(checkpoint: Checkpoint, steps: int, frames: int) -> SessionConfig:
    """How a depth is played; a full memory is given room for `frames`."""
    config = with_steps(default_config(checkpoint.manifest), steps)
    return replace(config, policy=Full(frames)) if isinstance(config.policy, Full) else config


def score_depth(depth: str, checkpoint: Checkpoint, steps: int, truth: RecallClips, bar: Progress) -> dict:
    """One depth at one distance: recall on return, and whether the world still moves and keeps what is in view."""
    context, length = truth.context, truth.frames.shape[1]
    config = session_config(checkpoint, steps, length)
    made = dream(checkpoint, config, truth, bar.advance)
    scores = score(made, truth)
    in_view = (classify_tiles(made[:, 0]) == truth.tiles[:, context])[:, :, :-1].mean(axis=(1, 2))
    model = checkpoint.model.config
    return {
        "depth": depth,
        "away": length - context,
        "identity": float(scores.identity.mean()),
        "identity_error": float(scores.identity.std(ddof=1) / len(scores.identity) ** 0.5),
        "in_view": float(in_view.mean()),
        "moved": float(scores.moved.mean()),
        "psnr_db": float(scores.psnr_db.mean()),
        "within_memory": within_memory(config.policy, truth, checkpoint.manifest.chunk_frames),
        "within_clip": length <= checkpoint.manifest.clip_frames,
        "bytes": model.cache(config.policy, checkpoint.manifest.chunk_frames).bytes(),
    }


def frame_seconds(checkpoint: Checkpoint, config: SessionConfig) -> dict[str, float]:
    """Median seconds of a frame and of its commit, one player."""
    session = Session(checkpoint, config)
    session.reset(0, 0)
    still = np.zeros(session.world.actions.dim, np.float32)
    times = []
    for _ in range(TIMED_FRAMES):
        began = time.perf_counter()
        session.step(still)
        denoised = time.perf_counter()
        session.commit()
        times.append((denoised - began, time.perf_counter() - denoised))
    step, commit = np.median(np.array(times)[WARM_UP:], axis=0)
    return {"denoise": float(step), "commit": float(commit)}


def _say(stage: object, path: Path) -> None:
    print(f"finished {path}", flush=True)
