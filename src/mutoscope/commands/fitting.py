"""What `mutoscope plan --gpu-memory` works out: for every stage and for play what it takes, and the steps that make it fit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from mutoscope.commands.launching import Launch, Whole, memory_option, seconds
from mutoscope.commands.measured import measured_device
from mutoscope.commands.train import read_recipe
from mutoscope.core.devices import BANDWIDTH_SHARE, PLAYING_SHARE, TRAINING_SHARE, Device, device_for
from mutoscope.core.progress import Progress
from mutoscope.core.proposals import Cost, Step
from mutoscope.core.shapes import pixel_frames
from mutoscope.memory.kinds import state_name
from mutoscope.memory.policy import state_of
from mutoscope.models.camera_config import CAMERA_ACTIONS
from mutoscope.models.codec import ConvCodec, ConvCodecConfig
from mutoscope.models.live_bytes import DecodingBytes, LiveBytes, decoding_bytes
from mutoscope.models.split_codec import SplitCodec
from mutoscope.models.tiled_codec import TiledCodec
from mutoscope.models.tiny_codec import TinyCodec, taew_2_1
from mutoscope.models.transformer import TransformerConfig
from mutoscope.models.wan_config import WanCodecConfig
from mutoscope.rollout.footprint import Decoder, Playing, fit_session, tiled_decoder, whole_decoder
from mutoscope.train.build import recall_of, transformer_config
from mutoscope.train.config import AverageStage, CodecStage, LearningStage, MatchingStage, PublishedStage, RunConfig
from mutoscope.train.footprint import Settings
from mutoscope.train.pictures import in_tiles, sample_context
from mutoscope.train.placement import PLAIN
from mutoscope.train.proposals import Training, fit_stage, options_of

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
    """A stage or play on one size of memory: as it is, and after each step.

    unit     what its seconds are of; `units`: how many of them there are
    worst    the moment that takes most as it is; `last`: that after all steps
    command  launches what fits
    trained  a stage after all steps
    """

    name: str
    unit: str
    device: Device
    parts: dict[str, float]
    worst: str
    start: Cost
    steps: tuple[dict[str, Any], ...]
    last: str = "a pass"
    units: int = 0
    command: str = ""
    trained: Training | None = None

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
        end = {"bytes": self.end.bytes, "seconds": self.end.seconds, "worst_moment": self.last, "units": self.units}
        told = {"name": self.name, "unit": self.unit, "device": device, "start": start, "steps": list(self.steps), "end": end}
        return {**told, "fits": self.fits, "command": self.command}


@dataclass(frozen=True)
class Planner:
    """What all plans of a call have in common: what is launched, its codec, shares of a device's speed, and what was asked."""

    launch: Launch
    codec: DecodingBytes
    shares: Shares
    options: "Options"


def fits(options: "Options") -> tuple[list[Fit], list[Whole]]:
    """Every stage of the recipe and play, and the recipe as a whole, on every size of memory that was asked for."""
    run = read_recipe(options.model, options.set)
    shares, here = Shares(), None
    if options.measured:
        here = measured_device(stage_transformer(run, run.stages[-1]))
        shares = Shares(here.share, here.share)
    trained = [stage for stage in run.stages if not isinstance(stage, (CodecStage, PublishedStage, AverageStage))]
    found: list[Fit] = []
    wholes = []
    with Progress(1 + len(options.gpu_memory) * (len(trained) + 1), "planning") as bar:
        made = decoders(run)
        planner = Planner(Launch(options.model, tuple(options.set), run), sampled_codec(run), shares, options)
        bar.advance(1, "codec counted")
        for memory in options.gpu_memory:
            device = here.device.with_memory(memory) if here else device_for(memory, options.device)
            stages = []
            for stage in trained:
                stages.append(fit_training(planner, run, stage, device))
                bar.advance(1, stage.name)
            found += [*stages, fit_playing(run, made, device, shares, options)]
            wholes.append(whole_recipe(planner, stages, device))
            bar.advance(1, "play")
    return found, wholes


def whole_recipe(planner: Planner, stages: Sequence[Fit], device: Device) -> Whole:
    """All stages with the clips of the one that can have the fewest frames; one command, or one per stage where placements differ.

    All commands have all changes: a stage's parents are known by the configurations that made them.
    """
    run, missing = planner.launch.run, tuple(fit.name for fit in stages if not fit.fits)
    ends = [fit.trained for fit in stages if fit.fits and fit.trained is not None]
    if missing or not all(end.launchable for end in ends):
        unbuilt = missing or tuple(end.stage.name for end in ends if not end.launchable)
        return Whole(device.memory_gib, run.clip_frames, (), unbuilt, ())
    frames = min(end.run.clip_frames for end in ends)
    shorter = replace(run, clip_frames=frames)
    if any(end.run.clip_frames > frames for end in ends):
        again = [fit_training(planner, shorter, end.stage, device, shorter=False) for end in ends]
        ends = [fit.trained for fit in again if fit.trained is not None]
    costs = [(end.stage.name, end.cost(device, planner.shares.training).seconds, end.stage.update.updates) for end in ends]
    changes = tuple(dict.fromkeys(change for end in ends for change in end.changes(run)))
    ways = list(dict.fromkeys((end.placement, end.settings.processes) for end in ends))
    if len(ways) == 1:
        commands = [planner.launch.train((), changes, *ways[0])]
    else:
        laid = {end.stage.name: (end.placement, end.settings.processes) for end in ends}  # other stages (codec, means) as they are
        names = [stage.name for stage in run.stages if not isinstance(stage, PublishedStage)]
        commands = [planner.launch.train((name,), changes, *laid.get(name, (PLAIN, 1))) for name in names]
    return Whole(device.memory_gib, frames, tuple(costs), (), tuple(commands))


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


