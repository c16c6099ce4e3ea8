"""What every objective is: a value to lower, and its gradient for the synthetic sequences."""

from __future__ import annotations

from typing import ClassVar, Protocol

from farzi.distill.problem import Member, Problem, Window
from farzi.synthetic import SyntheticSequences

__all__ = ["Objective", "Window"]


class Objective(Protocol):
    """What the outer loop lowers: a frozen dataclass of its own choices.

    Attributes:
        name: what settings and the command line call it.
        goes_on: whether a student trains on after its window, so that the pool holds students of
            every age; else each window has a student of its own.

    One whose students have weights of teachers also has `begins_from_teachers = True`, so that
    teachers of another architecture are refused.
    """

    name: ClassVar[str]
    goes_on: ClassVar[bool]

    @property
    def needs_teachers(self) -> bool:
        """Whether it reads models that were trained on real data."""
        ...

    def begin(self, problem: Problem, seed: int) -> Member:
        """A student for the pool, before its first inner step."""
        ...

    def window(
        self, problem: Problem, member: Member, synthetic: SyntheticSequences, number: int
    ) -> Window:
        """Train a student for `problem.window` inner steps; the objective's value and gradient.

        Args:
            problem: students, training and real data.
            member: the student before the window.
            synthetic: the sequences now.
            number: of this draw; decides the real sequences.

        Raises:
            NonFiniteError: a loss or a gradient is not finite; the student is begun anew.
        """
        ...
