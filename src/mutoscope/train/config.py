"""What a run is: one frozen value that holds every stage. Recipes return it; nothing reads it optionally."""

from dataclasses import dataclass
from typing import Literal

from mutoscope.core.config import added_later
from mutoscope.core.errors import CapacityError, ConfigError
from mutoscope.core.shapes import rope_split
from mutoscope.core.world import FIRST_CONTEXT, Beginning
from mutoscope.memory.heads import HeadWise
from mutoscope.memory.kinds import MemoryWrites
from mutoscope.memory.ledger import chunk_lengths, layout
from mutoscope.memory.policy import PolicyConfig, integer_base, state_of
from mutoscope.models.camera_config import CameraConfig, check_camera_memory
from mutoscope.models.lora_config import LoraConfig
from mutoscope.models.text_config import TextConfig
from mutoscope.models.wan_config import WanCodecConfig
from mutoscope.train.bounds import above_zero, at_least, share, trains_all


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
    policy: str = "hold-random"

    def __post_init__(self) -> None:
        at_least(1, self, "height", "width", "frame_skip", "episodes", "frames_per_episode", "held_out_episodes")


@dataclass(frozen=True)
class UpdateConfig:
    """How a stage's updates are made. `batch_size` counts clips of one update over all ranks and micro-batches.

    `trains`: all weights, or low-rank adapters beside weights that stay what they were.
    """

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
    trains: Literal["all weights"] | LoraConfig = added_later("all weights")

    def __post_init__(self) -> None:
        at_least(1, self, "updates", "batch_size", "accumulate", "save_every", "log_every")
        at_least(0, self, "warmup", "weight_decay")
        above_zero(self, "learning_rate", "clip_norm")
        share(self, "cooldown", "average")
        if self.batch_size % self.accumulate:
            raise ConfigError(f"a batch of {self.batch_size} clips does not divide into {self.accumulate} micro-batches")
        if self.average == 1 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"the decays average and betas must be below 1, got {self.average} and {self.betas}")


@dataclass(frozen=True)
class CodecStage:
    """Autoencoder: L1 + L2 reconstruction with noisy latents, so that the decoder bears a generator's errors."""

    name: str
    update: UpdateConfig
    latent_channels: int
    widths: tuple[int, ...]
    blocks: int = 2
    latent_noise: float = 0.05

    def __post_init__(self) -> None:
        trains_all(self.name, self.update.trains)
        at_least(1, self, "latent_channels")
        at_least(0, self, "blocks", "latent_noise")
        if not self.widths or min(self.widths) < 1:
            raise ConfigError(f"a codec needs at least one width, all positive, got {self.widths}")


@dataclass(frozen=True)
class BidirectionalStage:
    """Flow matching on whole clips, one sigma per clip."""

    name: str
    update: UpdateConfig
    sampler: Literal["uniform", "logit-normal"] = "logit-normal"
    action_dropout: float = 0.1

    def __post_init__(self) -> None:
        trains_all(self.name, self.update.trains)
        share(self, "action_dropout")


@dataclass(frozen=True)
class PublishedStage:
    """A bidirectional teacher with published weights, such as Wan 2.1: nothing is trained, `mutoscope import` writes its checkpoint."""

    name: str


@dataclass(frozen=True)
class AutoregressiveStage:
    """Teacher forcing: flow matching of every chunk given its clean past, one sigma per chunk."""

    name: str
    start: str
    update: UpdateConfig
    sampler: Literal["uniform", "logit-normal"] = "uniform"
    weight: Literal["none", "bell"] = "bell"
    action_dropout: float = 0.1

    def __post_init__(self) -> None:
        share(self, "action_dropout")


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

    def __post_init__(self) -> None:
        at_least(1, self, "trajectories", "solver_steps", "student_steps")


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

    def __post_init__(self) -> None:
        at_least(2, self, "grid_steps")
        share(self, "target_average")


@dataclass(frozen=True)
class MatchingStage:
    """Distribution matching on the student's own rollouts; critic every update, student every `student_every`-th.

    A rollout may be up to `frames_beyond_clip` frames longer than a clip; its last `clip_frames` are scored. `memory_writes`: whether
    gradient reaches what the commit passes write into a learned memory; the cached frames are detached in either case. `memory` is that
    of the rollouts, and then of play: another one than the run's, such as one that chooses by content, which clips of data cannot show.
    `rollouts`: every turn makes its own, or all turns up to the student's next one share one (with noise levels of their own).
    """

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
    frames_beyond_clip: int = 0
    memory_writes: MemoryWrites = "frozen"
    memory: Literal["of the run"] | PolicyConfig = added_later("of the run")
    rollouts: Literal["own", "shared"] = added_later("own")

    def __post_init__(self) -> None:
        at_least(1, self, "student_steps", "first_chunk_steps", "student_every", "max_context")
        at_least(0, self, "average_from", "frames_beyond_clip")
        above_zero(self, "critic_learning_rate")


