"""What `mutoscope plan --gpu-memory` works out: for every stage and for play what it takes, and the steps that make it fit."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from mutoscope.commands.measured import measured_device
from mutoscope.core.devices import BANDWIDTH_SHARE, PLAYING_SHARE, TRAINING_SHARE, Device, device_for
from mutoscope.core.progress import Progress
from mutoscope.core.proposals import Cost, Step
from mutoscope.memory.kinds import state_name
from mutoscope.memory.policy import state_of
from mutoscope.models.camera_config import CAMERA_ACTIONS
from mutoscope.models.codec import ConvCodec, ConvCodecConfig
from mutoscope.models.split_codec import SplitCodec
from mutoscope.models.tiny_codec import TinyCodec, taew_2_1
from mutoscope.models.transformer import TransformerConfig
from mutoscope.models.wan_config import WanCodecConfig
from mutoscope.recipes import recipe
from mutoscope.rollout.footprint import Decoder, Playing, fit_session, tiled_decoder, whole_decoder
from mutoscope.train.build import recall_of, transformer_config
from mutoscope.train.config import AverageStage, CodecStage, LearningStage, MatchingStage, PublishedStage, RunConfig
from mutoscope.train.footprint import Settings
from mutoscope.train.proposals import Training, fit_stage

if TYPE_CHECKING:
    from mutoscope.commands.plan import Options

ACTIONS = 4  # of worlds that are played with keys: the widths of their inputs are a few thousandths of a model
State = TypeVar("State")


@dataclass(frozen=True)
class Shares:
    """Of a device's FLOP/s, in training and in play."""

    training: float = TRAINING_SHARE
    playing: float = PLAYING_SHARE


@dataclass(frozen=True)
class Fit:
    """A stage or play on one size of memory: as it is, and after each step. `unit`: what its seconds are of."""

    name: str
    unit: str
    device: Device
    parts: dict[str, float]
    worst: str
    start: Cost
    steps: tuple[dict[str, Any], ...]

    @property
    def end(self) -> Cost:
        """After all steps."""
        return Cost(self.steps[-1]["bytes"], self.steps[-1]["seconds"]) if self.steps else self.start

    @property
    def fits(self) -> bool:
        """Whether it does then."""
        return self.end.bytes <= self.device.planned_bytes

    def plain(self) -> dict[str, Any]:
        """As it stands in a results file."""
        device = {"name": self.device.name, "memory_gib": self.device.memory_gib, "flops": self.device.flops}
        start = {"bytes": self.start.bytes, "seconds": self.start.seconds, "parts": self.parts, "worst_moment": self.worst}
        return {"name": self.name, "unit": self.unit, "device": device, "start": start, "steps": list(self.steps), "fits": self.fits}


def fits(options: "Options") -> Iterator[Fit]:
    """Every stage of the recipe and play, on every size of memory that was asked for."""
    run = recipe(options.model)
    shares, here = Shares(), None
    if options.measured:
        here = measured_device(stage_transformer(run, run.stages[-1]))
        shares = Shares(here.share, here.share)
    trained = [stage for stage in run.stages if not isinstance(stage, (CodecStage, PublishedStage, AverageStage))]
    with Progress(1 + len(options.gpu_memory) * (len(trained) + 1), "planning") as bar:
        found = decoders(run)
        bar.advance(1, "codec counted")
        for memory in options.gpu_memory:
            device = here.device.with_memory(memory) if here else device_for(memory, options.device)
            for stage in trained:
                yield fit_training(run, stage, device, shares, options)
                bar.advance(1, stage.name)
            yield fit_playing(run, found, device, shares, options)
            bar.advance(1, "play")


def stage_transformer(run: RunConfig, stage: Any) -> TransformerConfig:
    """The transformer of a stage."""
    actions = 0 if run.model.text_dim else ACTIONS
    if run.model.camera is not None:
        actions = CAMERA_ACTIONS.dim
    return transformer_config(run.model, codec_of(run), actions, recall_of(run, stage))


def codec_of(run: RunConfig) -> WanCodecConfig | ConvCodec:
    """The codec's sizes: a config, or a small codec on the meta device."""
    if isinstance(run.codec, WanCodecConfig):
        return run.codec
    stage = run.codec_stage
    with torch.device("meta"):
        return ConvCodec(ConvCodecConfig(run.data.height, run.data.width, stage.latent_channels, stage.widths, stage.blocks))


