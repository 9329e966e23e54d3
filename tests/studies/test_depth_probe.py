"""What the probe of the study overhears: the keys and values that the passes of play make, given the true past."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from fakes import LAST_PASS, STATEFUL, WORLD, model_for, tiny_checkpoint
from mutoscope.core.streams import normal, numpy_stream, stream
from mutoscope.evaluate.recall import RecallClips
from mutoscope.memory.policy import PolicyConfig
from mutoscope.models.checkpoint import Checkpoint, freeze
from mutoscope.models.codec import to_model_pixels
from mutoscope.models.conditions import clip_conditions
from mutoscope.noise.schedule import add_noise
from mutoscope.rollout.executor import Executor, Pass, PassKind, Streaming, drive
from mutoscope.rollout.planner import commit_chunk
from mutoscope.studies.depth_probe import hidden_states

FRAMES, SIGMA = 7, 0.6


def checkpoint_for(policy: PolicyConfig) -> Checkpoint:
    """A tiny world model with the learned memory of a policy."""
    return replace(tiny_checkpoint(), model=freeze(model_for(policy).float()))


def random_clips() -> RecallClips:
    """Pictures and actions of two episodes."""
    generator = numpy_stream(0, "probe clips")
    frames = generator.integers(0, 256, (2, FRAMES, WORLD.height, WORLD.width, 3), dtype=np.uint8)
    actions = generator.integers(0, 2, (2, FRAMES, WORLD.actions.dim)).astype(np.float32)
    return RecallClips(frames, actions, np.zeros((2, FRAMES, 1, 1), np.uint8), np.zeros((2, FRAMES, 2), np.int32), 1)


def streamed(checkpoint: Checkpoint, policy: PolicyConfig, clips: RecallClips, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Tensor]]:
    """The same from a stream: every frame but the first has a last pass, then its commit; what layers give to attention is noted."""
    model, seen, attend = checkpoint.model, [], Streaming.__call__

    def noting(self: Streaming, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        seen.append(torch.cat([keys, values], dim=-1))
        return attend(self, layer, queries, keys, values)

    monkeypatch.setattr(Streaming, "__call__", noting)
    clean = checkpoint.codec.encode(to_model_pixels(torch.from_numpy(clips.frames)))
    known = torch.arange(FRAMES).expand(2, -1) > 0
    conditions = clip_conditions(torch.from_numpy(clips.actions), known, 1)
    noise, store, rows = normal(tuple(clean.shape), stream(0, "probe noise")), model.new_store(policy, 1, 2, clean), slice(0, 2)
    found: dict[str, list[list[Tensor]]] = {"commit": [[], []], "last": [[], []]}
    for frame in range(FRAMES):
        own, span = conditions.frames(frame, frame + 1), slice(frame, frame + 1)
        noisy = add_noise(clean[:, span], noise[:, span], torch.full((2, 1), SIGMA))
        kind: PassKind = "last" if frame else "denoising"
        Executor(model).run([Pass(store, rows, store.open_chunk(rows, 1), noisy, SIGMA, own, kind)])
        drive(Executor(model), [commit_chunk(store, rows, clean[:, span], own, "commit" if frame else "real")])
        for name, layers in zip(("last", "commit"), (seen[:2], seen[2:]), strict=True):
            for place, told in zip(found[name], layers, strict=True):
                place.append(told)
        seen.clear()
    return {name: [torch.stack(frames, dim=1).transpose(2, 3).flatten(2) for frames in layers] for name, layers in found.items()}


@pytest.mark.parametrize("policy", [*LAST_PASS, "sink+linear", "window+fast-mlp"])
def test_the_probe_overhears_what_the_passes_of_play_make(policy, monkeypatch):
    """The twin is the same with another noise."""
    checkpoint, clips, frames = checkpoint_for(STATEFUL[policy]), random_clips(), np.array([3, 4, 6])
    found, twin = (hidden_states(checkpoint, STATEFUL[policy], clips, SIGMA, frames, seed) for seed in (0, 1))
    wanted = streamed(checkpoint, STATEFUL[policy], clips, monkeypatch)
    for name in ("commit", "last"):
        assert len(found[name]) == 2 and found[name][0].shape == (2, 3, 2 * 24 * 15)
        assert all(torch.allclose(one, other[:, frames], atol=1e-4) for one, other in zip(found[name], wanted[name], strict=True))
    assert torch.equal(twin["commit"][1], found["commit"][1]) and not torch.allclose(twin["last"][1], found["last"][1], atol=1e-2)
