"""From a recipe to a finished chain: each stage finds its input through a checked manifest.

Run folder:
    run.json, environment.json, README.md     what this run is
    data/train, data/held-out                 recorded clips (or links that were given)
    latents/                                  the training clips, encoded
    <stage>/metrics.jsonl, curves.png, samples/, state/, checkpoint/
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from mutoscope.core.config import config_hash, from_plain, to_plain
from mutoscope.core.errors import CheckpointError, ConfigError, DataError
from mutoscope.core.files import hash_file, read_json, write_bytes, write_json
from mutoscope.core.provenance import provenance
from mutoscope.core.streams import derive_seed, stream
from mutoscope.data.batches import ClipSampler
from mutoscope.data.clips import ClipDataset, open_dataset
from mutoscope.memory.kinds import state_name
from mutoscope.memory.policy import Full
from mutoscope.models.checkpoint import (
    FORMAT_VERSION,
    Checkpoint,
    CheckpointManifest,
    CodecConfig,
    LoadedCodec,
    Starts,
    freeze,
    load_checkpoint,
    load_codec,
    read_manifest,
    save_checkpoint,
)
from mutoscope.models.codec import ConvCodec, ConvCodecConfig, to_model_pixels
from mutoscope.models.transformer import VideoTransformer
from mutoscope.train.build import build_stage, recall_of, stage_figures, transformer_config
from mutoscope.train.config import (
    AverageStage,
    BidirectionalStage,
    CodecStage,
    LearningStage,
    MatchingStage,
    PublishedStage,
    RunConfig,
    StageConfig,
    parents,
)
from mutoscope.train.loop import LoopPlan, run_loop
from mutoscope.train.parallel import Workers
from mutoscope.train.pictures import draw_average, draw_samples, sample_frames
from mutoscope.train.sources import ClipSource, encode_dataset
from mutoscope.train.stages.codec import measure_latents

NUM_STARTS = 8
START_FRAMES = 4


@dataclass
class Chain:
    """A run in a folder."""

    run: RunConfig
    folder: Path
    train_data: ClipDataset
    held_out: ClipDataset
    workers: Workers

    def checkpoint_path(self, stage: str) -> Path:
        """Where a stage's finished checkpoint lies."""
        return self.folder / stage / "checkpoint"

    def stage_identity(self, stage: StageConfig) -> str:
        """Hash of all that this stage's result depends on: its own config, its data and its ancestors'."""
        shards = tuple(shard.sha256 for shard in self.train_data.manifest.shards)
        if isinstance(stage, CodecStage):  # it sees single frames: neither transformer nor memory nor clip length matter to it
            return config_hash((self.run.data, self.run.seed, self.run.precision, shards, stage))
        run = replace(self.run, stages=(), name="")
        if isinstance(stage, BidirectionalStage):  # whole clips: neither memory nor chunks matter to it
            run = replace(run, memory=Full(run.clip_frames), chunk_frames=1)
        base = run, shards
        ancestry = [self.stage_identity(parent) for parent in (*map(self.run.stage, parents(stage)), self.codec_stage)]
        return config_hash((base, stage, tuple(ancestry)))

    @property
    def codec_stage(self) -> CodecStage:
        """The recipe's first stage."""
        return self.run.codec_stage


def open_chain(run: RunConfig, folder: Path, data: Path, held_out: Path, workers: Workers) -> Chain:
    """Open or create a run folder; a folder that holds another run, and a recipe that trains no codec, are refused in words."""
    check_trainable(run)
    folder = Path(folder)
    if (folder / "run.json").is_file():
        before = from_plain(RunConfig, read_json(folder / "run.json"), "run.json")
        if replace(before, stages=()) != replace(run, stages=()):
            raise ConfigError(f"{folder} holds another run ('{before.name}'); give another folder, or delete it")
    chain = Chain(run, folder, open_dataset(data), open_dataset(held_out), workers)
    check_data(chain)
    if workers.leads:
        write_json(folder / "run.json", to_plain(run))
        note_session(folder)
        write_bytes(folder / "README.md", run_readme(run).encode())
    return chain


