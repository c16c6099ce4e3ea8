"""Which step and tensor is to blame for a value that is not finite, found by going again."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from farzi.errors import NonFiniteError
from farzi.metagrad.flat import FlatState
from farzi.metagrad.guards import AT_ITS_EDGE, LossLog, all_finite, check_finite, overflow
from farzi.metagrad.inner_loop import InnerLoop, Tensors
from farzi.metagrad.trajectory import Arithmetic, trajectory
from farzi.metagrad.update import state_names

__all__ = ["blamed", "check_state", "find_first"]


def check_state(loop: InnerLoop, state: FlatState, i: int) -> None:
    """Raise `NonFiniteError` unless the weights and accumulators after step i are finite."""
    vectors = zip(
        ("the new value", *(f"`{name}`" for name in state_names(loop.optimizer))),
        (state.param, *state.accumulators),
        strict=True,
    )
    for what, flat in vectors:
        check_finite(
            flat,
            loop.layout,
            what,
            loop.first_step + i,
            overflow(loop.layout),
        )


def find_first(loop: InnerLoop, arithmetic: Arithmetic = "float") -> None:
    """Take the steps again and raise `NonFiniteError` at the first value that is not finite.

    The error says whether the loss, its gradient or the optimiser's step is to blame. Nothing is
    raised where every step is finite.
    """
    loop = replace(loop, log=LossLog(loop.first_step))
    first = loop.first_step
    check_finite(loop.start.param, loop.layout, "the start", first, "it is so in `params`.")
    path = trajectory(loop, arithmetic)
    state = path.start
    for i in range(loop.steps):
        param = path.values(state).param
        try:
            grad = path.gradient(param, i)
        except NonFiniteError:
            raise _of_loss(loop, param, i) from None
        check_finite(grad, loop.layout, "the gradient of the inner loss", first + i, AT_ITS_EDGE)
        state = path.advance_with(state, grad, i)
        check_state(loop, path.values(state), i)


def _of_loss(loop: InnerLoop, param: Tensor, i: int) -> NonFiniteError:
    """The error for an inner loss that is not finite at step i, at finite weights."""
    with torch.enable_grad():
        leaves = [view.detach().requires_grad_() for view in loop.layout.split(param)]
        meta = {name: x.detach().requires_grad_() for name, x in loop.meta.items()}
        losses = [
            loop.loss(loop.layout.named(leaves), meta, i, part=part)
            for part in range(loop.micro_batches)
        ]
        loss = next(x for x in losses if not all_finite(x.detach()))
    step = loop.first_step + i
    read = {**loop.layout.named(leaves), **meta}
    return blamed(f"the inner loss is {loss.item()} at step {step}", loss, read, step)


def blamed(fact: str, loss: Tensor, read: Tensors, step: int) -> NonFiniteError:
    """The error for a loss that is not finite at finite weights.

    The tensor to blame is the first that is not finite itself, or else the first whose gradient is
    not; where the loss merely overflows, the largest.
    """
    sizes = {name: x.detach().abs().max().item() for name, x in read.items() if x.numel()}
    given = next((name for name, size in sizes.items() if not math.isfinite(size)), None)
    if given is not None:
        return NonFiniteError(f"{fact}: `{given}` is not finite itself.", step=step, tensor=given)
    grads: tuple[Tensor | None, ...] = (None,) * len(read)
    if loss.requires_grad:
        grads = torch.autograd.grad(loss, list(read.values()), allow_unused=True)
    for name, grad in zip(read, grads, strict=True):
        if grad is not None and not all_finite(grad):
            return NonFiniteError(
                f"{fact}, by way of `{name}`, which is finite: {AT_ITS_EDGE}",
                step=step,
                tensor=name,
            )
    largest = max(sizes, key=lambda name: sizes[name])
    return NonFiniteError(
        f"{fact}: it overflows, and the largest of what it reads is `{largest}` with "
        f"{sizes[largest]:.3g}; lower the learning rate, or scale the loss down.",
        step=step,
        tensor=largest,
    )
