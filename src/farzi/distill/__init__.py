"""Distillation: starts, objectives, outer loop, run folder.

The package is called, too: `farzi.distill(source, out)` is `farzi.distill.source.distill_source`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from farzi.distill.distiller import Distiller, DistillState
from farzi.distill.run import RunOutcome, distill, plan_run
from farzi.distill.settings import (
    DistillSettings,
    InnerSettings,
    OuterSettings,
    StudentSettings,
    TeacherSettings,
)
from farzi.distill.source import distill_source

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
    "distill_source",
    "plan_run",
]


class _Called(ModuleType):
    """This package, which `import farzi` offers as a function."""

    def __call__(self, *args: Any, **kwargs: Any) -> RunOutcome:
        """Distil a source; see `distill_source`."""
        return distill_source(*args, **kwargs)

    @property
    def __wrapped__(self) -> Any:
        """The function, for `help` and `inspect.signature`."""
        return distill_source


sys.modules[__name__].__class__ = _Called
