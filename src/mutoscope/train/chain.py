"""From a recipe to a finished chain: each stage finds its input through a checked manifest.

Run folder:
    run.json, environment.json, README.md     what this run is
    data/train, data/held-out                 recorded clips (or links that were given)
    latents/                                  the training clips, encoded (where they were not given as latents)
    prompts/                                  embeddings of the captions, where the model is told in words what to show
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
from mutoscope.core.shapes import pixel_frames
from mutoscope.core.streams import derive_seed, stream
from mutoscope.data.batches import ClipSampler
from mutoscope.data.captions import PROMPTS
from mutoscope.data.clips import ClipDataset, open_dataset
from mutoscope.memory.policy import Full
from mutoscope.models.checkpoint import (
    IMPORTED,
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
from mutoscope.models.text_cache import open_cache
from mutoscope.models.transformer import VideoTransformer
from mutoscope.train.build import build_stage, stage_figures
from mutoscope.train.check import START_FRAMES, check_data
from mutoscope.train.config import (
    AverageStage,
    BidirectionalStage,
    CodecStage,
    LearningStage,
    PublishedStage,
    RunConfig,
    StageConfig,
    parents,
)
from mutoscope.train.learner import copies_share_weights
from mutoscope.train.loop import LoopPlan, run_loop
from mutoscope.train.manifests import codec_source, recipe_manifest, temporal_stride
from mutoscope.train.parallel import Workers
from mutoscope.train.pictures import draw_average, draw_samples
from mutoscope.train.prompts import CachedPrompts, NoPrompts, Prompts, gather_prompts, prompts_identity
from mutoscope.train.published import check_imports, imported_identity, imported_manifest
from mutoscope.train.sources import CLIPS, ClipSource, encode_clips, encode_dataset, is_prepared
from mutoscope.train.stages.codec import measure_latents

NUM_STARTS = 8


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
        """Hash of all that this stage's result depends on: its own config, its data and its ancestors'; of imported weights, themselves."""
        if (imported := imported_manifest(self.checkpoint_path(stage.name))) is not None:
            return imported_identity(stage, imported)
        shards = tuple(shard.sha256 for shard in self.train_data.manifest.shards)
        if isinstance(stage, CodecStage):  # it sees single frames: neither transformer nor memory nor clip length matter to it
            return config_hash((self.run.data, self.run.seed, self.run.precision, shards, stage))
        run = replace(self.run, stages=(), name="")
        if isinstance(stage, BidirectionalStage):  # whole clips: neither memory nor chunks matter to it
            run = replace(run, memory=Full(run.clip_frames), chunk_frames=1)
        base = (run, shards) if run.text == "none" else (run, shards, prompts_identity(self.folder, run.text, self.train_data))
        ancestry = [self.stage_identity(parent) for parent in (*map(self.run.stage, parents(stage)), codec_source(self.run))]
        return config_hash((base, stage, tuple(ancestry)))

    @property
    def prompts(self) -> Prompts:
        """What its clips are told in words."""
        text = self.run.text
        return NoPrompts() if text == "none" else CachedPrompts(open_cache(self.folder / PROMPTS), text.negative)

    @property
    def codec_path(self) -> Path:
        """The checkpoint that holds the run's codec."""
        return self.checkpoint_path(codec_source(self.run).name)


def open_chain(run: RunConfig, folder: Path, data: Path, held_out: Path, workers: Workers) -> Chain:
    """Open or create a run folder; a folder that holds another run, or lacks published weights that it needs, is refused in words."""
    check_trainable(run)
    folder = Path(folder)
    if (folder / "run.json").is_file():
        before = from_plain(RunConfig, read_json(folder / "run.json"), "run.json")
        if replace(before, stages=()) != replace(run, stages=()):
            raise ConfigError(f"{folder} holds another run ('{before.name}'); give another folder, or delete it")
    chain = Chain(run, folder, open_dataset(data), open_dataset(held_out), workers)
    if run.text != "none" and workers.leads:
        gather_prompts(folder, run.text, run.model.text_dim, (chain.train_data, chain.held_out))
    workers.wait()
    check_data(chain)
    if workers.leads:
        write_json(folder / "run.json", to_plain(run))
        note_session(folder)
        write_bytes(folder / "README.md", run_readme(run).encode())
    check_imports(run, folder, chain.train_data.world.actions.dim)  # last: its advice is to import for the run.json that is there now
    return chain


