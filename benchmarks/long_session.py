"""A long session of every memory policy: bytes, time and states early and late; and what a learned memory costs in the bundled model.

    python benchmarks/long_session.py --output results/long_session.json
    python benchmarks/long_session.py --frames 2000 --policies window sink+linear --output long_session.json        a smoke run

A model of one layer with random weights, its memory opened so that it is heard, really makes every frame (one step, one commit).
A memory that keeps anchors is told of another prompt every 250 frames.
Then the session at the last frame and another at a hundredth of it play on in turns, in random order, and their medians are compared.
The share of a memory is 1 - median(without it) / median(with it), of the recipe's model, 2 steps and the commit, in turns as well.
"""

import argparse
import gc
import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from mutoscope.commands.untrained import untrained_checkpoint
from mutoscope.core.errors import CapacityError
from mutoscope.core.files import write_json
from mutoscope.core.progress import Progress
from mutoscope.core.provenance import provenance
from mutoscope.core.streams import normal, numpy_stream, stream
from mutoscope.evaluate.bootstrap import statistic_interval
from mutoscope.memory.anchored import Anchored
from mutoscope.memory.choosing import Different, Merging, Nearness, Participative, Retrieval
from mutoscope.memory.heads import HeadWise
from mutoscope.memory.kinds import STATES, FastWeights, LinearState
from mutoscope.memory.policy import (
    DeepSink,
    EmaSink,
    Full,
    PolicyConfig,
    RecencyBias,
    RollingWindow,
    SinkWindow,
    Stateful,
    Window,
    integer_base,
)
from mutoscope.models.checkpoint import Checkpoint
from mutoscope.recipes import recipe
from mutoscope.rollout.session import Session, SessionConfig
from mutoscope.train.config import CodecStage, ModelConfig, RunConfig

POLICIES: dict[str, PolicyConfig] = {
    "window": Window(8),
    "sink": SinkWindow(2, 6),
    "deep-sink": DeepSink(8),
    "anchored": Anchored(2, 2, 4, 2),
    "ema-sink": EmaSink(2, 6),
    "rolling": RollingWindow(8),
    "recency": RecencyBias(8),
    **{f"window+{kind}": Stateful(Window(8), state) for kind, state in STATES.items()},
    "sink+linear": Stateful(SinkWindow(2, 6), LinearState()),
    "participative": Participative(5, 2, 2, 3),
    "merging": Merging(8, 2),
    "different": Different(8, 2),
    "head-wise": HeadWise(1, 1, 3, 8, 2),
    **{f"retrieval by {by}": Retrieval(3, 5, by, host_mib=0.25) for by in get_args(Nearness)},
    **{f"fast-{form} alone": Stateful(Window(1), FastWeights(form)) for form in ("mlp", "swiglu")},
}
FULL, SMALLEST_EARLY = Full(256), 100
PAIRS, WARM_UP, RESAMPLES = 400, 40, 1000
SPREAD = 0.2
SWITCHED_EVERY = 250  # frames; other memories do not care for prompts


def one_layer(base: RunConfig, policy: PolicyConfig) -> Checkpoint:
    """A student of one layer and 2 x 2 tokens that plays 16 x 16 pixels under a policy."""
    codec = CodecStage("codec", base.stages[0].update, latent_channels=4, widths=(8, 8, 8))
    data, model = replace(base.data, height=16, width=16), ModelConfig(dim=24, ffn_dim=48, num_heads=2, num_layers=1, travel=True)
    return awake(replace(base, name="one-layer", data=data, model=model, stages=(codec,), memory=integer_base(policy)))


def awake(run: RunConfig) -> Checkpoint:
    """A recipe's untrained student with noise on every parameter: gates are open, and what is recalled is seen in the frames."""
    checkpoint = untrained_checkpoint(run, "cpu")
    with torch.no_grad():
        for name, parameter in checkpoint.model.named_parameters():
            parameter.add_(SPREAD * normal(tuple(parameter.shape), stream(run.seed, f"long session {name}")))
    return checkpoint


def started(checkpoint: Checkpoint, steps: int, policy: PolicyConfig) -> Session:
    """A session after its reset."""
    session = Session(checkpoint, SessionConfig(steps, steps, policy))
    session.reset(0, 0)
    return session


def advance(session: Session) -> float:
    """Seconds of one frame and its commit, under keys drawn for the frame."""
    keys = numpy_stream(0, "long session keys", session.num_frames).integers(0, 2, session.world.actions.dim).astype(np.float32)
    if isinstance(session.config.policy, Anchored) and session.num_frames % SWITCHED_EVERY == 0:
        switch(session)
    began = time.perf_counter()
    session.step(keys)
    session.commit()
    return time.perf_counter() - began


def switch(session: Session) -> None:
    """What a change of the prompt tells a memory; this model reads none."""
    for part in session.store.parts:
        for ledger in part.ledgers:
            ledger.mark_switch()


def play_to(session: Session, frame: int, bar: Progress) -> None:
    """Make frames until `frame` of them are remembered or were."""
    while session.num_frames < frame:
        advance(session)
        bar.advance()


