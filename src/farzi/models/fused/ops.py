"""LayerNorm, GELU and causal attention with first and second derivatives in one kernel each.

A student is small: autograd's second derivative of these is dozens of tiny operations. On CPU in
float32 each derivative is one compiled pass; everywhere else the plain torch operations run.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from farzi.metagrad.memo import gradient_is_known, recall, room_for
from farzi.native import Kernels, kernels_for

__all__ = ["causal_attention", "fused_block", "gelu", "layer_norm", "linear", "with_signature"]


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """X W^T + b over the last axis of x."""
    if torch.compiler.is_compiling():
        return torch.nn.functional.linear(x, weight, bias)
    return _apply(_Linear, x, weight, bias)


def gelu(x: Tensor) -> Tensor:
    """The Gaussian error linear unit, x Phi(x)."""
    if kernels_for(x) is None:
        return torch.nn.functional.gelu(x)
    return _apply(_Gelu, x)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """LayerNorm over the last axis; `weight` and `bias` are (W,)."""
    if kernels_for(x, weight, bias) is None:
        return torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias, eps)
    return _apply(_LayerNorm, x, weight, bias, eps)


def causal_attention(
    qkv: Tensor, num_heads: int, dropout: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Self-attention in which position t reads positions up to t.

    Args:
        qkv: queries, keys and values side by side, (B, L, 3 W); a head has W / num_heads columns
            of each.
        num_heads: number of heads.
        dropout: applied to the attention weights (..., L, L), or None.

    Returns:
        The heads' outputs side by side, (B, L, W).
    """
    if dropout is None and kernels_for(qkv) is not None:
        return _apply(_Attention, qkv, num_heads)
    # Written out: torch's fused attention has no second derivative (pytorch#116350).
    *batch, length, width = qkv.shape
    head_width = width // (3 * num_heads)
    parts = qkv.view(*batch, length, 3, num_heads, head_width).unbind(-3)
    q, k, v = (part.transpose(-3, -2) for part in parts)
    scores = (q @ k.transpose(-1, -2)) / math.sqrt(head_width)
    future = torch.ones(length, length, dtype=torch.bool, device=qkv.device).triu(1)
    weights = scores.masked_fill(future, -torch.inf).softmax(-1)
    mixed = (weights if dropout is None else dropout(weights)) @ v
    return mixed.transpose(-3, -2).reshape(*batch, length, width // 3)


def fused_block(
    x: Tensor, parts: tuple[Tensor, ...], num_heads: int, activation: str, eps: float = 1e-5
) -> Tensor | None:
    """A pre-norm block without dropout in one kernel; None where there are no kernels for it.

    Args:
        x: (B, L, W).
        parts: weight and bias of the first norm, of queries, keys and values (3 W, W), of the
            attention's output (W, W), of the second norm, and of the feed-forward layer's two
            (F, W) and (W, F).
        num_heads: number of heads.
        activation: `gelu` or `relu`.
        eps: inside the norms' roots.

    Returns:
        (B, L, W).
    """
    if x.ndim != 3 or kernels_for(x, *parts) is None:
        return None
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *parts))
    settings = (num_heads, activation == "relu", eps)
    contiguous = (t.contiguous() for t in (x, *parts))
    result: Tensor = _Block.apply(settings, wanted, wanted, *contiguous)[0]  # type: ignore[no-untyped-call]
    return result


def _apply(function: type[Function], *arguments: Any) -> Tensor:
    """Call `function` on contiguous tensors."""
    contiguous = (x.contiguous() if isinstance(x, Tensor) else x for x in arguments)
    result: Tensor = function.apply(*contiguous)  # type: ignore[no-untyped-call]
    return result


def _run(name: str, *arguments: Any) -> None:
    kernels = kernels_for()
    assert isinstance(kernels, Kernels)
    kernels.run(name, *arguments)


FunctionType = TypeVar("FunctionType", bound=type[Function])


def with_signature(function: FunctionType) -> FunctionType:
    """Store the signature of `forward`; reading it at every call takes as long as a kernel."""
    function.forward.__signature__ = inspect.signature(function.forward)  # type: ignore[attr-defined]
    return function


