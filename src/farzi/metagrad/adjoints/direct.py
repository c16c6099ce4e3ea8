"""Autograd through the whole unroll: the reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from farzi.metagrad.adjoints.base import Backward, Forward, Plan, Report
from farzi.metagrad.deferred import ThinProducts
from farzi.metagrad.flat import FlatState
from farzi.metagrad.guards import dense_parts, translated
from farzi.metagrad.hvp import MetaGradients
from farzi.metagrad.inner_loop import InnerLoop, gradient
from farzi.metagrad.trajectory import Arithmetic, trajectory
from farzi.metagrad.update import straight_through

__all__ = ["Direct"]


@dataclass(frozen=True)
class Direct:
    """Plain autograd through every step: the reference that the other adjoints are tested against.

    Args:
        arithmetic: "fixed" follows the fixed-point trajectory of `Reversible`; rounding passes
            gradients straight through.

    Cost:
        Every activation of every step of the window.
    """

    arithmetic: Arithmetic = "float"

    @property
    def name(self) -> str:
        """Name in `stats`."""
        return "Direct"

    def plan(self, loop: InnerLoop) -> Plan:
        """No states are kept; the activations of every step are."""
        return Plan(state_bytes=0)

    def forward(self, loop: InnerLoop, report: Report) -> Forward:
        """Run the inner loop under autograd."""
        if loop.rule.own_pull_back is not None:
            raise ValueError(
                "`adjoint` must not be Direct() with a `pull_back` of its own: autograd has one."
            )
        path = trajectory(loop, self.arithmetic)
        state = path.start
        for i in range(loop.begin):
            state = path.advance(state, i)
        report.forward_steps = loop.steps
        own = MetaGradients(loop.meta, loop.num_starts)
        meta = own.leaves()
        leaves = loop.rule.schedule.leaves()
        values = path.values(state)
        begin = values.param.detach().clone().requires_grad_()
        with torch.enable_grad():
            param, accumulators = begin, values.accumulators
            for i in range(loop.begin, loop.steps):
                grad = _differentiable_gradient(loop, param, meta, i, own.thin)
                rounded = None
                if path.rounds:
                    with torch.no_grad():
                        state = path.advance_with(state, grad.detach(), i)
                        rounded = path.values(state)
                param, accumulators = loop.rule.differentiable(
                    leaves,
                    param,
                    accumulators,
                    grad,
                    i,
                    None if rounded is None else rounded.accumulators,
                )
                if rounded is not None:
                    param = straight_through(param, rounded.param)

        def backward(d_param: Tensor, gradients: MetaGradients) -> Backward:
            with translated(loop.first_step), own.collecting():
                pulled = torch.autograd.grad(
                    param,
                    (begin, *meta.values(), *leaves.values()),
                    d_param,
                    allow_unused=True,
                )
            d_begin = torch.zeros_like(begin) if pulled[0] is None else pulled[0]
            own.add(dict(zip(meta, pulled[1 : 1 + len(meta)], strict=True)))
            gradients.add(own.total())
            per_step = {}
            for (entry, leaf), d_hyper in zip(leaves.items(), pulled[1 + len(meta) :], strict=True):
                zeros = torch.zeros(loop.steps, dtype=torch.float64, device=begin.device)
                if d_hyper is not None:
                    zeros[: max(leaf.numel(), 1)] += d_hyper
                per_step[entry] = zeros
            return Backward(d_begin, per_step)

        final = FlatState(param.detach(), tuple(a.detach() for a in accumulators))
        return Forward(final, backward)


def _differentiable_gradient(
    loop: InnerLoop,
    param: Tensor,
    meta: dict[str, Tensor],
    i: int,
    thin: Mapping[str, ThinProducts],
) -> Tensor:
    """The inner gradient with the graph that leads to `param` and `meta`."""
    layout = loop.layout
    if i == 0:
        gradient(loop, param.detach(), i)
    views = layout.split(param)
    total = None
    for part in range(loop.micro_batches):
        loss = loop.loss(layout.named(views), meta, i, thin, part)
        loop.log.record(i, loss, part)
        grad = torch.zeros_like(param)
        if loss.requires_grad:
            with translated(loop.first_step + i):
                parts = torch.autograd.grad(loss, views, create_graph=True, allow_unused=True)
            grad = layout.join(dense_parts(parts, layout, loop.first_step + i))
        total = grad if total is None else total + grad
    assert total is not None
    return total if loop.micro_batches == 1 else total / loop.micro_batches
