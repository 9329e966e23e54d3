"""Real stages around tiny random models, fed with made-up clips: the loop needs no data set."""

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from fakes import ACTIONS, CODEC, ODD, scatter_parameters, tiny_config, tiny_model
from mutoscope.core.streams import derive_seed, stream
from mutoscope.memory.policy import Window
from mutoscope.models.codec import ConvCodec
from mutoscope.models.conditions import action_conditions
from mutoscope.models.text_config import TextConfig
from mutoscope.train.batch import ClipBatch, Draws
from mutoscope.train.config import (
    AutoregressiveStage,
    BidirectionalStage,
    CodecStage,
    ConsistencyStage,
    DataConfig,
    MatchingStage,
    ModelConfig,
    OdeStage,
    RunConfig,
    StageConfig,
    UpdateConfig,
)
from mutoscope.train.loop import LoopPlan, StageRun, run_loop
from mutoscope.train.parallel import Workers
from mutoscope.train.stages.codec import CodecRun
from mutoscope.train.stages.consistency import ConsistencyRun
from mutoscope.train.stages.matching import MatchingRun
from mutoscope.train.stages.ode import OdeRun
from mutoscope.train.stages.teachers import AutoregressiveRun, BidirectionalRun

CPU = torch.device("cpu")
ALONE = Workers(0, 1, CPU)
UPDATE = UpdateConfig(5, 4, 1e-3, warmup=2, save_every=2, log_every=1, average=0.9)
RUN = RunConfig(
    name="fake",
    data=DataConfig("fake", CODEC.height, CODEC.width, 1, 2, 9, 2),
    model=ModelConfig(24, 32, 2, 2, freq_dim=16),
    memory=Window(4),
    chunk_frames=1,
    clip_frames=7,
    shift=2.0,
    stages=(),
    precision="fp32",
)
CHUNKS = replace(RUN, chunk_frames=3)
TOLD = replace(RUN, model=replace(RUN.model, text_dim=10), text=TextConfig("minilm", tokens=5))
STAGES = ("codec", "bidirectional", "autoregressive", "ode", "consistency", "matching")
# The stages, and those that learn in another way besides.
KINDS = (*STAGES, "long-matching", "sharing-matching")


class WideDraws(Draws):
    """The same draws in float64."""

    def normal(self, purpose: str, *shape: int) -> Tensor:
        return super().normal(purpose, *shape).double()

    def uniform(self, purpose: str, *shape: int) -> Tensor:
        return super().uniform(purpose, *shape).double()


@dataclass(frozen=True)
class FakeSource:
    """Clips `[sample, *shape]` that depend on (turn, update, sample) alone, as those of a data set do."""

    config: UpdateConfig
    shape: tuple[int, ...]
    workers: Workers = ALONE
    wide: bool = False
    text: tuple[int, int] = (0, 0)

    def batch(self, turn: str, update: int, micro: int, accumulate: int, clips: tuple[str, int] | None = None) -> ClipBatch:
        reader, number = clips or (turn, update)
        share = self.config.batch_size // self.workers.readers
        size = share // accumulate
        first = self.workers.reader * share + micro * size
        samples, kind = tuple(range(first, first + size)), WideDraws if self.wide else Draws
        made = kind(derive_seed(1, f"clips/{reader}"), number, samples, CPU)
        draws, clip_draws = (kind(derive_seed(1, f"draws/{name}"), step, samples, CPU) for name, step in ((turn, update), (reader, number)))
        known = torch.ones(size, self.shape[0], dtype=torch.bool)
        known[:, 0] = False
        conditions = action_conditions(made.normal("actions", self.shape[0], 1, ACTIONS.dim), known)
        if all(self.text):
            conditions = conditions.told(made.normal("text", *self.text), torch.zeros_like(made.normal("text", *self.text)))
        return ClipBatch(made.normal("pixels", *self.shape), conditions, draws, clip_draws)


