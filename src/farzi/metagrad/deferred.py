"""Meta-gradients that are products of thin matrices, formed a block of steps at a time.

Where a loss reads a large meta-tensor P (..., V) through `readout(P, E)` only, each step adds
dX E^T + gX u^T to its gradient: two products of rank W, where gX = dL/dX, dX is the cotangent of X
and u the part of the adjoint's direction that moves E. The factors of a few steps are laid side by
side and multiplied once. Memory does not grow with the number of steps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from farzi.metagrad.ambient import now, within
from farzi.metagrad.memo import gradient_is_known, recall
from farzi.native import kernels_for

__all__ = ["ThinProducts", "reading", "readout"]

STEPS_A_BLOCK = 2
"""Steps multiplied at once. More of them would hold back more memory and save no time."""


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
        self._rows: Tensor | None = None
        self._used = 0
        self.is_open = False

    def add(self, left: Tensor, right: Tensor, rows: Tensor | None = None) -> None:
        """Add left right^T, now or later; with `rows`, to those places of the first axis only."""
        left = left.reshape(-1, left.shape[-1])
        width = left.shape[1]
        full = self._factors is not None and self._used + width > len(self._factors[1])
        if full or rows is not self._rows:
            self.flush()
        if (
            self._factors is None
            or len(self._factors[0]) != len(left)
            or self._factors[0].shape[1] < width
        ):
            rank = 2 * STEPS_A_BLOCK * width
            self._factors = left.new_empty(len(left), rank), right.new_empty(rank, len(right))
        self._rows = rows
        used = slice(self._used, self._used + width)
        self._factors[0][:, used] = left
        _transpose(right, self._factors[1][used])
        self._used += width

    def flush(self) -> None:
        """Multiply what was held back."""
        if self._factors is None or self._used == 0:
            return
        left, right = self._factors[0][:, : self._used], self._factors[1][: self._used]
        total = self._total()
        if self._rows is None:
            _product(left, right, total.view(-1, total.shape[-1]), add=True)
        else:
            for part, row in zip(left.chunk(len(self._rows)), self._rows.tolist(), strict=True):
                _product(part, right, total[row].view(-1, total.shape[-1]), add=True)
        self._used = 0

    @property
    def num_bytes(self) -> int:
        """Bytes of the factors held back."""
        return sum(f.numel() * f.element_size() for f in self._factors or ())


def reading(
    tensors: Mapping[str, Tensor], sinks: Mapping[str, ThinProducts] | None = None
) -> contextlib.AbstractContextManager[None]:
    """In here `readout` knows `tensors`, and sends the gradient of each to its sink."""
    known = {id(x): (sinks or {}).get(name) for name, x in tensors.items() if x.ndim >= 2}
    return within(sinks=known)


def readout(P: Tensor, E: Tensor, rows: Tensor | None = None) -> Tensor:
    """X = P[rows] E, for a large P (..., V) whose meta-gradient is wanted and a thin E (V, W).

    The same as `P[rows] @ E` everywhere; inside `metagradient`, where P is a tensor of `meta`, it
    costs no (..., V) tensor a step.

    Args:
        P: soft tokens, or any other matrix of weights, (..., V).
        E: embedding (V, W).
        rows: int64 (B,), places on the first axis of P (S, ..., V), a mini-batch; None for all.

    Returns:
        X (..., W); with `rows` (B, ..., W).

    Example:
        >>> import torch
        >>> from farzi.metagrad import readout
        >>> readout(torch.full((1, 2), 0.5), torch.tensor([[1.0], [3.0]]))
        tensor([[2.]])
    """
    if torch.compiler.is_compiling():
        return (P if rows is None else P[rows]) @ E
    sinks = now().sinks
    sink = sinks.get(id(P))
    if id(P) not in sinks or (sink is None and P.requires_grad):
        return (P if rows is None else P[rows]) @ E
    result: Tensor = _Readout.apply(P, E, sink, rows)  # type: ignore[no-untyped-call]
    return result


def _transpose(A: Tensor, out: Tensor) -> None:
    """A^T into `out`, which is contiguous."""
    kernels = kernels_for(A, out)
    if kernels is None:
        out.copy_(A.T)
    else:
        kernels.run("transpose", *A.shape, A.contiguous(), out)


def _product(A: Tensor, B: Tensor, out: Tensor, *, add: bool = False) -> Tensor:
    """A B into `out`, or added to it."""
    kernels = kernels_for(A, B, out)
    if kernels is not None and B.stride(1) == 1:
        return kernels.product(A, B, out, add=add)
    return out.addmm_(A, B) if add else torch.mm(A, B, out=out)


def _read(P: Tensor, E: Tensor, rows: Tensor | None) -> Tensor:
    """P[rows] E."""
    E = E.contiguous()
    if rows is None:
        flat = P.reshape(-1, P.shape[-1])
        X = _product(flat, E, E.new_empty(len(flat), E.shape[1]))
        return X.view(*P.shape[:-1], E.shape[1])
    X = E.new_empty(len(rows), *P.shape[1:-1], E.shape[1])
    for out, row in zip(X, rows.tolist(), strict=True):
        _product(P[row].reshape(-1, P.shape[-1]), E, out.view(-1, E.shape[1]))
    return X


def _read_transposed(P: Tensor, dX: Tensor, rows: Tensor | None) -> Tensor:
    """P[rows]^T dX."""
    dX = dX.contiguous()
    width = dX.shape[-1]
    if rows is None:
        out = dX.new_empty(P.shape[-1], width)
        return _product(P.reshape(-1, P.shape[-1]).T, dX.view(-1, width), out)
    out = dX.new_zeros(P.shape[-1], width)
    for part, row in zip(dX, rows.tolist(), strict=True):
        _product(P[row].reshape(-1, P.shape[-1]).T, part.view(-1, width), out, add=True)
    return out


class _Readout(torch.autograd.Function):
    """P[rows] E. The gradient for P goes to the sink; without one P is a constant."""

    @staticmethod
    def forward(
        ctx: Any, P: Tensor, E: Tensor, sink: ThinProducts | None, rows: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(P, E)
        ctx.sink, ctx.rows = sink, rows
        return recall(lambda: (_read(P, E, rows),))[0]

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[None, Tensor, None, None]:
        P, E = ctx.saved_tensors
        (dX,) = cotangents
        if ctx.sink is not None and ctx.sink.is_open:
            ctx.sink.add(dX, E, ctx.rows)
        left_out = gradient_is_known() and E.is_leaf
        d_E: Tensor = _ReadoutTransposed.apply(P, dX, ctx.sink, ctx.rows, left_out)  # type: ignore[no-untyped-call]
        return None, d_E, None, None


class _ReadoutTransposed(torch.autograd.Function):
    """P[rows]^T dX; zeros, with the same derivative, where the value is `left_out`."""

    @staticmethod
    def forward(
        ctx: Any,
        P: Tensor,
        dX: Tensor,
        sink: ThinProducts | None,
        rows: Tensor | None,
        left_out: bool,
    ) -> Tensor:
        ctx.save_for_backward(P, dX)
        ctx.sink, ctx.rows = sink, rows
        if left_out:
            return dX.new_zeros(()).expand(P.shape[-1], dX.shape[-1])
        return _read_transposed(P, dX, rows)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[None, Tensor, None, None, None]:
        P, dX = ctx.saved_tensors
        (u,) = cotangents
        if ctx.sink is not None and ctx.sink.is_open:
            ctx.sink.add(dX, u, ctx.rows)
        return None, _read(P, u, ctx.rows), None, None, None
