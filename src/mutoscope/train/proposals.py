"""How a stage may be made to fit: what can be changed about its training, and what it then takes. `core.proposals` chooses."""

from dataclasses import dataclass, replace
from math import ceil

from mutoscope.core.devices import TRAINING_SHARE, Device
from mutoscope.core.errors import ConfigError
from mutoscope.core.proposals import Cost, Option, Step, propose
from mutoscope.models.transformer import TransformerConfig
from mutoscope.train.config import ConsistencyStage, LearningStage, RunConfig
from mutoscope.train.footprint import Footprint, Offload, Settings, stage_footprint
from mutoscope.train.passes import cast_of

RANK = 64
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


def fewer_clips(training: Training) -> Training | None:
    """Half as many clips in a micro-batch."""
    clips = training.settings.micro_clips
    return training.under(replace(training.settings, micro_clips=ceil(clips / 2))) if clips > 1 else None


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
        idle = name == "frozen models" and not (cast_of(training.stage).frozen or training.settings.adapters)
        if asked or idle or name in training.settings.offload:
            return None
        return training.under(replace(training.settings, offload=(*training.settings.offload, name)))

    return Option(f"{name} on the host", "time", name != "averages", change)


def adapters(training: Training) -> Training | None:
    """Low-rank adapters learn in place of the weights."""
    return training.under(replace(training.settings, adapters=RANK)) if not training.settings.adapters else None


def shared_out(most_devices: int) -> Option[Training]:
    """Over the next power of two of processes that there are devices for."""

    def change(training: Training) -> Training | None:
        settings = training.settings
        most = min(most_devices, training.stage.update.batch_size // settings.micro_clips)
        return training.under(replace(training.settings, processes=2 * settings.processes)) if 2 * settings.processes <= most else None

    return Option("shared out over twice as many devices", "devices", True, change)


def shorter_clips(training: Training) -> Training | None:
    """Clips of about two thirds of the frames, in whole chunks."""
    run = training.run
    frames = 1 + (run.clip_frames - 1) * 2 // 3 // run.chunk_frames * run.chunk_frames
    if frames < max(2, 1 + run.chunk_frames) or frames == run.clip_frames:
        return None
    try:
        return replace(training, run=replace(run, clip_frames=frames))
    except ConfigError:
        return None


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
    Option("clips of two thirds of the frames", "result", True, shorter_clips),
)


def fit_stage(training: Training, device: Device, share: float = TRAINING_SHARE, most_devices: int = 1) -> list[Step[Training]]:
    """The steps that make a stage fit onto such devices; see core.proposals.propose."""
    known: dict[Training, Cost] = {}

    def measure(state: Training) -> Cost:
        if state not in known:
            known[state] = state.cost(device, share)
        return known[state]

    return propose(training, (*OPTIONS, shared_out(most_devices)), measure, device.planned_bytes)
