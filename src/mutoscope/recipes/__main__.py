"""Train a recipe where only torch, NumPy and safetensors are installed: `python -m mutoscope.recipes doom OUT DATA HELD_OUT`.

`mutoscope train` is the same with recording, help and overrides. `--seconds` saves and stops before a lease of the
machine ends; the same command goes on where it stopped.
"""

import argparse
import os
import signal
import sys
import threading
from pathlib import Path

from mutoscope.core.errors import MutoscopeError
from mutoscope.recipes import RECIPES, recipe
from mutoscope.train.chain import open_chain, train_chain
from mutoscope.train.loop import Interrupted
from mutoscope.train.parallel import start_workers


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("recipe", help=f"one of: {', '.join(RECIPES)}")
    made.add_argument("output", type=Path, help="run folder")
    made.add_argument("data", type=Path, help="recorded training data set")
    made.add_argument("held_out", type=Path, help="data set of other seeds")
    made.add_argument("--stages", nargs="*", default=[], help="train only these")
    made.add_argument("--device", default="auto", help="auto, cpu or cuda")
    made.add_argument("--seconds", type=float, default=0.0, help="save and stop after this long; 0: never")
    return made


def stop_after(seconds: float) -> None:
    """Ask this process to save and stop after `seconds`."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()


def main() -> int:
    """Exit status 0 when every stage is finished, 130 when stopped and saved, 2 on an error that was explained."""
    options = parser().parse_args()
    try:
        workers = start_workers(options.device)
        chain = open_chain(recipe(options.recipe), options.output, options.data, options.held_out, workers)
        if options.seconds > 0:
            stop_after(options.seconds)
        train_chain(chain, tuple(options.stages), lambda stage, path: print(f"finished {stage.name}: {path}", flush=True))
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return 130
    except MutoscopeError as error:
        print(f"mutoscope.recipes: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
