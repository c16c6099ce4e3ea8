"""What every adjoint gives: the forward run, and the way back from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NoReturn, Protocol

import torch
from torch import Tensor

from farzi.metagrad.flat import FlatState
from farzi.metagrad.guards import (
    NO_SECOND_DERIVATIVE,
    all_finite,
    check_finite,
    not_finite,
)
from farzi.metagrad.hvp import Linearised, MetaGradients
from farzi.metagrad.inner_loop import InnerLoop
from farzi.metagrad.schedule import Entry
from farzi.metagrad.update import Pulled

__all__ = ["Adjoint", "Backward", "Cotangents", "Forward", "Plan", "Report"]


@dataclass
class Report:
    """What the run took. Filled in while it runs.

    Attributes:
        adjoint: name of the adjoint that runs.
        forward_steps: inner steps taken in all, recomputed ones included.
        recomputed_steps: inner steps taken a second time or more.
        state_bytes: most bytes of trajectory held at once (states, snapshots, buffers).
        notes: what was found out on the way, for `stats.reason`.
    """

    adjoint: str
    forward_steps: int = 0
    recomputed_steps: int = 0
    state_bytes: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """What an adjoint will take, known before it runs.

    Attributes:
        state_bytes: most bytes of trajectory held at once (states, snapshots, buffers).
        recomputed_steps: inner steps taken again on the way back.
    """

    state_bytes: int
    recomputed_steps: int = 0


@dataclass(frozen=True)
class Backward:
    """Cotangents at the start of the window.

    `hyper` has one (steps,) vector for each hyper-parameter; None where the rule defines none.
    """

    param: Tensor
    hyper: dict[Entry, Tensor] | None


@dataclass(frozen=True)
class Forward:
    """The end of the forward run, and the way back from it.

    Attributes:
        final: state after the last step, detached.
        backward: (cotangent of the final parameters, meta-gradients to add to) -> `Backward`.
    """

    final: FlatState
    backward: Callable[[Tensor, MetaGradients], Backward]


class Adjoint(Protocol):
    """How the states are had again on the way back."""

    @property
    def name(self) -> str:
        """Name in `stats`."""
        ...

    def plan(self, loop: InnerLoop) -> Plan:
        """What `forward` and the way back will take."""
        ...

    def forward(self, loop: InnerLoop, report: Report) -> Forward:
        """Run the inner loop, keeping what the way back needs."""
        ...


class Cotangents:
    """The adjoint state of one sweep back: of parameters, accumulators, hyper-parameters and meta.

    Args:
        loop: the inner loop.
        d_param: cotangent of the final parameters.
        meta: where the meta-gradients are added up.
    """

    def __init__(self, loop: InnerLoop, d_param: Tensor, meta: MetaGradients) -> None:
        self._loop = loop
        self._meta = meta
        self.param = d_param
        self._accumulators: tuple[Tensor, ...] = tuple(
            torch.zeros_like(a) for a in loop.start.accumulators
        )
        self._defines_hyper = True
        self._hyper = torch.zeros(
            (loop.steps, len(loop.layout.groups), len(loop.rule.schedule.names)),
            dtype=torch.float64,
            device=d_param.device,
        )

    def step_back(
        self,
        i: int,
        before: FlatState,
        linearised: Linearised,
        after: Sequence[Tensor] | None,
    ) -> None:
        """Take the cotangents from after step i to before it.

        Args:
            i: the step.
            before: state before it.
            linearised: its gradient.
            after: accumulators after it where they were rounded: the step is linearised there.
        """
        pulled = self._loop.rule.pull_back(
            before, after, linearised.grad, i, self.param, self._accumulators
        )
        if not all_finite(pulled.grad):
            self._explain(i, before, linearised, after, pulled)
        curved, mixed = linearised.pull(pulled.grad)
        self.param = pulled.param + curved
        self._accumulators = pulled.accumulators
        if pulled.hyper is not None:
            self._hyper[i] = pulled.hyper
        self._defines_hyper = pulled.hyper is not None
        self._meta.add(mixed)
        if self._meta.is_watched:
            self._check_param(i)
            self._meta.check("the second derivative of the inner loss", self._loop.first_step + i)

    def _check_param(self, i: int) -> None:
        """Raise unless the cotangent of the parameters before step i is finite."""
        check_finite(
            self.param,
            self._loop.layout,
            "the second derivative of the inner loss",
            self._loop.first_step + i,
            NO_SECOND_DERIVATIVE,
        )

    def _explain(
        self,
        i: int,
        before: FlatState,
        linearised: Linearised,
        after: Sequence[Tensor] | None,
        pulled: Pulled,
    ) -> NoReturn:
        """Raise for a cotangent of step i's gradient that is not finite.

        The root of the optimiser is to blame where the same product is finite with more under it.
        """
        loop = self._loop
        if i + 1 < loop.steps:
            self._check_param(i + 1)
        advice = f"it overflows {loop.layout.dtype}: lower the learning rate, or use float64."
        given = [dict(of_group) for of_group in loop.rule.schedule.at(i)]
        if "eps_root" in given[0]:
            root = min(of_group["eps_root"] for of_group in given)
            larger = [{**of_group, "eps_root": max(1e-6, 100 * root)} for of_group in given]
            again = loop.rule.pull_back(
                before, after, linearised.grad, i, self.param, self._accumulators, larger
            )
            if all_finite(again.grad):
                advice = (
                    "the root of its second moment has no finite derivative at or next to 0: "
                    f"raise eps_root (now {root:g}), for instance to 1e-8."
                )
        at = int((~torch.isfinite(pulled.grad)).nonzero()[0])
        name = type(loop.optimizer).__name__
        raise not_finite(
            f"the derivative of {name}'s step",
            advice,
            step=loop.first_step + i,
            tensor=loop.layout.name_at(at),
        )

    def finish(self) -> Backward:
        """The cotangents where the sweep has arrived."""
        self._check_param(self._loop.begin)
        per_step = None
        if self._defines_hyper:
            per_step = self._loop.rule.schedule.by_entry(self._hyper)
        return Backward(self.param, per_step)
