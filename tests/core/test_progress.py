"""The progress line: counts, estimates, and stays quiet where nobody looks."""

import io

import pytest

from mutoscope.core.progress import Progress, format_seconds


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (61, "1 min 01 s"), (3600, "1 h 00 min"), (7260, "2 h 01 min")])
def test_durations_are_written_for_people(seconds, text):
    assert format_seconds(seconds) == text


def test_a_terminal_gets_one_line_that_ends_at_the_total():
    output = Terminal()
    with Progress(3, "recording", output=output) as bar:
        for _ in range(3):
            bar.advance(note="maze")
    assert "recording 3/3" in output.getvalue() and "maze" in output.getvalue()
    assert output.getvalue().count("\n") == 1 and output.getvalue().endswith("\n")


def test_a_file_gets_few_lines():
    output = io.StringIO()
    with Progress(1000, "recording", output=output) as bar:
        for _ in range(1000):
            bar.advance()
    assert len(output.getvalue().splitlines()) <= 2
    assert output.getvalue().splitlines()[-1].startswith("recording 1000/1000")
