"""The frame loop never waits for the device, but for the finished picture. Counted by a device that has no numbers to give.

torch's device "meta" stands for an accelerator: what asks it for a number, or copies between it and the host, is seen.
"""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from cameras import camera_config
from fakes import tiny_checkpoint, tiny_config, tiny_manifest, tiny_model
from mutoscope.memory.anchored import Anchored
from mutoscope.memory.kinds import FastWeights
from mutoscope.memory.policy import PolicyConfig, RecencyBias, RollingWindow, SinkWindow, Stateful, Window, state_of
from mutoscope.models.camera_config import CAMERA_ACTIONS
from mutoscope.models.checkpoint import Checkpoint, freeze
from mutoscope.models.conditions import text_tensors
from mutoscope.rollout import executor, session
from mutoscope.rollout.session import Session, SessionConfig
from mutoscope.rollout.speed import PLAIN_SPEED, Speed
from mutoscope.rollout.static import StaticStep

# Every pattern of slots of these memories has come by then; what is worked out once for each has been.
WARM_UP, FRAMES = 4, 1
INTEGER: dict[str, PolicyConfig] = {
    "sink": SinkWindow(1, 2), "rolling": RollingWindow(3), "recency": RecencyBias(3),
    "fast-mlp": Stateful(Window(2), FastWeights("mlp", 1)),
}  # fmt: skip
TEXT, WORDS = 6, 5
COPYING = {"to", "_to_copy"}
ASKING = {"item", "_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique_dim", "_unique2"}


class Waits(TorchDispatchMode):
    """Counts what would make the host wait for the device: numbers asked of it, copies between both that are not asynchronous."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        keywords = keywords or {}
        name = function.overloadpacket.__name__
        first = arguments[0] if arguments and isinstance(arguments[0], torch.Tensor) else None
        on_device = first is not None and first.device.type == "meta"
        if on_device and name in ASKING:
            self.found[name] += 1
            return 0
        if name in COPYING and first is not None:
            return self._copied(function, first, on_device, arguments, keywords)
        return function(*arguments, **keywords)

    def _copied(self, function: Any, first: torch.Tensor, on_device: bool, arguments: Any, keywords: Any) -> Any:
        named = dict(zip((argument.name for argument in function._schema.arguments), arguments, strict=False)) | keywords
        to_device = torch.device(named.get("device") or named.get("other", first).device).type == "meta"
        if on_device and not to_device:
            self.found["to the host"] += 1
            return torch.zeros(first.shape, dtype=named.get("dtype") or first.dtype)
        if to_device and not on_device:
            self.found["to the device" if named.get("non_blocking") else "to the device, waiting"] += 1
        return function(*arguments, **keywords)


class HostData(TorchFunctionMode):
    """Counts tensors that are made on the device out of the host's numbers."""

    def __init__(self, found: Counter) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        keywords = keywords or {}
        if function in (torch.tensor, torch.as_tensor) and torch.device(keywords.get("device") or "cpu").type == "meta":
            self.found["tensor of host data"] += 1
        return function(*arguments, **keywords)


def waits(policy: PolicyConfig, warm_up: int = WARM_UP) -> Counter:
    """Those of a few frames and their commits, after a warm-up."""
    checkpoint = tiny_checkpoint()
    return waited(replace(checkpoint, model=tiny_model(tiny_config(num_layers=1, recall=state_of(policy)))), policy, warm_up)


def waited(checkpoint: Checkpoint, policy: PolicyConfig, warm_up: int = WARM_UP, speed: Speed = PLAIN_SPEED) -> Counter:
    """The same of any checkpoint; one that is told in words what to show hears another prompt after half of the warm-up."""
    on_device: Any = {"model": freeze(checkpoint.model.float()).to("meta"), "codec": checkpoint.codec.to("meta")}
    played = Session(replace(checkpoint, **on_device), SessionConfig(2, 2, policy, speed=speed))
    keys, spoken = np.ones(checkpoint.manifest.world.actions.dim, np.float32), checkpoint.model.config.text_dim > 0
    with Waits():
        if spoken:
            played.say(torch.ones(1, WORDS, TEXT), torch.zeros(1, WORDS, TEXT))
        played.reset(None, 5)
        for frame in range(warm_up):
            if spoken and frame == warm_up // 2:
                played.say(torch.ones(1, WORDS, TEXT), torch.zeros(1, WORDS, TEXT))
            played.step(keys)
            played.commit()
    with Waits() as counted, HostData(counted.found):
        for _ in range(FRAMES):
            played.step(keys)
            played.commit()
    return counted.found


