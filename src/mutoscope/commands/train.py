"""Train every stage of a recipe: codec, teachers, few-step students.

The run folder explains itself: resolved configuration, environment, and per stage metrics, curves, sample videos,
score and checkpoint. Ctrl-C saves; the same command goes on where it stopped. Under torchrun it is data-parallel:
torchrun --nproc-per-node 8 -m mutoscope train doom
How a large model is laid out over processes and memory: docs/training-at-size.md
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from mutoscope.core.errors import ConfigError
from mutoscope.train.placement import Placement

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mutoscope.train.config import RunConfig, StageConfig

EXAMPLES = (
    "mutoscope train scroll",
    "mutoscope train doom --output runs/doom --data data/doom --held-out data/doom-held-out",
    "mutoscope train doom-basic --stages codec bidirectional",
    "mutoscope train doom-basic --output runs/wide --set model.dim=192 stages.autoregressive.update.updates=5000",
    "mutoscope train runs/doom/run.json --output runs/doom-again",
    "mutoscope train doom --placement.weights sharded --placement.activations recomputed",
)
INTERRUPTED = 130


@dataclass(frozen=True)
class Options:
    """Which recipe, where it lies, and what is changed in it."""

    recipe: tyro.conf.Positional[str]
    """A recipe's name, or the run.json of an earlier run."""
    output: Path | None = None
    """Run folder; default: runs/ and the recipe's name."""
    data: Path | None = None
    """A recorded data set to train on; default: the recipe's own, recorded into the run folder."""
    held_out: Path | None = None
    """A data set of other seeds to score on; it belongs to --data."""
    stages: tuple[str, ...] = ()
    """Train only these stages; default: all that are not finished."""
    set: tuple[str, ...] = ()
    """Changes to the recipe, as path=value."""
    score: bool = True
    """Score each stage's checkpoint when it is finished. On published weights none is: samples/ shows what a stage makes."""
    device: str = "auto"
    """auto, cpu or cuda."""
    placement: Placement = Placement()
    """How models are laid out over processes and memory; changes no result beyond rounding."""


def run(options: Options) -> int:
    """Record what is missing, then train the chain."""
    from mutoscope.train.chain import check_trainable, open_chain, train_chain
    from mutoscope.train.loop import Interrupted
    from mutoscope.train.parallel import start_workers

    configuration = read_recipe(options.recipe, options.set)
    check_trainable(configuration)
    folder = options.output or Path("runs") / configuration.name
    workers = start_workers(options.device, options.placement)
    if workers.leads:
        prepare_data(options, configuration, folder)
    workers.wait()
    chain = open_chain(configuration, folder, *data_paths(options, folder), workers)
    try:
        train_chain(chain, options.stages, after_stage(options, configuration, folder))
    except Interrupted as stopped:
        print(f"mutoscope train: {stopped}", file=sys.stderr)
        return INTERRUPTED
    print(f"{folder}: {finished(configuration, folder, options.stages)}")
    return 0


def finished(run: RunConfig, folder: Path, asked: Sequence[str]) -> str:
    """What a training that came to its end says: which stages are finished, and how to see the last one that can be played."""
    from mutoscope.train.config import BidirectionalStage, CodecStage

    trained = [stage for stage in run.stages if not asked or stage.name in asked]
    head = f"finished: {', '.join(stage.name for stage in trained)}"
    playable = [stage.name for stage in trained if not isinstance(stage, (CodecStage, BidirectionalStage))]
    return f"{head}; play it with: mutoscope play {folder / playable[-1]}" if playable else head


def after_stage(options: Options, configuration: RunConfig, folder: Path) -> Callable[[StageConfig, Path], None]:
    """What is done with a finished stage: it is scored if that was asked for, and takes minutes and not days."""
    if not options.score or configuration.codec != "trained":
        return lambda stage, path: None
    return scorer(folder, data_paths(options, folder)[1])


def scorer(folder: Path, held_out: Path) -> Callable[[StageConfig, Path], None]:
    """What is called with each finished stage: its rows go into the run's table of scores."""
    from mutoscope.studies.stages import markdown, score_stage, update_table

    def score(stage: StageConfig, path: Path) -> None:
        rows = score_stage(stage.name, path, held_out)
        update_table(folder, rows)
        print(markdown([vars(row) for row in rows]), flush=True)

    return score


def data_paths(options: Options, folder: Path) -> tuple[Path, Path]:
    """The training and the held-out data set."""
    if options.data is not None and options.held_out is not None:
        return options.data, options.held_out
    return folder / "data" / "train", folder / "data" / "held-out"


def prepare_data(options: Options, configuration: RunConfig, folder: Path) -> None:
    """Record the recipe's own data where none was given; there is none where the teacher's weights are published."""
    from mutoscope.commands.recording import embed_captions, record_recipe
    from mutoscope.models.wan_config import WanCodecConfig

    if (options.data is None) != (options.held_out is None):
        raise ConfigError("--data and --held-out belong together: give both, or neither to record the recipe's own")
    if options.data is None and isinstance(configuration.codec, WanCodecConfig):
        raise ConfigError(
            f"'{configuration.name}' is trained on clips of your own: make them ready with 'mutoscope prepare', then give them "
            "with --data and --held-out"
        )
    if options.data is None:
        record_recipe(configuration.data, folder / "data")
    if configuration.text != "none":
        embed_captions(configuration.text, configuration.data.world, data_paths(options, folder))


def read_recipe(name: str, changes: tuple[str, ...]) -> RunConfig:
    """A recipe by its name, or the configuration in a run.json, with the changes applied."""
    from mutoscope.commands.overrides import override
    from mutoscope.core.config import from_plain
    from mutoscope.core.files import read_json
    from mutoscope.recipes import recipe
    from mutoscope.train.config import RunConfig

    if name.endswith(".json"):
        return override(from_plain(RunConfig, read_json(Path(name), ConfigError), name), changes)
    return override(recipe(name), changes)
