"""The one training loop. It knows nothing about objectives: a stage tells it who learns in an update and from which loss."""

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from mutoscope.core.errors import MutoscopeError
from mutoscope.core.progress import Progress
from mutoscope.train.arrange import arrange, put_together
from mutoscope.train.batch import ClipBatch
from mutoscope.train.config import UpdateConfig
from mutoscope.train.learner import Learner
from mutoscope.train.monitor import Monitor
from mutoscope.train.parallel import Workers
from mutoscope.train.precision import precision_context
from mutoscope.train.state import cut_json_lines, load_state, save_state


class Interrupted(MutoscopeError):
    """Training was stopped on request; its state is saved."""


class StageRun(Protocol):
    """A stage in progress: models, and how one of them learns from a micro-batch."""

    @property
    def learners(self) -> Mapping[str, Learner[Any]]:
        """Who learns, by name."""
        ...

    def turns(self, update: int) -> tuple[str, ...]:
        """Names of the learners that learn in this update, in order."""
        ...

    def clips(self, turn: str, update: int) -> tuple[str, int]:
        """The clips that a turn reads, by a reader and its count: turns of equal answer read the same ones."""
        ...

    def loss(self, turn: str, batch: ClipBatch) -> tuple[Tensor, dict[str, float]]:
        """Mean loss of a micro-batch, and figures to log."""
        ...


class BatchSource(Protocol):
    """Gives the micro-batches of an update: a pure function of its arguments, so that a resumed run needs no position."""

    def batch(self, turn: str, update: int, micro: int, accumulate: int, clips: tuple[str, int] | None = None) -> ClipBatch:
        """Micro-batch `micro` of `accumulate`, this rank's part; its clips are those of (turn, update) unless others are named."""
        ...


@dataclass(frozen=True)
class LoopPlan:
    """Where a stage's loop writes and how it is made."""

    name: str
    folder: Path
    config: UpdateConfig
    precision: str
    identity: str


def run_loop(stage: StageRun, source: BatchSource, plan: LoopPlan, workers: Workers, sample: Callable[[int], None]) -> None:
    """Train to the last update, resuming from the newest state. Ctrl-C (or SIGTERM) saves and raises Interrupted.

    `sample(update)` is called at every save, to draw pictures: on the leading rank, or on all where a model's passes take them all. The
    `seconds` of a logged update are the mean since the one before: updates in which the student moves take longer than others.
    The stage is laid out as `workers` say; afterwards the leading process holds its learners' modules whole.
    """
    arranged = arrange(stage, workers, plan.precision)
    states, total = plan.folder / "state", plan.config.updates
    first = load_state(states, stage.learners, plan.identity)
    if workers.leads:
        cut_json_lines(plan.folder / "metrics.jsonl", first)
    with Monitor(plan.folder, workers.leads) as monitor, stop_requests() as stop, Progress(total, plan.name, done=first) as bar:
        spent: list[float] = []
        for update in range(first, total):
            began = time.monotonic()
            figures = one_update(stage, source, plan, workers, update)
            spent.append(time.monotonic() - began)
            if is_logged(stage, plan.config.log_every, update) or update == total - 1:
                monitor.log(update, workers.average_scalars({**figures, "seconds": sum(spent) / len(spent)}))
                spent.clear()
            if workers.leads:
                bar.advance(1, _note(figures))
            stopping = workers.any(bool(stop))
            if (update + 1) % plan.config.save_every == 0 or update == total - 1 or stopping:
                save_state(states, update + 1, stage.learners, plan.identity, workers)
                if workers.leads or workers.placement.together:
                    sample(update + 1)
                workers.wait()
            if stopping:
                raise Interrupted(
                    f"stopped stage '{plan.name}' at update {update + 1} of {total} and saved it; run the same command to go on"
                )
    put_together(stage, arranged, workers)


def is_logged(stage: StageRun, log_every: int, update: int) -> bool:
    """True every `log_every` updates, and after that for each learner's next turn: who moves in every third would rarely be seen."""
    passed = {turn for earlier in range(update - update % log_every, update) for turn in stage.turns(earlier)}
    return not passed.issuperset(stage.turns(update))


def one_update(stage: StageRun, source: BatchSource, plan: LoopPlan, workers: Workers, update: int) -> dict[str, float]:
    """Every learner whose turn it is: gradients over all micro-batches and ranks, one step each."""
    figures: dict[str, float] = {}
    for turn in stage.turns(update):
        learner, accumulate = stage.learners[turn], plan.config.accumulate
        for name, other in stage.learners.items():  # kernels differ in their last bits for weights that ask for a gradient
            other.ask_for_gradients(name == turn)
        learner.optimiser.zero_grad(set_to_none=True)
        for micro in range(accumulate):
            with precision_context(plan.precision, workers.device):
                loss, more = stage.loss(turn, source.batch(turn, update, micro, accumulate, stage.clips(turn, update)))
            (loss / accumulate).backward()
            for name, value in {"loss": float(loss.detach()), **more}.items():
                figures[f"{turn}/{name}"] = figures.get(f"{turn}/{name}", 0.0) + value / accumulate
        workers.average_gradients(learner.module)
        figures[f"{turn}/gradient_norm"] = learner.learn(update, plan.config.updates)
    return figures


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """A list that becomes non-empty when the process is asked to stop; the handlers from before are put back."""
    requests: list[int] = []
    try:
        before = {
            number: signal.signal(number, lambda number, frame: requests.append(number)) for number in (signal.SIGINT, signal.SIGTERM)
        }
    except ValueError:  # not the main thread: nobody sends signals here
        before = {}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _note(figures: dict[str, float]) -> str:
    return " ".join(f"{name.removesuffix('/loss')} {value:.4f}" for name, value in figures.items() if name.endswith("/loss"))