class _Saving(Function):
    """Saves its tensor inputs; the others become `ctx.settings`."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        with_signature(cls)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*(x for x in inputs if isinstance(x, Tensor)))
        ctx.settings = tuple(x for x in inputs if not isinstance(x, Tensor))

    @classmethod
    def one_by_one(cls, info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> Any:
        """Run a batch as one call after another."""
        calls = [
            cls.apply(  # type: ignore[no-untyped-call]
                *(
                    x if dim is None else x.select(dim, i).contiguous()
                    for x, dim in zip(inputs, in_dims, strict=True)
                )
            )
            for i in range(info.batch_size)
        ]
        if isinstance(calls[0], Tensor):
            return torch.stack(calls), 0
        return tuple(map(torch.stack, zip(*calls, strict=True))), (0,) * len(calls[0])


class _Linear(_Saving):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return _affine(x.reshape(-1, x.shape[-1]), weight, bias).view(*x.shape[:-1], len(weight))

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight, bias = ctx.saved_tensors
        left_out = gradient_is_known() and weight.is_leaf and bias.is_leaf
        first: tuple[Tensor, Tensor, Tensor]
        first = _LinearFirst.apply(x, weight, *cotangents, left_out)  # type: ignore[no-untyped-call]
        return first

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> Any:
        return _Linear.one_by_one(info, in_dims, *inputs)


class _LinearFirst(Function):
    """d_x, d_weight and d_bias; zeros for the latter two where they are `left_out`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, g: Tensor, left_out: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        g = g.contiguous()
        ctx.save_for_backward(x, weight, g)
        rows = g.flatten(0, -2)
        d_x = _times(rows, weight).view_as(x)
        if left_out:
            zero = x.new_zeros(())
            return d_x, zero.expand_as(weight), zero.expand(len(weight))
        return d_x, _times(rows.T, x.flatten(0, -2)), rows.sum(0)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, c_x: Tensor, c_weight: Tensor, c_bias: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, g = (tensor.flatten(0, -2) for tensor in ctx.saved_tensors)
        a, c_weight = c_x.flatten(0, -2).contiguous(), c_weight.contiguous()
        to_g = _affine(a, weight, c_bias.contiguous(), (x, c_weight))
        return (
            _times(g, c_weight).view_as(c_x),
            _times(g.T, a),
            to_g.view_as(ctx.saved_tensors[2]),
            None,
        )


LEAST_PRODUCT, LARGEST_WEIGHT = 1 << 21, 1 << 19
"""Products of fewer multiplications, or by a larger matrix, are left to BLAS."""


def _by_kernel(rows: int, inputs: int, outputs: int, *tensors: Tensor) -> bool:
    """Whether x W^T, and its derivatives, are products that the kernels are made for."""
    return (
        inputs * outputs <= LARGEST_WEIGHT
        and rows * inputs * outputs >= LEAST_PRODUCT
        and kernels_for(*tensors) is not None
    )


def _affine(x: Tensor, weight: Tensor, bias: Tensor, also: tuple[Tensor, ...] = ()) -> Tensor:
    """X W^T + b of rows x, plus the like product of the two in `also`."""
    sizes = (*x.shape, len(weight))
    if _by_kernel(*sizes, x, weight, bias, *also):
        y = x.new_empty(len(x), len(weight))
        _run("linear", *sizes, x, weight, *(also or (None, None)), bias, y)
        return y
    y = torch.addmm(bias, x, weight.T)
    return y.addmm_(also[0], also[1].T) if also else y


def _times(A: Tensor, B: Tensor) -> Tensor:
    """A B, of a tall matrix and a weight, or of two tall ones to one of a weight's shape."""
    sizes = sorted((*A.shape, B.shape[1]), reverse=True)
    if not _by_kernel(*sizes, A, B):
        return A @ B
    kernels = kernels_for()
    assert kernels is not None
    return kernels.product(A, B, A.new_empty(len(A), B.shape[1]))


class _Gelu(_Saving):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        y = torch.empty_like(x)
        _run("gelu", 0, x.numel(), x, None, None, y, None)
        return y

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Tensor:
        return _apply(_GeluFirst, *ctx.saved_tensors, *cotangents)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> Any:
        return _Gelu.one_by_one(info, in_dims, *inputs)