def check_trainable(run: RunConfig) -> None:
    """A chain is trained from recorded frames through a codec of its own; recipes with published parts are refused."""
    if run.codec != "trained" or any(isinstance(stage, PublishedStage) for stage in run.stages):
        raise ConfigError(
            f"'{run.name}' is built on published weights, which can be imported and exported, but not trained on yet; "
            "recipes that can be trained begin with a codec of their own, such as scroll or doom"
        )


def note_session(folder: Path) -> None:
    """Add this machine, commit and command to those that have worked on the run: a resumed run may have seen several."""
    file = folder / "environment.json"
    before = read_json(file)["sessions"] if file.is_file() else []
    write_json(file, {"sessions": [*before, provenance()]})


def check_data(chain: Chain) -> None:
    """Both data sets are of one world, that of the checkpoints already here, with episodes as long as the clips of every stage."""
    world = chain.train_data.world
    if world != chain.held_out.world:
        raise ConfigError(f"{chain.train_data.path} and {chain.held_out.path} were recorded from different worlds")
    needs = ((chain.train_data, chain.run.longest_clip), (chain.held_out, max(sample_frames(chain.run), START_FRAMES)))
    for dataset, frames in needs:
        longest = max(episode.num_frames for episode in dataset.episodes)
        if longest < frames:
            raise DataError(
                f"this run needs clips of {frames} frames, and the longest episode of {dataset.path} has {longest}; "
                f"record longer ones{_shorter_rollouts(chain.run, frames)}"
            )
    for stage in chain.run.stages:
        path = chain.checkpoint_path(stage.name)
        if (path / "manifest.json").is_file() and read_manifest(path).world != world:
            raise CheckpointError(
                f"{path} was trained on the world {read_manifest(path).world}, and {chain.train_data.path} is of {world}; "
                "give another run folder, or the data that it was trained on"
            )


def _shorter_rollouts(run: RunConfig, frames: int) -> str:
    """The other way out where it is matching's long rollouts that need so many frames."""
    names = ", ".join(stage.name for stage in run.stages if run.frames_read(stage) == frames > run.clip_frames)
    return f", or lower frames_beyond_clip of {names}" if names else ""


def run_readme(run: RunConfig) -> str:
    """A run folder explains itself."""
    stages = "\n".join(f"- `{stage.name}/` ({type(stage).__name__})" for stage in run.stages)
    return (
        f"# Run '{run.name}'\n\n`run.json` is the resolved configuration, `environment.json` the machine and commit of every session.\n"
        f"Stages, in order; each has metrics.jsonl, curves.png, samples/, state/ (to resume) and checkpoint/ (to play):\n\n{stages}\n\n"
        "Run the same `mutoscope train` command again to go on where it stopped.\n"
    )


def train_chain(chain: Chain, only: tuple[str, ...], after_stage: Callable[[StageConfig, Path], None]) -> None:
    """Train every stage that is not finished yet (or those named in `only`), then call `after_stage`."""
    for name in only:
        chain.run.stage(name)
    for stage in chain.run.stages:
        if only and stage.name not in only:
            continue
        path = chain.checkpoint_path(stage.name)
        if not is_finished(chain, stage):
            if isinstance(stage, AverageStage):
                average_students(chain, stage)
            elif isinstance(stage, PublishedStage):
                raise CheckpointError(f"stage '{stage.name}' has published weights; write them to {path} with: mutoscope import")
            else:
                train_stage(chain, stage)
            if chain.workers.leads:
                after_stage(stage, path)
        chain.workers.wait()


def is_finished(chain: Chain, stage: StageConfig) -> bool:
    """True if this stage's checkpoint exists and was made by this very configuration."""
    path = chain.checkpoint_path(stage.name)
    return (path / "manifest.json").is_file() and read_manifest(path).recipe_hash == chain.stage_identity(stage)


