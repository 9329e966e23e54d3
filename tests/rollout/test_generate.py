"""Open-loop generation: every row as if alone, any length, causal in its actions."""

import numpy as np
import pytest

from fakes import ACTIONS, POLICIES, tiny_checkpoint, tiny_starts
from mutoscope.core.errors import ConfigError
from mutoscope.core.streams import numpy_stream
from mutoscope.rollout.generate import generate
from mutoscope.rollout.session import SessionConfig

CONFIG = SessionConfig(2, 4, POLICIES["window"])


def continued(actions: np.ndarray, chunk: int = 1, rows: slice = slice(None), **more: object) -> np.ndarray:
    """Continuations of the fake start clips."""
    starts = tiny_starts(count=3)
    frames, context, known = (tensor[rows].numpy() for tensor in (starts.frames, starts.actions, starts.known))
    checkpoint = tiny_checkpoint("matching", chunk)
    return generate(checkpoint, CONFIG, frames=frames, context_actions=context, known=known, actions=actions[rows], **more)


def some_actions(length: int) -> np.ndarray:
    """Random buttons for three rows."""
    return numpy_stream(0, "actions").integers(0, 2, (3, length, ACTIONS.dim)).astype(np.float32)


@pytest.mark.parametrize("chunk", [1, 3])
def test_lengths_need_not_divide(chunk):
    counted: list[int] = []
    whole = continued(some_actions(7), chunk, progress=counted.append)
    assert whole.shape == (3, 7, 12, 20, 3) and whole.dtype == np.uint8 and sum(counted) == -(-7 // chunk) * chunk
    assert np.array_equal(continued(some_actions(7)[:, :6], chunk), whole[:, :6])


def test_a_row_does_not_depend_on_its_neighbours():
    whole = continued(some_actions(6)).astype(int)
    assert np.abs(continued(some_actions(6), rows=slice(0, 1)).astype(int) - whole[:1]).max() <= 1
    assert np.abs(whole[1:] - whole[:1]).max() > 1


@pytest.mark.parametrize("chunk", [1, 3])
def test_later_actions_change_later_frames_only(chunk):
    actions = some_actions(6)
    changed = actions.copy()
    changed[:, 3:] = 1 - changed[:, 3:]
    before, after = continued(actions, chunk), continued(changed, chunk)
    assert np.array_equal(before[:, :3], after[:, :3]) and not np.array_equal(before[:, 3], after[:, 3])


def test_context_that_does_not_belong_is_refused():
    starts = tiny_starts(count=3)
    frames, context, known = starts.frames.numpy(), starts.actions.numpy(), starts.known.numpy()
    with pytest.raises(ConfigError, match="do not belong together"):
        generate(tiny_checkpoint(), CONFIG, frames=frames, context_actions=context[:, :1], known=known, actions=some_actions(4))
    with pytest.raises(ConfigError, match="do not belong together"):
        generate(tiny_checkpoint(), CONFIG, frames=frames, context_actions=context, known=known, actions=some_actions(4)[:2])
