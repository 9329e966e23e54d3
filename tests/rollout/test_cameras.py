"""A camera streams as it was taught, under every memory that goes by a frame's number, and keys steer it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from cameras import camera_clip, camera_conditions, camera_config, camera_model
from fakes import CHOOSING, POLICIES, RULES, WORLD, tiny_checkpoint, tiny_latents, tiny_manifest, tiny_model
from mutoscope.core.errors import ConfigError
from mutoscope.core.streams import normal, stream
from mutoscope.core.world import WorldSpec
from mutoscope.memory.extras import StoreExtras
from mutoscope.memory.heads import HeadWise
from mutoscope.memory.ledger import chunk_lengths, layout
from mutoscope.memory.policy import Policy, PolicyConfig, RollingWindow, SinkWindow, Window
from mutoscope.models.attention import ClipLayout
from mutoscope.models.camera import still_cameras
from mutoscope.models.camera_config import CAMERA_ACTIONS, CameraConfig
from mutoscope.models.checkpoint import Checkpoint, freeze
from mutoscope.models.denoise import clip_layout, replay, teacher_forced
from mutoscope.models.static_heads import head_shares
from mutoscope.models.transformer import VideoTransformer
from mutoscope.noise.schedule import x0_from_velocity
from mutoscope.recipes import recipe
from mutoscope.rollout import executor
from mutoscope.rollout.executor import Executor, drive
from mutoscope.rollout.fused import FreeRun
from mutoscope.rollout.planner import ChunkJob, Trace, commit_chunk, few_step_chunk
from mutoscope.rollout.session import Session, SessionConfig, step_together
from mutoscope.rollout.static import runner_by_name
from mutoscope.rollout.training import RolloutPlan, roll_out
from streaming import CUTS, stream_clip

MEMORIES: dict[str, Policy] = {**POLICIES, **RULES}  # type: ignore[dict-item]
TEXT_DIM, BOTH, SINK = 6, slice(0, 2), SinkWindow(1, 4)
SEEN = WorldSpec("seen", WORLD.height, WORLD.width, 16.0, CAMERA_ACTIONS)


def forced(model: VideoTransformer, policy: Policy, lengths: tuple[int, ...], *, moved: bool = True) -> Tensor:
    """Teacher-forced velocities of the clip; not `moved`: all sources stand where they stood when they were new."""
    clip, chunks = camera_clip(lengths), layout(policy, lengths)
    if not moved:
        chunks = tuple(replace(part, sources=tuple(replace(each, position=each.frame) for each in part.sources)) for part in chunks)
    parts = ClipLayout(chunks, model.config.grid, model.config.head_dim, torch.device("cpu"), torch.float64)
    return teacher_forced(model, clip.clean, clip.noisy, clip.sigma, clip.conditions, clip.conditions, parts)


@torch.no_grad()
def agree(policy: Policy, lengths: tuple[int, ...]) -> bool:
    """Whether streaming gives the velocities of teacher forcing."""
    model = camera_model()
    return torch.allclose(stream_clip(model, policy, lengths, camera_clip(lengths)), forced(model, policy, lengths), atol=1e-9)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("policy", MEMORIES)
def test_streaming_equals_teacher_forcing(policy, cut):
    assert agree(MEMORIES[policy], CUTS[cut])


def test_streaming_broken_twin_that_turns_what_cameras_told(monkeypatch):
    """Sinks that stand elsewhere, turned in all places of the store."""
    assert agree(MEMORIES["deep-sink"], CUTS["frame-wise"])
    placed = executor.place_moved

    def all_places(model: VideoTransformer, *rest: object) -> None:
        placed(tiny_model(replace(model.config, camera=None, num_layers=2 * model.config.num_layers)), *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(executor, "place_moved", all_places)
    assert not agree(MEMORIES["deep-sink"], CUTS["frame-wise"])


@pytest.mark.parametrize("policy", ["deep-sink", "anchored"])
def test_cameras_know_no_time(policy):
    """Without the layers' own attention nothing depends on where in time frames stand; with it, it does."""
    deaf = camera_model()
    for block in deaf.blocks:
        for part in block.self_attn.o.parameters():
            torch.nn.init.zeros_(part)
    for model, same in ((deaf, True), (camera_model(), False)):
        with torch.no_grad():
            pair = [forced(model, MEMORIES[policy], CUTS["chunks of 3"], moved=moved) for moved in (True, False)]
        assert torch.allclose(*pair, atol=1e-9) == same


