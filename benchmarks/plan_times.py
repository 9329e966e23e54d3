"""Times that `mutoscope plan --measured` predicts against those of real updates, on this machine, in turns; random weights and clips.

    python benchmarks/plan_times.py --recipe doom-cover --output results/plan_times.json

A round measures the machine with a pass of one layer, then makes the updates of every stage (of matching as many as its student's turn
comes round in). The first round warms up. Where CUDA computes, so that it is bfloat16 there and float32 on a processor.
"""

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from mutoscope.commands.fitting import stage_transformer
from mutoscope.commands.measured import measured_device
from mutoscope.core.files import write_json
from mutoscope.core.provenance import provenance
from mutoscope.core.streams import stream
from mutoscope.models.arithmetic import BF16_ON_CUDA, FP32_ON_CPU
from mutoscope.models.conditions import action_conditions
from mutoscope.models.transformer import VideoTransformer
from mutoscope.recipes import recipe
from mutoscope.train.batch import ClipBatch, Draws
from mutoscope.train.config import AutoregressiveStage, ConsistencyStage, LearningStage, MatchingStage, RunConfig
from mutoscope.train.footprint import Settings
from mutoscope.train.loop import LoopPlan, StageRun, one_update
from mutoscope.train.parallel import Workers, start_workers
from mutoscope.train.proposals import Training
from mutoscope.train.stages.consistency import ConsistencyRun
from mutoscope.train.stages.matching import MatchingRun
from mutoscope.train.stages.teachers import AutoregressiveRun

Trained = AutoregressiveStage | ConsistencyStage | MatchingStage


@dataclass(frozen=True)
class RandomClips:
    """Clips without a data set."""

    training: Training
    device: torch.device

    def batch(self, turn: str, update: int, micro: int, accumulate: int, clips: tuple[str, int] | None = None) -> ClipBatch:
        """The same distribution whatever is asked for."""
        config, rows = self.training.config, self.training.stage.update.batch_size // accumulate
        frames, latent = self.training.run.frames_read(self.training.stage), config.latent
        draws = Draws(0, update, tuple(range(rows)), self.device)
        known = torch.ones(rows, frames, dtype=torch.bool, device=self.device)
        told = action_conditions(draws.normal("actions", frames, config.temporal_stride, config.action_dim), known)
        return ClipBatch(draws.normal("clips", frames, latent.channels, latent.height, latent.width), told, draws, draws)


def real_stage(run: RunConfig, stage: Trained, models: list[VideoTransformer]) -> StageRun:
    """A stage around fresh models."""
    match stage:
        case AutoregressiveStage():
            return AutoregressiveRun.make(run, stage, models[0].requires_grad_(True))
        case ConsistencyStage():
            return ConsistencyRun.make(run, stage, models[0])
        case MatchingStage():
            return MatchingRun.make(run, stage, *models)


def planned(run: RunConfig, stage: LearningStage, device: torch.device) -> Training:
    """What the planner says about the stage as its recipe has it."""
    numerics = BF16_ON_CUDA if device.type == "cuda" else FP32_ON_CPU
    return Training(
        run, stage, stage_transformer(run, stage), Settings(stage.update.batch_size // stage.update.accumulate, numerics=numerics)
    )


def update_seconds(training: Training, made: StageRun, workers: Workers) -> float:
    """Of an update, the mean over those in which every learner has its turns."""
    stage, source = training.stage, RandomClips(training, workers.device)
    precision = "bf16" if workers.device.type == "cuda" else "fp32"
    plan = LoopPlan(stage.name, Path(), stage.update, precision, "none")
    count = stage.student_every if isinstance(stage, MatchingStage) else 1
    began = time.perf_counter()
    for update in range(count):
        one_update(made, source, plan, workers, update)
    if workers.device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / count


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="doom-cover")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    run, workers = recipe(options.recipe), start_workers()
    found: dict[type, Trained] = {type(stage): stage for stage in reversed(run.stages) if isinstance(stage, Trained)}
    plans = [planned(run, stage, workers.device) for stage in found.values()]
    weights = [
        [VideoTransformer(plan.config).initialise(stream(seed, "plan times")).to(workers.device) for seed in (0, 1)] for plan in plans
    ]
    made = [real_stage(run, plan.stage, models) for plan, models in zip(plans, weights, strict=True)]
    ratios: dict[str, list[float]] = {plan.stage.name: [] for plan in plans}
    taken: dict[str, list[float]] = {plan.stage.name: [] for plan in plans}
    for _ in range(1 + options.rounds):
        here = measured_device(plans[0].config)
        for plan, each in zip(plans, made, strict=True):
            seconds = update_seconds(plan, each, workers)
            taken[plan.stage.name].append(seconds)
            ratios[plan.stage.name].append(plan.cost(replace(here.device, memory_gib=1.0), here.share).seconds / seconds)
    head = {"provenance": provenance(), "recipe": options.recipe, "rounds": options.rounds}
    rows = {name: {"seconds": spread(taken[name][1:]), "predicted_over_measured": spread(ratios[name][1:])} for name in ratios}
    write_json(options.output, {**head, "stages": rows})
    print(rows)


def spread(values: list[float]) -> dict[str, float]:
    """Least, middle, most."""
    return {"least": min(values), "p50": float(np.median(values)), "most": max(values)}


if __name__ == "__main__":
    main()
