"""How a stage may be made to fit: what can be changed about its training, and what it then takes. `core.proposals` chooses."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mutoscope.core.config import to_plain
from mutoscope.core.devices import TRAINING_SHARE, Device
from mutoscope.core.errors import ConfigError
from mutoscope.core.proposals import Cost, Option, Step, propose
from mutoscope.core.world import FIRST_CONTEXT
from mutoscope.memory.policy import state_of
from mutoscope.models.lora_config import LoraConfig
from mutoscope.models.transformer import TransformerConfig
from mutoscope.train.config import BidirectionalStage, ConsistencyStage, LearningStage, RunConfig
from mutoscope.train.footprint import Footprint, Offload, Settings, stage_footprint
from mutoscope.train.passes import cast_of
from mutoscope.train.placement import OffLoaded, Placement

RANK = 64
LEAST_PAST = 3  # frames before the last chunk of the shortest clips that are proposed
PLACES: dict[Offload, OffLoaded] = {"optimisers": "optimiser", "frozen models": "frozen models"}
HOST_BANDWIDTH = 20e9  # bytes/s at which a host updates weights that lie there


@dataclass(frozen=True)
class Training:
    """A stage with its run, its transformer and the way in which it is trained."""

    run: RunConfig
    stage: LearningStage
    config: TransformerConfig
    settings: Settings

    @property
    def footprint(self) -> Footprint:
        """What an update takes."""
        return stage_footprint(self.run, self.stage, self.config, self.settings)

    def cost(self, device: Device, share: float = TRAINING_SHARE) -> Cost:
        """Of an update: bytes at its peak; its FLOPs at a share of the device's, then what is moved and sent, nothing at the same time."""
        taken = self.footprint
        moving = taken.moved / min(device.link, HOST_BANDWIDTH) + taken.sent / device.network
        return Cost(taken.peak, taken.flops / (device.flops * share) + moving)

    @property
    def words(self) -> str:
        """What of it the options change most, for people."""
        clips = self.settings.micro_clips
        return f"{clips} clip{'s' * (clips > 1)} of {self.run.clip_frames} frames at a time"

    def under(self, settings: Settings) -> "Training":
        """The same stage under other settings."""
        return replace(self, settings=settings)

    @property
    def clips(self) -> int:
        """Clips of an update in each process."""
        return self.stage.update.batch_size // self.settings.processes

    @property
    def launchable(self) -> bool:
        """Whether the package can be asked for these settings."""
        settings = self.settings
        built = settings.attention == "gathered" and settings.frozen_bytes == settings.cache_bytes == 4
        return built and all(name in PLACES for name in settings.offload)

    @property
    def placement(self) -> Placement:
        """How it is laid out when it is launched."""
        settings = self.settings
        return Placement(
            weights="sharded" if settings.processes > 1 else "replicated",
            activations="recomputed" if settings.blocks == "computed again" else "kept",
            off_load=tuple(PLACES[name] for name in settings.offload),
        )

    def changes(self, recipe: RunConfig) -> tuple[str, ...]:
        """What `--set` changes in its recipe, as path=value."""
        update, found = f"stages.{self.stage.name}.update", []
        if self.run.clip_frames != recipe.clip_frames:
            found.append(f"clip_frames={self.run.clip_frames}")
        if (accumulate := self.clips // self.settings.micro_clips) != self.stage.update.accumulate:
            found.append(f"{update}.accumulate={accumulate}")
        if self.settings.adapters:
            lora = to_plain(LoraConfig(self.settings.adapters, float(self.settings.adapters)))
            told = {name: lora[name] for name in ("is", "rank", "alpha")}
            found.append(f"{update}.trains={json.dumps(told)}")
        return tuple(found)


def fewer_clips(training: Training) -> Training | None:
    """At most half as many clips in a micro-batch, of which an update takes a whole number."""
    clips = training.settings.micro_clips
    fewer = [count for count in range(1, clips // 2 + 1) if training.clips % count == 0]
    return training.under(replace(training.settings, micro_clips=fewer[-1])) if fewer else None


def blocks_again(training: Training) -> Training | None:
    """Blocks are computed again in the backward pass."""
    return training.under(replace(training.settings, blocks="computed again")) if training.settings.blocks == "kept" else None


def masked_attention(training: Training) -> Training | None:
    """A kernel that masks in place of copied keys and values."""
    return training.under(replace(training.settings, attention="masked")) if training.settings.attention == "gathered" else None


def half_frozen(training: Training) -> Training | None:
    """Models that do not learn, in bfloat16."""
    wide = training.settings.frozen_bytes == 4 and (cast_of(training.stage).frozen or training.settings.adapters)
    return training.under(replace(training.settings, frozen_bytes=2)) if wide else None


def half_cache(training: Training) -> Training | None:
    """A rollout's memory in bfloat16."""
    return (
        training.under(replace(training.settings, cache_bytes=2))
        if training.settings.cache_bytes == 4 and cast_of(training.stage).learners > 1
        else None
    )


def away(name: Offload) -> Option[Training]:
    """Something of the models to the host."""

    def change(training: Training) -> Training | None:
        asked = isinstance(training.stage, ConsistencyStage) and name == "averages"  # its average is asked in every micro-batch
        shared = training.settings.adapters > 0  # frozen weights are those that learners read in every pass: they stay
        idle = name == "frozen models" and (shared or not cast_of(training.stage).frozen)
        if asked or idle or name in training.settings.offload:
            return None
        return training.under(replace(training.settings, offload=(*training.settings.offload, name)))

    return Option(f"{name} on the host", "time", name != "averages", change)


def adapters(training: Training) -> Training | None:
    """Low-rank adapters learn in place of the weights; not of whole clips from nothing, nor beside a learned memory, which must learn."""
    settings = training.settings
    if settings.adapters or isinstance(training.stage, BidirectionalStage) or state_of(training.run.memory) is not None:
        return None
    offload = tuple(name for name in settings.offload if name != "frozen models")
    return training.under(replace(settings, adapters=RANK, offload=offload))


def shared_out(most_devices: int) -> Option[Training]:
    """Over twice as many processes, if there are devices for them and each has a whole number of micro-batches."""

    def change(training: Training) -> Training | None:
        settings, processes = training.settings, 2 * training.settings.processes
        whole = training.stage.update.batch_size % (processes * settings.micro_clips) == 0
        return training.under(replace(settings, processes=processes)) if processes <= most_devices and whole else None

    return Option("shared out over twice as many devices", "devices", True, change)


def shorter_clips(training: Training) -> Training | None:
    """Clips of about two thirds of the frames, in whole chunks."""
    run = training.run
    context = FIRST_CONTEXT[run.beginning]
    frames = context + (run.clip_frames - context) * 2 // 3 // run.chunk_frames * run.chunk_frames
    if frames < run.chunk_frames + LEAST_PAST or frames == run.clip_frames:
        return None
    try:
        return replace(training, run=replace(run, clip_frames=frames))
    except ConfigError:
        return None


SHORTER = Option("clips of two thirds of the frames", "result", True, shorter_clips)
OPTIONS: tuple[Option[Training], ...] = (
    Option("half as many clips in a micro-batch", "time", True, fewer_clips),
    Option("attention that masks instead of copying", "time", False, masked_attention),
    Option("blocks computed again in the backward pass", "time", True, blocks_again),
    Option("frozen models in bfloat16", "time", False, half_frozen),
    Option("the rollout's memory in bfloat16", "time", False, half_cache),
    away("averages"),
    away("optimisers"),
    away("frozen models"),
    Option(f"adapters of rank {RANK} learn, over shared weights", "result", True, adapters),
    SHORTER,
)


def options_of(most_devices: int, proposed: bool, shorter: bool = True) -> tuple[Option[Training], ...]:
    """What may be changed: what the package does today, or also what is only modelled; with clips of fewer frames or without."""
    options = (*OPTIONS, shared_out(most_devices))
    return tuple(option for option in options if (option.ready or proposed) and (shorter or option is not SHORTER))


def fit_stage(
    training: Training, device: Device, share: float = TRAINING_SHARE, options: Sequence[Option[Training]] | None = None
) -> list[Step[Training]]:
    """The steps that make a stage fit onto such devices; see core.proposals.propose. Without `options` those that are ready, on one."""
    known: dict[Training, Cost] = {}

    def measure(state: Training) -> Cost:
        if state not in known:
            known[state] = state.cost(device, share)
        return known[state]

    return propose(training, options_of(1, False) if options is None else options, measure, device.planned_bytes)