def resident_bytes() -> int:
    """Resident memory of this process, after a collection of garbage."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@torch.no_grad()
def look(session: Session) -> dict:
    """Where a session stands: bytes declared and held, resident bytes of the process, the norm of its state and of what was
    written into it, and what a fixed query reads."""
    store, model = session.store, session.checkpoint.model
    point = {
        "frame": session.num_frames,
        "declared_bytes": store.spec.bytes() + store.spec.host_bytes(),
        "held_bytes": store.bytes + store.host_bytes,
        "resident_bytes": resident_bytes(),
    }
    if not model.memories:
        return point
    query = normal((1, store.spec.heads, store.spec.tokens, store.spec.head_dim), stream(0, "long session query"))
    turn = torch.ones(store.spec.tokens, store.spec.head_dim // 2, dtype=torch.complex64)
    memory = model.memories[0]
    read = memory.read(store.states[0], memory.address(query, turn))
    finite = bool(store.states.isfinite().all() and read.isfinite().all())
    norms = {"state_norm": float(store.states.norm()), "written_norm": float((store.states - store.start[:, None]).norm())}
    return {**point, **norms, "read_rms": float(read.square().mean().sqrt()), "finite": finite}


def in_turns(first: Session, second: Session, pairs: int, label: str) -> np.ndarray:
    """Seconds `[pair, 2]` of frames that two sessions make in turns, the order within a pair drawn; warm-up is dropped."""
    seconds, draw = np.zeros((WARM_UP + pairs, 2)), numpy_stream(0, "long session order")
    with Progress(len(seconds), label) as bar:
        for row in seconds:
            for which in draw.permutation(2):
                row[which] = advance((first, second)[which])
            bar.advance()
    return seconds[WARM_UP:]


def over_medians(seconds: np.ndarray) -> dict:
    """Median milliseconds of both, and the first median over the second with its 95 % bootstrap interval over pairs."""

    def ratio(pairs: np.ndarray) -> float:
        first, second = np.median(seconds[pairs], axis=0)
        return float(first / second)

    return {
        "median_ms": [1e3 * float(value) for value in np.median(seconds, axis=0)],
        "ratio": asdict(statistic_interval(ratio, len(seconds), RESAMPLES, 0)),
    }


def long_session(base: RunConfig, name: str, frames: int, pairs: int, bar: Progress) -> dict:
    """One policy: three looks on the way to `frames`, and the late session against the early one."""
    checkpoint, policy = one_layer(base, POLICIES[name]), POLICIES[name]
    late, early, points = started(checkpoint, 1, policy), started(checkpoint, 1, policy), []
    for frame in (max(SMALLEST_EARLY, frames // 100), max(SMALLEST_EARLY, frames // 10), frames):
        play_to(late, frame, bar)
        points.append(look(late))
        if len(points) == 1:
            early.restore(late.snapshot())
    first, middle, last = points
    change = {key: last[key] / first[key] - 1 for key in ("held_bytes", "resident_bytes")}
    change |= {f"{key} since the middle": last[key] / middle[key] - 1 for key in ("state_norm", "written_norm", "read_rms") if key in last}
    time_of_frame = over_medians(in_turns(late, early, pairs, f"{name}: late and early in turns"))
    return {"policy": name, "sizes": str(policy), "looks": points, "change": change, "late_over_early": time_of_frame}


def until_full(base: RunConfig) -> dict:
    """The full memory: where it stops, and what it says."""
    session = started(one_layer(base, FULL), 1, FULL)
    bytes_before = session.store.bytes
    try:
        while True:
            advance(session)
    except CapacityError as error:
        stop = {"sizes": str(FULL), "stopped_at_frame": session.num_frames, "error": str(error)}
        return {**stop, "held_bytes": [bytes_before, session.store.bytes]}


def share_of_memory(base: RunConfig, kind: str, pairs: int) -> dict:
    """What share of a frame's time the recipe's model spends on a learned memory beside its window."""
    policies = Window(8), Stateful(Window(8), STATES[kind])
    first, second = (started(awake(replace(base, memory=policy)), 2, policy) for policy in policies)
    figures = over_medians(in_turns(first, second, pairs, f"{kind}: without and with"))
    without = figures["ratio"]
    share = {"value": 1 - without["value"], "low": 1 - without["high"], "high": 1 - without["low"]}
    return {"memory": kind, "median_ms": figures["median_ms"], "share_of_frame": share}


def measure(options: argparse.Namespace) -> dict:
    """Everything that was asked for."""
    base, names = recipe(options.recipe), options.policies or list(POLICIES)
    shares = [share_of_memory(base, kind, options.pairs) for kind in STATES if options.shares]
    print(*shares, sep="\n")
    rows = []
    with Progress(len(names) * options.frames, "frames") as bar:
        for name in names:
            rows.append(long_session(base, name, options.frames, options.pairs, bar))
            print(name, rows[-1]["change"], rows[-1]["late_over_early"])
    settings = {name: getattr(options, name) for name in ("frames", "pairs", "recipe")}
    machine = {"threads": torch.get_num_threads(), "load_average": os.getloadavg()}
    return {"settings": {**settings, **machine}, "full": until_full(base), "policies": rows, "share_of_memory": shares}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100_000, help="frames of every session; 1,000 at least")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="pairs of frames in turns")
    parser.add_argument("--policies", nargs="*", choices=POLICIES, help="only these")
    parser.add_argument("--recipe", default="doom-cover", help="whose model a learned memory's share is measured in")
    parser.add_argument("--shares", action=argparse.BooleanOptionalAction, default=True, help="measure what learned memories cost a frame")
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; 0: its own choice")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    if options.frames < 10 * SMALLEST_EARLY:
        parser.error(f"--frames is {options.frames}; at least {10 * SMALLEST_EARLY}, so that there is an early frame to compare with")
    if options.threads:
        torch.set_num_threads(options.threads)
    write_json(options.output, {"provenance": provenance(), **measure(options)})
    print(f"{options.output}: written")


if __name__ == "__main__":
    main()