def check_trainable(run: RunConfig) -> None:
    """A recipe has a codec, trained or published, and prompts if its model reads some."""
    codec_source(run)
    if (run.model.text_dim > 0) != (run.text != "none"):
        raise ConfigError(
            f"'{run.name}' has prompts ({run.text}) and a model of text_dim {run.model.text_dim}; give both, or text 'none' and text_dim 0"
        )


def note_session(folder: Path) -> None:
    """Add this machine, commit and command to those that have worked on the run: a resumed run may have seen several."""
    file = folder / "environment.json"
    before = read_json(file)["sessions"] if file.is_file() else []
    write_json(file, {"sessions": [*before, provenance()]})


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
            elif not isinstance(stage, PublishedStage):
                train_stage(chain, stage)
            if chain.workers.leads:
                after_stage(stage, path)
        chain.workers.wait()


def is_finished(chain: Chain, stage: StageConfig) -> bool:
    """True if this stage's checkpoint exists and was made by this very configuration, or was imported."""
    path = chain.checkpoint_path(stage.name)
    return (path / "manifest.json").is_file() and is_of(chain, stage, read_manifest(path))


def is_of(chain: Chain, stage: StageConfig, manifest: CheckpointManifest) -> bool:
    """True if a manifest is that of this stage in this chain; `check_imports` has looked at imported ones."""
    return manifest.imported or manifest.recipe_hash == chain.stage_identity(stage)


def train_stage(chain: Chain, stage: LearningStage) -> None:
    """Train one stage from its parents' checkpoints and write its own."""
    folder = chain.folder / stage.name
    plan = LoopPlan(stage.name, folder, stage.update, chain.run.precision, chain.stage_identity(stage))
    if isinstance(stage, CodecStage):
        train_codec(chain, stage, plan)
        return
    codec_manifest, codec = load_codec(chain.codec_path, chain.workers.device)
    source = latent_source(chain, stage, codec)
    inputs = {name: load_parent(chain, name) for name in parents(stage)}
    manifest = stage_manifest(chain, stage, codec_manifest.codec, inputs)
    with copies_share_weights(chain.workers.placement.weights == "sharded"):
        run_stage = build_stage(chain.run, stage, inputs, fresh_model(chain, manifest, inputs), source)
    run_loop(run_stage, source, plan, chain.workers, lambda update: draw_samples(chain, stage, run_stage, codec, manifest, update))
    if chain.workers.leads:
        learner = run_stage.learners["model"]
        manifest = replace(manifest, updates=learner.updates)
        starts = draw_starts(chain)
        save_checkpoint(
            chain.checkpoint_path(stage.name), manifest, model=learner.module, average=learner.average, codec=codec, starts=starts
        )
        chain.prompts.keep(chain.checkpoint_path(stage.name))
    chain.workers.wait()


def average_students(chain: Chain, stage: AverageStage) -> None:
    """The mean of finished students as a checkpoint of its own, with a sample video. Its `updates` are those of all of them."""
    if not chain.workers.leads:
        return
    codec_manifest, codec = load_codec(chain.codec_path, chain.workers.device)
    inputs = {name: load_parent(chain, name) for name in stage.of}
    manifest = stage_manifest(chain, stage, codec_manifest.codec, inputs)
    manifest = replace(manifest, updates=sum(student.manifest.updates for student in inputs.values()))
    mean = mean_model([student.model for student in inputs.values()]).to(chain.workers.device)
    draw_average(chain, stage, mean, codec, manifest)
    save_checkpoint(chain.checkpoint_path(stage.name), manifest, model=None, average=mean, codec=codec, starts=draw_starts(chain))
    chain.prompts.keep(chain.checkpoint_path(stage.name))


