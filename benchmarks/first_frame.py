"""First-frame latency, frame-wise against chunk-wise (three frames), at equal steps: random weights, alternating in one process.

    python benchmarks/first_frame.py --recipe doom-basic --output results/first_frame.json

The clock runs from the moment the context is committed to pixels on the host: four denoising passes and the codec.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from mutoscope.commands.untrained import untrained_checkpoint
from mutoscope.core.files import write_json
from mutoscope.core.provenance import provenance
from mutoscope.memory.policy import Window
from mutoscope.recipes import recipe
from mutoscope.rollout.session import Session, default_config

CHUNKS, ROUNDS, WARM_UP = (1, 3), 60, 10


def first_frame_ms(session: Session) -> float:
    """Reset, then time the first generated chunk."""
    session.reset(0, 0)
    action = np.zeros(session.world.actions.dim, np.float32)
    began = time.perf_counter()
    session.step(action)
    return 1000 * (time.perf_counter() - began)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="doom-basic")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    base = recipe(options.recipe)
    sessions = {}
    for chunk in CHUNKS:
        run = replace(base, chunk_frames=chunk, clip_frames=1 + 3 * ((base.clip_frames - 1) // 3), memory=Window(9))
        checkpoint = untrained_checkpoint(run, options.device)
        sessions[chunk] = Session(checkpoint, default_config(checkpoint.manifest))
    times: dict[int, list[float]] = {chunk: [] for chunk in CHUNKS}
    for _ in range(WARM_UP + ROUNDS):
        for chunk, session in sessions.items():
            times[chunk].append(first_frame_ms(session))
    warm = {chunk: np.array(values[WARM_UP:]) for chunk, values in times.items()}
    ratios = warm[1] / warm[3]
    figures = {
        "provenance": provenance(),
        "recipe": options.recipe,
        "rounds": ROUNDS,
        "first_frame_ms": {
            f"chunk of {chunk}": {f"p{q}": float(np.percentile(values, q)) for q in (5, 50, 95)} for chunk, values in warm.items()
        },
        "ratio_of_medians": float(np.median(warm[1]) / np.median(warm[3])),
        "ratio_per_round": {f"p{q}": float(np.percentile(ratios, q)) for q in (5, 50, 95)},
    }
    write_json(options.output, figures)
    print(figures["first_frame_ms"], figures["ratio_of_medians"])


if __name__ == "__main__":
    main()