@dataclass(frozen=True)
class AverageStage:
    """The mean of the weights of several students (model soups, arXiv 2203.05482): nothing is trained.

    Students of one start that matching led to different ends lie close enough for their mean to be one, and what each of them took too
    far cancels. They have one start, one number of steps and one memory in common; all else may differ.
    """

    name: str
    of: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(set(self.of)) < 2 or len(set(self.of)) < len(self.of):
            raise ConfigError(f"stage '{self.name}': a mean needs two or more different stages, got {list(self.of)}")


LearningStage = CodecStage | BidirectionalStage | AutoregressiveStage | OdeStage | ConsistencyStage | MatchingStage
StageConfig = LearningStage | AverageStage | PublishedStage
# Which kinds of stage each kind may be built on: its start, then for matching its score.
PARENT_KINDS: dict[type, tuple[tuple[type, ...], ...]] = {
    AutoregressiveStage: ((BidirectionalStage, AutoregressiveStage, PublishedStage),),
    OdeStage: ((AutoregressiveStage,),),
    ConsistencyStage: ((AutoregressiveStage,),),
    MatchingStage: ((AutoregressiveStage, OdeStage, ConsistencyStage, MatchingStage), (BidirectionalStage, PublishedStage)),
}


@dataclass(frozen=True)
class ModelConfig:
    """Dimensions of the transformer; its inputs follow from the codec and the world. `travel`: rotary positions move with the actions.

    `text_dim` is the width of a prompt's embedding; 0 is a model without text. `camera`: the actions move a camera (models.camera), and
    tell the model nothing else; None is a model without one.
    """

    dim: int
    ffn_dim: int
    num_heads: int
    num_layers: int
    patch: int = 1
    freq_dim: int = 64
    travel: bool = False
    text_dim: int = added_later(0)
    camera: CameraConfig | None = added_later(None)

    def __post_init__(self) -> None:
        at_least(1, self, "dim", "ffn_dim", "num_heads", "num_layers", "patch")
        at_least(2, self, "freq_dim")
        at_least(0, self, "text_dim")
        if self.dim % self.num_heads or self.freq_dim % 2:
            raise ConfigError(f"dim {self.dim} must divide into {self.num_heads} heads, and freq_dim {self.freq_dim} must be even")
        rope_split(self.dim // self.num_heads)


@dataclass(frozen=True)
class RunConfig:
    """A whole chain. `clip_frames` of training, chunks of `chunk_frames`, memory and shift are the same in every stage.

    `codec` is trained by the first stage, or it is Wan's, whose weights are published. `beginning`: what rollouts and play go on from.
    `text`: how captions become prompts.
    """

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
    codec: Literal["trained"] | WanCodecConfig = added_later("trained")
    beginning: Beginning = added_later("real frames")
    text: Literal["none"] | TextConfig = added_later("none")

    def __post_init__(self) -> None:
        at_least(1, self, "chunk_frames")
        above_zero(self, "shift")
        _check_ancestry(self.stages)
        context = FIRST_CONTEXT[self.beginning]
        if self.clip_frames < 2 or (self.clip_frames - context) % self.chunk_frames:
            raise ConfigError(f"clips of {self.clip_frames} frames must be {context} + a multiple of chunk_frames {self.chunk_frames}")
        for stage in self.stages:
            beyond = self.frames_read(stage) - self.clip_frames
            if beyond % self.chunk_frames:
                raise ConfigError(
                    f"stage '{stage.name}': frames_beyond_clip must be a multiple of chunk_frames {self.chunk_frames}, got {beyond}"
                )
        try:
            layout(self.memory, lengths := chunk_lengths(self.longest_clip, self.chunk_frames, context))
            for stage in self.stages:
                self._check_memory(stage, lengths)
        except CapacityError as error:
            raise ConfigError(f"clips of {self.longest_clip} frames do not fit into the memory: {error}") from error
        self._check_codec()

    def frames_read(self, stage: StageConfig) -> int:
        """Frames of the clips that a stage reads: the codec single ones, matching enough for the actions of its longest rollouts."""
        if isinstance(stage, CodecStage):
            return 1
        return self.clip_frames + (stage.frames_beyond_clip if isinstance(stage, MatchingStage) else 0)

    def _check_codec(self) -> None:
        """There is one codec, it is for the pictures of the data, and they can be cut into tokens."""
        trained = [stage for stage in self.stages if isinstance(stage, CodecStage)]
        size = self.data.height, self.data.width
        if isinstance(self.codec, WanCodecConfig):
            if trained:
                raise ConfigError(f"stage '{trained[0].name}' trains a codec, and this run's codec is Wan's; leave one of them out")
            if (self.codec.height, self.codec.width) != size:
                given = f"{self.codec.height}x{self.codec.width}, and those of the data {size[0]}x{size[1]}"
                raise ConfigError(f"the codec's pictures are {given}; set codec.height, codec.width, data.height and data.width alike")
        cell = self.codec_stride * self.model.patch if trained or isinstance(self.codec, WanCodecConfig) else 1
        if size[0] % cell or size[1] % cell:
            raise ConfigError(f"pictures of {size[0]}x{size[1]} cannot be cut into tokens of {cell}x{cell} pixels")

    def _check_memory(self, stage: StageConfig, lengths: tuple[int, ...]) -> None:
        """A stage's own memory holds its chunks and clips, stands beside the learned memory of the run, and names heads that there are."""
        memory = self.memory_of(stage)
        if state_of(memory) != state_of(self.memory):
            raise ConfigError(f"stage '{stage.name}': its memory has another learned memory than the run's, which is part of the weights")
        memory.capacity(self.chunk_frames)
        check_camera_memory(self.model.camera, memory)
        if isinstance(memory, HeadWise):
            memory.groups(self.model.num_layers, self.model.num_heads)
        layout(integer_base(memory), lengths)

    def memory_of(self, stage: StageConfig) -> PolicyConfig:
        """The memory under which a stage trains and its checkpoint is played."""
        if isinstance(stage, AverageStage):
            return self.memory_of(self.stage(stage.of[0]))
        if isinstance(stage, MatchingStage) and not isinstance(stage.memory, str):
            return stage.memory
        return self.memory

    @property
    def codec_stage(self) -> CodecStage:
        """The first stage, which trains the codec; a ConfigError where none does."""
        first = next(iter(self.stages), None)
        if isinstance(self.codec, WanCodecConfig):
            raise ConfigError(f"'{self.name}' has Wan's codec and trains none; this works with the recipes that do")
        if not isinstance(first, CodecStage):
            raise ConfigError(f"the first stage of a recipe must be its codec, not '{first.name if first else 'nothing'}'")
        return first

    @property
    def codec_stride(self) -> int:
        """Pixels per latent cell."""
        return self.codec.spatial_stride if isinstance(self.codec, WanCodecConfig) else 2 ** len(self.codec_stage.widths)

    @property
    def longest_clip(self) -> int:
        """Frames that an episode must have so that every stage can read clips of it."""
        return max((self.clip_frames, *map(self.frames_read, self.stages)))

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
    if isinstance(stage, AverageStage):
        return stage.of
    if isinstance(stage, (AutoregressiveStage, OdeStage, ConsistencyStage)):
        return (stage.start,)
    return ()


def _check_ancestry(stages: tuple[StageConfig, ...]) -> None:
    """Names are distinct, and every stage starts from stages before it, of kinds that it can be built on."""
    seen: dict[str, StageConfig] = {}
    for stage in stages:
        for parent, kinds in zip(parents(stage), parent_kinds(stage), strict=True):
            if parent not in seen:
                raise ConfigError(f"stage '{stage.name}' starts from '{parent}', which does not come before it; before it: {list(seen)}")
            if not isinstance(seen[parent], kinds):
                allowed = " or ".join(kind.__name__ for kind in kinds)
                raise ConfigError(
                    f"stage '{stage.name}' cannot be built on '{parent}', a {type(seen[parent]).__name__}; it needs {allowed}"
                )
        if stage.name in seen:
            raise ConfigError(f"two stages are named '{stage.name}'")
        if isinstance(stage, AverageStage):
            _check_average(stage, [part for name in stage.of if isinstance(part := seen[name], MatchingStage)])
        seen[stage.name] = stage


def parent_kinds(stage: StageConfig) -> tuple[tuple[type, ...], ...]:
    """For each of a stage's parents, of which kinds it may be."""
    return ((MatchingStage,),) * len(stage.of) if isinstance(stage, AverageStage) else PARENT_KINDS.get(type(stage), ())


def _check_average(stage: AverageStage, students: list[MatchingStage]) -> None:
    """The mean of weights is a student only if all of them are played alike and began as one."""
    for what in ("start", "student_steps", "first_chunk_steps", "memory"):
        values = [getattr(student, what) for student in students]
        if any(value != values[0] for value in values):
            raise ConfigError(
                f"stage '{stage.name}': {', '.join(stage.of)} differ in {what} ({', '.join(map(str, values))}) and have no mean"
            )
