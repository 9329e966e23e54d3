"""Play in a real headless Chromium that presses keys: key to pixels, frame intervals, free-running frames/s, memory.

    python benchmarks/play_latency.py --checkpoint runs/doom-basic/matching --steps 2 --output results/play_latency.json
    python benchmarks/play_latency.py --recipe doom-basic --output latency.json        random weights, as fast as trained ones
    python benchmarks/play_latency.py --fake --presses 20 --free-frames 600 --output latency.json

The server is a process of its own; the browser shares the machine with it. Key to pixels counts from the trusted keydown's
timestamp until the first painted frame that knows the key; free-running frames are those that the page has decoded and drawn.
"""

import argparse
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from playwright.sync_api import Page, sync_playwright

from mutoscope.core.files import write_json
from mutoscope.core.progress import Progress
from mutoscope.core.provenance import provenance
from mutoscope.serve.app import address, bind, make_server
from mutoscope.serve.catalogue import Catalogue, PaneChoice
from mutoscope.serve.player import PlaySettings
from mutoscope.serve.sources import FakeSource, LearnedSource
from mutoscope.serve.wire import PaneRequest

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
KEYS = ("ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown")
WARM_UP_FRAMES = 60
MEMORY_FROM_FRAME = 500
PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class What:
    """What is played: a checkpoint, a recipe with random weights, or a fake; with how many steps and threads."""

    checkpoint: str | None
    recipe: str | None
    steps: int | None
    threads: int


def build(what: What) -> Catalogue:
    """One pane, alone on the page."""
    if what.checkpoint is not None:
        from mutoscope.commands.catalogue import build_catalogue
        from mutoscope.commands.loading import Loading

        catalogue = build_catalogue((what.checkpoint,), Loading())
        return replace(catalogue, panes=(PaneRequest(catalogue.choices[0].id, steps=what.steps),))
    choice = fake_choice() if what.recipe is None else untrained_choice(what.recipe, what.steps)
    return Catalogue((choice,), (PaneRequest(choice.id),))


def fake_choice() -> PaneChoice:
    """A world that costs nothing: what remains is clock, codec, transport and browser."""
    return PaneChoice("fake", "fake", "fake", FakeSource().world, lambda options: FakeSource())


def untrained_choice(name: str, steps: int | None) -> PaneChoice:
    """A recipe's model with random weights."""
    from mutoscope.commands.untrained import untrained_checkpoint
    from mutoscope.recipes import recipe
    from mutoscope.rollout.session import Session, default_config, with_steps

    checkpoint = untrained_checkpoint(recipe(name), "cpu")
    config = default_config(checkpoint.manifest)
    config = config if steps is None else with_steps(config, steps)
    stride = checkpoint.manifest.chunk_frames * checkpoint.codec.temporal_stride
    world = checkpoint.manifest.world
    return PaneChoice(
        name, name, "learned", world, lambda options: LearnedSource(Session(checkpoint, config), stride=stride), starts=("grey",)
    )


def serve_here(what: What, settings: PlaySettings, answer: Connection) -> None:
    """The server's process: tell the address, then serve until killed."""
    if what.threads and (what.checkpoint or what.recipe):
        import torch

        torch.set_num_threads(what.threads)
    listener = bind("127.0.0.1", 0)
    server = make_server(build(what), settings)
    answer.send(address(listener))
    server.run(sockets=[listener])


@contextmanager
def server(what: What, settings: PlaySettings) -> Iterator[tuple[str, int]]:
    """(address, process id) of a server of its own."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=serve_here, args=(what, settings, theirs), daemon=True)
    process.start()
    theirs.close()
    yield ours.recv(), process.pid or 0
    process.terminate()
    process.join(10)


@contextmanager
def page(url: str) -> Iterator[Page]:
    """A tab in a browser with an empty profile."""
    chromium = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    with tempfile.TemporaryDirectory() as profile, sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(profile, executable_path=chromium, args=ARGUMENTS)
        tab = context.new_page()
        tab.goto(f"{url}?keep=1000000")
        yield tab
        context.close()


def frames(tab: Page, count: int) -> None:
    """Wait until the page has drawn so many frames more."""
    goal = tab.evaluate("mutoscope.counts.complete") + count
    tab.wait_for_function(f"mutoscope.counts.complete >= {goal}", timeout=600_000)


def first_frame_ms(tab: Page) -> float:
    """From the page's first request until its first drawn frame."""
    began = time.perf_counter()
    tab.wait_for_function("window.mutoscope && mutoscope.counts.complete >= 1", timeout=120_000)
    return 1000 * (time.perf_counter() - began)