def train_stage(chain: Chain, stage: LearningStage) -> None:
    """Train one stage from its parents' checkpoints and write its own."""
    folder = chain.folder / stage.name
    plan = LoopPlan(stage.name, folder, stage.update, chain.run.precision, chain.stage_identity(stage))
    if isinstance(stage, CodecStage):
        train_codec(chain, stage, plan)
        return
    codec_manifest, codec = load_codec(chain.checkpoint_path(chain.codec_stage.name), chain.workers.device)
    latents = prepare_latents(chain, codec)
    seed, frames = derive_seed(chain.run.seed, stage.name), chain.run.frames_read(stage)
    source = ClipSource(latents, "latents", frames, stage.update, seed, chain.workers)
    inputs = {name: load_parent(chain, name) for name in parents(stage)}
    run_stage = build_stage(chain.run, stage, inputs, fresh_model(chain, stage, codec), source)
    run_loop(run_stage, source, plan, chain.workers, lambda update: draw_samples(chain, stage, run_stage, codec, update))
    if chain.workers.leads:
        manifest = stage_manifest(chain, stage, codec_manifest.codec, inputs)
        learner = run_stage.learners["model"]
        manifest = replace(manifest, updates=learner.updates)
        starts = draw_starts(chain)
        save_checkpoint(
            chain.checkpoint_path(stage.name), manifest, model=learner.module, average=learner.average, codec=codec, starts=starts
        )
    chain.workers.wait()


def average_students(chain: Chain, stage: AverageStage) -> None:
    """The mean of finished students as a checkpoint of its own, with a sample video. Its `updates` are those of all of them."""
    if not chain.workers.leads:
        return
    codec_manifest, codec = load_codec(chain.checkpoint_path(chain.codec_stage.name), chain.workers.device)
    inputs = {name: load_parent(chain, name) for name in stage.of}
    manifest = stage_manifest(chain, stage, codec_manifest.codec, inputs)
    manifest = replace(manifest, updates=sum(student.manifest.updates for student in inputs.values()))
    mean = mean_model([student.model for student in inputs.values()])
    draw_average(chain, stage, mean, codec)
    save_checkpoint(chain.checkpoint_path(stage.name), manifest, model=None, average=mean, codec=codec, starts=draw_starts(chain))


def mean_model(models: Sequence[VideoTransformer]) -> VideoTransformer:
    """A model whose every weight is the mean of theirs, computed in float64."""
    states = [model.state_dict() for model in models]
    mean = copy.deepcopy(models[0])
    mean.load_state_dict({name: torch.stack([state[name].double() for state in states]).mean(0) for name in states[0]})
    return mean


def prepare_latents(chain: Chain, codec: LoadedCodec) -> ClipDataset:
    """The training clips through the codec, once per codec."""
    target = chain.folder / "latents" / codec_hash(chain)
    if chain.workers.leads:
        encode_dataset(chain.train_data, codec, target, chain.workers.device)
    chain.workers.wait()
    return open_dataset(target)


def codec_hash(chain: Chain) -> str:
    """Names the codec's weights."""
    return hash_file(chain.checkpoint_path(chain.codec_stage.name) / "codec.safetensors")[:16]


def load_parent(chain: Chain, name: str) -> Checkpoint:
    """A parent's checkpoint, checked: finished, of this configuration, of this codec."""
    stage, path = chain.run.stage(name), chain.checkpoint_path(name)
    if not (path / "manifest.json").is_file():
        raise CheckpointError(f"stage '{name}' has no finished checkpoint at {path}; train it first")
    checkpoint = load_checkpoint(path, chain.workers.home)
    if checkpoint.manifest.recipe_hash != chain.stage_identity(stage):
        raise CheckpointError(
            f"{path} was made by another configuration of stage '{name}', or from other training data; "
            "train it again or give another run folder"
        )
    if checkpoint.manifest.codec_hash != codec_hash(chain):
        raise CheckpointError(f"{path} was trained with another codec than the one in this run; train it again")
    return checkpoint


def fresh_model(chain: Chain, stage: StageConfig, codec: LoadedCodec) -> VideoTransformer:
    """A stage's transformer with fresh weights, sized for its codec and world."""
    config = transformer_config(chain.run.model, codec, chain.train_data.world.actions.dim, recall_of(chain.run, stage))
    return VideoTransformer(config).initialise(stream(chain.run.seed, "model weights")).to(chain.workers.home)