def mean_model(models: Sequence[VideoTransformer]) -> VideoTransformer:
    """A model whose every weight is the mean of theirs, computed in float64."""
    states = [model.state_dict() for model in models]
    mean = copy.deepcopy(models[0])
    mean.load_state_dict({name: torch.stack([state[name].double() for state in states]).mean(0) for name in states[0]})
    return mean


def latent_source(chain: Chain, stage: LearningStage, codec: LoadedCodec) -> ClipSource:
    """The clips of a stage as latents: as they were prepared, or encoded here."""
    seed, frames = derive_seed(chain.run.seed, stage.name), chain.run.frames_read(stage)
    prepared = is_prepared(chain.train_data)
    if prepared and dict(chain.train_data.manifest.settings).get("codec") != codec_hash(chain):
        raise DataError(f"{chain.train_data.path} was prepared with another codec than the one in {chain.codec_path}; prepare it again")
    latents = chain.train_data if prepared else prepare_latents(chain, codec, frames)
    array = CLIPS if prepared or codec.temporal_stride > 1 else "latents"
    return ClipSource(latents, array, frames, stage.update, seed, chain.workers, chain.prompts, chain.run.model.camera)


def prepare_latents(chain: Chain, codec: LoadedCodec, frames: int) -> ClipDataset:
    """The training clips through the codec: once per codec, and with a temporal stride once per length of clips as well."""
    target = chain.folder / "latents" / codec_hash(chain)
    if codec.temporal_stride > 1:
        target = target / f"clips-of-{frames}"
    if chain.workers.leads and codec.temporal_stride > 1:
        encode_clips(chain.train_data, codec, frames, target, chain.workers.device)
    elif chain.workers.leads:
        encode_dataset(chain.train_data, codec, target, chain.workers.device)
    chain.workers.wait()
    return open_dataset(target)


def codec_hash(chain: Chain) -> str:
    """Names the codec's weights; an imported checkpoint says it itself."""
    return read_manifest(chain.codec_path).codec_hash or hash_file(chain.codec_path / "codec.safetensors")[:16]


def load_parent(chain: Chain, name: str) -> Checkpoint:
    """A parent's checkpoint, checked: finished, of this configuration, of this codec."""
    stage, path = chain.run.stage(name), chain.checkpoint_path(name)
    if not (path / "manifest.json").is_file():
        raise CheckpointError(f"stage '{name}' has no finished checkpoint at {path}; train it first")
    checkpoint = load_checkpoint(path, chain.workers.home, mapped=chain.workers.placement.weights == "sharded")
    if not is_of(chain, stage, checkpoint.manifest):
        raise CheckpointError(
            f"{path} was made by another configuration of stage '{name}', or from other training data; "
            "train it again or give another run folder"
        )
    if checkpoint.manifest.imported and checkpoint.manifest.recipe_hash != f"{IMPORTED}{checkpoint.hash}":
        raise CheckpointError(f"the weights in {path} are not those that were imported; delete it and import them again")
    if checkpoint.manifest.codec_hash != codec_hash(chain):
        raise CheckpointError(f"{path} was trained with another codec than the one in this run; train it again")
    return checkpoint


def fresh_model(chain: Chain, manifest: CheckpointManifest, inputs: dict[str, Checkpoint]) -> VideoTransformer:
    """A stage's transformer with fresh weights, or with none where a parent has them all."""
    assert manifest.model is not None
    if any(parent.model.config == manifest.model for parent in inputs.values()):
        with torch.device("meta"):
            return VideoTransformer(manifest.model)
    return VideoTransformer(manifest.model).initialise(stream(chain.run.seed, "model weights")).to(chain.workers.home)


