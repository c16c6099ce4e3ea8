"""Every state of the window is kept."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from farzi.metagrad.adjoints.base import Backward, Cotangents, Forward, Report
from farzi.metagrad.hvp import MetaGradients, linearise
from farzi.metagrad.trajectory import Arithmetic, trajectory
from farzi.metagrad.unroll import InnerLoop

__all__ = ["Stored"]


@dataclass(frozen=True)
class Stored:
    """Keep every state; recompute nothing.

    The fastest adjoint where the states fit: one gradient a step forward, one gradient and one
    Hessian-vector product a step back.

    Args:
        arithmetic: "fixed" follows the fixed-point trajectory of `Reversible`.

    Cost:
        (1 + number of accumulators) values a parameter a step: 12 bytes for Adam in float32.
    """

    arithmetic: Arithmetic = "float"

    @property
    def name(self) -> str:
        """Name in `stats`."""
        return "Stored"

    def forward(self, loop: InnerLoop, report: Report) -> Forward:
        """Run the inner loop and keep its states."""
        path = trajectory(loop, self.arithmetic)
        state = path.start
        states = []
        for i in range(loop.steps):
            if i >= loop.begin:
                states.append(path.values(state))
            state = path.advance(state, i)
        final = path.values(state)
        report.forward_steps = loop.steps
        report.state_bytes = final.num_bytes * (len(states) + 1)

        def backward(d_param: Tensor, meta: MetaGradients) -> Backward:
            cotangents = Cotangents(loop, d_param, meta)
            after = final
            for i in reversed(range(loop.begin, loop.steps)):
                before = states.pop()
                linearised = linearise(loop, before.param, i, meta)
                rounded = after.accumulators if path.rounds else None
                cotangents.step_back(i, before, linearised, rounded)
                after = before
            return cotangents.finish()

        return Forward(final, backward)
