"""From the command to the first generated frame on the screen, with everything installed: `mutoscope play` as a player types it.

    python benchmarks/start_to_frame.py --output results/doom-cover/start_to_frame.json

A headless Chromium waits, already running. Timed from the start of the process until the server listens, and until the second
picture is painted: the first one is the last real frame of the start, the second the first that the world generated. Each repeat is
a new process and a new page.
"""

import argparse
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, sync_playwright

from mutoscope.core.errors import MutoscopeError
from mutoscope.core.files import write_json
from mutoscope.core.progress import Progress
from mutoscope.core.provenance import provenance
from mutoscope.serve.app import bind

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PATIENCE = 60.0


def one_start(browser: Browser, port: int) -> dict[str, float]:
    """Seconds until the server listened and until the first generated frame was painted."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "mutoscope", "play", "--no-open", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    page = browser.new_page()
    try:
        listening = wait_for_port(port, server) - began
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_function("window.mutoscope && mutoscope.counts.complete >= 2", polling="raf", timeout=1000 * PATIENCE)
        return {"listening": listening, "first_frame": time.perf_counter() - began}
    finally:
        page.close()
        server.terminate()
        server.wait()


def wait_for_port(port: int, server: subprocess.Popen) -> float:
    """Try until the server listens; when that was."""
    began = time.perf_counter()
    while time.perf_counter() - began < PATIENCE:
        if server.poll() is not None:
            raise MutoscopeError(f"the player ended with code {server.returncode}: {server.stderr.read().decode()[-500:]}")
        with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return time.perf_counter()
        time.sleep(0.05)
    raise MutoscopeError(f"nobody listens at port {port} within {PATIENCE:.0f} s")


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--chromium", default=os.environ.get("CHROMIUM", "/usr/bin/chromium"))
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    rows = []
    with sync_playwright() as driver, Progress(options.repeats, "starts") as bar:
        browser = driver.chromium.launch(executable_path=options.chromium, args=ARGUMENTS)
        for _ in range(options.repeats):
            with bind("127.0.0.1", 0) as free:
                port = free.getsockname()[1]
            rows.append(one_start(browser, port))
            bar.advance()
        browser.close()
    spread = {name: [float(np.percentile([row[name] for row in rows], q)) for q in (0, 50, 100)] for name in rows[0]}
    write_json(
        options.output, {"provenance": provenance(), "load_average": os.getloadavg(), "seconds_least_median_most": spread, "rows": rows}
    )
    print(spread)


if __name__ == "__main__":
    main()