class _GeluFirst(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, g: Tensor) -> Tensor:
        ctx.save_for_backward(x, g)
        d_x = torch.empty_like(x)
        _run("gelu", 1, x.numel(), x, g, None, d_x, None)
        return d_x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, c: Tensor) -> tuple[Tensor, Tensor]:
        x, g = ctx.saved_tensors
        to_x, to_g = torch.empty_like(x), torch.empty_like(x)
        _run("gelu", 2, x.numel(), x, g, c.contiguous(), to_g, to_x)
        return to_x, to_g


class _LayerNorm(_Saving):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        width = x.shape[-1]
        y = torch.empty_like(x)
        _run("layer_norm", x.numel() // width, width, eps, x, weight, bias, y)
        return y

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, _ = ctx.saved_tensors
        first = _LayerNormFirst.apply(x, weight, *cotangents, *ctx.settings)  # type: ignore[no-untyped-call]
        return *first, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> Any:
        return _LayerNorm.one_by_one(info, in_dims, *inputs)


class _LayerNormFirst(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, g: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        g = g.contiguous()
        ctx.save_for_backward(x, weight, g)
        ctx.eps = eps
        width = x.shape[-1]
        d_x = torch.empty_like(x)
        d_weight, d_bias = torch.empty_like(weight), torch.empty_like(weight)
        sums = x.new_empty(2 * torch.get_num_threads() * width)
        arguments = (x, weight, g, d_x, d_weight, d_bias, sums)
        _run("layer_norm_first", x.numel() // width, width, eps, *arguments)
        return d_x, d_weight, d_bias

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *c: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, g = ctx.saved_tensors
        width = x.shape[-1]
        to_x, to_weight, to_g = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(x)
        sums = x.new_empty(torch.get_num_threads() * width)
        given = (x, weight, g, *(part.contiguous() for part in c))
        results = (to_x, to_weight, to_g, sums)
        _run("layer_norm_second", x.numel() // width, width, ctx.eps, *given, *results)
        return to_x, to_weight, to_g, None


class _Attention(_Saving):
    @staticmethod
    def forward(qkv: Tensor, num_heads: int) -> Tensor:
        out = qkv.new_empty(*qkv.shape[:-1], qkv.shape[-1] // 3)
        _run("attention", *_sizes(qkv), num_heads, qkv, out)
        return out

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None]:
        return _apply(_AttentionFirst, *ctx.saved_tensors, *cotangents, *ctx.settings), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> Any:
        return _Attention.one_by_one(info, in_dims, *inputs)


class _AttentionFirst(Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, g: Tensor, num_heads: int) -> Tensor:
        ctx.save_for_backward(qkv, g)
        ctx.num_heads = num_heads
        d_qkv = torch.empty_like(qkv)
        _run("attention_first", *_sizes(qkv), num_heads, qkv, g, d_qkv)
        return d_qkv

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, c: Tensor) -> tuple[Tensor, Tensor, None]:
        qkv, g = ctx.saved_tensors
        to_qkv, to_g = torch.empty_like(qkv), torch.empty_like(g)
        _run("attention_second", *_sizes(qkv), ctx.num_heads, qkv, g, c.contiguous(), to_qkv, to_g)
        return to_qkv, to_g, None


def _sizes(qkv: Tensor) -> tuple[int, int, int]:
    """B, L and W of qkv (..., L, 3 W)."""
    length, width = qkv.shape[-2], qkv.shape[-1] // 3
    return qkv.numel() // (3 * length * width), length, width


@with_signature
class _Block(Function):
    """The block's result and, with `wanted`, what its derivatives read.

    Where they `may_keep` and there is room, both are kept from the step's first evaluation and
    read again.
    """

    @staticmethod
    def forward(
        settings: tuple[int, bool, float],
        wanted: bool,
        may_keep: bool,
        x: Tensor,
        *parts: Tensor,
    ) -> tuple[Tensor, Tensor]:
        size = len(x) * _kept_by_block(0, settings, x, parts) if wanted else 0

        def compute() -> tuple[Tensor, Tensor]:
            kept, z = x.new_empty(size), torch.empty_like(x)
            given = (parts, None, x, None, kept if wanted else None, None)
            _run_block(0, settings, x, parts, *given, z, None, None)
            return z, kept

        if may_keep and room_for(x.element_size() * (size + x.numel())):
            z, kept = recall(compute, in_pages=False)
            return z, kept
        return compute()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.settings, _, _, *tensors = inputs
        ctx.save_for_backward(output[1], *tensors)
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        kept, x, *parts = ctx.saved_tensors
        if cotangents[0] is None:
            return (None,) * (4 + len(parts))
        left_out = gradient_is_known() and all(part.is_leaf for part in parts)
        how = ctx.settings, torch.is_grad_enabled(), left_out
        g = cotangents[0].contiguous()
        first = _BlockFirst.apply(how, kept, g, x, *parts)  # type: ignore[no-untyped-call]
        return *(None,) * 3, *first

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        settings, _, _, *tensors = inputs
        calls = [
            _Block.apply(  # type: ignore[no-untyped-call]
                settings,
                torch.is_grad_enabled(),
                False,
                *(
                    x if dim is None else x.select(dim, i).contiguous()
                    for x, dim in zip(tensors, in_dims[3:], strict=True)
                ),
            )
            for i in range(info.batch_size)
        ]
        return tuple(map(torch.stack, zip(*calls, strict=True))), (0, 0)


class _BlockFirst(Function):
    """The cotangents of x and the parts; zeros for the latter where they are left out."""

    @staticmethod
    def forward(
        ctx: Any,
        how: tuple[tuple[int, bool, float], bool, bool],
        kept: Tensor,
        g: Tensor,
        x: Tensor,
        *parts: Tensor,
    ) -> tuple[Tensor, ...]:
        settings, wanted, left_out = how
        kept_back = None
        if wanted:
            kept_back = x.new_empty(len(x) * _kept_by_block(1, settings, x, parts))
        ctx.settings = settings
        ctx.save_for_backward(kept, kept_back, g, x, *parts)
        return _first_of_block(settings, kept, kept_back, g, x, parts, left_out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, c_x: Tensor, *c_parts: Tensor) -> tuple[Tensor | None, ...]:
        kept, kept_back, g, x, *parts = ctx.saved_tensors
        parts = tuple(parts)
        to_g, to_x, to_parts = torch.empty_like(g), torch.empty_like(x), _room_for(parts)
        moved = tuple(c.contiguous() for c in c_parts)
        given = (parts, moved, c_x.contiguous(), g, kept, kept_back)
        _run_block(2, ctx.settings, x, parts, *given, to_g, to_x, to_parts)
        return None, None, to_g, to_x, *_split(to_parts, parts)


def _first_of_block(
    settings: tuple[int, bool, float],
    kept: Tensor,
    kept_back: Tensor | None,
    g: Tensor,
    x: Tensor,
    parts: tuple[Tensor, ...],
    left_out: bool,
) -> tuple[Tensor, ...]:
    """The cotangents of x and the parts; zeros for the latter where they are left out."""
    d_x, d_parts = torch.empty_like(x), None if left_out else _room_for(parts)
    given = (parts, None, None, g, kept, kept_back)
    _run_block(1, settings, x, parts, *given, d_x, None, d_parts)
    if d_parts is None:
        zero = x.new_zeros(())
        return d_x, *(zero.expand_as(part) for part in parts)
    return d_x, *_split(d_parts, parts)


def _run_block(
    order: int,
    settings: tuple[int, bool, float],
    x: Tensor,
    parts: tuple[Tensor, ...],
    *arguments: Any,
) -> None:
    num_heads, relu, eps = settings
    sizes = (*x.shape, num_heads, len(parts[8]))
    _run("pre_norm_block", order, *sizes, int(relu), eps, *arguments)


def _kept_by_block(
    order: int, settings: tuple[int, bool, float], x: Tensor, parts: tuple[Tensor, ...]
) -> int:
    """Values a sequence."""
    kernels = kernels_for()
    assert kernels is not None
    return kernels.count("block_kept", order, *x.shape[1:], settings[0], len(parts[8]))


def _room_for(parts: tuple[Tensor, ...]) -> Tensor:
    return parts[0].new_empty(sum(part.numel() for part in parts))


def _split(flat: Tensor, parts: tuple[Tensor, ...]) -> list[Tensor]:
    sizes = [part.numel() for part in parts]
    return [
        piece.view(part.shape)
        for piece, part in zip(flat.split_with_sizes(sizes), parts, strict=True)
    ]