def stage_config(kind: str, update: UpdateConfig) -> StageConfig:
    """A small stage of each kind; the stage's name is its kind.

    Rollouts of "long-matching" are up to twice as long as its clips; "sharing-matching" makes one for every move of its student.
    """
    matching = MatchingStage(
        "matching", "consistency", "bidirectional", update, 2, 2, critic_learning_rate=5e-4, student_every=2, average_from=1
    )
    whole = replace(update, trains="all weights")  # stages from fresh weights have nothing to adapt
    configs: dict[str, StageConfig] = {
        "codec": CodecStage("codec", whole, CODEC.latent_channels, CODEC.widths, CODEC.blocks),
        "bidirectional": BidirectionalStage("bidirectional", whole),
        "autoregressive": AutoregressiveStage("autoregressive", "bidirectional", update),
        "ode": OdeStage("ode", "autoregressive", update, trajectories=2 * update.batch_size, solver_steps=3, student_steps=2, guidance=1.5),
        "consistency": ConsistencyStage("consistency", "autoregressive", update, grid_steps=6, target_average=0.7),
        "matching": matching,
        "long-matching": replace(matching, name="long-matching", frames_beyond_clip=6),
        "sharing-matching": replace(matching, name="sharing-matching", rollouts="shared"),
    }
    return configs[kind]


def fake_codec(seed: int = 0) -> ConvCodec:
    """A float64 codec without a single zero weight."""
    codec = ConvCodec(CODEC).initialise(stream(seed, "fake codec"))
    scatter_parameters(codec, seed)
    return codec.double()


def make_stage(
    kind: str, update: UpdateConfig = UPDATE, *, run: RunConfig = RUN, workers: Workers = ALONE, wide: bool = False
) -> tuple[StageRun, FakeSource]:
    """A stage ready to learn and where its clips come from; `wide` is float64. Every call gives equal and separate ones.

    Where the run has text, its clips have prompts.
    """
    config = stage_config(kind, update)
    shape = (3, CODEC.height, CODEC.width) if kind == "codec" else (ODD.channels, ODD.height, ODD.width)
    text = (0, 0) if run.text == "none" else (run.text.tokens, run.model.text_dim)
    source, dtype = FakeSource(update, (run.frames_read(config), *shape), workers, wide, text), torch.float64 if wide else torch.float32
    model = partial(tiny_model, tiny_config(text_dim=run.model.text_dim))
    match config:
        case CodecStage():
            return CodecRun.make(config, fake_codec().to(dtype)), source
        case BidirectionalStage():
            return BidirectionalRun.make(run, config, model(seed=1).to(dtype)), source
        case AutoregressiveStage():
            return AutoregressiveRun.make(run, config, model(seed=1).to(dtype)), source
        case OdeStage():
            return OdeRun.make(run, config, model(seed=2).to(dtype), source), source
        case ConsistencyStage():
            return ConsistencyRun.make(run, config, model(seed=2).to(dtype)), source
        case MatchingStage():
            return MatchingRun.make(run, config, model(seed=3).to(dtype), model(seed=1).to(dtype)), source


def loop_plan(folder: Path, update: UpdateConfig = UPDATE, precision: str = "fp32", identity: str = "this") -> LoopPlan:
    """A plan that writes to `folder`."""
    return LoopPlan("fake stage", folder, update, precision, identity)


def train(kind: str, folder: Path, update: UpdateConfig = UPDATE, run: RunConfig = RUN) -> StageRun:
    """A fresh stage, trained (or resumed) to its last update."""
    stage, source = make_stage(kind, update, run=run)
    run_loop(stage, source, loop_plan(folder, update), ALONE, lambda update: None)
    return stage


def everything(stage: StageRun) -> dict[str, Tensor]:
    """All that a stage is made of: weights, averages, optimiser states and counters of all its learners."""
    tensors = {f"{name}/{key}": value.clone() for name, learner in stage.learners.items() for key, value in learner.tensors().items()}
    return tensors | {f"{name}/updates": torch.tensor(learner.updates) for name, learner in stage.learners.items()}


def different(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[str]:
    """Names of the tensors that are not equal bit for bit, or that one of the two lacks."""
    shared = first.keys() & second.keys()
    return sorted((first.keys() ^ second.keys()) | {name for name in shared if not torch.equal(first[name], second[name])})


def metrics(folder: Path) -> list[dict]:
    """The logged figures, without the seconds that they took."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name != "seconds"} for line in lines]
