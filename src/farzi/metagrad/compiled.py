"""Inner losses whose gradient and second derivative are compiled once a shape.

Many small operations cost more to start than to run, on a GPU most of all. `torch.compile` fuses
them and replays them there as one CUDA graph. It cannot differentiate twice what it has compiled,
so here the whole gradient, and the whole product with the second derivative, are one function each
before they are compiled, with `torch.func` inside.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from farzi.metagrad.flat import Layout

__all__ = ["CompiledLoss", "Program"]

Tensors: TypeAlias = Mapping[str, Tensor]


def _nothing(*place: int) -> dict[str, Tensor]:
    return {}


@dataclass(frozen=True)
class CompiledLoss:
    """An inner loss for `metagradient`, compiled: fewer, fused passes, and CUDA graphs on a GPU.

    It pays where a call has hundreds of steps or many calls follow: compiling takes seconds to a
    minute, once for each shape of parameters, meta-parameters and inputs.

    Args:
        loss: (params, meta, inputs) -> scalar. Pure; plain torch operations. What changes from step
            to step comes in through `inputs`: the step itself is baked into nothing.
        inputs: step -> tensors by name, of the same shapes at every step: the places of a
            mini-batch, a mask, the numbers that dropout draws. (step, part) -> tensors with
            `micro_batches` > 1.
        backend: of `torch.compile`.

    Example:
        >>> import torch
        >>> from farzi.metagrad import CompiledLoss, SGD, metagradient
        >>> def loss(params, meta, inputs):
        ...     return (params["w"] - meta["target"][inputs["rows"]]).square().sum()
        >>> inner = CompiledLoss(
        ...     loss, lambda step: {"rows": torch.tensor([step % 2])}, backend="eager")
        >>> metagradient(
        ...     inner, lambda params, meta: params["w"].sum(), {"w": torch.zeros(1)},
        ...     {"target": torch.ones(2)}, steps=2, optimizer=SGD(lr=0.25)).meta_grads["target"]
        tensor([0.2500, 0.5000])
    """

    loss: Callable[[Any, Any, Any], Tensor]
    inputs: Callable[..., Tensors] = _nothing
    backend: str = "inductor"
    _programs: dict[Hashable, Program] = field(default_factory=dict, repr=False, compare=False)

    def over(self, inputs: Callable[..., Tensors]) -> CompiledLoss:
        """The same loss on other inputs; what is compiled serves both."""
        return replace(self, inputs=inputs)

    def __call__(self, params: Tensors, meta: Tensors, *place: int) -> Tensor:
        """The loss of a step, not compiled: what any other inner loss gives."""
        return self.loss(params, meta, self.inputs(*place))

    def program(self, layout: Layout, num_starts: int | None, meta: Tensors) -> Program:
        """Its derivatives for parameters of this layout, made when first asked for."""
        ndims = {name: x.ndim for name, x in meta.items()}
        key = layout, num_starts, tuple(ndims.items())
        if key not in self._programs:
            self._programs[key] = Program(self.loss, layout, num_starts, ndims, self.backend)
        return self._programs[key]


class Program:
    """The compiled derivatives of one loss at parameters of one layout.

    Args:
        loss: (params, meta, inputs) -> scalar.
        layout: of the flat vector of parameters.
        num_starts: length of the leading axis of every parameter, or None.
        ndims: of each meta-parameter as all starts share it; one more, and each has its own.
        backend: of `torch.compile`.
    """

    def __init__(
        self,
        loss: Callable[[Any, Any, Any], Tensor],
        layout: Layout,
        num_starts: int | None,
        ndims: Mapping[str, int],
        backend: str,
    ) -> None:
        def total(flat: Tensor, meta: Tensors, inputs: Tensors) -> Tensor:
            params = layout.unflatten(flat)
            if num_starts is None:
                return loss(params, meta, inputs)
            own = {name: 0 if x.ndim > ndims[name] else None for name, x in meta.items()}
            return torch.vmap(loss, in_dims=(0, own, None))(params, meta, inputs).sum()

        def gradient(flat: Tensor, meta: Tensors, inputs: Tensors) -> tuple[Tensor, Tensor]:
            grad, value = torch.func.grad_and_value(total)(flat, meta, inputs)
            return grad, value

        def products(
            flat: Tensor, meta: Tensors, inputs: Tensors, u: Tensor
        ) -> tuple[Tensor, Tensors]:
            def at(flat: Tensor, meta: Tensors) -> Tensor:
                grad: Tensor = torch.func.grad(total)(flat, meta, inputs)
                return grad

            linearised: Any = torch.func.vjp(at, flat, meta)
            to_flat, to_meta = linearised[1](u)
            return to_flat, to_meta

        self._gradient = _compiled(gradient, backend)
        self._products = _compiled(products, backend)

    def gradient(self, flat: Tensor, meta: Tensors, inputs: Tensors) -> tuple[Tensor, Tensor]:
        """The flat gradient, and the loss."""
        with torch.no_grad():
            grad, value = self._gradient(flat, dict(meta), dict(inputs))
        return _own(grad), _own(value)

    def products(
        self, flat: Tensor, meta: Tensors, inputs: Tensors, u: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(d2L/dw dw) u, flat, and (d2L/dx dw) u by name; for several starts, one for each."""
        with torch.no_grad():
            to_flat, to_meta = self._products(flat, dict(meta), dict(inputs), u)
        return _own(to_flat), to_meta


def _compiled(function: Any, backend: str) -> Any:
    """`function` compiled, with a code object of its own.

    torch counts recompilations by code object and gives up after a few; each program is one.
    """
    own = types.FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    mode = "reduce-overhead" if backend == "inductor" else None
    return torch.compile(own, backend=backend, fullgraph=True, dynamic=False, mode=mode)


def _own(x: Tensor) -> Tensor:
    """A tensor that outlives the next replay of its CUDA graph."""
    return x.clone() if x.is_cuda else x
