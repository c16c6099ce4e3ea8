"""Distillation: starts, outer loop, run folder."""

from __future__ import annotations

from farzi.distill.distiller import Distiller, DistillState
from farzi.distill.run import RunOutcome, distill
from farzi.distill.settings import DistillSettings

__all__ = [
    "DistillSettings",
    "DistillState",
    "Distiller",
    "RunOutcome",
    "distill",
]