def percentiles(values: list[float]) -> dict[str, float]:
    """50th, 95th and 99th, and how many values there were."""
    table = {f"p{share}": round(float(np.percentile(values, share)), 2) for share in PERCENTILES} if values else {}
    return {**table, "count": len(values)}


def press_keys(tab: Page, presses: int, draw: random.Random, bar: Progress) -> dict:
    """One repeat: press keys for a random time at random moments, and read what the page measured."""
    tab.evaluate("mutoscope.clear()")
    before = tab.evaluate("mutoscope.report().dropped ?? 0")
    for _ in range(presses):
        key = draw.choice(KEYS)
        tab.keyboard.down(key)
        time.sleep(draw.uniform(0.06, 0.4))
        tab.keyboard.up(key)
        time.sleep(draw.uniform(0.05, 0.3))
        bar.advance()
    frames(tab, 25)
    report = tab.evaluate("mutoscope.report()")
    return {
        "key_to_pixels_ms": percentiles(report["latencies"]),
        "frame_interval_ms": percentiles(report["intervals"]),
        "generate_ms": {"p50": report["generate_p50_ms"], "p95": report["generate_p95_ms"]},
        "dropped": report["dropped"] - before,
        "unpainted": report["unpainted"],
    }


def measure_content(what: What, presses: int, repeats: int) -> dict:
    """At the content rate: the figures of every repeat."""
    draw = random.Random(0)
    with server(what, PlaySettings()) as (url, _), page(url) as tab, Progress(presses * repeats, "pressing keys") as bar:
        first = first_frame_ms(tab)
        frames(tab, WARM_UP_FRAMES)
        rows = [press_keys(tab, presses, draw, bar) for _ in range(repeats)]
        picture = tab.evaluate("mutoscope.state.picture")
    return {"first_frame_ms": round(first, 1), "picture": picture, "repeats": rows}


def resident_bytes(process: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure_free(what: What, num_frames: int, repeats: int) -> dict:
    """As fast as the server and the page can: frames per second of every repeat, and memory early and late."""
    first = min(MEMORY_FROM_FRAME, num_frames // 2)
    with server(what, PlaySettings(pace="free")) as (url, process), page(url) as tab:
        frames_until(tab, first)
        early, rates = resident_bytes(process), []
        for part in range(repeats):
            began, count = time.perf_counter(), tab.evaluate("mutoscope.counts.complete")
            frames_until(tab, max(first + (num_frames - first) * (part + 1) // repeats, count + 1))
            done = tab.evaluate("mutoscope.counts.complete")
            rates.append(round((done - count) / (time.perf_counter() - began), 2))
        late, total = resident_bytes(process), tab.evaluate("mutoscope.counts.complete")
        cache = sum(tab.evaluate("mutoscope.report().memory_bytes"))
    memory = {"at_frame": [first, total], "resident_bytes": [early, late], "change": round(late / early - 1, 4)}
    return {"frames_per_second": rates, "memory": {**memory, "cache_bytes": cache}}


def frames_until(tab: Page, goal: int) -> None:
    """Wait until the page has drawn `goal` frames in all."""
    tab.wait_for_function(f"window.mutoscope && mutoscope.counts.complete >= {goal}", timeout=1_800_000)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--checkpoint")
    which.add_argument("--recipe")
    which.add_argument("--fake", action="store_true")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--threads", type=int, default=0, help="threads of torch in the server; 0: its own choice")
    parser.add_argument("--presses", type=int, default=60, help="key presses per repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--free-frames", type=int, default=10_000, help="frames of the free run; 0 leaves it out")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    what = What(options.checkpoint, options.recipe, options.steps, options.threads)
    figures = {
        "provenance": provenance(),
        "load_average": os.getloadavg(),
        "played": vars(what) | {"content_interval_ms": round(1000 / build(what).choices[0].world.content_rate, 2)},
        "content_rate": measure_content(what, options.presses, options.repeats),
    }
    if options.free_frames:
        figures["free_running"] = measure_free(what, options.free_frames, options.repeats)
    write_json(options.output, figures)
    print(f"{options.output}: written")


if __name__ == "__main__":
    main()
