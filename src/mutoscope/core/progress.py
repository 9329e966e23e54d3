"""One line on the terminal: how far, how fast, how long still. Needs nothing but the standard library."""

import sys
import time
from types import TracebackType
from typing import Self, TextIO


class Progress:
    """A progress line with an estimate: `with Progress(total, "recording") as bar: bar.advance(1, "note")`."""

    def __init__(self, total: int, label: str, *, done: int = 0, output: TextIO | None = None) -> None:
        self.total, self.label, self.done = total, label, done
        self.output = output or sys.stderr
        self._start, self._start_done, self._shown = time.monotonic(), done, 0.0

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count `steps` and redraw at most five times a second (every 30 s when the output is no terminal)."""
        self.done += steps
        now = time.monotonic()
        pause = 0.2 if self.output.isatty() else 30.0
        if now - self._shown >= pause or self.done >= self.total:
            self._shown = now
            self._draw(note, now)

    def _draw(self, note: str, now: float) -> None:
        rate = (self.done - self._start_done) / max(now - self._start, 1e-9)
        left = format_seconds((self.total - self.done) / rate) if rate > 0 else "?"
        line = f"{self.label} {self.done}/{self.total} {rate:.1f}/s, {left} left {note}"
        terminal = self.output.isatty()
        self.output.write(f"\r\x1b[K{line}" if terminal else line + "\n")
        self.output.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.output.isatty():
            self.output.write("\n")
            self.output.flush()


def format_seconds(seconds: float) -> str:
    """12 s, 3 min 05 s, 2 h 10 min."""
    seconds = int(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
