"""What follows from an optimiser's definition: its float update and its vector-Jacobian product."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from farzi.metagrad.flat import FlatState, Layout
from farzi.metagrad.fused import adam_pull_back, adam_update
from farzi.metagrad.optimizers import Adam, AdamW, Elementwise, Hyper, HyperValue, Optimizer

__all__ = [
    "Pulled",
    "State",
    "advance",
    "advance_tensors",
    "init_state",
    "pull_back",
    "state_names",
]

State: TypeAlias = dict[str, dict[str, Tensor]]
"""An optimiser's accumulators: accumulator name -> parameter name -> tensor."""


def state_names(optimizer: Optimizer) -> tuple[str, ...]:
    """Names of the optimiser's accumulators, in order."""
    if isinstance(optimizer, Elementwise):
        return tuple(accumulator.name for accumulator in optimizer.accumulators)
    return tuple(optimizer.state_names)


def _initial(optimizer: Optimizer) -> tuple[float, ...]:
    if isinstance(optimizer, Elementwise):
        return tuple(accumulator.initial for accumulator in optimizer.accumulators)
    return (0.0,) * len(optimizer.state_names)


def init_state(optimizer: Optimizer, params: Mapping[str, Tensor]) -> State:
    """The optimiser's state before its first step.

    Example:
        >>> import torch
        >>> from farzi.metagrad import Adam, init_state
        >>> init_state(Adam(lr=0.1), {"w": torch.ones(2)})
        {'m': {'w': tensor([0., 0.])}, 'v': {'w': tensor([0., 0.])}}
    """
    return {
        name: {key: torch.full_like(tensor, value) for key, tensor in params.items()}
        for name, value in zip(state_names(optimizer), _initial(optimizer), strict=True)
    }


class _StraightThrough(torch.autograd.Function):
    """The second argument's value with the first argument's gradient."""

    @staticmethod
    def forward(ctx: Any, unrounded: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None]:
        return cotangents[0], None


def straight_through(unrounded: Tensor, value: Tensor) -> Tensor:
    """`value`, with the gradient of `unrounded`."""
    result: Tensor = _StraightThrough.apply(unrounded, value)  # type: ignore[no-untyped-call]
    return result


