"""`python -m mutoscope` is `mutoscope`."""

from mutoscope.cli import entry

entry()