def only_pictures(found: Counter) -> bool:
    """Whether the host waited for nothing but the picture of every frame."""
    return {name: count for name, count in found.items() if name != "to the device"} == {"to the host": FRAMES}


@pytest.mark.parametrize("policy", INTEGER)
def test_a_frame_waits_for_nothing_but_its_picture(policy):
    found = waits(INTEGER[policy])
    assert only_pictures(found) and found["to the device"] == 4 * FRAMES  # two draws of noise, actions, which are known


def told_in_words() -> Checkpoint:
    """A tiny checkpoint that hears a prompt."""
    return replace(tiny_checkpoint(), model=tiny_model(tiny_config(num_layers=1, text_dim=TEXT)))


@pytest.mark.parametrize("policy", [INTEGER["sink"], INTEGER["recency"], Anchored(1, 1, 2)], ids=str)
def test_a_prompt_makes_nobody_wait(policy):
    """Not after it was said: passes read keys and values that lie on the device. Anchors move with every frame, and nobody waits."""
    assert only_pictures(waited(told_in_words(), policy, 2 * WARM_UP))


@pytest.mark.parametrize("policy", ["sink", "recency"])
def test_static_passes_make_nobody_wait(policy):
    """The arithmetic of a CUDA graph's passes; what is filled in before them is filled in on the device."""
    assert only_pictures(waited(told_in_words(), INTEGER[policy], 2 * WARM_UP, Speed(runner="static")))


def test_static_passes_broken_twin_that_compares_prompts_by_their_numbers(monkeypatch):
    def hear(step: StaticStep, text: tuple[torch.Tensor, ...]) -> None:
        for own, new in zip(text_tensors(step.conditions.text), text, strict=True):
            if not torch.equal(own, new):
                own.copy_(new)

    monkeypatch.setattr(StaticStep, "_hear", hear)
    assert waited(told_in_words(), INTEGER["sink"], 2 * WARM_UP, Speed(runner="static"))["equal"]


def test_wan_s_decoder_makes_nobody_wait():
    """Four pixel frames to a frame, a state that goes on from frame to frame, from nothing as text-to-video begins."""
    pytest.importorskip("diffusers")
    from wan import tiny_wan

    config = tiny_config(num_layers=1, temporal_stride=4, text_dim=TEXT)
    manifest = tiny_manifest(model=config, beginning="nothing")
    codec: Any = tiny_wan()
    checkpoint = replace(tiny_checkpoint(), model=tiny_model(config), codec=codec, starts=None, manifest=manifest)
    assert only_pictures(waited(checkpoint, INTEGER["sink"]))


def test_wan_s_decoder_broken_twin_that_makes_its_statistics_anew(monkeypatch):
    pytest.importorskip("diffusers")
    from mutoscope.models import wan_codec
    from wan import tiny_wan

    config = tiny_config(num_layers=1, temporal_stride=4)
    codec: Any = tiny_wan()
    checkpoint = replace(tiny_checkpoint(), model=tiny_model(config), codec=codec, starts=None)
    checkpoint.manifest = tiny_manifest(model=config, beginning="nothing")
    monkeypatch.setattr(wan_codec, "per_channel", wan_codec.per_channel.__wrapped__)
    assert waited(checkpoint, INTEGER["sink"])["tensor of host data"] == 2 * FRAMES


def test_a_camera_makes_nobody_wait():
    config = camera_config(temporal_stride=1, num_layers=1)
    world = replace(tiny_manifest().world, actions=CAMERA_ACTIONS)
    checkpoint = replace(tiny_checkpoint(), model=tiny_model(config), starts=None)
    checkpoint.manifest = tiny_manifest(model=config, world=world, beginning="nothing")
    assert only_pictures(waited(checkpoint, INTEGER["sink"]))


def test_waiting_broken_twin_that_copies_from_pageable_memory(monkeypatch):
    monkeypatch.setattr(session, "upload", lambda tensor, device: tensor.to(device))
    found = waits(INTEGER["recency"])
    assert found["to the device, waiting"] == 4 * FRAMES and not only_pictures(found)


def test_waiting_broken_twin_whose_positions_come_from_the_host(monkeypatch):
    plain = executor.rotations
    monkeypatch.setattr(executor, "rotations", lambda where, *rest: plain(torch.tensor([3], device=where.device), *rest))
    assert waits(INTEGER["sink"])["tensor of host data"]
