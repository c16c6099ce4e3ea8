"""Hessian-vector and mixed products, reverse over reverse, in one call each step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from farzi.metagrad.compiled import Program
from farzi.metagrad.deferred import ThinProducts
from farzi.metagrad.guards import (
    NO_SECOND_DERIVATIVE,
    all_finite,
    dense_parts,
    not_finite,
    translated,
)
from farzi.metagrad.inner_loop import InnerLoop, Tensors, gradient
from farzi.metagrad.memo import Memo, linearising

__all__ = ["Linearised", "MetaGradients", "linearise"]


class MetaGradients:
    """Gradients with respect to `meta`: one buffer for each tensor in use, added to in place.

    Args:
        meta: the meta-parameters, by name.
        num_starts: length of the leading axis kept in the gradients, or None.

    Attributes:
        is_watched: whether every contribution is to be checked, to find the first wrong one.
    """

    def __init__(self, meta: Mapping[str, Tensor], num_starts: int | None) -> None:
        self.is_watched = False
        self._meta = meta
        self._num_starts = num_starts
        self._buffers: dict[str, Tensor] = {}
        self._thin = {
            name: ThinProducts(partial(_buffer, self._buffers, name, x))
            for name, x in meta.items()
            if num_starts is None and x.ndim >= 2
        }

    @property
    def thin(self) -> Mapping[str, ThinProducts]:
        """Where `readout` adds the thin factors of a gradient instead of a dense one."""
        return self._thin

    @contextlib.contextmanager
    def collecting(self) -> Iterator[None]:
        """Keep the thin factors that a backward pass in here meets."""
        for thin in self._thin.values():
            thin.is_open = True
        try:
            yield
        finally:
            for thin in self._thin.values():
                thin.is_open = False

    def leaves(self) -> Tensors:
        """Fresh leaves, views of `meta`; one for each start where there are several."""
        if self._num_starts is None:
            return {name: x.detach().requires_grad_() for name, x in self._meta.items()}
        return {
            name: x.expand(self._num_starts, *x.shape).detach().requires_grad_()
            for name, x in self._meta.items()
        }

    def add(self, gradients: Mapping[str, Tensor | None]) -> None:
        """Add what one step (or the outer loss) contributes."""
        for name, more in gradients.items():
            if more is None:
                continue
            buffer = self._buffers.get(name)
            if buffer is None:
                self._buffers[name] = more.detach().clone(memory_format=torch.contiguous_format)
            else:
                buffer.add_(more)

    def check(self, what: str, step: int) -> None:
        """Raise `NonFiniteError` unless the gradients so far are finite."""
        for name, total in self.total().items():
            if not all_finite(total):
                raise not_finite(what, NO_SECOND_DERIVATIVE, step=step, tensor=name)

    def total(self) -> Tensors:
        """The gradients so far; zeros for what was never used."""
        for thin in self._thin.values():
            thin.flush()
        axis = () if self._num_starts is None else (self._num_starts,)
        return {
            name: self._buffers[name]
            if name in self._buffers
            else torch.zeros((*axis, *x.shape), dtype=x.dtype, device=x.device)
            for name, x in self._meta.items()
        }

    def so_far(self) -> dict[str, Tensor | None]:
        """What was added; None for what was never used."""
        return {name: self._buffers.get(name) for name in self._meta}

    @property
    def num_bytes(self) -> int:
        """Bytes held."""
        held = sum(thin.num_bytes for thin in self._thin.values())
        return held + sum(b.numel() * b.element_size() for b in self._buffers.values())


def _buffer(buffers: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """The buffer of `x`'s gradient, made when it is first needed."""
    if name not in buffers:
        buffers[name] = torch.zeros_like(x, memory_format=torch.contiguous_format)
    return buffers[name]


class Linearised(Protocol):
    """The inner gradient at one point, and its products with any vector."""

    @property
    def loss(self) -> Tensor:
        """The inner loss there."""
        ...

    @property
    def grad(self) -> Tensor:
        """Its gradient, flat."""
        ...

    def pull(self, u: Tensor) -> tuple[Tensor, dict[str, Tensor | None]]:
        """(d2L/dw dw) u as a flat vector, and (d2L/dx dw) u by name. Once only."""
        ...


@dataclass(frozen=True)
class _Compiled:
    """A linearisation whose products compute everything anew, in one compiled function."""

    loss: Tensor
    grad: Tensor
    _loop: InnerLoop
    _program: Program
    _param: Tensor
    _i: int
    _part: int
    _meta: Tensors

    def pull(self, u: Tensor) -> tuple[Tensor, dict[str, Tensor | None]]:
        loop = self._loop
        inputs = loop.inputs(self._i, self._part)
        with translated(loop.first_step + self._i):
            curved, mixed = self._program.products(self._param, self._meta, inputs, u)
        return curved, dict(mixed)