def sampled_codec(run: RunConfig) -> DecodingBytes:
    """The codec as a training has it, in float32: its weights, and what a row of samples takes, encoding its context or decoding a tile."""
    codec: Any = codec_of(run)
    if isinstance(run.codec, WanCodecConfig):
        from mutoscope.models.wan_codec import wan_codec

        codec = wan_codec(run.codec)
    shown = in_tiles(codec)
    taken = decoding_bytes(shown.tile if isinstance(shown, TiledCodec) else codec, codec)
    pixels = torch.empty(1, pixel_frames(sample_context(run), codec.temporal_stride), 3, run.data.height, run.data.width, device="meta")
    with torch.no_grad(), LiveBytes() as encoding:
        codec.encode(pixels)
    return replace(taken, working=max(taken.working, encoding.peak - taken.state))


def fit_training(planner: Planner, run: RunConfig, stage: LearningStage, device: Device, shorter: bool = True) -> Fit:
    """A stage as its recipe says, in bfloat16 over float32 masters, and what makes it fit; `shorter`: clips of fewer frames too."""
    options, share = planner.options, planner.shares.training
    config = stage_transformer(run, stage)
    clips = stage.update.batch_size // stage.update.accumulate
    start = Training(run, stage, config, Settings(clips, text=options.text_tokens, codec=planner.codec))
    taken, cost = start.footprint, start.cost(device, share)
    parts: dict[str, float] = {**dict(taken.resident), taken.worst[0]: taken.worst[1]}
    steps = fit_stage(start, device, share, options_of(options.gpus, options.with_proposed, shorter))
    end = steps[-1].state if steps else start
    last, settings = end.footprint.worst[0], end.settings
    fit = Fit(stage.name, "update", device, parts, taken.worst[0], cost, told(cost, steps), last, stage.update.updates, "", end)
    if not fit.fits or not end.launchable:
        return fit
    return replace(fit, command=planner.launch.train((stage.name,), end.changes(planner.launch.run), end.placement, settings.processes))


def fit_playing(run: RunConfig, found: tuple[Decoder, ...], device: Device, shares: Shares, options: "Options") -> Fit:
    """A session of the last student that matching makes (or of 4 steps), as it is played by default, and what makes it fit."""
    students = [stage for stage in run.stages if isinstance(stage, MatchingStage)]
    steps, memory = (students[0].student_steps, run.memory_of(students[0])) if students else (4, run.memory)
    config = stage_transformer(run, run.stages[-1])
    start = Playing(config, memory, found, run.chunk_frames, steps, options.rows, options.text_tokens)
    cost = start.cost(device, shares.playing)
    taken = fit_session(start, device, shares.playing, options.with_proposed)
    rows = told(cost, taken)
    for row, step in zip(rows, taken, strict=True):
        if step.state.policy != memory:
            row["words"] += f"; {memory_option(step.state.policy)}: a smaller memory than it was trained with"
    return Fit(f"play, {steps} steps", "chunk", device, start.parts, "a pass", cost, rows)


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


def report(found: Sequence[Fit], wholes: Sequence[Whole], run: RunConfig, human: Callable[[float], str], shares: str) -> str:
    """The steps of everything, what they lead to and how it is launched; and then the recipe as a whole."""
    lines = [shares]
    for fit in found:
        planned = f"{fit.device.memory_gib:g} GiB ({fit.device.name}, {human(fit.device.planned_bytes)} planned)"
        lines.append(f"\n{fit.name} on {planned}")
        largest = sorted(fit.parts.items(), key=lambda part: -part[1])[:4]
        lines.append(f"  as the recipe says: {human(fit.start.bytes)}, {spent(fit, fit.start)}")
        lines.append(f"    of it {', '.join(f'{name} {human(amount)}' for name, amount in largest)}")
        for step in fit.steps:
            mark = "" if step["ready"] else " (proposed)"
            change = {"time": f"{step['longer']:+.0%} time", "result": "another result", "devices": "more devices"}[step["price"]]
            lines.append(f"  - {step['option']}{mark}: -{human(step['saves'])}, {change} -> {human(step['bytes'])}")
        words = f", {fit.steps[-1]['words']}" if fit.steps else ""
        most = f" (most in: {fit.last})" if fit.trained is not None else ""
        lines.append(f"  {'fits' if fit.fits else 'DOES NOT FIT'}: {human(fit.end.bytes)}{most}, {spent(fit, fit.end)}{words}")
        lines += [f"  {fit.command}"] if fit.command else []
    lines += [line for whole in wholes for line in told_whole(whole)]
    if any(not step["ready"] for fit in found for step in fit.steps):
        lines += ["", "(proposed): modelled here, and not an option of this package: what has such a step cannot be launched."]
    return "\n".join([*lines, "", *notes(run)])


def spent(fit: Fit, cost: Cost) -> str:
    """Seconds of one unit, and of all of them."""
    if not fit.units:
        return f"{seconds(cost.seconds)} a {fit.unit}"
    return f"about {seconds(cost.seconds)} an {fit.unit}, {fit.units:,} {fit.unit}s: {seconds(fit.units * cost.seconds)}"


def told_whole(whole: Whole) -> list[str]:
    """The whole recipe on one size of memory."""
    head = f"\nthe whole recipe on {whole.memory_gib:g} GiB"
    if whole.missing:
        return [f"{head}: not with what there is, because of {', '.join(whole.missing)}"]
    parts = " + ".join(f"{name} {seconds(each * updates)}" for name, each, updates in whole.stages)
    frames = f"clips of {whole.clip_frames} frames in all stages"
    return [f"{head}, {frames}: {seconds(whole.seconds)} without samples, saves and scores ({parts})", *map("  {}".format, whole.commands)]
