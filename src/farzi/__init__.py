"""Distil event logs and text corpora into a few synthetic sequences.

Importing this package loads nothing heavy: torch, duckdb and pyarrow come with the submodules.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from farzi.api import Evaluation, Training, compare, evaluate, train
    from farzi.data.fetching import fetch
    from farzi.data.preparation import prepare
    from farzi.data.prepared import PreparedData
    from farzi.dataset import DistilledDataset, load, save, soft_cross_entropy
    from farzi.distill.run import RunOutcome
    from farzi.distill.source import distill_source as distill
    from farzi.experiments.comparison import Comparison
    from farzi.privacy import Audit, audit
    from farzi.reproduction import Reproduction, reproduce
    from farzi.sweeps import SweepResult, sweep
    from farzi.trained import TrainedModel, load_model

__version__ = "0.1.0"

__all__ = [
    "Audit",
    "Comparison",
    "DistilledDataset",
    "Evaluation",
    "PreparedData",
    "Reproduction",
    "RunOutcome",
    "SweepResult",
    "TrainedModel",
    "Training",
    "__version__",
    "audit",
    "compare",
    "distill",
    "evaluate",
    "fetch",
    "load",
    "load_model",
    "prepare",
    "reproduce",
    "save",
    "soft_cross_entropy",
    "sweep",
    "train",
]

_MODULES = {  # where a name lives; loaded when it is first asked for
    "Audit": "farzi.privacy",
    "Reproduction": "farzi.reproduction",
    "audit": "farzi.privacy",
    "reproduce": "farzi.reproduction",
    "DistilledDataset": "farzi.dataset",
    "Comparison": "farzi.experiments.comparison",
    "Evaluation": "farzi.api",
    "compare": "farzi.api",
    "PreparedData": "farzi.data.prepared",
    "RunOutcome": "farzi.distill",
    "SweepResult": "farzi.sweeps",
    "TrainedModel": "farzi.trained",
    "Training": "farzi.api",
    "evaluate": "farzi.api",
    "fetch": "farzi.data.fetching",
    "load": "farzi.dataset",
    "load_model": "farzi.trained",
    "prepare": "farzi.data.preparation",
    "save": "farzi.dataset",
    "soft_cross_entropy": "farzi.dataset",
    "sweep": "farzi.sweeps",
    "train": "farzi.api",
}


def __getattr__(name: str) -> Any:
    if name == "distill":  # a package that is called
        return importlib.import_module("farzi.distill")
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'farzi' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
