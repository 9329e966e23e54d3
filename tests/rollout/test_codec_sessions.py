"""Sessions with a codec of temporal stride 4 that keeps a state: pixel frames, actions, parking."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers")

from fakes import ACTIONS, POLICIES, WORLD, tiny_checkpoint, tiny_config, tiny_model, tiny_starts
from mutoscope.core.errors import ConfigError
from mutoscope.core.streams import numpy_stream
from mutoscope.models.checkpoint import Checkpoint, freeze
from mutoscope.models.codec import Codec, move_state, to_frames
from mutoscope.models.conditions import clip_conditions
from mutoscope.models.tiled_codec import TiledCodec, Tiles
from mutoscope.rollout.generate import generate
from mutoscope.rollout.session import Session, SessionConfig, SessionState
from mutoscope.serve.sources import LearnedSource
from wan import tiny_wan

CONFIG = SessionConfig(1, 2, POLICIES["window"])
STRIDE = 4


def checkpoint_with(codec: Codec, chunk: int = 1, context: int = 5) -> Checkpoint:
    """A tiny checkpoint whose frames are four pixel frames; its start clips are the first frame and one more."""
    fake: Any = codec
    model = freeze(tiny_model(tiny_config(temporal_stride=STRIDE)).float())
    return replace(tiny_checkpoint("matching", chunk), model=model, codec=fake, starts=tiny_starts(context=context))


def keys(count: int, seed: int = 0) -> np.ndarray:
    """Random held buttons, float32 `[count, dim]`."""
    return numpy_stream(seed, "keys").integers(0, 2, (count, ACTIONS.dim)).astype(np.float32)


def started(checkpoint: Checkpoint) -> Session:
    """A session after its reset."""
    session = Session(checkpoint, CONFIG)
    session.reset(0, 5)
    return session


class Listening:
    """A codec that notes every latent frame it decodes."""

    def __init__(self, codec: Codec) -> None:
        self.codec, self.heard = codec, list[Tensor]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.codec, name)

    def decode_next(self, latents: Tensor, state: Any) -> Any:
        self.heard.append(latents)
        return self.codec.decode_next(latents, state)


@pytest.mark.parametrize("context", [1, 5])
@pytest.mark.parametrize("chunk", [1, 3])
def test_what_is_played_is_the_offline_decode_of_all_latents(chunk, context):
    codec = Listening(tiny_wan())
    session = started(checkpoint_with(codec, chunk, context))
    played = [session.step(action) for action in keys(3)]
    assert {len(pixels) for pixels in played} == {STRIDE * chunk} and session.pixel_frames == STRIDE * chunk
    whole = to_frames(codec.codec.decode(torch.cat(codec.heard, dim=1))).numpy()[0]
    assert len(whole) == context + 3 * STRIDE * chunk
    assert np.array_equal(whole[context:], np.concatenate(played))


def differences(first: SessionState, second: SessionState) -> list[int]:
    """Elements in which the codec states of two sessions differ, tensor for tensor."""
    return [int((one != other).sum()) for one, other in zip(first.codec_state, second.codec_state, strict=True)]


@pytest.mark.parametrize("made", [0, 1, 3])
def test_parking_and_resuming_is_bit_exact_with_a_codec_that_has_a_state(made):
    checkpoint, actions = checkpoint_with(tiny_wan()), keys(6)
    session = started(checkpoint)
    for action in actions[:made]:
        session.step(action)
    parked = session.snapshot()
    away = replace(parked, codec_state=move_state(parked.codec_state, "cpu"))
    expected = np.concatenate([session.step(action) for action in actions[made:]])
    end = session.snapshot()
    for resumed in (session, Session(checkpoint, CONFIG)):
        resumed.restore(away)
        assert np.array_equal(np.concatenate([resumed.step(action) for action in actions[made:]]), expected)
        assert not any(differences(resumed.snapshot(), end))


def test_parking_broken_twin_with_the_codec_state_of_another_moment():
    session = started(checkpoint_with(tiny_wan()))
    early = session.snapshot()
    session.step(keys(1)[0])
    parked = session.snapshot()
    expected = session.step(keys(2)[1])
    session.restore(replace(parked, codec_state=early.codec_state))
    assert not np.array_equal(session.step(keys(2)[1]), expected)


def test_the_codec_keeps_the_same_bytes_for_ever():
    session = started(checkpoint_with(tiny_wan()))
    sizes = []
    for action in keys(4):
        session.step(action)
        sizes.append(session.codec_bytes)
    assert len(set(sizes)) == 1 and sizes[0] > 0
    assert Session(tiny_checkpoint(), CONFIG).codec_bytes == 0


@pytest.mark.parametrize("chunk", [1, 3])
def test_a_step_is_told_the_action_of_every_pixel_frame_of_its_own(chunk):
    session, start = started(checkpoint_with(tiny_wan(), chunk)), tiny_starts(context=5)
    actions = keys(2 * STRIDE * chunk)
    told = []
    for part in np.split(actions, 2):
        session.step_rows(part[None])
        told.append(session.chunk_conditions)
    whole = torch.cat([start.actions[:1], torch.from_numpy(actions)[None]], dim=1)
    known = torch.cat([start.known[:1], torch.ones(1, len(actions), dtype=torch.bool)], dim=1)
    wanted = clip_conditions(whole, known, STRIDE).frames(2, 2 + 2 * chunk)
    assert torch.equal(torch.cat([part.actions for part in told], dim=1), wanted.actions)
    assert torch.equal(torch.cat([part.travel for part in told], dim=1), wanted.travel)


def test_actions_per_frame_are_refused():
    with pytest.raises(ConfigError, match=r"must be finite and \(1, 4, 3\) \(row, pixel frame, action\)"):
        started(checkpoint_with(tiny_wan())).step_rows(np.zeros((1, 1, 3), np.float32))


@pytest.mark.parametrize("length", [8, 6])
def test_generation_makes_as_many_pixel_frames_as_there_are_actions(length):
    starts, counted = tiny_starts(context=5), list[int]()
    made = generate(
        checkpoint_with(tiny_wan()), CONFIG, frames=starts.frames.numpy(), context_actions=starts.actions.numpy(),
        known=starts.known.numpy(), actions=np.stack([keys(length, row) for row in range(2)]), progress=counted.append,
    )  # fmt: skip
    assert made.shape == (2, length, WORLD.height, WORLD.width, 3) and sum(counted) == 8


def test_a_pane_shows_the_last_pixel_frame_of_each_frame_and_its_seconds():
    checkpoint = checkpoint_with(tiny_wan())
    source = LearnedSource(Session(checkpoint, CONFIG), stride=STRIDE)
    assert len(source.reset(0, 5)) == 5 and len(source.step(keys(1)[0])) == source.stride
    strip = source.strip()
    assert strip.frame_seconds == STRIDE / WORLD.content_rate and set(strip.pictures) == {0, 1, 2}


def test_tiles_play_as_one_codec():
    session = started(checkpoint_with(TiledCodec(tiny_wan(), Tiles(3, 3, 1))))
    parked = session.snapshot()
    expected = session.step(keys(1)[0])
    session.restore(parked)
    assert expected.shape == (STRIDE, WORLD.height, WORLD.width, 3) and np.array_equal(session.step(keys(1)[0]), expected)