def train_codec(chain: Chain, stage: CodecStage, plan: LoopPlan) -> None:
    """Stage 0: fresh codec, trained on single frames, then its latent statistics."""
    world, workers = chain.train_data.world, chain.workers
    config = ConvCodecConfig(world.height, world.width, stage.latent_channels, stage.widths, stage.blocks)
    codec = ConvCodec(config).initialise(stream(chain.run.seed, "codec weights")).to(workers.device)
    seed, frames = derive_seed(chain.run.seed, stage.name), chain.run.frames_read(stage)
    source = ClipSource(chain.train_data, "frames", frames, stage.update, seed, workers)
    run_stage = build_stage(chain.run, stage, {}, codec, source)
    run_loop(run_stage, source, plan, workers, lambda update: draw_samples(chain, stage, run_stage, codec, update))
    average = run_stage.learners["codec"].average
    assert isinstance(average, ConvCodec)
    sampler = ClipSampler(
        chain.train_data, clip_frames=1, batch_size=64, seed=derive_seed(chain.run.seed, "latent statistics"), arrays=("frames",)
    )
    measure_latents(
        average, [to_model_pixels(torch.from_numpy(sampler.batch(index).arrays["frames"]).to(workers.device)) for index in range(32)]
    )
    if workers.leads:
        manifest = replace(stage_manifest(chain, stage, config, {}), updates=run_stage.learners["codec"].updates)
        manifest = replace(manifest, latent_mean=tuple(average.latent_mean.tolist()), latent_std=tuple(average.latent_std.tolist()))
        save_checkpoint(chain.checkpoint_path(stage.name), manifest, model=None, average=None, codec=freeze(average), starts=None)
    workers.wait()


def stage_manifest(chain: Chain, stage: StageConfig, codec: CodecConfig, inputs: dict[str, Checkpoint]) -> CheckpointManifest:
    """The manifest of a stage's checkpoint, its figures for play taken from the stage's own config."""
    run, is_codec = chain.run, isinstance(stage, CodecStage)
    path = chain.checkpoint_path(chain.codec_stage.name)
    before = None if is_codec else read_manifest(path)
    model = None if is_codec else fresh_model(chain, stage, load_codec(path)[1]).config
    figures = stage_figures(stage, inputs)
    return CheckpointManifest(
        format_version=FORMAT_VERSION,
        stage=figures.kind,
        world=chain.train_data.world,
        codec=codec,
        model=model,
        codec_hash="" if is_codec else codec_hash(chain),
        memory=run.memory_of(stage),
        chunk_frames=run.chunk_frames,
        clip_frames=run.clip_frames,
        shift=run.shift,
        teacher_steps=figures.teacher_steps,
        student_steps=figures.student_steps,
        first_chunk_steps=figures.first_chunk_steps,
        distilled_guidance=figures.guidance,
        action_dropout=figures.action_dropout,
        precision=run.precision,
        updates=0,
        parents=tuple(f"{name}:{checkpoint.hash}" for name, checkpoint in inputs.items()),
        recipe=run.name,
        recipe_hash=chain.stage_identity(stage),
        latent_mean=() if before is None else before.latent_mean,
        latent_std=() if before is None else before.latent_std,
        memory_modules=memory_modules(run, stage),
    )


def memory_modules(run: RunConfig, stage: StageConfig) -> tuple[str, ...]:
    """The learned memory in a stage's model, and whether the stage taught its writing."""
    recall = recall_of(run, stage)
    if recall is None:
        return ()
    frozen = isinstance(stage, MatchingStage) and stage.memory_writes == "frozen"
    taught = "writing frozen (matching reads what the detached past wrote)" if frozen else "writing taught"
    source = ", from last passes" if recall.written_from == "last pass" else ""
    return (f"{state_name(recall)}: {taught}{source}",)


def draw_starts(chain: Chain) -> Starts:
    """Real held-out clips that play can begin from."""
    sampler = ClipSampler(
        chain.held_out,
        clip_frames=START_FRAMES,
        batch_size=NUM_STARTS,
        seed=derive_seed(chain.run.seed, "starts"),
        arrays=("frames", "actions"),
    )
    batch = sampler.batch(0)
    stops = batch.starts + START_FRAMES
    ways = np.zeros((NUM_STARTS, stops.max() - 1, chain.held_out.world.actions.dim), np.float32)
    for way, episode, stop in zip(ways, batch.episodes, stops, strict=True):
        way[: stop - 1] = chain.held_out.read(int(episode), 1, int(stop), ("actions",))["actions"]
    seeds = np.array([chain.held_out.episodes[episode].seed for episode in batch.episodes])
    arrays = (batch.arrays["frames"], batch.arrays["actions"], batch.known, seeds, ways, stops - 1)
    return Starts(*map(torch.from_numpy, arrays))
