"""What a session is predicted to take against a real one."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from fakes import tiny_checkpoint, tiny_config, tiny_model
from mutoscope.commands.roofline import count_flops
from mutoscope.core.devices import GIB, device_for
from mutoscope.memory.policy import PolicyConfig, SinkWindow, Window
from mutoscope.models.arithmetic import flops
from mutoscope.models.checkpoint import freeze
from mutoscope.models.live_bytes import LiveBytes
from mutoscope.models.tiled_codec import Tiles
from mutoscope.models.tiny_codec import TinyCodec, taew_2_1
from mutoscope.rollout.footprint import Decoder, Held, Playing, fit_session, tiled_decoder, whole_decoder
from mutoscope.rollout.session import Session, SessionConfig

STEPS = 2


def session(policy: PolicyConfig) -> Session:
    """A session whose memory is full."""
    made = Session(tiny_checkpoint(), SessionConfig(STEPS, STEPS, policy))
    made.reset(0, 0)
    for _ in range(policy.capacity(made.chunk_frames) + 1):
        made.step(np.zeros(made.world.actions.dim, dtype=np.float32))
        made.commit()
    return made


def playing(made: Session) -> Playing:
    codec = made.checkpoint.codec
    decoder = Decoder("its own", float(decoded(codec, made)), Held(0), Held(0))
    return Playing(made.checkpoint.model.config, made.config.policy, (decoder,), made.chunk_frames, STEPS)


def decoded(codec, made: Session) -> float:
    meta = copy.deepcopy(codec).to("meta")
    return whole_decoder("its own", meta, meta).flops


@pytest.mark.parametrize("policy", [Window(4), SinkWindow(2, 5)], ids=str)
def test_weights_memory_and_flops_are_those_of_a_session(policy):
    made = session(policy)
    predicted = playing(made)
    assert predicted.parts["weights"] == sum(parameter.nbytes for parameter in made.checkpoint.model.parameters())
    assert predicted.parts["memory"] == made.memory_bytes
    counted = count_flops(made, np.zeros(made.world.actions.dim, dtype=np.float32))
    assert predicted.flops + made.chunk_frames * predicted.decoders[0].flops == pytest.approx(counted, rel=0.02)


def test_a_prompt_is_counted_as_a_session_reads_it():
    """Once, before: no pass makes its keys and values. The broken twin is the count of passes that do, as in training."""
    config, words = tiny_config(text_dim=10), 40
    checkpoint = replace(tiny_checkpoint(), model=freeze(tiny_model(config).float()))
    made = Session(checkpoint, SessionConfig(STEPS, STEPS, Window(4)))
    made.say(torch.ones(1, words, 10), torch.zeros(1, words, 10))
    made.reset(0, 0)
    action = np.zeros(made.world.actions.dim, dtype=np.float32)
    for _ in range(5):
        made.step(action)
        made.commit()
    predicted, counted = replace(playing(made), text=words), count_flops(made, action)
    decoding = made.chunk_frames * predicted.decoders[0].flops
    assert predicted.flops + decoding == pytest.approx(counted, rel=0.02)
    assert predicted.parts["prompts"] == sum(held.keys.nbytes + held.values.nbytes for held in made.prompt)
    assert playing(made).parts["prompts"] == 0
    passes = [predicted._going("velocity")] * STEPS + [predicted._going("cache")]
    assert sum(flops(replace(going, told="embedding")).forward for going in passes) + decoding > 1.1 * counted


def test_flops_broken_twin():
    """A session that is thought to make no commit."""
    made = session(Window(4))
    counted = count_flops(made, np.zeros(made.world.actions.dim, dtype=np.float32))
    one_less = playing(made).flops * STEPS / (STEPS + 1)
    assert one_less + made.chunk_frames * playing(made).decoders[0].flops < 0.9 * counted


def test_a_pass_holds_about_what_is_predicted():
    made = session(Window(4))
    codec = made.codec
    made.codec = Silent(codec)  # the decoder is counted on its own
    with LiveBytes() as counted:
        made.step(np.zeros(made.world.actions.dim, dtype=np.float32))
    assert counted.peak < 2 * playing(made).parts["a pass"] and counted.peak > 0.4 * playing(made).parts["a pass"]


class Silent:
    """A codec whose decoding takes nothing."""

    def __init__(self, codec) -> None:
        self.codec = codec

    def __getattr__(self, name: str):
        return getattr(self.codec, name)

    def decode_next(self, latents, state):
        return torch.zeros(1, 1, 3, 2, 2), state


def test_smaller_numbers_and_other_decoders_make_it_fit():
    with torch.device("meta"):
        tiny = TinyCodec(taew_2_1(64, 96))
    whole, tiled = whole_decoder("whole", tiny, tiny), tiled_decoder(tiny, tiny, Tiles(4, 4, 1))
    assert tiled.narrow.device < whole.narrow.device < whole.wide.device and tiled.flops > whole.flops
    assert tiled.narrow.moved == 2 * tiled.narrow.host == tiled.wide.host > 0
    made = session(Window(4))
    huge = Decoder("huge", 1e9, Held(18 * GIB), Held(9 * GIB))
    start = Playing(made.checkpoint.model.config, Window(4), (huge, whole), 1, STEPS)
    steps = fit_session(start, device_for(8, ""), proposed=True)
    assert [step.option.price for step in steps] == ["time", "result"] and steps[-1].state.decoders == (whole,)
    assert steps[0].cost.seconds < start.cost(device_for(8, "")).seconds, "in bfloat16 it is faster too"
    before, after = start.parts, steps[-1].state.parts
    assert after["weights"] == before["weights"] / 2 and after["memory"] == before["memory"] / 2