def train_codec(chain: Chain, stage: CodecStage, plan: LoopPlan) -> None:
    """Stage 0: fresh codec, trained on single frames, then its latent statistics."""
    world, workers = chain.train_data.world, chain.workers
    config = ConvCodecConfig(world.height, world.width, stage.latent_channels, stage.widths, stage.blocks)
    codec = ConvCodec(config).initialise(stream(chain.run.seed, "codec weights")).to(workers.device)
    seed, frames = derive_seed(chain.run.seed, stage.name), chain.run.frames_read(stage)
    source = ClipSource(chain.train_data, "frames", frames, stage.update, seed, workers)
    run_stage = build_stage(chain.run, stage, {}, codec, source)
    manifest = stage_manifest(chain, stage, config, {})
    run_loop(run_stage, source, plan, workers, lambda update: draw_samples(chain, stage, run_stage, codec, manifest, update))
    average = run_stage.learners["codec"].average
    assert isinstance(average, ConvCodec)
    sampler = ClipSampler(
        chain.train_data, clip_frames=1, batch_size=64, seed=derive_seed(chain.run.seed, "latent statistics"), arrays=("frames",)
    )
    measure_latents(
        average, [to_model_pixels(torch.from_numpy(sampler.batch(index).arrays["frames"]).to(workers.device)) for index in range(32)]
    )
    if workers.leads:
        manifest = replace(manifest, updates=run_stage.learners["codec"].updates)
        manifest = replace(manifest, latent_mean=tuple(average.latent_mean.tolist()), latent_std=tuple(average.latent_std.tolist()))
        save_checkpoint(chain.checkpoint_path(stage.name), manifest, model=None, average=None, codec=freeze(average), starts=None)
    workers.wait()


def stage_manifest(chain: Chain, stage: StageConfig, codec: CodecConfig, inputs: dict[str, Checkpoint]) -> CheckpointManifest:
    """The manifest of a stage's checkpoint, its figures for play taken from the stage's own config."""
    said = recipe_manifest(chain.run, stage, stage_figures(stage, inputs), chain.train_data.world, codec)
    said = replace(
        said,
        parents=tuple(f"{name}:{checkpoint.hash}" for name, checkpoint in inputs.items()),
        recipe_hash=chain.stage_identity(stage),
    )
    if isinstance(stage, CodecStage):
        return said
    before = read_manifest(chain.codec_path)
    return replace(said, codec_hash=codec_hash(chain), latent_mean=before.latent_mean, latent_std=before.latent_std)


def episode_begins(dataset: ClipDataset, frames: int) -> np.ndarray:
    """The windows of `frames` frames that begin the first NUM_STARTS episodes, over again where there are fewer.

    Where words say what to show, a clip from the middle would show it already.
    """
    lengths = np.maximum([episode.num_frames - frames + 1 for episode in dataset.episodes], 0)
    begins = (lengths.cumsum() - lengths)[lengths > 0]
    return np.resize(begins, NUM_STARTS)


def draw_starts(chain: Chain) -> Starts:
    """Real held-out clips that play can begin from: the pixel frames of `START_FRAMES` frames."""
    frames = pixel_frames(START_FRAMES, temporal_stride(chain.run))
    sampler = ClipSampler(
        chain.held_out,
        clip_frames=frames,
        batch_size=NUM_STARTS,
        seed=derive_seed(chain.run.seed, "starts"),
        arrays=("frames", "actions"),
    )
    batch = sampler.batch(0) if chain.run.text == "none" else sampler.windows(episode_begins(chain.held_out, frames))
    stops = batch.starts + frames
    ways = np.zeros((NUM_STARTS, stops.max() - 1, chain.held_out.world.actions.dim), np.float32)
    for way, episode, stop in zip(ways, batch.episodes, stops, strict=True):
        way[: stop - 1] = chain.held_out.read(int(episode), 1, int(stop), ("actions",))["actions"]
    seeds = np.array([chain.held_out.episodes[episode].seed for episode in batch.episodes])
    arrays = (batch.arrays["frames"], batch.arrays["actions"], batch.known, seeds, ways, stops - 1)
    return Starts(*map(torch.from_numpy, arrays))
