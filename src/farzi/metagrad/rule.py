"""The optimiser's part of an inner loop: clipping, groups of tensors, and the step itself.

The gradient of a step goes through three things: its norm is clipped, it is split into groups of
tensors with hyper-parameters of their own, and each group takes the step that the optimiser
defines. Forward, inverse and vector-Jacobian product all go through here, so that every adjoint
has the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from farzi.metagrad.flat import FlatState, Layout
from farzi.metagrad.optimizers import Accumulator, Elementwise, Hyper, HyperSetting, Optimizer
from farzi.metagrad.schedule import Entry, HyperSchedule, grouped_names, mapped
from farzi.metagrad.update import (
    Pulled,
    State,
    advance,
    advance_flat,
    decoupled_decay,
    flatten_state,
    pull_back,
    unflatten_state,
)

__all__ = ["PullBack", "UpdateRule", "clipped", "update"]

PullBack: TypeAlias = Callable[
    [
        Optimizer,
        Layout,
        FlatState,
        Sequence[Tensor] | None,
        Tensor,
        Mapping[str, float],
        int,
        Tensor,
        Sequence[Tensor],
    ],
    Pulled,
]
"""What takes the place of `farzi.metagrad.update.pull_back`, and has its arguments."""

_NEXT_TO_NORM = 1e-6


def clipped(grad: Tensor, bound: float | Tensor, layout: Layout, num_starts: int | None) -> Tensor:
    """`grad`, scaled down to `bound` where the norm over all its tensors is larger.

    As `torch.nn.utils.clip_grad_norm_`: times min(1, bound / (norm + 1e-6)), the norm in float64.
    Where there are several starts each has a norm of its own.
    """
    if num_starts is None:
        norm = torch.linalg.vector_norm(grad, dtype=torch.float64)
        scale: Tensor = (bound / (norm + _NEXT_TO_NORM)).clamp(max=1.0)
        return grad * scale
    parts = [part.reshape(num_starts, -1) for part in layout.split(grad)]
    norm = torch.linalg.vector_norm(torch.cat(parts, 1), dim=1, dtype=torch.float64)
    scale = (bound / (norm + _NEXT_TO_NORM)).clamp(max=1.0).to(grad.dtype)
    return layout.join(part * scale[:, None] for part in parts)


@dataclass(frozen=True)
class UpdateRule:
    """How a state and its gradient become the next state, for each step i (from 0) of a loop.

    Args:
        optimizer: the inner optimiser.
        layout: of the flat vectors.
        schedule: its hyper-parameters, and the bound of the norm.
        first_step: number of the first step.
        num_starts: length of the leading axis of every parameter, or None.
        own_pull_back: replaces the vector-Jacobian product of the optimiser's step.
    """

    optimizer: Optimizer
    layout: Layout
    schedule: HyperSchedule
    first_step: int
    num_starts: int | None
    own_pull_back: PullBack | None = None

    def number(self, i: int) -> int:
        """The optimiser's number of step i, from 1."""
        return self.first_step + i + 1

    def prepared(self, grad: Tensor, i: int) -> Tensor:
        """The gradient that the optimiser sees."""
        if not self.schedule.clips:
            return grad
        return clipped(grad, self.schedule.clip_norm(i), self.layout, self.num_starts)

    def advance(self, state: FlatState, grad: Tensor, i: int) -> FlatState:
        """The float state after step i, given its gradient."""
        grad = self.prepared(grad, i)
        hyper, step = self.schedule.at(i), self.number(i)
        if len(hyper) == 1:
            return advance(self.optimizer, self.layout, state, grad, hyper[0], step)
        parts = [
            advance(self.optimizer, layout, FlatState(w, tuple(a)), g, of_group, step)
            for layout, of_group, (g, w, *a) in self._groups(
                hyper, grad, state.param, *state.accumulators
            )
        ]
        accumulators = zip(*(part.accumulators for part in parts), strict=True)
        return FlatState(
            torch.cat([part.param for part in parts]), tuple(map(torch.cat, accumulators))
        )

    def differentiable(
        self,
        leaves: Mapping[Entry, Tensor],
        param: Tensor,
        accumulators: Sequence[Tensor],
        grad: Tensor,
        i: int,
        at: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """`advance` with a graph to the hyper-parameters' `leaves` as well.

        With `at`, the new accumulators take those values, and gradients pass straight through.
        """
        if self.schedule.clips:
            leaf = leaves["clip_norm", None]
            bound = leaf[i] if leaf.ndim else leaf
            grad = clipped(grad, bound, self.layout, self.num_starts)
        hyper, step = self.schedule.leaves_at(leaves, i), self.number(i)
        split = len(accumulators)
        vectors = (grad, param, *accumulators, *(at or ()))
        parts = [
            advance_flat(
                self.optimizer, layout, w, a[:split], g, of_group, step, a[split:] if at else None
            )
            for layout, of_group, (g, w, *a) in self._groups(hyper, *vectors)
        ]
        if len(parts) == 1:
            return parts[0]
        new = zip(*(after for _, after in parts), strict=True)
        return torch.cat([w for w, _ in parts]), tuple(map(torch.cat, new))

    def pull_back(
        self,
        before: FlatState,
        after: Sequence[Tensor] | None,
        grad: Tensor,
        i: int,
        d_param: Tensor,
        d_accumulators: Sequence[Tensor],
        hyper: Sequence[Mapping[str, float]] | None = None,
    ) -> Pulled:
        """The vector-Jacobian product of step i; `hyper` of shape (groups, names).

        `before` is the state before the step and `d_param`, `d_accumulators` are the cotangents
        after it. `after` is given where the accumulators were rounded: the step is linearised at
        those values.
        """
        if not self.schedule.clips:
            return self._pull_back(before, after, grad, i, d_param, d_accumulators, hyper)
        with torch.enable_grad():
            leaf = grad.detach().requires_grad_()
            bound = torch.tensor(
                self.schedule.clip_norm(i),
                dtype=torch.float64,
                device=grad.device,
                requires_grad=True,
            )
            seen = clipped(leaf, bound, self.layout, self.num_starts)
        pulled = self._pull_back(before, after, seen.detach(), i, d_param, d_accumulators, hyper)
        u, d_bound = torch.autograd.grad(seen, (leaf, bound), pulled.grad)
        d_hyper = None
        if pulled.hyper is not None:
            column = torch.zeros_like(pulled.hyper[:, :1])
            column[0] = d_bound
            d_hyper = torch.cat([pulled.hyper, column], 1)
        return Pulled(u, pulled.param, pulled.accumulators, d_hyper)

    def _pull_back(
        self,
        before: FlatState,
        after: Sequence[Tensor] | None,
        grad: Tensor,
        i: int,
        d_param: Tensor,
        d_accumulators: Sequence[Tensor],
        hyper: Sequence[Mapping[str, float]] | None,
    ) -> Pulled:
        """`pull_back`, of the gradient that the optimiser sees."""
        product = pull_back if self.own_pull_back is None else self.own_pull_back
        hyper = self.schedule.at(i) if hyper is None else hyper
        step = self.number(i)
        if len(hyper) == 1:
            pulled = product(
                self.optimizer,
                self.layout,
                before,
                after,
                grad,
                hyper[0],
                step,
                d_param,
                d_accumulators,
            )
            d_hyper = None if pulled.hyper is None else pulled.hyper[None]
            return Pulled(pulled.grad, pulled.param, pulled.accumulators, d_hyper)
        n = len(before.accumulators)
        vectors = (grad, d_param, before.param, *before.accumulators, *d_accumulators)
        parts = [
            product(
                self.optimizer,
                layout,
                FlatState(w, tuple(rest[:n])),
                rest[2 * n :] or None,
                g,
                of_group,
                step,
                dw,
                rest[n : 2 * n],
            )
            for layout, of_group, (g, dw, w, *rest) in self._groups(hyper, *vectors, *(after or ()))
        ]
        d_hypers = [part.hyper for part in parts if part.hyper is not None]
        accumulators = zip(*(part.accumulators for part in parts), strict=True)
        return Pulled(
            torch.cat([part.grad for part in parts]),
            torch.cat([part.param for part in parts]),
            tuple(map(torch.cat, accumulators)),
            torch.stack(d_hypers) if d_hypers else None,
        )

    def _groups(
        self, hyper: Sequence[Hyper], *vectors: Tensor
    ) -> list[tuple[Layout, Any, Sequence[Tensor]]]:
        """For each group its layout, its hyper-parameters, and its part of each vector."""
        if len(hyper) == 1:
            return [(self.layout, hyper[0], vectors)]
        sizes = self.layout.group_sizes
        parts = zip(*(vector.split_with_sizes(sizes) for vector in vectors), strict=True)
        return [
            (layout, of_group, part)
            for layout, of_group, part in zip(self.layout.groups, hyper, parts, strict=True)
        ]

    # What fixed-point steps are made of: the optimiser must be `Elementwise`.

    def increment(
        self,
        accumulator: Accumulator,
        grad: Tensor,
        param: Tensor,
        earlier: Mapping[str, Tensor],
        i: int,
    ) -> Tensor:
        """What step i adds to an accumulator; `grad` is the gradient that the optimiser sees."""
        step = self.number(i)
        return _joined(
            accumulator.increment(g, w, dict(zip(earlier, a, strict=True)), hyper, step)
            for _, hyper, (g, w, *a) in self._groups(
                self.schedule.at(i), grad, param, *earlier.values()
            )
        )

    def delta(
        self, accumulators: Mapping[str, Tensor], grad: Tensor, param: Tensor, i: int
    ) -> Tensor:
        """What step i subtracts from the parameter besides its decay."""
        assert isinstance(self.optimizer, Elementwise)
        step = self.number(i)
        return _joined(
            self.optimizer.delta(dict(zip(accumulators, a, strict=True)), g, w, hyper, step)
            for _, hyper, (g, w, *a) in self._groups(
                self.schedule.at(i), grad, param, *accumulators.values()
            )
        )

    def kept(self, accumulator: Accumulator, values: Tensor, i: int) -> Tensor:
        """What step i leaves of an accumulator."""
        step = self.number(i)
        return _joined(
            float(accumulator.decay(hyper, step)) * part
            for _, hyper, (part,) in self._groups(self.schedule.at(i), values)
        )

    def decay_rates(self, i: int) -> list[tuple[float, ...]]:
        """What step i takes away, for each group: of the parameter, then of each accumulator."""
        assert isinstance(self.optimizer, Elementwise)
        step = self.number(i)
        own = [decoupled_decay(self.optimizer, hyper, step) for hyper in self.schedule.at(i)]
        rates = [tuple(0.0 if rate is None else float(rate) for rate in own)]
        for accumulator in self.optimizer.accumulators:
            kept = (accumulator.decay(hyper, step) for hyper in self.schedule.at(i))
            rates.append(tuple(1.0 - float(rate) for rate in kept))
        return rates


def _joined(parts: Iterable[Tensor]) -> Tensor:
    parts = list(parts)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def update(
    optimizer: Optimizer,
    params: Mapping[str, Tensor],
    grads: Mapping[str, Tensor],
    state: State,
    step: int,
    *,
    clip_norm: HyperSetting | None = None,
) -> tuple[dict[str, Tensor], State]:
    """One ordinary training step: new parameters and state; nothing is changed in place.

    Args:
        optimizer: any of `farzi.metagrad`'s, or your own.
        params: weights by name.
        grads: gradients, with the keys and shapes of `params`.
        state: from `init_state` or the step before.
        step: number of this step, from 1. Hyper-parameters of shape (steps,) are read at `step -
            1`, and those that are functions called with it.
        clip_norm: bound of the norm of all gradients together, or None.

    Example:
        >>> import torch
        >>> from farzi.metagrad import SGD, init_state, update
        >>> params, grads = {"w": torch.ones(2)}, {"w": torch.tensor([1.0, 2.0])}
        >>> params, state = update(SGD(lr=0.5), params, grads, {}, step=1)
        >>> params
        {'w': tensor([0.5000, 0.0000])}
    """
    if isinstance(step, bool) or not isinstance(step, int) or step < 1:
        raise ValueError(f"`step` must be an int >= 1, got {step!r}.")

    def now(value: Any) -> Any:
        return value[step - 1] if isinstance(value, Tensor) and value.ndim else value

    hyper = {name: mapped(setting, now) for name, setting in optimizer.hyper.items()}
    layout = Layout.of(params, grouped_names(hyper, tuple(params)))
    layout.check(grads, "grads")
    bound = None if clip_norm is None else mapped(clip_norm, now)
    schedule = HyperSchedule(hyper, bound, 1, step - 1, layout)
    rule = UpdateRule(optimizer, layout, schedule, step - 1, None)
    flat = FlatState(layout.flatten(params), flatten_state(optimizer, layout, state))
    with torch.no_grad():
        after = rule.advance(flat, layout.flatten(grads), 0)
    return layout.unflatten(after.param), unflatten_state(optimizer, layout, after.accumulators)
