"""What an update of a stage holds and computes, from the recipe alone: bytes on the device and on the host, FLOPs, bytes that are moved.

The passes of every stage are listed in train.passes. A setting that this package cannot be trained with yet says so in train.proposals.
"""

from dataclasses import dataclass
from typing import Literal

from mutoscope.core.errors import ConfigError
from mutoscope.memory.extras import StoreExtras, with_extras
from mutoscope.models.arithmetic import (
    BF16_ON_CUDA,
    FP32_ON_CUDA,
    Going,
    Numerics,
    Reach,
    backward_bytes,
    context_bytes,
    copy_bytes,
    flops,
    forward_bytes,
    kept,
    layer_bytes,
    parameters,
    whole_clip,
)
from mutoscope.models.live_bytes import DecodingBytes
from mutoscope.models.transformer import TransformerConfig
from mutoscope.train.config import BidirectionalStage, LearningStage, OdeStage, RunConfig
from mutoscope.train.passes import Cast, Cut, Turn, cast_of, turns_of
from mutoscope.train.pictures import sample_cache, sample_rows

WEIGHT = GRADIENT = AVERAGE = 4  # float32 masters (in bfloat16 these updates vanish)
ADAM = 8  # two moments
LATENT_COPIES = 6  # clean, noise, noisy, velocity, target and one more, float32
AHEAD = 2  # blocks of a sharded or off-loaded model that are on the device at once: one at work, one on its way

Offload = Literal["averages", "optimisers", "frozen models"]


@dataclass(frozen=True)
class Settings:
    """How a stage is trained.

    micro_clips   clips of a micro-batch in one process; an update takes as many of them as its batch needs
    processes     that share out weights, gradients and optimisers among themselves (FSDP), a device each
    numerics      bytes per number of a pass
    attention     of chunks: on gathered keys, or by a kernel that masks and copies nothing
    blocks        whether what a block keeps waits for the backward pass, or is computed again in it (activation checkpointing)
    offload       what lies on the host until it is needed
    adapters      rank of the low-rank adapters (LoRA, arXiv 2106.09685) that learn in place of the weights; 0: the weights learn
    frozen_bytes  per parameter of the models that do not learn
    cache_bytes   per number of the memory of a rollout
    text          tokens of a prompt
    codec         what its weights take all the time, and decoding a row's frame for a sample; zeros where none is drawn
    """

    micro_clips: int
    processes: int = 1
    numerics: Numerics = BF16_ON_CUDA
    attention: Literal["gathered", "masked"] = "gathered"
    blocks: Literal["kept", "computed again"] = "kept"
    offload: tuple[Offload, ...] = ()
    adapters: int = 0
    frozen_bytes: int = 4
    cache_bytes: int = 4
    text: int = 0
    codec: DecodingBytes = DecodingBytes(0, 0, 0)

    @property
    def cut(self) -> Cut:
        """What of them decides about a stage's passes."""
        return Cut(self.micro_clips, self.attention, self.text)

    def __post_init__(self) -> None:
        if self.micro_clips < 1 or self.processes < 1 or min(self.adapters, self.text) < 0:
            raise ConfigError(f"micro-batches and processes must be at least 1, adapters and text at least 0, got {self}")


@dataclass(frozen=True)
class Footprint:
    """Of one update in one process.

    resident  what lies on the device all the time, in bytes by name
    moments   what comes on top at one moment or another, in bytes by name; the largest of them counts
    host      bytes that lie on the host instead
    moved     bytes between host and device in an update
    sent      bytes between processes in an update
    flops     floating-point operations of an update
    """

    resident: tuple[tuple[str, int], ...]
    moments: tuple[tuple[str, int], ...]
    host: int
    moved: float
    sent: float
    flops: float

    @property
    def peak(self) -> int:
        """The most bytes that the device holds."""
        return sum(amount for _, amount in self.resident) + self.worst[1]

    @property
    def worst(self) -> tuple[str, int]:
        """The moment that takes most, and its bytes."""
        return max(self.moments, key=lambda moment: moment[1])


def stage_footprint(run: RunConfig, stage: LearningStage, config: TransformerConfig, settings: Settings) -> Footprint:
    """Of a stage that trains a transformer of `config`."""
    cast_of(stage)
    chains = turns_of(run, stage, config, settings.cut)
    resident, host = _resident(run, stage, config, settings)
    moments: dict[str, int] = {}
    for turns in chains:
        for turn in turns:
            for name, amount in _moments(turn, config, settings).items():
                moments[name] = max(moments.get(name, 0), amount)
    moments["the optimiser's step"] = _step_bytes(config, settings)
    if settings.codec.weights:
        moments["samples"] = _sample_bytes(run, stage, config, settings)
    micros = stage.update.batch_size / (settings.micro_clips * settings.processes)
    operations = sum(turn.often * _turn_flops(turn, settings) for turns in chains for turn in turns) / len(chains)
    passes = sum(turn.often * _weight_passes(turn) for turns in chains for turn in turns) / len(chains)
    steps = sum(turn.often for turn in chains[0])
    moved, sent = _moved(stage, config, settings, micros * passes, steps), _sent(config, settings, micros * passes)
    return Footprint(resident, tuple(moments.items()), host, moved, sent, micros * operations)


