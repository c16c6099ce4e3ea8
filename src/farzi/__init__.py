"""Distil event logs and text corpora into a few synthetic sequences.

Importing this package loads nothing heavy: torch, duckdb and pyarrow come with the submodules.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from farzi.dataset import DistilledDataset, load, save, soft_cross_entropy
    from farzi.trained import TrainedModel, load_model

__version__ = "0.1.0"

__all__ = [
    "DistilledDataset",
    "TrainedModel",
    "__version__",
    "load",
    "load_model",
    "save",
    "soft_cross_entropy",
]

_MODULES = {  # where a name lives; loaded when it is first asked for
    "DistilledDataset": "farzi.dataset",
    "TrainedModel": "farzi.trained",
    "load": "farzi.dataset",
    "load_model": "farzi.trained",
    "save": "farzi.dataset",
    "soft_cross_entropy": "farzi.dataset",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'farzi' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
