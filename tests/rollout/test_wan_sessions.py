"""Sessions of a tiny Wan beyond the 81 pixel frames of its training clips: from nothing and from a picture, under every kind of memory."""

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers")

from fakes import tiny_checkpoint, tiny_manifest, tiny_model
from mutoscope.core.streams import normal, stream
from mutoscope.core.world import NO_ACTIONS, WorldSpec
from mutoscope.memory.anchored import Anchored
from mutoscope.memory.choosing import Different
from mutoscope.memory.policy import EmaSink, PolicyConfig, RecencyBias, RollingWindow, SinkWindow, Window
from mutoscope.models.checkpoint import Checkpoint, freeze
from mutoscope.models.codec import to_frames
from mutoscope.models.wan_codec import wan_codec
from mutoscope.rollout.session import Session, SessionConfig
from mutoscope.rollout.speed import PLAIN_SPEED, Speed
from wan_fakes import CODEC, CONFIG

PICTURES, SWITCH = 90, 10  # pixel frames at least, and the chunk before which another prompt is said
PRESS = np.zeros(0, np.float32)
POLICIES: dict[str, PolicyConfig] = {
    "window": Window(3), "sink": SinkWindow(1, 3), "recency": RecencyBias(3), "ema-sink": EmaSink(1, 3, decay=0.5),
    "rolling": RollingWindow(3), "anchored": Anchored(1, 1, 3), "different": Different(4, recent=2),
}  # fmt: skip
# Every memory from one beginning, and one from both.
CASES = [("window", "nothing"), ("sink", "picture"), ("recency", "nothing"), ("ema-sink", "picture"), ("rolling", "nothing"),
         ("anchored", "nothing"), ("anchored", "picture"), ("different", "nothing")]  # fmt: skip


@lru_cache(maxsize=1)
def tiny_wan_checkpoint() -> Checkpoint:
    """A random Wan with its published shape, told in words what to show; 1 + 4 k pixel frames."""
    codec: Any = freeze(wan_codec(CODEC).initialise(stream(0, "tiny wan codec")))
    world = WorldSpec("wan", CODEC.height, CODEC.width, 16.0, NO_ACTIONS)
    manifest = tiny_manifest(world=world, model=CONFIG, beginning="nothing", conditions=("text",))
    return replace(tiny_checkpoint(), manifest=manifest, model=freeze(tiny_model(CONFIG).float()), codec=codec, starts=None)


def say(session: Session, seed: int) -> None:
    """A prompt of four words."""
    session.say(normal((1, 4, CONFIG.text_dim), stream(seed, "prompt")), torch.zeros(1, 4, CONFIG.text_dim))


@lru_cache(maxsize=16)
def played(policy: PolicyConfig, beginning: str, speed: Speed) -> tuple[np.ndarray, Tensor]:
    """All pixel frames after the first and all latents of a session, whose bytes are looked at after every chunk."""
    checkpoint = tiny_wan_checkpoint()
    session = Session(checkpoint, SessionConfig(1, 1, policy, speed=speed))
    say(session, 0)
    if beginning == "nothing":
        session.reset(None, 7)
        assert session.pending is not None
        latents = [session.pending]
    else:
        image = np.kron(np.arange(24, dtype=np.uint8).reshape(4, 6) * 10, np.ones((8, 8), np.uint8))[None, None, :, :, None].repeat(3, -1)
        session.reset_from(image, np.zeros((1, 1, 0)), np.zeros((1, 1), bool), (7,))
        latents = [checkpoint.codec.encode(torch.from_numpy(image).float().permute(0, 1, 4, 2, 3) / 127.5 - 1)]
    pixels, held, kept, shown = [], set(), [], 1
    while shown < PICTURES:
        if len(pixels) == SWITCH:
            say(session, 1)
        pixels.append(session.step(PRESS))
        shown += len(pixels[-1])
        assert session.pending is not None
        latents.append(session.pending)
        held.add((session.memory_bytes, session.host_bytes))
        kept.append(session.codec_bytes)
        assert len(session.store.parts[0].ledgers[0].slot_of) <= policy.capacity(1)
    assert shown == 93 and len(held) == 1 and len(set(kept[2:])) == 1 and kept[-1] > 0
    return np.concatenate(pixels), torch.cat(latents, dim=1)


@pytest.mark.parametrize(("policy", "beginning"), CASES)
def test_a_stream_goes_on_beyond_its_training_clips(policy, beginning):
    """93 pixel frames with another prompt in their midst: bytes stay, numbers stay finite, and pictures move."""
    pixels, latents = played(POLICIES[policy], beginning, PLAIN_SPEED)
    assert pixels.shape == (92, CODEC.height, CODEC.width, 3) and latents.shape[1] == 24
    assert torch.isfinite(latents).all() and latents[:, -8:].std() > 0.05
    assert (np.abs(np.diff(pixels[-40:].astype(int), axis=0)).max(axis=(1, 2, 3)) > 0).all(), "no picture stands still"


@pytest.mark.parametrize("beginning", ["nothing", "picture"])
def test_its_pictures_are_those_of_the_whole_clip(beginning):
    pixels, latents = played(POLICIES["anchored"], beginning, PLAIN_SPEED)
    whole = to_frames(tiny_wan_checkpoint().codec.decode(latents))[0].numpy()
    assert np.abs(whole[1:].astype(int) - pixels).max() <= 1, "rounding of a grey value at most"


@pytest.mark.parametrize("policy", ["window", "recency"])
def test_its_last_frames_are_those_of_static_passes(policy):
    plain, static = (played(POLICIES[policy], "nothing", speed)[1] for speed in (PLAIN_SPEED, Speed(runner="static")))
    assert torch.allclose(static[:, -4:], plain[:, -4:], atol=1e-4)


def test_broken_twin_that_reads_another_memory():
    """The check of the last frames tells memories apart: one frame more is another stream."""
    plain, other = (played(policy, "nothing", PLAIN_SPEED)[1] for policy in (Window(3), Window(4)))
    assert not torch.allclose(other[:, -4:], plain[:, -4:], atol=1e-2)
