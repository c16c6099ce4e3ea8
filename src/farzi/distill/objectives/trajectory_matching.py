"""Trajectory matching: a few synthetic steps lead where many real ones led a teacher (MTT)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from farzi.distill.problem import Member, Problem, Window
from farzi.distill.ranges import above_zero, refuse
from farzi.errors import DataError
from farzi.seeding import stream
from farzi.synthetic import SyntheticSequences

__all__ = ["TrajectoryMatching"]


@dataclass(frozen=True)
class TrajectoryMatching:
    """How far a student that sets out from a teacher's weights ends from where the teacher went.

        min over Z, M of  E_t || theta_{t+N} - theta^D_{t+M} ||^2
                              / || theta^D_t - theta^D_{t+M} ||^2,
        theta_t = theta^D_t,  theta_{i+1} = Opt(theta_i, grad L_Dsyn(theta_i))

    with theta^D a teacher's weights along its run on the real data, M a number of its epochs, and N
    the window of inner steps, which are far fewer. 1 is a student that stays where it began.

    Args:
        epochs: M, epochs of the teacher.
        last_start: the latest epoch of the teacher that a student sets out from.

    References:
        Cazenavette et al. 2022, arXiv 2203.11932; with this factorisation, Sachdeva et al. 2023,
        arXiv 2310.09983, appendix C.5.
    """

    name: ClassVar[str] = "trajectory_matching"
    goes_on: ClassVar[bool] = False
    begins_from_teachers: ClassVar[bool] = True

    epochs: int = 2
    last_start: int = 3

    def __post_init__(self) -> None:
        refuse(above_zero(self, "epochs", "last_start"))

    @property
    def needs_teachers(self) -> bool:
        """Yes: their weights along the run."""
        return True

    def begin(self, problem: Problem, seed: int) -> Member:
        """A student with a teacher's weights after some epoch."""
        begun, _ = self._stretch(problem, seed)
        return Member(begun, None, 0, seed)

    def window(
        self, problem: Problem, member: Member, synthetic: SyntheticSequences, number: int
    ) -> Window:
        """The distance that is left after a window of inner steps, and its meta-gradient."""
        begun, target = self._stretch(problem, member.seed)
        way = sum((begun[name] - target[name]).square().sum() for name in target)

        def outer_loss(params: Mapping[str, Tensor], meta: Mapping[str, Tensor]) -> Tensor:
            left = [(params[name] - target[name]).square().sum() for name in target]
            return torch.stack(left).sum() / way

        return problem.differentiate(member, synthetic, outer_loss)

    def _stretch(self, problem: Problem, seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Where a student sets out, and where it is to arrive: M epochs of one teacher apart."""
        if problem.omega is None:
            raise DataError("trajectory matching needs teacher runs, and there are none.")
        runs = [run for run, losses in enumerate(problem.omega.losses) if len(losses) > self.epochs]
        if not runs:
            raise DataError(
                f"trajectory matching over {self.epochs} epochs needs a teacher run of "
                f"{self.epochs + 1} or more; lower objective.epochs or raise teachers.max_epochs."
            )
        generator = stream(problem.seed, "start weights", seed)
        run = runs[int(generator.integers(len(runs)))]
        last = min(self.last_start, len(problem.omega.losses[run]) - self.epochs)
        epoch = int(generator.integers(1, last + 1))
        ends = (epoch, epoch + self.epochs)
        begun, target = (problem.on_device(problem.omega.weights(run, end)) for end in ends)
        return begun, target
