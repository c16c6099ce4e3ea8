"""Searches over settings: of a student, on distilled data or on full data, or of a distillation.

`farzi.sweep(source, out, vary=[...])` is `farzi.sweeps.run.sweep`.
"""

from farzi.sweeps.results import SweepResult, Trial
from farzi.sweeps.run import sweep
from farzi.sweeps.space import Axis, parse_axis

__all__ = ["Axis", "SweepResult", "Trial", "parse_axis", "sweep"]
