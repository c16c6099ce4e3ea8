"""Where the records of a run go while it goes on, besides its folder.

A tracker is one class in a file of its own and one line in `TRACKERS`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from farzi.errors import SettingsError

__all__ = ["TRACKERS", "Tracker", "flat_numbers", "tracker"]

TRACKERS = {"tensorboard": "farzi.report.tensorboard:TensorBoard"}


class Tracker(Protocol):
    """What a run tells its records to."""

    def record(self, record: Mapping[str, Any]) -> None:
        """Take one record of `metrics.jsonl`: `step` and the numbers of that outer step."""

    def close(self) -> None:
        """Write what is still held."""


def tracker(name: str, run: Path) -> Tracker:
    """The tracker of this name, for the run in a folder, which it leaves alone until a record.

    Raises:
        SettingsError: there is none, or its package is not installed.
    """
    if name not in TRACKERS:
        raise SettingsError(f"`track` must be one of {', '.join(TRACKERS)}, got {name!r}.")
    module, _, kind = TRACKERS[name].partition(":")
    try:
        built: Tracker = getattr(importlib.import_module(module), kind)(run)
    except ImportError as error:
        raise SettingsError(
            f"`track` {name} needs an extra: pip install 'farzi[track]' ({error})."
        ) from None
    return built


def flat_numbers(record: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a record by name, those of blocks as `gradient_norm/latent`.

    Example:
        >>> from farzi.report.tracking import flat_numbers
        >>> flat_numbers({"step": 3, "outer_loss": 1.5, "agreement": {"latent": 0.2}, "ages": [1]})
        {'outer_loss': 1.5, 'agreement/latent': 0.2}
    """
    numbers: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            numbers |= flat_numbers(value, f"{prefix}{name}/")
        elif name != "step" and isinstance(value, int | float) and not isinstance(value, bool):
            numbers[f"{prefix}{name}"] = float(value)
    return numbers
