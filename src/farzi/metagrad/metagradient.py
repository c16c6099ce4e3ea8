"""`metagradient`: the value of an outer loss after a training run, and its exact gradients."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_map_only

from farzi.errors import NonFiniteError
from farzi.metagrad.adjoints import Adjoint, Auto, Checkpointed
from farzi.metagrad.adjoints.base import Report
from farzi.metagrad.blame import blamed, check_state, find_first
from farzi.metagrad.flat import FlatState
from farzi.metagrad.guards import (
    AT_ITS_EDGE,
    NO_SECOND_DERIVATIVE,
    LossLog,
    all_finite,
    not_finite,
    ordinary_modes,
)
from farzi.metagrad.hvp import MetaGradients
from farzi.metagrad.inner_loop import InnerLoop, InnerLoss, Tensors, described, inner_loop
from farzi.metagrad.optimizers import HyperSetting, Optimizer
from farzi.metagrad.rule import PullBack
from farzi.metagrad.trajectory import Arithmetic
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
    _hyper_grads: dict[str, Any] | None
    final_params: Tensors
    final_state: State
    stats: Stats

    @property
    def hyper_grads(self) -> dict[str, Any]:
        """The value's gradient for each hyper-parameter, summed over starts.

        A tensor of the shape given, (steps,) for a function of the step; a dictionary of them with
        the same keys where the hyper-parameter was given by name of tensors.
        """
        if self._hyper_grads is None:
            raise ValueError(
                "`hyper_grads` are not defined by the `pull_back` that was given; leave it out."
            )
        return self._hyper_grads


@ordinary_modes()
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
    clip_norm: HyperSetting | None = None,
    micro_batches: int = 1,
    pull_back: PullBack | None = None,
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
        optimizer: the inner optimiser. Its hyper-parameters are floats, tensors of shape () or
            (steps,), functions of the step, or mappings of these by name of tensors.
        adjoint: how earlier states are had again on the way back; None for `Auto()`.
        window: differentiate the last `window` steps only; None for all.
        state: the optimiser's state to go on from (`final_state`); None for its first.
        first_step: number of the first step: two chained calls equal one long one.
        seed: seeds torch's generators at each step, so that dropout is the same whenever a step is
            run.
        has_aux: whether `outer_loss` returns metrics besides.
        batched: every tensor of `params` has a leading axis of N starting points; the losses are
            written for one.
        clip_norm: bound of the norm of all gradients of a step together, before the optimiser sees
            them, as `torch.nn.utils.clip_grad_norm_`; a float, a tensor of shape () or (steps,), or
            a function of the step. None does not clip.
        micro_batches: parts of a step. With more than one, `inner_loss` is called as (params, meta,
            step, part), and the step's gradient is the mean over parts; the graph of one part at a
            time is in memory.
        pull_back: replaces the vector-Jacobian product of the optimiser's step, as
            `farzi.metagrad.paper_rule.paper_rule` does. None for the exact one.

    Returns:
        A `MetaGradient`.

    Raises:
        ValueError: an argument is wrong, a tensor is not float32 or float64, or devices are mixed.
        NonFiniteError: something became infinite or NaN: a loss, a metric, a state, a gradient.
            `.step` and `.tensor` say where it began. Nothing that is not finite is returned.
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
        clip_norm=clip_norm,
        micro_batches=micro_batches,
        pull_back=pull_back,
    )
    adjoint = Auto() if adjoint is None else adjoint
    if isinstance(adjoint, type) or not hasattr(adjoint, "forward"):
        raise ValueError(
            f"`adjoint` must be an adjoint such as Reversible(), got {described(adjoint)}."
        )
    if not callable(outer_loss):
        raise ValueError(
            f"`outer_loss` must be a function (params, meta), got {described(outer_loss)}."
        )
    outer = partial(_outer, loop, outer_loss, has_aux)
    report = Report(adjoint.name)
    gradients = MetaGradients(loop.meta, loop.num_starts)
    try:
        run = adjoint.forward(loop, report)
        check_state(loop, run.final, steps - 1)
    except NonFiniteError:
        find_first(loop)
        if _arithmetic(adjoint, report) == "fixed":
            find_first(loop, "fixed")
        raise
    value, metrics, d_param = outer(run.final, gradients)
    back = run.backward(d_param, gradients)
    result = MetaGradient(
        value=value,
        metrics=metrics,
        meta_grads=gradients.total(),
        param_grads=loop.layout.unflatten(back.param),
        _hyper_grads=None if back.hyper is None else loop.rule.schedule.gradients(back.hyper),
        final_params=loop.layout.unflatten(run.final.param),
        final_state=unflatten_state(optimizer, loop.layout, run.final.accumulators),
        stats=Stats(
            adjoint=report.adjoint,
            reason="; ".join([*report.notes, *loop.notes]) or "asked for",
            forward_steps=report.forward_steps,
            recomputed_steps=report.recomputed_steps,
            state_bytes=report.state_bytes,
            wall_s=time.perf_counter() - started,
        ),
    )
    try:
        _check_gradients(loop, result)
    except NonFiniteError:
        _find_on_the_way_back(loop, outer, _arithmetic(adjoint, report))
        raise
    return result


def _arithmetic(adjoint: Adjoint, report: Report) -> Arithmetic:
    """In which arithmetic the adjoint that was taken ran."""
    if report.adjoint == "Reversible":
        return "fixed"
    arithmetic: Arithmetic = getattr(adjoint, "arithmetic", "float")
    return arithmetic


Outer: TypeAlias = Callable[[FlatState, MetaGradients], tuple[Tensor, Any, Tensor]]


def _outer(
    loop: InnerLoop,
    outer_loss: OuterLoss,
    has_aux: bool,
    final: FlatState,
    gradients: MetaGradients,
) -> tuple[Tensor, Any, Tensor]:
    """Value, metrics and cotangent of the final parameters; adds the direct gradient for `meta`."""
    layout, end = loop.layout, loop.first_step + loop.steps
    after = f"after step {end - 1}"

    def evaluated(*inputs: Tensors) -> Any:
        if loop.num_starts is None:
            return outer_loss(*inputs)
        return torch.vmap(outer_loss, randomness="different")(*inputs)

    with torch.enable_grad():
        views = [view.detach().requires_grad_() for view in layout.split(final.param)]
        leaves = layout.named(views)
        meta = gradients.leaves()
        outcome = loop.copies.around(evaluated, leaves, meta)
        value, metrics = outcome if has_aux else (outcome, None)
        expected = () if loop.num_starts is None else (loop.num_starts,)
        if not isinstance(value, Tensor) or value.shape != expected:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"`outer_loss` must return a scalar tensor{' and metrics' if has_aux else ''}, "
                f"got {got}."
            )
        total = value.sum()
        if not all_finite(value.detach()):
            raise blamed(
                f"the outer loss is {total.item()} {after}", total, {**leaves, **meta}, end
            )
        _check_metrics(metrics, after, end)
        if not total.requires_grad:
            return value.detach(), _detached(metrics), torch.zeros_like(final.param)
        sparse_or_dense = torch.autograd.grad(total, [*views, *meta.values()], allow_unused=True)
    pulled = [x.to_dense() if x is not None and x.is_sparse else x for x in sparse_or_dense]
    for name, gradient in zip([*layout.names, *meta], pulled, strict=True):
        if gradient is not None and not all_finite(gradient):
            raise NonFiniteError(
                f"the gradient of the outer loss for `{name}` is not finite {after}; {AT_ITS_EDGE}",
                step=end,
                tensor=name,
            )
    gradients.add(dict(zip(meta, pulled[len(leaves) :], strict=True)))
    return value.detach(), _detached(metrics), layout.join(pulled[: len(leaves)])


def _check_metrics(metrics: Any, after: str, end: int) -> None:
    """Raise unless every float and every tensor among the metrics is finite."""
    for path, metric in tree_flatten_with_path(metrics)[0]:
        if isinstance(metric, Tensor):
            finite = not metric.is_floating_point() or all_finite(metric.detach())
        else:
            finite = not isinstance(metric, float) or math.isfinite(metric)
        if not finite:
            name = f"metrics{keystr(path)}"
            raise NonFiniteError(
                f"`{name}` of the outer loss is not finite {after}; {AT_ITS_EDGE}",
                step=end,
                tensor=name,
            )


def _check_gradients(loop: InnerLoop, result: MetaGradient) -> None:
    """Raise `NonFiniteError` at the first gradient of the result that is not finite."""
    kinds = {
        "the gradient": {**result.param_grads, **result.meta_grads},
        "the gradient of the hyper-parameter": _named(result._hyper_grads or {}),
    }
    for what, gradients in kinds.items():
        for name, gradient in gradients.items():
            if not all_finite(gradient):
                step = loop.first_step + loop.begin
                raise not_finite(what, NO_SECOND_DERIVATIVE, step=step, tensor=name)


def _named(hyper_grads: Mapping[str, Any]) -> Tensors:
    """Gradients of hyper-parameters, those of groups under names of their own."""
    named = {}
    for name, gradient in hyper_grads.items():
        if isinstance(gradient, Tensor):
            named[name] = gradient
        else:
            named |= {f"{name}[{pattern!r}]": of_group for pattern, of_group in gradient.items()}
    return named


def _find_on_the_way_back(loop: InnerLoop, outer: Outer, arithmetic: Arithmetic) -> None:
    """Go back a second time with every contribution checked: raises at the first that is wrong."""
    loop = replace(loop, log=LossLog(loop.first_step))
    run = Checkpointed(arithmetic=arithmetic).forward(loop, Report("Checkpointed"))
    watched = MetaGradients(loop.meta, loop.num_starts)
    watched.is_watched = True
    _, _, d_param = outer(run.final, watched)
    run.backward(d_param, watched)


def _detached(metrics: Any) -> Any:
    return tree_map_only(Tensor, Tensor.detach, metrics)