def shared_noise(frame: int, draw: int) -> Tensor:
    """Fresh noise for two rows of a frame."""
    return normal((2, 1, *tiny_latents(1).shape[2:]), stream(0, "camera rollout", frame, draw), torch.float64)


@pytest.mark.parametrize("policy", ["window", "sink", "ema-sink", "rolling"])
def test_the_replay_is_the_rollout(policy):
    model, told, lengths = camera_model(), camera_conditions(8), chunk_lengths(8, 1, 2)
    plan = RolloutPlan(MEMORIES[policy], 2, 1, (1.0, 0.6), (1.0,))  # type: ignore[arg-type]
    rollout = roll_out(model, plan, tiny_latents(8), told, shared_noise)
    velocity = replay(model, rollout.clean, rollout.noisy, rollout.sigma, told, clip_layout(model, MEMORIES[policy], lengths, "cpu"))
    assert torch.allclose(x0_from_velocity(rollout.noisy, velocity, rollout.sigma), rollout.clean, atol=1e-9)
    still = replace(told, cameras=still_cameras(2)[:, None].expand(-1, 8, -1, -1))
    assert not torch.allclose(roll_out(model, plan, tiny_latents(8), still, shared_noise).clean, rollout.clean, atol=1e-3)
    gradient = torch.autograd.grad(velocity.square().sum(), [block.self_attn.prope_o.weight for block in model.blocks])
    assert all(bool(part.ne(0).any()) for part in gradient)


@torch.no_grad()
def frames(way: str, policy: PolicyConfig, count: int = 7) -> Tensor:
    """Clean frames in a row: "plain", "static", or with "fused" commits."""
    model, told = camera_model(), camera_conditions(count)
    store = model.new_store(policy, 1, 2, tiny_latents(1), StoreExtras(spare=1 if way == "fused" else 0))
    jobs = [ChunkJob(store, BOTH, 1, told.frames(frame, frame + 1), shared_noise) for frame in range(count)]
    if way == "fused":
        free = FreeRun(Executor(model), store)
        return torch.cat([free.chunk(job, few_step_chunk(job, (1.0, 0.6), Trace())) for job in jobs], dim=1)
    runner, made = runner_by_name(way, Executor(model)), []
    for job in jobs:
        made += drive(runner, [few_step_chunk(job, (1.0, 0.6), Trace())])
        drive(runner, [commit_chunk(store, BOTH, made[-1], job.conditions)])
    return torch.cat(made, dim=1)


def test_other_ways_to_run_passes_make_the_same_frames():
    plain = frames("plain", Window(3))
    assert torch.allclose(frames("static", Window(3)), plain, atol=1e-12)
    assert torch.allclose(frames("fused", Window(3)), plain, atol=1e-9)


@pytest.mark.parametrize("policy", MEMORIES)
def test_the_cache_has_room_for_both_and_says_so(policy):
    config, memory = camera_config(), MEMORIES[policy]
    store = camera_model().new_store(memory, 1, 2, tiny_latents(1))  # type: ignore[arg-type]
    spec, plain = config.cache(memory, 1, 2), replace(config, camera=None).cache(memory, 1, 2)  # type: ignore[arg-type]
    assert store.bytes == spec.bytes(torch.float64) == 2 * plain.bytes(torch.float64)


@pytest.mark.parametrize("policy", CHOOSING)
def test_memories_that_choose_by_content_are_refused_by_name(policy):
    memory = CHOOSING[policy]
    with pytest.raises(ConfigError, match=r"chooses what it keeps by content, .* take '(window|sink)' \("):
        camera_config().cache(memory, 1)
    run = replace(recipe("wan-1.3b-camera"), chunk_frames=1)
    with pytest.raises(ConfigError, match="chooses what it keeps by content"):
        replace(run, stages=tuple(replace(stage, memory=memory) if stage.name == "matching-4" else stage for stage in run.stages))


def test_shares_of_heads_are_not_measured_for_a_camera():
    with pytest.raises(ConfigError, match="the memory 'head-wise' chooses what it keeps by content"):
        head_shares(camera_model(), tiny_latents(7), camera_conditions(7), HeadWise(1, 1, 2, 6), (1,) * 7)


