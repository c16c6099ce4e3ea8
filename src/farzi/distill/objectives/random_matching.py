"""Meta-matching from random weights: no teacher anywhere in the outer loop (MM)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from farzi.distill.objectives.meta_matching import MetaMatching, Targets
from farzi.distill.problem import Member, Problem, Window
from farzi.synthetic import SyntheticSequences

__all__ = ["RandomMatching"]


@dataclass(frozen=True)
class RandomMatching:
    """The loss on real data of students that begin with random weights.

        min over Z, M of  E_{theta_0 ~ N} [ L_D(theta_T) ],
        theta_{t+1} = Opt(theta_t, grad L_Dsyn(theta_t))

    with N the student's own initialisation in place of the teachers' trajectories Omega: what
    `meta_matching` is with `from_teachers=0`. A later user of the data begins there too.

    Args:
        targets: what predictions on real sequences are compared with; see `MetaMatching`.

    References:
        Wang et al. 2018, arXiv 1811.10959; called MM by Sachdeva et al. 2023, arXiv 2310.09983.
    """

    name: ClassVar[str] = "random_matching"
    goes_on: ClassVar[bool] = True

    targets: Targets = "data"

    @property
    def needs_teachers(self) -> bool:
        """Whether it reads models that were trained on real data."""
        return self.targets == "teacher"

    def begin(self, problem: Problem, seed: int) -> Member:
        """A student with fresh weights."""
        return problem.fresh_member(seed)

    def window(
        self, problem: Problem, member: Member, synthetic: SyntheticSequences, number: int
    ) -> Window:
        """The real loss after a window of inner steps, and its meta-gradient."""
        return MetaMatching(self.targets).window(problem, member, synthetic, number)
