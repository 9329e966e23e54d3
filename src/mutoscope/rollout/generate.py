"""Open-loop generation: a batch of continuations under given actions. What evaluation and sample videos use."""

from collections.abc import Callable, Sequence

import numpy as np

from mutoscope.core.errors import ConfigError
from mutoscope.core.streams import derive_seed
from mutoscope.models.checkpoint import Checkpoint
from mutoscope.rollout.session import Session, SessionConfig


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
    session.reset_from(frames, context_actions, known, [derive_seed(config.seed, "generate row", row) for row in range(batch)])
    step = session.pixel_frames
    padded = np.concatenate([actions, np.repeat(actions[:, -1:], -length % step, axis=1)], axis=1)
    pieces = []
    for start in range(0, length, step):
        pieces.append(session.step_rows(padded[:, start : start + step]))
        progress(step)
    return np.concatenate(pieces, axis=1)[:, :length]
