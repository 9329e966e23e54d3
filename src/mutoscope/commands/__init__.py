"""One file per sub-command: `Options` (a frozen dataclass), `EXAMPLES`, and `run(options) -> exit code`."""
