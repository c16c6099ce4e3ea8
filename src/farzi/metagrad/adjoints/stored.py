"""Every gradient of the window is kept; the states between follow from them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from farzi.metagrad.adjoints.base import Backward, Cotangents, Forward, Plan, Report
from farzi.metagrad.hvp import MetaGradients, linearise
from farzi.metagrad.memo import Memo
from farzi.metagrad.trajectory import Arithmetic, trajectory
from farzi.metagrad.unroll import InnerLoop, gradient

__all__ = ["Stored"]


@dataclass(frozen=True)
class Stored:
    """Keep every gradient; compute none again.

    The fastest adjoint where the gradients fit: one gradient a step forward, one Hessian-vector
    product a step back. A state of every sqrt(steps) is kept too, and the states between are had
    again by the optimiser's update alone, bit for bit. Functions that use `farzi.metagrad.memo`
    keep what they compute as well.

    Args:
        arithmetic: "fixed" follows the fixed-point trajectory of `Reversible`.

    Cost:
        One value a parameter a step, 4 bytes in float32, what the loss asks to have kept, and 2
        sqrt(steps) states of (1 + number of accumulators) values a parameter.
    """

    arithmetic: Arithmetic = "float"

    @property
    def name(self) -> str:
        """Name in `stats`."""
        return "Stored"

    def plan(self, loop: InnerLoop) -> Plan:
        """Bytes of all gradients, of the states held beside them, and of what the loss keeps."""
        length = loop.steps - loop.begin
        stretch = math.isqrt(length)
        num_states = math.ceil(length / stretch) + stretch
        item = loop.layout.dtype.itemsize
        state_item = 8 if self.arithmetic == "fixed" else item
        state_bytes = loop.layout.numel * (1 + len(loop.start.accumulators)) * state_item
        gradient_bytes = loop.layout.numel * item
        return Plan(num_states * state_bytes + length * (gradient_bytes + _kept_bytes(loop)))

    def forward(self, loop: InnerLoop, report: Report) -> Forward:
        """Run the inner loop and keep its gradients."""
        path = trajectory(loop, self.arithmetic)
        stretch = math.isqrt(loop.steps - loop.begin)
        state = path.start
        for i in range(loop.begin):
            state = path.advance(state, i)
        anchors = []
        known: list[tuple[Tensor, Memo]] = []
        for i in range(loop.begin, loop.steps):
            if len(known) % stretch == 0:
                anchors.append(state)
            memo = Memo()
            with memo.recording():
                grad = path.gradient(path.values(state).param, i)
            known.append((grad, memo))
            state = path.advance_with(state, grad, i)
        final = path.values(state)
        report.forward_steps = loop.steps
        report.state_bytes = (len(anchors) + stretch) * state.num_bytes + sum(
            grad.numel() * grad.element_size() + memo.num_bytes for grad, memo in known
        )

        def backward(d_param: Tensor, meta: MetaGradients) -> Backward:
            cotangents = Cotangents(loop, d_param, meta)
            after, agree = final, False
            while anchors:
                states = [anchors.pop()]
                first = loop.begin + len(anchors) * stretch
                last = loop.begin + len(known) - 1
                for i in range(first, last):
                    states.append(path.advance_with(states[-1], known[i - loop.begin][0], i))
                for i in reversed(range(first, last + 1)):
                    before = path.values(states.pop())
                    gradient = known.pop()
                    linearised = linearise(loop, before.param, i, meta, gradient if agree else None)
                    # Where building a graph changes no bit of one gradient, none is computed again.
                    agree = agree or torch.equal(linearised.grad, gradient[0])
                    rounded = after.accumulators if path.rounds else None
                    cotangents.step_back(i, before, linearised, rounded)
                    after = before
            return cotangents.finish()

        return Forward(final, backward)


def _kept_bytes(loop: InnerLoop) -> int:
    """Bytes that one evaluation of the loss asks to have kept."""
    memo = Memo()
    with memo.recording():
        gradient(loop, loop.start.param, 0, record=False)
    return memo.num_bytes