def _learning(config: TransformerConfig, settings: Settings) -> int:
    """Parameters that a learner's optimiser moves."""
    counted = parameters(config)
    return settings.adapters * counted.matrix_sides if settings.adapters else counted.total


def _step_bytes(config: TransformerConfig, settings: Settings) -> int:
    """What a learner's step takes: as much as its weights, and its states where they come from the host for it."""
    fetched = ADAM if "optimisers" in settings.offload and settings.processes == 1 else 0  # those of sharded ones step on the host
    return (WEIGHT + fetched) * _learning(config, settings) // settings.processes


def _sample_bytes(run: RunConfig, stage: LearningStage, config: TransformerConfig, settings: Settings) -> int:
    """Sample clips as train.pictures draws them, in float32: memory (of published sizes in eight bits), a pass and a decoder."""
    rows = sample_rows(run)
    if isinstance(stage, BidirectionalStage):
        going, cached = Going(config, rows, run.clip_frames, whole_clip(run.clip_frames), settings.text), 0
    else:
        spec = config.cache(run.memory_of(stage), run.chunk_frames, rows)
        going = Going(config, rows, run.chunk_frames, Reach(run.chunk_frames * spec.slots), settings.text)
        cached = with_extras(spec, StoreExtras(sample_cache(run, spec))).bytes()
    return cached + forward_bytes(going, FP32_ON_CUDA) + rows * (settings.codec.state + settings.codec.working)


