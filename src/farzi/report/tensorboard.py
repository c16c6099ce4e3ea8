"""Records of a run as scalars of TensorBoard, in `RUN/tensorboard`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from farzi.report.tracking import flat_numbers

__all__ = ["TensorBoard"]


class TensorBoard:
    """Writes each number of a record as a scalar at its outer step.

    Args:
        run: the run's folder.
    """

    def __init__(self, run: Path) -> None:
        self._folder = run / "tensorboard"
        self._writer: SummaryWriter | None = None

    def record(self, record: Mapping[str, Any]) -> None:
        """Write the numbers of one record; the first makes the folder."""
        if self._writer is None:
            self._writer = SummaryWriter(str(self._folder))
        for name, value in flat_numbers(record).items():
            self._writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        """Write what is still held."""
        if self._writer is not None:
            self._writer.close()
