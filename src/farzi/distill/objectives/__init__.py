"""What the outer loop lowers: a file each, listed in `OBJECTIVES`."""

from __future__ import annotations

from farzi.distill.kinds import Kinds
from farzi.distill.objectives.base import Objective, Window

__all__ = ["OBJECTIVES", "Objective", "Window"]

OBJECTIVES: Kinds[Objective] = Kinds(
    "objective",
    {
        "gradient_matching": "farzi.distill.objectives.gradient_matching:GradientMatching",
        "meta_matching": "farzi.distill.objectives.meta_matching:MetaMatching",
        "trajectory_matching": "farzi.distill.objectives.trajectory_matching:TrajectoryMatching",
        "random_matching": "farzi.distill.objectives.random_matching:RandomMatching",
    },
)