def fit_training(run: RunConfig, stage: LearningStage, device: Device, shares: Shares, options: "Options") -> Fit:
    """A stage as its recipe says, in bfloat16 over float32 masters, and what makes it fit."""
    config = stage_transformer(run, stage)
    start = Training(run, stage, config, Settings(stage.update.batch_size // stage.update.accumulate, text=options.text_tokens))
    taken = start.footprint
    parts: dict[str, float] = {**dict(taken.resident), taken.worst[0]: taken.worst[1]}
    cost = start.cost(device, shares.training)
    steps = fit_stage(start, device, shares.training, options.gpus)
    return Fit(stage.name, "update", device, parts, taken.worst[0], cost, told(cost, steps))


def fit_playing(run: RunConfig, found: tuple[Decoder, ...], device: Device, shares: Shares, options: "Options") -> Fit:
    """A session of the last student that matching makes (or of 4 steps), as it is played by default, and what makes it fit."""
    students = [stage for stage in run.stages if isinstance(stage, MatchingStage)]
    steps, memory = (students[0].student_steps, run.memory_of(students[0])) if students else (4, run.memory)
    config = stage_transformer(run, run.stages[-1])
    start = Playing(config, memory, found, run.chunk_frames, steps, options.rows, options.text_tokens)
    cost = start.cost(device, shares.playing)
    taken = fit_session(start, device, shares.playing)
    return Fit(f"play, {steps} steps", "chunk", device, start.parts, "a pass", cost, told(cost, taken))


def told(start: Cost, steps: Sequence[Step[Any]]) -> tuple[dict[str, Any], ...]:
    """Steps as plain data: what each saves and what it costs, and what is taken after it."""
    rows, before = [], start
    for step in steps:
        saved, longer = before.bytes - step.cost.bytes, step.cost.seconds / before.seconds - 1
        option = {"option": step.option.name, "price": step.option.price, "ready": step.option.ready}
        after = {"bytes": step.cost.bytes, "seconds": step.cost.seconds, "words": step.state.words}
        rows.append({**option, "saves": saved, "longer": longer, **after})
        before = step.cost
    return tuple(rows)


def decoders(run: RunConfig) -> tuple[Decoder, ...]:
    """The decoders that a session of a recipe may have, the recipe's own first, counted on the meta device."""
    if isinstance(run.codec, WanCodecConfig):
        return wan_decoders(run.codec)
    codec = codec_of(run)
    assert isinstance(codec, ConvCodec)
    return (whole_decoder("its own codec", codec, codec),)


def wan_decoders(config: WanCodecConfig) -> tuple[Decoder, ...]:
    """Wan's VAE whole and in tiles, and a tiny one beside its encoder: as `models.decoders.with_decoder` makes them."""
    from mutoscope.models.wan_codec import wan_codec

    whole = wan_codec(config)
    with torch.device("meta"):
        split = SplitCodec(wan_codec(config), TinyCodec(taew_2_1(config.height, config.width, config.z_dim)))
    tiny = whole_decoder("taew2_1", split, split, "--decoder taew2_1.pth")
    return whole_decoder("Wan's VAE", whole, whole), tiled_decoder(whole, whole), tiny


def assumed(options: "Options") -> str:
    """Where the times come from."""
    if options.measured:
        return f"{options.model}: times from a pass of one of its layers, timed on this machine."
    shares = f"{TRAINING_SHARE:.0%} of the data sheet's bfloat16 FLOP/s in training, {PLAYING_SHARE:.0%} of them in play"
    return f"{options.model}: times assume {shares} and {BANDWIDTH_SHARE:.0%} of its memory's bandwidth."


def notes(run: RunConfig) -> list[str]:
    """What is not in the figures."""
    lines = ["Prompts are encoded before, and their encoder is gone; the data's encoding into latents is not planned."]
    if any(isinstance(stage, CodecStage) for stage in run.stages):
        lines.append("The stage that trains the codec is not planned.")
    if (state := state_of(run.memory)) is not None:
        lines.append(f"Of the learned memory '{state_name(state)}' the weights and states are counted, and not its passes.")
    return lines


def report(found: Sequence[Fit], run: RunConfig, human: Callable[[float], str], shares: str) -> str:
    """The steps of everything, and what they lead to."""
    lines = [shares]
    for fit in found:
        planned = f"{fit.device.memory_gib:g} GiB ({fit.device.name}, {human(fit.device.planned_bytes)} planned)"
        lines.append(f"\n{fit.name} on {planned}")
        largest = sorted(fit.parts.items(), key=lambda part: -part[1])[:4]
        lines.append(f"  as the recipe says: {human(fit.start.bytes)}, {seconds(fit.start.seconds)} per {fit.unit}")
        lines.append(f"    of it {', '.join(f'{name} {human(amount)}' for name, amount in largest)}")
        for step in fit.steps:
            mark = "" if step["ready"] else " (proposed)"
            change = {"time": f"{step['longer']:+.0%} time", "result": "another result", "devices": "more devices"}[step["price"]]
            lines.append(f"  - {step['option']}{mark}: -{human(step['saves'])}, {change} -> {human(step['bytes'])}")
        verdict = "fits" if fit.fits else "DOES NOT FIT"
        words = f", {fit.steps[-1]['words']}" if fit.steps else ""
        lines.append(f"  {verdict}: {human(fit.end.bytes)}, {seconds(fit.end.seconds)} per {fit.unit}{words}")
    return "\n".join([*lines, "", "(proposed): modelled here, and not yet an option of this package.", *notes(run)])


def seconds(amount: float) -> str:
    """0.0123 -> "12.3 ms", 4000 -> "67 min"."""
    if amount < 1:
        return f"{1e3 * amount:.1f} ms"
    return f"{amount:.1f} s" if amount < 600 else f"{amount / 60:.0f} min"
