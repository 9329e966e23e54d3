"""What makes a stream fast, as only a CUDA device can show it: kernels, graphs, compiled steps, eight bits, a loop that never waits."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch._dynamo.utils
from torch import Tensor

from fakes import ACTIONS, tiny_checkpoint, tiny_conditions, tiny_config, tiny_latents, tiny_model
from mutoscope.core.errors import MissingPackageError
from mutoscope.core.streams import normal, stream
from mutoscope.core.transfer import upload
from mutoscope.memory.anchored import Anchored
from mutoscope.memory.elements import ElementName
from mutoscope.memory.policy import PolicyConfig, RecencyBias, SinkWindow, Window
from mutoscope.models.checkpoint import freeze
from mutoscope.models.quantised import quantise_weights
from mutoscope.models.softmax import kernel_by_name, sdpa
from mutoscope.rollout.executor import drive
from mutoscope.rollout.planner import ChunkJob, Trace, commit_chunk, few_step_chunk
from mutoscope.rollout.session import Session, SessionConfig
from mutoscope.rollout.speed import Speed

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
CUDA = torch.device("cuda")


def relative(made: Tensor, wanted: Tensor) -> float:
    """|made - wanted| / |wanted|."""
    return float((made.double().cpu() - wanted.double().cpu()).norm() / wanted.double().cpu().norm())


@pytest.mark.parametrize("bias", ["nothing", "left out", "weakened"])
@pytest.mark.parametrize("name", ["sdpa", "cudnn", "flash", "flex"])
def test_kernels_are_equal(name, bias):
    queries, keys, values = (normal((2, 4, count, 64), stream(count, "gpu kernels")) for count in (120, 360, 360))
    seen = torch.ones(1, 360, dtype=torch.bool)
    seen[:, 60:180] = False
    added = {"nothing": None, "left out": seen, "weakened": torch.linspace(-2, 0, 360)[None].masked_fill(~seen, float("-inf"))}[bias]
    if name == "flash" and added is not None:
        pytest.skip("it cannot leave out keys")
    half = None if added is None else added.cuda() if added.dtype == torch.bool else added.cuda().bfloat16()
    try:
        made = kernel_by_name(name, CUDA)(*(x.cuda().bfloat16() for x in (queries, keys, values)), half)
    except MissingPackageError as error:
        pytest.skip(str(error))
    except RuntimeError as error:
        if name != "cudnn" or added is None:
            raise
        pytest.xfail(f"this cuDNN takes nothing that is added to the scores: {error}")
    wanted = sdpa(*(x.double() for x in (queries, keys, values)), added if added is None or added.dtype == torch.bool else added.double())
    assert relative(made, wanted) < 2e-2


def frames(policy: PolicyConfig, speed: Speed, chunks: int = 10) -> Tensor:
    """Clean frames in float32, chunk after chunk with their commits."""
    model, both = tiny_model().float().cuda().eval().requires_grad_(False), slice(0, 2)
    store, runner = model.new_store(policy, 1, 2, torch.zeros(0, device=CUDA), speed.extras(1)), speed.run(model)
    conditions, made = tiny_conditions(chunks).to(CUDA, torch.float32), []
    for start in range(chunks):
        own = conditions.frames(start, start + 1)
        job = ChunkJob(store, both, 1, own, lambda frame, draw: upload(tiny_latents(1, seed=100 * frame + draw).float(), CUDA))
        made += drive(runner, [few_step_chunk(job, (1.0, 0.6), Trace())])
        drive(runner, [commit_chunk(store, both, made[-1], own)])
    return torch.cat(made, dim=1)


@pytest.mark.parametrize("policy", [Window(4), SinkWindow(2, 4), RecencyBias(5, strength=2.0)], ids=str)
@pytest.mark.parametrize("runner", ["static", "graph"])
def test_runners_make_the_same_frames(runner, policy):
    assert relative(frames(policy, Speed(runner=runner)), frames(policy, Speed())) < 1e-4


@pytest.mark.parametrize(("cache", "bound"), [("int8", 0.02), ("fp8", 0.08)])
def test_a_cache_of_eight_bits_is_near(cache: ElementName, bound: float):
    for runner in ("plain", "graph"):
        assert 0 < relative(frames(Window(4), Speed(runner=runner, cache=cache)), frames(Window(4), Speed())) < bound


@pytest.mark.parametrize("name", ["int8", "int8-dynamic", "fp8", "fp8-dynamic"])
def test_weights_of_eight_bits_are_near(name):
    config = replace(tiny_model().config, dim=256, ffn_dim=512)
    made = []
    for weights in ("plain", name):
        model = tiny_model(config).to(CUDA, torch.bfloat16).eval().requires_grad_(False)
        try:
            model = quantise_weights(model, weights, CUDA)
        except MissingPackageError as error:
            pytest.skip(str(error))
        x = normal((64, 256), stream(0, "gpu weights")).to(CUDA, torch.bfloat16)
        made.append(model.blocks[0].ffn(x))
    assert relative(made[1], made[0]) < 0.1


def waiting_session(speed: Speed, policy: PolicyConfig) -> Session:
    """A session that has played for so long that what is worked out once has been; with a prompt, which was read."""
    checkpoint = tiny_checkpoint()
    model = freeze(tiny_model(tiny_config(text_dim=7)).float())
    session = Session(replace(checkpoint, model=model.cuda(), codec=checkpoint.codec.cuda()), SessionConfig(2, 4, policy, speed=speed))
    session.say(normal((1, 5, 7), stream(0, "gpu prompt")), torch.zeros(1, 5, 7))
    session.reset(0, 5)
    for _ in range(12):
        session.step(np.ones(ACTIONS.dim, np.float32))
        session.commit()
    return session


@pytest.mark.parametrize("policy", [Window(4), SinkWindow(2, 4), RecencyBias(5, strength=2.0), Anchored(1, 1, 4)], ids=str)
@pytest.mark.parametrize("runner", ["plain", "graph"])
def test_the_frame_loop_never_waits(runner, policy):
    """CUDA itself is asked: whatever synchronises between two pictures is an error."""
    if runner == "graph" and isinstance(policy, Anchored):
        pytest.skip("a memory that renumbers frames does not run with static shapes")
    session = waiting_session(Speed(runner=runner), policy)
    for _ in range(3):
        torch.cuda.set_sync_debug_mode("error")
        try:
            with torch.inference_mode():
                latents = drive(session.executor, session.open_planners(np.ones((1, 1, ACTIONS.dim), np.float32)))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert session.close_chunk(latents[0]).dtype == np.uint8
        torch.cuda.set_sync_debug_mode("error")
        try:
            session.commit()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_waiting_broken_twin():
    """The same check sees a number that the host asks for."""
    found = torch.ones(1, device=CUDA)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchroniz"):
            found.item()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_flex_is_compiled_once_for_a_memory_that_fills():
    """Through the compiler itself, whose graphs are counted; the test on a CPU (tests/models/test_kernels.py) has none behind it."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    flex, tokens, frames = kernel_by_name("flex", CUDA), 60, 20
    keys, values = (normal((1, 4, frames * tokens, 64), stream(index, "gpu flex")).cuda().bfloat16() for index in range(2))
    with torch.inference_mode():
        for length in range(tokens, frames * tokens + 1, tokens):
            own, seen, told = keys[:, :, :tokens], keys[:, :, :length], values[:, :, :length]
            weaker = torch.linspace(-1, 0, length, device=CUDA, dtype=torch.bfloat16)[None]
            for added in (None, weaker) if length > 2 * tokens else (None,):
                assert relative(flex(own, seen, told, added), sdpa(own, seen, told, added)) < 2e-2
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 6


@pytest.mark.parametrize("policy", [SinkWindow(2, 4), RecencyBias(5, strength=2.0)], ids=str)
@pytest.mark.parametrize("runner", ["compile", "compile-graph"])
def test_compiled_runners_make_the_same_frames(runner, policy):
    """The last of this file: each compiles for up to a minute."""
    assert relative(frames(policy, Speed(runner=runner)), frames(policy, Speed())) < 1e-4
