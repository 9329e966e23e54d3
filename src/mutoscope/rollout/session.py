"""A session: one player (or a batch of equal ones) in one learned world, with everything that its future depends on."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mutoscope.core.errors import CheckpointError, ConfigError
from mutoscope.core.streams import derive_seed, stream
from mutoscope.core.transfer import upload
from mutoscope.core.world import WorldSpec
from mutoscope.memory.policy import PolicyConfig
from mutoscope.models.checkpoint import Checkpoint, CheckpointManifest
from mutoscope.models.codec import Codec, CodecState, move_state, state_bytes, to_frames, to_model_pixels
from mutoscope.models.conditions import Conditions, action_conditions, clip_conditions
from mutoscope.noise.schedule import few_step_levels, uniform_grid
from mutoscope.rollout.executor import Planner, drive
from mutoscope.rollout.planner import ChunkJob, Trace, commit_chunk, euler_chunk, few_step_chunk, row_groups, row_jobs
from mutoscope.rollout.speed import PLAIN_SPEED, Speed

Sampler = Callable[[ChunkJob, int], Planner]


@dataclass(frozen=True)
class SessionConfig:
    """How a checkpoint is played: denoising steps (the first generated chunk has its own), memory policy, seed, guidance, speed."""

    steps: int
    first_chunk_steps: int
    policy: PolicyConfig
    seed: int = 0
    guidance: float = 1.0
    speed: Speed = PLAIN_SPEED

    def __post_init__(self) -> None:
        if self.steps < 1 or self.first_chunk_steps < 1:
            raise ConfigError(f"steps must be at least 1, got {self.steps} (first chunk {self.first_chunk_steps})")


def default_config(manifest: CheckpointManifest) -> SessionConfig:
    """What the manifest recommends."""
    if manifest.memory is None:
        raise CheckpointError(f"a '{manifest.stage}' checkpoint cannot be played: it has no memory policy")
    return SessionConfig(manifest.student_steps, manifest.first_chunk_steps, manifest.memory)


def with_steps(config: SessionConfig, steps: int) -> SessionConfig:
    """Another step count; the first generated chunk keeps at least 4 when `steps` is smaller (2605.15141, section 4)."""
    return replace(config, steps=steps, first_chunk_steps=max(4, steps))


@dataclass(frozen=True)
class SessionState:
    """A parked session: `restore` continues bit for bit."""

    memory: dict[str, Any]
    pending: Tensor | None
    pending_conditions: Conditions | None
    codec_state: CodecState
    num_frames: int
    generated_chunks: int
    seeds: tuple[int, ...]
    travel: Tensor


class Session:
    """`reset`, then `step` for every chunk of frames; `commit` after a frame was sent, or left to the next step.

    Rows are players that move in step: same age, own seeds, own actions. `step` takes one action and gives
    `[pixel frame, H, W, 3]` for a session of one row; `step_rows` is its batched form. A frame is `temporal_stride` pixel frames of
    the codec, each with an action of its own; the first frame of all, which is always real, is one.
    """

    def __init__(self, checkpoint: Checkpoint, config: SessionConfig, rows: int = 1) -> None:
        self.checkpoint, self.config, self.rows = checkpoint, config, rows
        manifest, model = checkpoint.manifest, checkpoint.model
        self.codec: Codec = checkpoint.codec
        self.chunk_frames = manifest.chunk_frames
        self.device = next(model.parameters()).device
        self.executor = config.speed.run(model)
        like = torch.zeros(0, device=self.device, dtype=model.patch_embedding.weight.dtype)
        self.store = model.new_store(config.policy, self.chunk_frames, rows, like, config.speed.extras(self.chunk_frames))
        self.groups = row_groups(config.policy, rows)
        self.sampler = choose_sampler(manifest, config)
        self.seeds = tuple(derive_seed(config.seed, "session row", row) for row in range(rows))
        self.num_frames = self.generated_chunks = 0
        self.commit_seconds = 0.0
        self.pending: Tensor | None = None
        self.pending_conditions: Conditions | None = None
        self.codec_state: CodecState = self.codec.start_decoding(rows)
        self.travel = torch.zeros(rows, self.world.actions.dim, dtype=torch.float64, device=self.device)

    @property
    def world(self) -> WorldSpec:
        """The world that this session imitates."""
        return self.checkpoint.manifest.world

    @property
    def memory_bytes(self) -> int:
        """Bytes of keys and values: the same from the first frame to the last."""
        return self.store.bytes

    @property
    def host_bytes(self) -> int:
        """Bytes of the archive on the host, for a memory that brings frames back: the same for ever too."""
        return self.store.host_bytes

    @property
    def codec_bytes(self) -> int:
        """Bytes that the codec keeps between frames: 0 for a codec without a state, the same for ever from the second frame on."""
        return state_bytes(self.codec_state)

    @property
    def pixel_frames(self) -> int:
        """Pixel frames of a step."""
        return self.chunk_frames * self.codec.temporal_stride

    @property
    def memory_seconds(self) -> float:
        """Seconds spent on memory beyond denoising, since the session was made: commit passes, moving of sinks, choosing by content.

        Wall time, which on a CPU is the whole cost. On CUDA it is the time to queue the kernels, which run on after it.
        Denoising passes also read and write the cache; that is attention's cost and not counted.
        """
        return self.commit_seconds + self.store.moving_seconds

    def reset(self, start: int, seed: int) -> np.ndarray:
        """Commit start clip `start` of the checkpoint as context; returns its pixel frames uint8 `[T, H, W, 3]`."""
        starts = self.checkpoint.starts
        if starts is None:
            raise CheckpointError(f"{self.checkpoint.path} has no start clips; give real frames with reset_from instead")
        if not 0 <= start < len(starts.frames):
            raise ConfigError(f"start {start} does not exist; there are starts 0..{len(starts.frames) - 1}")
        span = slice(start, start + 1)
        tensors = (starts.frames[span], starts.actions[span], starts.known[span])
        frames, actions, known = (tensor.expand(self.rows, *tensor.shape[1:]).numpy() for tensor in tensors)
        self.reset_from(frames, actions, known, tuple(derive_seed(seed, "session row", row) for row in range(self.rows)))
        return frames[0].copy()

    @torch.inference_mode()
    def reset_from(self, frames: np.ndarray, actions: np.ndarray, known: np.ndarray, seeds: Sequence[int]) -> None:
        """Commit real context: frames uint8 `[row, T, H, W, 3]`, actions `[row, T, A]`, known `[row, T]`; one seed per row."""
        self._begin(tuple(seeds))
        pixels = to_model_pixels(torch.from_numpy(np.ascontiguousarray(frames)).to(self.device))
        latents = self.codec.encode(pixels)
        _, self.codec_state = self.codec.decode_next(latents, self.codec_state)
        vectors = torch.from_numpy(np.array(actions, dtype=np.float32)).to(self.device)
        conditions = clip_conditions(vectors, torch.from_numpy(np.array(known, dtype=bool)).to(self.device), self.codec.temporal_stride)
        for frame in range(latents.shape[1]):
            self._commit(latents[:, frame : frame + 1], conditions.frames(frame, frame + 1), "real")
        self.travel = conditions.travelled()[:, -1]
        self.num_frames = latents.shape[1]

    def step(self, action: np.ndarray) -> np.ndarray:
        """One chunk under one action `[dim]`: uint8 `[pixel frames, H, W, 3]`. Commits the chunk before, if that is still open."""
        return self.step_rows(np.broadcast_to(action, (self.rows, self.pixel_frames, len(action))))[0]

    def step_rows(self, actions: np.ndarray) -> np.ndarray:
        """One chunk under the actions of its pixel frames `[row, pixel frame, dim]`: uint8 `[row, pixel frame, H, W, 3]`."""
        (pixels,) = step_together([self], [actions])
        return pixels

    @torch.inference_mode()
    def commit(self) -> None:
        """Write the newest chunk into memory; nothing to do if that has happened. In play: after the frame was sent."""
        if self.pending is not None:
            assert self.pending_conditions is not None
            began = time.perf_counter()
            self._commit(self.pending, self.pending_conditions, "commit")
            self.pending = self.pending_conditions = None
            self.commit_seconds += time.perf_counter() - began

    def open_planners(self, actions: np.ndarray) -> list[Planner]:
        """The passes of the next chunk, a planner per group of rows, for a loop that runs several sessions at once."""
        if self.num_frames == 0:
            raise ConfigError("reset the session before its first step")
        wanted = (self.rows, self.pixel_frames, self.world.actions.dim)
        if actions.shape != wanted or not np.isfinite(actions).all():
            raise ConfigError(f"actions are {actions.shape}; they must be finite and {wanted} (row, pixel frame, action)")
        grouped = actions.reshape(self.rows, self.chunk_frames, self.codec.temporal_stride, -1)
        self.chunk_conditions = self._conditions(grouped, np.ones(grouped.shape[:2], dtype=bool))
        steps = self.config.steps if self.generated_chunks else self.config.first_chunk_steps
        jobs = row_jobs(self.store, self.groups, self.chunk_frames, self.chunk_conditions, self._noise)
        return [self.sampler(job, steps) for job in jobs]

    @torch.inference_mode()
    def close_chunk(self, latents: Tensor) -> np.ndarray:
        """Take over a finished chunk: decode it and keep it open for its commit."""
        self.pending, self.pending_conditions = latents, self.chunk_conditions
        self.travel = self.chunk_conditions.travelled()[:, -1]
        self.num_frames += self.chunk_frames
        self.generated_chunks += 1
        pixels, self.codec_state = self.codec.decode_next(latents, self.codec_state)
        return to_frames(pixels).cpu().numpy()

    def snapshot(self) -> SessionState:
        """Park the session: ledger, store, codec, seeds and counters. Random streams are functions of these."""
        return SessionState(
            self.store.park(),
            None if self.pending is None else self.pending.clone(),
            self.pending_conditions,
            self.codec_state,
            self.num_frames,
            self.generated_chunks,
            self.seeds,
            self.travel,
        )

    def restore(self, state: SessionState) -> None:
        """Continue a parked session of the same checkpoint and config."""
        self.store.restore(state.memory)
        self.pending = None if state.pending is None else state.pending.clone()
        self.pending_conditions, self.codec_state = state.pending_conditions, move_state(state.codec_state, self.device)
        self.num_frames, self.generated_chunks, self.seeds = state.num_frames, state.generated_chunks, state.seeds
        self.travel = state.travel

    def _begin(self, seeds: tuple[int, ...]) -> None:
        if len(seeds) != self.rows:
            raise ConfigError(f"{len(seeds)} seeds for {self.rows} rows")
        for row in range(self.rows):
            self.store.clear(row)
        self.seeds, self.num_frames, self.generated_chunks = seeds, 0, 0
        self.pending = self.pending_conditions = None
        self.codec_state = self.codec.start_decoding(self.rows)
        self.travel = torch.zeros_like(self.travel)

    def _commit(self, latents: Tensor, conditions: Conditions, kind: Literal["commit", "real"]) -> None:
        drive(self.executor, [commit_chunk(self.store, rows, latents[rows], conditions.rows(rows), kind) for rows in self.groups])

    def _conditions(self, actions: np.ndarray, known: np.ndarray) -> Conditions:
        tensor = upload(torch.from_numpy(np.array(actions, dtype=np.float32)), self.device)
        return action_conditions(tensor, upload(torch.from_numpy(np.array(known, dtype=bool)), self.device), self.travel)

    def _noise(self, frame: int, draw: int) -> Tensor:
        latent = self.codec.latent
        shape = (self.chunk_frames, latent.channels, latent.height, latent.width)
        rows = [torch.randn(shape, generator=stream(seed, "play noise", frame, draw)) for seed in self.seeds]
        return upload(torch.stack(rows), self.device)


def choose_sampler(manifest: CheckpointManifest, config: SessionConfig) -> Sampler:
    """Teachers solve the ODE on a grid of `steps`; students predict and re-noise. Whole-clip teachers cannot stream."""
    k = manifest.shift
    if manifest.stage == "autoregressive":
        return lambda job, steps: euler_chunk(job, tuple(uniform_grid(steps, k).tolist()), config.guidance)
    if manifest.stage in ("ode", "consistency", "matching"):
        return lambda job, steps: few_step_chunk(job, tuple(few_step_levels(steps, k).tolist()), Trace())
    raise CheckpointError(f"a '{manifest.stage}' checkpoint cannot be played frame by frame; give one of a later stage")


@torch.inference_mode()
def step_together(sessions: Sequence[Session], actions: Sequence[np.ndarray]) -> list[np.ndarray]:
    """One chunk for several sessions of one checkpoint, of any age and step count, sharing forwards where they can."""
    if any(session.checkpoint.model is not sessions[0].checkpoint.model for session in sessions):
        raise ConfigError("sessions can share forwards only if they play the same loaded checkpoint")
    for session in sessions:
        session.commit()
    planners = [session.open_planners(action) for session, action in zip(sessions, actions, strict=True)]
    made = iter(drive(sessions[0].executor, [planner for group in planners for planner in group]))
    latents = [torch.cat([next(made) for _ in group]) for group in planners]
    return [session.close_chunk(clean) for session, clean in zip(sessions, latents, strict=True)]