@dataclass(frozen=True)
class _Graph:
    """A linearisation that keeps autograd's graph, and gives its product once."""

    loss: Tensor
    grad: Tensor
    _loop: InnerLoop
    _i: int
    _leaves: list[Tensor]
    _meta: Tensors
    _gradients: MetaGradients
    _parts: tuple[Tensor | None, ...]

    def pull(self, u: Tensor) -> tuple[Tensor, dict[str, Tensor | None]]:
        layout = self._loop.layout
        pairs = [
            (part, v)
            for part, v in zip(self._parts, layout.split(u), strict=True)
            if part is not None and part.requires_grad
        ]
        if not pairs:
            return torch.zeros_like(u), {}
        parts, vectors = zip(*pairs, strict=True)
        with translated(self._loop.first_step + self._i), self._gradients.collecting():
            products = torch.autograd.grad(
                parts, [*self._leaves, *self._meta.values()], vectors, allow_unused=True
            )
        num_params = len(self._leaves)
        mixed: dict[str, Tensor | None] = dict(zip(self._meta, products[num_params:], strict=True))
        return layout.join(products[:num_params]), mixed


@dataclass(frozen=True)
class _Accumulated:
    """A linearisation of several micro-batches: the graph of one at a time is there."""

    loss: Tensor
    grad: Tensor
    _loop: InnerLoop
    _param: Tensor
    _i: int
    _gradients: MetaGradients

    def pull(self, u: Tensor) -> tuple[Tensor, dict[str, Tensor | None]]:
        share = u / self._loop.micro_batches
        curved = torch.zeros_like(u)
        mixed = MetaGradients(self._loop.meta, self._loop.num_starts)
        for part in range(self._loop.micro_batches):
            linearised = _linearise_part(
                self._loop, self._param, self._i, part, self._gradients, known=None
            )
            more, to_meta = linearised.pull(share)
            curved += more
            mixed.add(to_meta)
        return curved, mixed.so_far()


def linearise(
    loop: InnerLoop,
    param: Tensor,
    i: int,
    meta: MetaGradients,
    known: tuple[Tensor, Memo] | None = None,
) -> Linearised:
    """The inner gradient of step i at `param`, ready for products with a vector.

    `known` is the gradient's value and what else its first evaluation noted; neither is then
    computed again.
    """
    if loop.micro_batches == 1:
        return _linearise_part(loop, param, i, 0, meta, known)
    grad = gradient(loop, param, i, record=False) if known is None else known[0]
    return _Accumulated(param.new_full((), torch.nan), grad, loop, param, i, meta)


def _linearise_part(
    loop: InnerLoop,
    param: Tensor,
    i: int,
    part: int,
    meta: MetaGradients,
    known: tuple[Tensor, Memo] | None,
) -> Linearised:
    """`linearise`, of one micro-batch."""
    layout = loop.layout
    program = loop.program
    if program is not None:
        return _linearise_compiled(loop, program, param, i, part, meta, known)
    replaying = contextlib.nullcontext() if known is None else known[1].replaying()
    with torch.enable_grad():
        leaves = [view.detach().requires_grad_() for view in layout.split(param)]
        meta_leaves = meta.leaves()
        with replaying:
            loss = loop.loss(layout.named(leaves), meta_leaves, i, meta.thin, part)
        if not loop.log.agrees(i, loss, part):
            _confirm(loop, param, i, part)
        parts: tuple[Tensor | None, ...] = (None,) * len(leaves)
        if loss.requires_grad:
            with translated(loop.first_step + i), linearising(known=known is not None):
                parts = torch.autograd.grad(loss, leaves, create_graph=True, allow_unused=True)
    with torch.no_grad():
        dense = dense_parts(parts, layout, loop.first_step + i)
        grad = layout.join(dense) if known is None else known[0]
    return _Graph(loss.detach(), grad, loop, i, leaves, meta_leaves, meta, parts)


def _linearise_compiled(
    loop: InnerLoop,
    program: Program,
    param: Tensor,
    i: int,
    part: int,
    meta: MetaGradients,
    known: tuple[Tensor, Memo] | None,
) -> Linearised:
    shared = {name: x.detach() for name, x in meta.leaves().items()}
    if known is None:
        grad, loss = program.gradient(param, loop.meta, loop.inputs(i, part))
        if not loop.log.agrees(i, loss, part):
            loop.log.record(i, loss, part)  # the same function on the same values: it raises
    else:
        grad, loss = known[0], param.new_full((), torch.nan)
    return _Compiled(loss, grad, loop, program, param, i, part, shared)


def _confirm(loop: InnerLoop, param: Tensor, i: int, part: int) -> None:
    """Evaluate step i as the forward run did; a difference then means an impure loss."""
    leaves = [view.detach().requires_grad_() for view in loop.layout.split(param)]
    loss = loop.loss(loop.layout.named(leaves), loop.meta, i, part=part)
    loop.log.record(i, loss, part)
