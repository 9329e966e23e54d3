"""A checkpoint brought to play in other numbers."""

import numpy as np
import torch

from fakes import tiny_checkpoint
from mutoscope.commands.checkpoints import session_config
from mutoscope.commands.loading import Loading
from mutoscope.models.checkpoint import save_checkpoint
from mutoscope.rollout.session import Session
from mutoscope.rollout.speed import Speed


def test_loading_says_in_which_numbers_a_checkpoint_plays(tmp_path):
    """bf16 weights, a cache of int8 and static steps: another picture than in float32, but nearly the same."""
    scattered = tiny_checkpoint()
    path, action = tmp_path / "student", np.ones(scattered.manifest.world.actions.dim, np.float32)
    save_checkpoint(path, scattered.manifest, model=None, average=scattered.model, codec=scattered.codec, starts=scattered.starts)
    pictures = []
    for loading in (Loading(), Loading(precision="bf16", speed=Speed(runner="static", cache="int8"))):
        config = session_config(scattered.manifest, steps=2, policy=None, seed=0)
        session = Session(loading.load(path), loading.config(config))
        session.reset(0, 0)
        pictures.append(np.stack([session.step(action) for _ in range(6)]).astype(int))
    assert session.store.keys.dtype == torch.int8 and session.store.dtype == torch.bfloat16
    assert 0 < np.abs(pictures[0] - pictures[1]).mean() < pictures[0].std() / 4
