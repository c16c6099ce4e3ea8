"""`unroll`: an inner loop with no meta-gradient."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from farzi.errors import NonFiniteError
from farzi.metagrad.blame import check_state, find_first
from farzi.metagrad.guards import ordinary_modes
from farzi.metagrad.inner_loop import InnerLoss, Tensors, gradient, inner_loop
from farzi.metagrad.optimizers import HyperSetting, Optimizer
from farzi.metagrad.update import State, unflatten_state

__all__ = ["unroll"]


@ordinary_modes()
def unroll(
    inner_loss: InnerLoss,
    params: Mapping[str, Tensor],
    meta: Mapping[str, Tensor],
    *,
    steps: int,
    optimizer: Optimizer,
    state: State | None = None,
    first_step: int = 0,
    seed: int | None = None,
    clip_norm: HyperSetting | None = None,
    micro_batches: int = 1,
) -> tuple[Tensors, State]:
    """Train for `steps` steps, with no meta-gradient: the inner loop of `metagradient` alone.

    Args:
        inner_loss: (params, meta, step) -> scalar, as in `metagradient`.
        params: starting weights; not changed.
        meta: what the loss reads besides the parameters.
        steps: number of steps.
        optimizer: as in `metagradient`.
        state: the optimiser's state to go on from; None for its first.
        first_step: number of the first step; `inner_loss` sees first_step .. first_step + steps -
            1.
        seed: seeds torch's generators at each step, so that dropout is repeatable.
        clip_norm: as in `metagradient`.
        micro_batches: as in `metagradient`.

    Returns:
        Weights and optimiser state after the last step.

    Example:
        >>> import torch
        >>> from farzi.metagrad import SGD, unroll
        >>> def loss(params, meta, step):
        ...     return (params["w"] - meta["target"]).square().sum()
        >>> params, meta = {"w": torch.zeros(2)}, {"target": torch.ones(2)}
        >>> unroll(loss, params, meta, steps=3, optimizer=SGD(lr=0.25))[0]
        {'w': tensor([0.8750, 0.8750])}
    """
    loop = inner_loop(
        inner_loss,
        params,
        meta,
        steps=steps,
        optimizer=optimizer,
        state=state,
        first_step=first_step,
        seed=seed,
        clip_norm=clip_norm,
        micro_batches=micro_batches,
    )
    current = loop.start
    try:
        for i in range(steps):
            grad = gradient(loop, current.param, i)
            current = loop.rule.advance(current, grad, i)
        check_state(loop, current, steps - 1)
    except NonFiniteError:
        find_first(loop)
        raise
    return (
        loop.layout.unflatten(current.param),
        unflatten_state(optimizer, loop.layout, current.accumulators),
    )
