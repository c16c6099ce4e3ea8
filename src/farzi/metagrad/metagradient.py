"""`metagradient`: the value of an outer loss after a training run, and its exact gradients."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from farzi.errors import NonFiniteError
from farzi.metagrad.adjoints import Adjoint, Auto
from farzi.metagrad.adjoints.base import Report
from farzi.metagrad.flat import FlatState
from farzi.metagrad.hvp import MetaGradients
from farzi.metagrad.optimizers import Optimizer
from farzi.metagrad.unroll import InnerLoop, InnerLoss, Tensors, inner_loop
from farzi.metagrad.update import State, unflatten_state

__all__ = ["MetaGradient", "OuterLoss", "Stats", "metagradient"]

OuterLoss: TypeAlias = Callable[[Tensors, Tensors], Tensor | tuple[Tensor, Any]]


@dataclass(frozen=True)
class Stats:
    """What a call took.

    Attributes:
        adjoint: name of the adjoint that ran.
        reason: why it was chosen, and what it found out on the way.
        forward_steps: inner steps taken in all, recomputed ones included.
        recomputed_steps: inner steps taken again on the way back.
        state_bytes: most bytes of trajectory held at once (states, snapshots, buffers).
        wall_s: seconds for the whole call.
    """

    adjoint: str
    reason: str
    forward_steps: int
    recomputed_steps: int
    state_bytes: int
    wall_s: float


@dataclass(frozen=True)
class MetaGradient:
    """Result of `metagradient`. Every tensor is detached.

    Attributes:
        value: the outer loss, shape (); (N,) for N starts.
        metrics: what the outer loss returned besides, with `has_aux=True`; else None.
        meta_grads: its gradient for each tensor of `meta`, direct dependence included; a leading
            axis of N for N starts.
        param_grads: for the parameters before the window (the start, where there is no window).
        final_params: weights after the last step.
        final_state: the optimiser's state there; pass it as `state` to go on.
        stats: what the call took.
    """

    value: Tensor
    metrics: Any
    meta_grads: Tensors
    param_grads: Tensors
    _hyper_grads: Tensors | None
    final_params: Tensors
    final_state: State
    stats: Stats

    @property
    def hyper_grads(self) -> Tensors:
        """The value's gradient for each hyper-parameter, of the shape given; summed over starts."""
        if self._hyper_grads is None:
            raise ValueError(
                "`hyper_grads` are not defined by Adam(rule='paper'); use rule='exact'."
            )
        return self._hyper_grads