def _resident(
    run: RunConfig, stage: LearningStage, config: TransformerConfig, settings: Settings
) -> tuple[tuple[tuple[str, int], ...], int]:
    """Bytes by name on the device, and those that lie on the host instead."""
    cast, learning = cast_of(stage), _learning(config, settings)
    frozen = _frozen_models(cast, settings) * parameters(config).total * settings.frozen_bytes
    learned = {"weights that learn": WEIGHT, "gradients": GRADIENT, "averages": AVERAGE, "optimisers": ADAM}
    amounts = {name: cast.learners * learning * size // settings.processes for name, size in learned.items()}
    amounts["frozen models"] = frozen // settings.processes
    host = sum(amounts[name] for name in settings.offload)
    for name in settings.offload:
        amounts[name] = AHEAD * parameters(config).block * settings.frozen_bytes if name == "frozen models" and frozen else 0
    if settings.processes > 1:
        amounts["blocks on their way"] = AHEAD * parameters(config).block * (settings.numerics.weight_casts or WEIGHT)
    amounts["codec"] = settings.codec.weights
    latent = config.latent.channels * config.latent.height * config.latent.width * WEIGHT
    amounts["clips"] = LATENT_COPIES * settings.micro_clips * run.frames_read(stage) * latent
    if isinstance(stage, OdeStage):
        solved = max(1, stage.trajectories // stage.update.batch_size) * stage.update.batch_size // settings.processes
        amounts["solved trajectories"] = solved * (stage.student_steps + 2) * run.clip_frames * latent
    return tuple((name, amount) for name, amount in amounts.items() if amount), host


def _frozen_models(cast: Cast, settings: Settings) -> int:
    """Sets of weights that do not learn. Under adapters models read the same ones, but where they are sharded each has parts of its own."""
    if not settings.adapters:
        return cast.frozen
    return cast.bases if settings.processes == 1 else 2 * cast.learners + cast.frozen


def _moments(turn: Turn, config: TransformerConfig, settings: Settings) -> dict[str, int]:
    """What a turn holds beside what is resident, moment by moment."""
    numerics, again = settings.numerics, settings.blocks == "computed again"
    forward_casts, backward_casts = cast_bytes(config, settings, len(turn.taught))
    context = context_bytes(turn.context, numerics) if turn.context else 0
    waiting = taught_bytes(turn.taught, settings)
    backward = max(backward_bytes(going, numerics) for going in turn.taught)
    passing = 0
    if again:  # a block computes and lets go; the clean half's keys are asked for once more, when it is computed again
        passing = max(forward_bytes(going, numerics) for going in turn.taught)
        backward += context + again_bytes(turn.taught, numerics) + fed_back_bytes(turn, numerics)
    moments = {
        f"forward of the {turn.learner}": waiting + context + passing + forward_casts,
        f"backward of the {turn.learner}": waiting + backward + backward_casts,
    }
    if turn.free:
        free = max(forward_bytes(going, numerics) for going in turn.free)
        moments[f"passes without gradient for the {turn.learner}"] = free + context + forward_casts
    if turn.streamed:
        rolling = max(forward_bytes(going, numerics) for going in turn.streamed)
        moments[f"rollout for the {turn.learner}"] = turn.cached * settings.cache_bytes + rolling + forward_casts
    return moments


def cast_bytes(config: TransformerConfig, settings: Settings, passes: int) -> tuple[int, int]:
    """Copies of weights in the type of a pass, in the forward and in the backward pass of a turn.

    Autocast keeps one of every weight that learns until the forward is over. Of frozen ones (under adapters) it makes a new one in every
    pass. The backward pass asks for them again, but for blocks that are computed again, one at a time. Sharded blocks are gathered in it.
    """
    narrow, counted = settings.numerics.weight_casts, parameters(config)
    if settings.processes > 1 or not narrow:
        return 0, 0
    blocks = config.num_layers * counted.block
    if settings.adapters:
        most = passes * blocks if settings.blocks == "kept" else counted.block
        return narrow * most, narrow * most
    return narrow * counted.total, narrow * (counted.total if settings.blocks == "kept" else counted.total - blocks + counted.block)


def taught_bytes(taught: tuple[Going, ...], settings: Settings) -> int:
    """What waits for the backward pass: everything; or of each block its input. With adapters it is somewhat less than this says."""
    numerics = settings.numerics
    if settings.blocks == "kept":
        return sum(kept(going, numerics).total for going in taught)
    return sum(_inputs(going, numerics) + kept(going, numerics).around for going in taught)


def _inputs(going: Going, numerics: Numerics) -> int:
    """The inputs of all blocks."""
    return going.config.num_layers * going.tokens * going.config.dim * numerics.wide


def fed_back_bytes(turn: Turn, numerics: Numerics) -> int:
    """What teacher forcing holds when its noisy half has been gone back through, beyond what it held at the start of that.

    Gradients of the clean half's keys and values lie there for every layer, and wait for the clean half's turn; where keys were gathered
    they are views of gradients of both halves. The noisy half's inputs are gone.
    """
    if len(turn.taught) < 2:
        return 0
    clean, noisy = turn.taught
    tokens = clean.tokens + (noisy.tokens if noisy.reach.gathered else 0)
    channels = tokens * (numerics.wide + numerics.narrow) + turn.moving * clean.tokens * numerics.wide
    return max(0, clean.config.attentions * clean.config.dim * channels - _inputs(noisy, numerics))


def again_bytes(taught: tuple[Going, ...], numerics: Numerics) -> int:
    """The one block that the backward pass computes again."""
    return max(layer_bytes(going, numerics) + copy_bytes(going, numerics) for going in taught)


def _turn_flops(turn: Turn, settings: Settings) -> float:
    """Of a micro-batch: passes without gradient, forward and backward of those with it, and blocks that are computed again."""
    total = sum(flops(going).forward for going in (*turn.free, *turn.streamed))
    for going in turn.taught:
        counted = flops(going)
        total += counted.forward * (2 if settings.blocks == "computed again" else 1) + counted.inputs
        adapted = 3 * 2 * going.tokens * settings.adapters * parameters(going.config).matrix_sides
        total += adapted if settings.adapters else counted.weights
    return total


def _weight_passes(turn: Turn) -> float:
    """How often a model's weights are gone through in a micro-batch: a backward pass goes once more."""
    return sum(going.passes for going in (*turn.free, *turn.streamed)) + 2 * len(turn.taught)


def _moved(stage: LearningStage, config: TransformerConfig, settings: Settings, passes: float, steps: float) -> float:
    """Bytes between host and device in an update: there and back for what is updated, once per pass for frozen models."""
    share, learning = 1 / settings.processes, _learning(config, settings)
    moved = 0.0
    for name in settings.offload:
        if name == "frozen models":
            moved += passes * parameters(config).total * settings.frozen_bytes * share
        else:
            moved += 2 * steps * learning * (ADAM if name == "optimisers" else AVERAGE) * share
    return moved


def _sent(config: TransformerConfig, settings: Settings, passes: float) -> float:
    """Bytes that a process receives in an update: the others' part of every block of every pass. Gradients go once more."""
    if settings.processes == 1:
        return 0.0
    others = (settings.processes - 1) / settings.processes
    return passes * others * parameters(config).total * (settings.numerics.weight_casts or WEIGHT)
