"""Distillation: starts, objectives, outer loop, run folder."""

from __future__ import annotations

from farzi.distill.distiller import Distiller, DistillState
from farzi.distill.run import RunOutcome, distill, plan_run
from farzi.distill.settings import (
    DistillSettings,
    InnerSettings,
    OuterSettings,
    StudentSettings,
    TeacherSettings,
)

__all__ = [
    "DistillSettings",
    "DistillState",
    "Distiller",
    "InnerSettings",
    "OuterSettings",
    "RunOutcome",
    "StudentSettings",
    "TeacherSettings",
    "distill",
    "plan_run",
]