def spoken(chunk: int = 1) -> Checkpoint:
    """A student in float32 that is told in words what to show, and steered with keys."""
    config = camera_config(temporal_stride=1, text_dim=TEXT_DIM, camera=CameraConfig(move=0.5, turn=25.0))
    manifest = tiny_manifest(chunk_frames=chunk, world=SEEN, model=config, beginning="nothing", conditions=("camera", "text"))
    model = freeze(tiny_model(config).float())
    return replace(tiny_checkpoint(chunk_frames=chunk), manifest=manifest, model=model, starts=None)


def begun(checkpoint: Checkpoint, rows: int = 1, policy: PolicyConfig = SINK) -> Session:
    """A session after its beginning from nothing."""
    session = Session(checkpoint, SessionConfig(1, 2, policy), rows)
    session.say(normal((1, 3, TEXT_DIM), stream(0, "prompt")), normal((1, 3, TEXT_DIM), stream(1, "prompt")))
    session.reset(None, 7)
    return session


def press(session: Session, *names: str) -> np.ndarray:
    """The pixel frames of steps under held keys."""
    return np.concatenate([session.step(CAMERA_ACTIONS.vector(name)) for name in names])


@pytest.mark.parametrize("chunk", [1, 3])
def test_keys_steer_and_the_next_world_begins_where_the_first_did(chunk):
    checkpoint = spoken(chunk)
    steered, left = begun(checkpoint), begun(checkpoint)
    shown, still = press(steered, "forward", "turn_left"), press(left, "stand", "stand")
    assert not np.array_equal(shown, still)
    assert torch.equal(left.camera, still_cameras(1)) and not torch.equal(steered.camera, still_cameras(1))
    steered.reset(None, 7)
    assert torch.equal(steered.camera, still_cameras(1)) and np.array_equal(press(steered, "stand", "stand"), still)
    assert np.array_equal(press(begun(checkpoint), "forward", "turn_left"), shown)


def test_parking_keeps_the_camera_bit_for_bit():
    checkpoint, keys = spoken(), ("turn_right", "forward+look_up", "left", "forward")
    session = begun(checkpoint)
    press(session, "forward", "turn_left", "look_down")
    parked = session.snapshot()
    expected, end = press(session, *keys), session.camera
    for resumed in (session, begun(checkpoint)):
        resumed.restore(parked)
        assert np.array_equal(press(resumed, *keys), expected) and torch.equal(resumed.camera, end)
    session.restore(replace(parked, camera=still_cameras(1)))
    assert not np.array_equal(press(session, *keys), expected), "the twin whose camera is not parked"


def test_players_of_one_forward_have_cameras_of_their_own():
    checkpoint = spoken()
    pair, alone = (begun(checkpoint), begun(checkpoint)), begun(checkpoint)
    actions = [np.stack([[CAMERA_ACTIONS.vector(name)]]) for name in ("forward", "turn_left")]
    made = step_together(pair, actions)
    assert np.abs(made[1][0].astype(int) - press(alone, "turn_left").astype(int)).max() <= 1
    assert torch.equal(pair[1].camera, alone.camera) and not torch.equal(pair[0].camera, pair[1].camera)


def test_a_new_prompt_is_committed_by_the_cameras_of_then():
    session = begun(spoken())
    press(session, "forward", "turn_left", "forward")
    session.commit()
    before = [chunk.conditions.cameras for chunk in session.recent.chunks]
    session.say(normal((1, 3, TEXT_DIM), stream(5, "prompt")), normal((1, 3, TEXT_DIM), stream(1, "prompt")))
    assert all(chunk.conditions.cameras is camera for chunk, camera in zip(session.recent.chunks, before, strict=True))
    assert press(session, "forward").shape == (1, 12, 20, 3)


def test_a_camera_beside_real_frames_stands_where_their_actions_led():
    session = Session(
        replace(spoken(), manifest=replace(spoken().manifest, beginning="real frames")), SessionConfig(1, 1, RollingWindow(4))
    )
    session.say(normal((1, 3, TEXT_DIM), stream(0, "prompt")), normal((1, 3, TEXT_DIM), stream(1, "prompt")))
    actions = np.stack([CAMERA_ACTIONS.vector(name) for name in ("forward", "turn_left", "forward")])[None]
    pictures = np.zeros((1, 3, 12, 20, 3), np.uint8)
    session.reset_from(pictures, actions, np.array([[False, True, True]]), [1])
    alone = begun(spoken())
    press(alone, "turn_left", "forward")
    assert torch.allclose(session.camera, alone.camera, atol=1e-12)