def advance_tensors(
    optimizer: Optimizer,
    param: Tensor,
    accumulators: Sequence[Tensor],
    grad: Tensor,
    hyper: Hyper,
    step: int,
    at: Sequence[Tensor] | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One float update, differentiable in everything that is a tensor. `step` is from 1.

    With `at`, the new accumulators take those values, and their gradients pass straight through.
    """
    if not isinstance(optimizer, Elementwise):
        names = state_names(optimizer)
        state = dict(zip(names, accumulators, strict=True))
        new_param, new_state = optimizer.update(param, state, grad, hyper, step)
        return new_param, tuple(new_state[name] for name in names)
    named: dict[str, Tensor] = {}
    for index, accumulator in enumerate(optimizer.accumulators):
        increment = accumulator.increment(grad, param, named, hyper, step)
        after = decayed_sum(increment, accumulators[index], accumulator.decay(hyper, step))
        named[accumulator.name] = after if at is None else straight_through(after, at[index])
    delta = optimizer.delta(named, grad, param, hyper, step)
    decay = decoupled_decay(optimizer, hyper, step)
    kept = param if decay is None else param - decay * param
    return kept - delta, tuple(named.values())


def decayed_sum(increment: Tensor, accumulator: Tensor, decay: HyperValue) -> Tensor:
    """`decay * accumulator + increment`, in one pass where the decay is a float."""
    if isinstance(decay, Tensor):
        return decay * accumulator + increment
    return torch.add(increment, accumulator, alpha=decay)


def decoupled_decay(optimizer: Elementwise, hyper: Hyper, step: int) -> HyperValue | None:
    """The fraction of the parameter that the step takes away besides `delta`; None for none."""
    rate = getattr(optimizer, "decoupled_decay", None)
    if rate is None:
        return None
    decay: HyperValue = rate(hyper, step)
    return None if isinstance(decay, float) and decay == 0.0 else decay


def advance_flat(
    optimizer: Optimizer,
    layout: Layout,
    param: Tensor,
    accumulators: Sequence[Tensor],
    grad: Tensor,
    hyper: Hyper,
    step: int,
    at: Sequence[Tensor] | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """`advance_tensors` on flat vectors; only a `WholeUpdate` sees the tensors one by one."""
    if isinstance(optimizer, Elementwise):
        return advance_tensors(optimizer, param, accumulators, grad, hyper, step, at)
    columns = [layout.split(flat) for flat in (param, grad, *accumulators)]
    stepped = [
        advance_tensors(optimizer, w, a, g, hyper, step) for w, g, *a in zip(*columns, strict=True)
    ]
    new_accumulators = zip(*(a for _, a in stepped), strict=True)
    return layout.join(w for w, _ in stepped), tuple(map(layout.join, new_accumulators))


def advance(
    optimizer: Optimizer, layout: Layout, state: FlatState, grad: Tensor, hyper: Hyper, step: int
) -> FlatState:
    """One float update of a flat state, by hand where that is known."""
    if type(optimizer) in (Adam, AdamW):
        floats = {name: float(value) for name, value in hyper.items()}
        decoupled = isinstance(optimizer, AdamW)
        return FlatState(
            *adam_update(state.param, state.accumulators, grad, floats, step, decoupled=decoupled)
        )
    return FlatState(
        *advance_flat(optimizer, layout, state.param, state.accumulators, grad, hyper, step)
    )


def flatten_state(optimizer: Optimizer, layout: Layout, state: State | None) -> tuple[Tensor, ...]:
    """The accumulators as flat vectors; their initial values where `state` is None."""
    names = state_names(optimizer)
    if state is None:
        return tuple(
            torch.full((layout.numel,), value, dtype=layout.dtype, device=layout.device)
            for value in _initial(optimizer)
        )
    if set(state) != set(names):
        raise ValueError(f"`state` must have the keys {sorted(names)}, got {sorted(state)}.")
    for name in names:
        layout.check(state[name], f"state[{name!r}]")
    return tuple(layout.flatten(state[name]) for name in names)


def unflatten_state(optimizer: Optimizer, layout: Layout, accumulators: Sequence[Tensor]) -> State:
    """The accumulators by name."""
    return {
        name: layout.unflatten(flat)
        for name, flat in zip(state_names(optimizer), accumulators, strict=True)
    }


@dataclass(frozen=True)
class Pulled:
    """Cotangents before one update, from those after it.

    `hyper` has one value for each name, or is None for a rule that defines none.
    """

    grad: Tensor
    param: Tensor
    accumulators: tuple[Tensor, ...]
    hyper: Tensor | None


def pull_back(
    optimizer: Optimizer,
    layout: Layout,
    before: FlatState,
    after: Sequence[Tensor] | None,
    grad: Tensor,
    hyper: Mapping[str, float],
    step: int,
    d_param: Tensor,
    d_accumulators: Sequence[Tensor],
) -> Pulled:
    """Vector-Jacobian product of one update, by hand where that is known.

    `before` is the state before the step and `d_param`, `d_accumulators` are the cotangents after
    it. `after` is given where the accumulators were rounded: the step is linearised at those
    values.
    """
    state = (before.param, before.accumulators, after)
    cotangents = (d_param, d_accumulators)
    if type(optimizer) in (Adam, AdamW):
        decoupled = isinstance(optimizer, AdamW)
        return Pulled(*adam_pull_back(*state, grad, hyper, step, *cotangents, decoupled=decoupled))
    return derived_pull_back(optimizer, layout, before, after, grad, hyper, step, *cotangents)


def derived_pull_back(
    optimizer: Optimizer,
    layout: Layout,
    before: FlatState,
    after: Sequence[Tensor] | None,
    grad: Tensor,
    hyper: Mapping[str, float],
    step: int,
    d_param: Tensor,
    d_accumulators: Sequence[Tensor],
) -> Pulled:
    """`pull_back` from the optimiser's definition, by autograd."""
    with torch.enable_grad():
        w, g, *earlier = (
            t.detach().requires_grad_() for t in (before.param, grad, *before.accumulators)
        )
        leaves = {
            name: torch.tensor(value, dtype=torch.float64, device=layout.device, requires_grad=True)
            for name, value in hyper.items()
        }
        new_w, new_accumulators = advance_flat(
            optimizer, layout, w, earlier, g, leaves, step, after
        )
        outputs = (new_w, *new_accumulators)
        inputs = (g, w, *earlier, *leaves.values())
        pulled = torch.autograd.grad(
            outputs, inputs, (d_param, *d_accumulators), materialize_grads=True
        )
    split = 2 + len(earlier)
    return Pulled(pulled[0], pulled[1], pulled[2:split], torch.stack(pulled[split:]))
