"""What a run is: one frozen value that holds every stage. Recipes return it; nothing reads it optionally."""

from dataclasses import dataclass
from typing import Literal

from mutoscope.core.errors import ConfigError
from mutoscope.memory.policy import PolicyConfig


@dataclass(frozen=True)
class DataConfig:
    """Which world is recorded, and how much: training and held-out episodes come from different seeds."""

    world: str
    height: int
    width: int
    frame_skip: int
    episodes: int
    frames_per_episode: int
    held_out_episodes: int
    seed: int = 0


@dataclass(frozen=True)
class UpdateConfig:
    """How a stage's updates are made. `batch_size` counts clips of one update over all ranks and micro-batches."""

    updates: int
    batch_size: int
    learning_rate: float
    accumulate: int = 1
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    warmup: int = 20
    cooldown: float = 0.2
    clip_norm: float = 1.0
    average: float = 0.995
    save_every: int = 200
    log_every: int = 10

    def __post_init__(self) -> None:
        if self.updates < 1 or self.batch_size < 1 or self.accumulate < 1 or self.learning_rate <= 0:
            raise ConfigError(f"updates, batch_size, accumulate and learning_rate must be positive: {self}")
        if self.batch_size % self.accumulate:
            raise ConfigError(f"a batch of {self.batch_size} clips does not divide into {self.accumulate} micro-batches")
        if not 0 <= self.average < 1:
            raise ConfigError(f"the average's decay must be in [0, 1), got {self.average}")


@dataclass(frozen=True)
class CodecStage:
    """Autoencoder: L1 + L2 reconstruction with noisy latents, so that the decoder bears a generator's errors."""

    name: str
    update: UpdateConfig
    latent_channels: int
    widths: tuple[int, ...]
    blocks: int = 2
    latent_noise: float = 0.05


@dataclass(frozen=True)
class BidirectionalStage:
    """Flow matching on whole clips, one sigma per clip."""

    name: str
    update: UpdateConfig
    sampler: Literal["uniform", "logit-normal"] = "logit-normal"
    action_dropout: float = 0.1


@dataclass(frozen=True)
class AutoregressiveStage:
    """Teacher forcing: flow matching of every chunk given its clean past, one sigma per chunk."""

    name: str
    start: str
    update: UpdateConfig
    sampler: Literal["uniform", "logit-normal"] = "uniform"
    weight: Literal["none", "bell"] = "bell"
    action_dropout: float = 0.1


@dataclass(frozen=True)
class OdeStage:
    """Causal ODE regression on trajectories of the autoregressive teacher, solved once and stored."""

    name: str
    start: str
    update: UpdateConfig
    trajectories: int
    solver_steps: int = 48
    guidance: float = 6.0
    student_steps: int = 4


@dataclass(frozen=True)
class ConsistencyStage:
    """Causal consistency distillation from one online teacher step."""

    name: str
    start: str
    update: UpdateConfig
    grid_steps: int = 48
    guidance: float = 3.0
    target_average: float = 0.99
    last_pair: Literal["included", "excluded"] = "included"


@dataclass(frozen=True)
class MatchingStage:
    """Distribution matching on the student's own rollouts; critic every update, student every `student_every`-th."""

    name: str
    start: str
    score: str
    update: UpdateConfig
    student_steps: int
    first_chunk_steps: int = 4
    critic_learning_rate: float = 2e-5
    student_every: int = 5
    guidance: float = 1.5
    average_from: int = 50
    max_context: int = 4


StageConfig = CodecStage | BidirectionalStage | AutoregressiveStage | OdeStage | ConsistencyStage | MatchingStage


@dataclass(frozen=True)
class ModelConfig:
    """Dimensions of the transformer; its inputs follow from the codec and the world."""

    dim: int
    ffn_dim: int
    num_heads: int
    num_layers: int
    patch: int = 1
    freq_dim: int = 64


@dataclass(frozen=True)
class RunConfig:
    """A whole chain. `clip_frames` of training, chunks of `chunk_frames`, memory and shift are the same in every stage."""

    name: str
    data: DataConfig
    model: ModelConfig
    memory: PolicyConfig
    chunk_frames: int
    clip_frames: int
    shift: float
    stages: tuple[StageConfig, ...]
    seed: int = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"

    def __post_init__(self) -> None:
        seen: list[str] = []
        for stage in self.stages:
            for parent in parents(stage):
                if parent not in seen:
                    raise ConfigError(f"stage '{stage.name}' starts from '{parent}', which does not come before it; before it: {seen}")
            if stage.name in seen:
                raise ConfigError(f"two stages are named '{stage.name}'")
            seen.append(stage.name)
        if self.clip_frames < 2 or (self.clip_frames - 1) % self.chunk_frames:
            raise ConfigError(f"clips of {self.clip_frames} frames must be 1 + a multiple of chunk_frames {self.chunk_frames}")
        self.memory.capacity(self.chunk_frames)

    def stage(self, name: str) -> StageConfig:
        """The stage of that name."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise ConfigError(f"unknown stage '{name}'; this recipe has: {', '.join(stage.name for stage in self.stages)}")


def parents(stage: StageConfig) -> tuple[str, ...]:
    """Names of the stages whose checkpoints a stage reads, apart from the codec."""
    if isinstance(stage, MatchingStage):
        return (stage.start, stage.score)
    if isinstance(stage, (AutoregressiveStage, OdeStage, ConsistencyStage)):
        return (stage.start,)
    return ()
