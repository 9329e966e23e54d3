"""What a run tells while it trains: JSON lines always, TensorBoard where it is installed."""

import math
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mutoscope.core.errors import MissingPackageError, optional_import
from mutoscope.train.state import append_json_line


class Monitor:
    """Writes figures to `metrics.jsonl` and, if it can, to `tensorboard/`; silent on ranks that do not lead."""

    def __init__(self, folder: Path, leads: bool) -> None:
        self.folder, self.leads = folder, leads
        self.board = _tensorboard(folder) if leads else None

    def log(self, update: int, figures: dict[str, float]) -> None:
        """Note the figures of an update."""
        if not self.leads:
            return
        append_json_line(self.folder / "metrics.jsonl", {"update": update, **{name: _plain(value) for name, value in figures.items()}})
        if self.board is not None:
            for name, value in figures.items():
                self.board.add_scalar(name, value, update)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.board is not None:
            self.board.close()


def _tensorboard(folder: Path) -> Any:
    try:
        module = optional_import("torch.utils.tensorboard", package="tensorboard", extra="train")
    except MissingPackageError:
        return None
    return module.SummaryWriter(str(folder / "tensorboard"))


def _plain(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None
