"""Open-loop generation: a batch of continuations under given actions. What evaluation and sample videos use."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from mutoscope.core.errors import ConfigError
from mutoscope.core.streams import derive_seed
from mutoscope.models.checkpoint import Checkpoint
from mutoscope.rollout.executor import drive
from mutoscope.rollout.fused import FusedRunner, check_fusable, commit_pass, fused
from mutoscope.rollout.recent import RecentChunk
from mutoscope.rollout.session import Session, SessionConfig
from mutoscope.rollout.speed import CommitName


def generate(
    checkpoint: Checkpoint,
    config: SessionConfig,
    *,
    frames: np.ndarray,
    context_actions: np.ndarray,
    known: np.ndarray,
    actions: np.ndarray,
    prompts: Sequence[str] = (),
    progress: Callable[[int], None] = lambda frames: None,
) -> np.ndarray:
    """Continue real clips.

    frames uint8 `[B, c, H, W, 3]`, context_actions float `[B, c, A]`, known bool `[B, c]`, actions float `[B, n, A]`
    -> uint8 `[B, n, H, W, 3]`, all of them per pixel frame. Row i is the same whatever rows stand beside it. `progress` is called with
    the pixel frames made by each chunk. A world that is told in words what to show takes `prompts`, one per row, out of the checkpoint's.
    """
    batch, length = actions.shape[:2]
    if frames.shape[:2] != context_actions.shape[:2] or frames.shape[0] != batch or frames.shape[1] < 1:
        raise ConfigError(
            f"frames {frames.shape[:2]}, context actions {context_actions.shape[:2]} and {batch} action rows do not belong together"
        )
    session = Session(checkpoint, config, rows=batch)
    if checkpoint.model.config.text_dim:
        if len(prompts) != batch:
            raise ConfigError(
                f"{checkpoint.path} is told in words what to show; give a prompt for each of {batch} rows, got {len(prompts)}"
            )
        session.say(*checkpoint.told(prompts))
    advance = advancing(session)
    session.reset_from(frames, context_actions, known, [derive_seed(config.seed, "generate row", row) for row in range(batch)])
    step = session.pixel_frames
    padded = np.concatenate([actions, np.repeat(actions[:, -1:], -length % step, axis=1)], axis=1)
    pieces = []
    for start in range(0, length, step):
        pieces.append(advance(padded[:, start : start + step]))
        progress(step)
    return np.concatenate(pieces, axis=1)[:, :length]


@torch.inference_mode()
def step_fused(session: Session, actions: np.ndarray) -> np.ndarray:
    """`Session.step_rows` whose first pass also commits the chunk before (rollout.fused): nobody waits for a single picture here."""
    rows, pending, conditions = slice(0, session.rows), session.pending, session.pending_conditions
    executor = session.config.speed.executor(session.checkpoint.model)
    if pending is None or conditions is None:
        return session.step_rows(actions)
    commit = commit_pass(session.store, rows, pending, conditions)
    (planner,) = session.open_planners(actions)
    (latents,) = drive(FusedRunner(executor), [fused(planner, commit)])
    # It is committed now, and a later prompt may commit it once more.
    session.recent.add(RecentChunk(session.num_frames - session.chunk_frames, pending, conditions))
    return session.close_chunk(latents)


ADVANCE: dict[CommitName, Callable[[Session, np.ndarray], np.ndarray]] = {"own": Session.step_rows, "fused": step_fused}


def advancing(session: Session) -> Callable[[np.ndarray], np.ndarray]:
    """How a session goes on by a chunk, with the commits of its config; a memory that cannot fuse them is refused by name."""
    commits = session.config.speed.commits
    if commits == "fused":
        check_fusable(session.store)
    return partial(ADVANCE[commits], session)