def metagradient(
    inner_loss: InnerLoss,
    outer_loss: OuterLoss,
    params: Mapping[str, Tensor],
    meta: Mapping[str, Tensor],
    *,
    steps: int,
    optimizer: Optimizer,
    adjoint: Adjoint | None = None,
    window: int | None = None,
    state: State | None = None,
    first_step: int = 0,
    seed: int | None = None,
    has_aux: bool = False,
    batched: bool = False,
) -> MetaGradient:
    """Train for `steps` steps on `inner_loss`, then differentiate `outer_loss` through all of it.

    The gradients are exact for the training run that was made: for the meta-parameters, the
    starting weights, and the optimiser's hyper-parameters. The equations are in `docs/maths.md`.

    Args:
        inner_loss: (params, meta, step) -> scalar. Pure, twice differentiable; what it draws must
            be a function of `step`, or torch's global generators with `seed`.
        outer_loss: (params, meta) -> scalar, or (scalar, metrics) with `has_aux`.
        params: starting weights, float32 or float64, on one device; never changed.
        meta: what the losses read besides the parameters: data, data weights, a learned loss.
        steps: number of inner steps, >= 1.
        optimizer: the inner optimiser. Its hyper-parameters are floats or tensors of shape () or
            (steps,).
        adjoint: how earlier states are had again on the way back; None for `Auto()`.
        window: differentiate the last `window` steps only; None for all.
        state: the optimiser's state to go on from (`final_state`); None for its first.
        first_step: number of the first step: two chained calls equal one long one.
        seed: seeds torch's generators at each step, so that dropout is the same whenever a step is
            run.
        has_aux: whether `outer_loss` returns metrics besides.
        batched: every tensor of `params` has a leading axis of N starting points; the losses are
            written for one.

    Returns:
        A `MetaGradient`.

    Raises:
        ValueError: an argument is wrong, a tensor is not float32 or float64, or devices are mixed.
        NonFiniteError: a loss or a cotangent became infinite or NaN; `.step` says where.
        StochasticLossError: the inner loss drew from a global generator without `seed`.
        NonDeterministicError: the inner loss gave different values for the same inputs.
        NotTwiceDifferentiableError: autograd has no second derivative of the inner loss.
        InPlaceError: the inner loss changed something that outlives it.

    Example:
        >>> import torch
        >>> from farzi.metagrad import SGD, metagradient
        >>> def inner_loss(params, meta, step):
        ...     return (params["w"] - meta["target"]).square().sum()
        >>> def outer_loss(params, meta):
        ...     return params["w"].square().sum()
        >>> result = metagradient(
        ...     inner_loss, outer_loss, {"w": torch.zeros(1)}, {"target": torch.ones(1)},
        ...     steps=2, optimizer=SGD(lr=0.25))
        >>> result.value, result.meta_grads["target"]
        (tensor(0.5625), tensor([1.1250]))
    """
    started = time.perf_counter()
    loop = inner_loop(
        inner_loss,
        params,
        meta,
        steps=steps,
        optimizer=optimizer,
        window=window,
        state=state,
        first_step=first_step,
        seed=seed,
        batched=batched,
    )
    adjoint = Auto() if adjoint is None else adjoint
    report = Report(adjoint.name)
    with torch.no_grad():
        run = adjoint.forward(loop, report)
        gradients = MetaGradients(loop.meta, loop.num_starts)
        value, metrics, d_param = _outer(loop, outer_loss, run.final, gradients, has_aux)
        back = run.backward(d_param, gradients)
    return MetaGradient(
        value=value,
        metrics=metrics,
        meta_grads=gradients.total(),
        param_grads=loop.layout.unflatten(back.param),
        _hyper_grads=None if back.hyper is None else loop.schedule.gradients(back.hyper),
        final_params=loop.layout.unflatten(run.final.param),
        final_state=unflatten_state(optimizer, loop.layout, run.final.accumulators),
        stats=Stats(
            adjoint=report.adjoint,
            reason="; ".join(report.notes) or "asked for",
            forward_steps=report.forward_steps,
            recomputed_steps=report.recomputed_steps,
            state_bytes=report.state_bytes,
            wall_s=time.perf_counter() - started,
        ),
    )


def _outer(
    loop: InnerLoop,
    outer_loss: OuterLoss,
    final: FlatState,
    gradients: MetaGradients,
    has_aux: bool,
) -> tuple[Tensor, Any, Tensor]:
    """Value, metrics and cotangent of the final parameters; adds the direct gradient for `meta`."""
    layout = loop.layout
    with torch.enable_grad():
        leaves = [view.detach().requires_grad_() for view in layout.split(final.param)]
        meta = gradients.leaves()
        outer = (
            outer_loss
            if loop.num_starts is None
            else torch.vmap(outer_loss, randomness="different")
        )
        outcome = outer(layout.named(leaves), meta)
        value, metrics = outcome if has_aux else (outcome, None)
        expected = () if loop.num_starts is None else (loop.num_starts,)
        if not isinstance(value, Tensor) or value.shape != expected:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"`outer_loss` must return a scalar tensor{' and metrics' if has_aux else ''}, "
                f"got {got}."
            )
        total = value.sum()
        if not math.isfinite(total.item()):
            raise NonFiniteError(
                f"the outer loss is {total.item()} after step {loop.first_step + loop.steps - 1}.",
                step=loop.first_step + loop.steps,
            )
        if not total.requires_grad:
            return value.detach(), _detached(metrics), torch.zeros_like(final.param)
        pulled = torch.autograd.grad(total, [*leaves, *meta.values()], allow_unused=True)
    gradients.add(dict(zip(meta, pulled[len(leaves) :], strict=True)))
    return value.detach(), _detached(metrics), layout.join(pulled[: len(leaves)])


def _detached(metrics: Any) -> Any:
    return torch.utils._pytree.tree_map_only(Tensor, Tensor.detach, metrics)
