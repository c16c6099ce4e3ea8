"""Meta-gradients that are products of thin matrices, formed a block of steps at a time.

Where a loss reads a large meta-tensor P (..., V) through `readout(P, E)` only, each step adds
dX E^T + gX u^T to its gradient: two products of rank W, where gX = dL/dX, dX is the cotangent of X
and u the part of the adjoint's direction that moves E. The factors of a few steps are laid side by
side and multiplied once. Memory does not grow with the number of steps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

__all__ = ["ThinProducts", "readout", "recording"]

STEPS_A_BLOCK = 4
"""Steps multiplied at once; more of them cost memory and, from here on, save no time."""


class ThinProducts:
    """A sum of products A B^T, with A (..., w) and B (V, w), held back and multiplied in blocks.

    Args:
        total: gives the tensor (..., V) that the products are added to, in place. It is asked for
            when there is something to add.

    Attributes:
        is_open: whether products are wanted. A gradient that is only on its way to a second
            derivative has none to keep.
    """

    def __init__(self, total: Callable[[], Tensor]) -> None:
        self._total = total
        self._factors: tuple[Tensor, Tensor] | None = None
        self._used = 0
        self.is_open = False

    def add(self, left: Tensor, right: Tensor) -> None:
        """Add left right^T, now or later."""
        left = left.reshape(-1, left.shape[-1])
        width = left.shape[1]
        if self._factors is None:
            columns = 2 * STEPS_A_BLOCK * width
            self._factors = left.new_empty(len(left), columns), right.new_empty(len(right), columns)
        if self._used + width > self._factors[0].shape[1]:
            self.flush()
        for buffer, factor in zip(self._factors, (left, right), strict=True):
            buffer[:, self._used : self._used + width] = factor
        self._used += width

    def flush(self) -> None:
        """Multiply what was held back."""
        if self._factors is None or self._used == 0:
            return
        left, right = (factor[:, : self._used] for factor in self._factors)
        total = self._total()
        total.view(-1, total.shape[-1]).addmm_(left, right.T)
        self._used = 0

    @property
    def num_bytes(self) -> int:
        """Bytes of the factors held back."""
        return sum(f.numel() * f.element_size() for f in self._factors or ())


_SINKS: ContextVar[Mapping[int, ThinProducts] | None] = ContextVar("sinks", default=None)


@contextlib.contextmanager
def recording(sinks: Mapping[int, ThinProducts]) -> Iterator[None]:
    """Let `readout` send the gradient of each tensor whose id is a key of `sinks` there.

    The caller keeps the tensors alive meanwhile.
    """
    token = _SINKS.set(sinks)
    try:
        yield
    finally:
        _SINKS.reset(token)


def readout(P: Tensor, E: Tensor) -> Tensor:
    """X = P E, for a large P (..., V) whose meta-gradient is wanted and a thin E (V, W).

    The same as `P @ E` everywhere; inside `metagradient`, where P is a tensor of `meta`, it costs
    no (..., V) tensor a step.

    Args:
        P: soft tokens, or any other matrix of weights, (..., V).
        E: embedding (V, W).

    Returns:
        X (..., W).

    Example:
        >>> import torch
        >>> from farzi.metagrad import readout
        >>> readout(torch.full((1, 2), 0.5), torch.tensor([[1.0], [3.0]]))
        tensor([[2.]])
    """
    sinks = _SINKS.get()
    sink = None if sinks is None else sinks.get(id(P))
    if sink is None:
        return P @ E
    result: Tensor = _Readout.apply(P, E, sink)  # type: ignore[no-untyped-call]
    return result


class _Readout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, P: Tensor, E: Tensor, sink: ThinProducts) -> Tensor:
        ctx.save_for_backward(P, E)
        ctx.sink = sink
        return P @ E

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[None, Tensor, None]:
        P, E = ctx.saved_tensors
        (dX,) = cotangents
        if ctx.sink.is_open:
            ctx.sink.add(dX, E)
        return None, _ReadoutTransposed.apply(P, dX, ctx.sink), None  # type: ignore[no-untyped-call]


class _ReadoutTransposed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, P: Tensor, dX: Tensor, sink: ThinProducts) -> Tensor:
        ctx.save_for_backward(P, dX)
        ctx.sink = sink
        return P.reshape(-1, P.shape[-1]).T @ dX.reshape(-1, dX.shape[-1])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[None, Tensor, None]:
        P, dX = ctx.saved_tensors
        (u,) = cotangents
        if ctx.sink.is_open:
            ctx.sink.add(dX, u)
        return None, _Readout.apply(P, u, ctx.sink), None  # type: ignore[no-untyped-call]
