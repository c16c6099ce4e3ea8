"""The compiled operations against torch's own, to the second derivative."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from farzi import native
from farzi.metagrad.memo import linearising
from farzi.models.blocks import PARTS, pre_norm_block
from farzi.models.fused import ops

pytestmark = pytest.mark.skipif(native.kernels_for() is None, reason=native.status())

Case = tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[tuple[int, ...], ...]]


def plain_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias)


def plain_attention(qkv: Tensor, num_heads: int) -> Tensor:
    return ops.causal_attention(qkv, num_heads, dropout=lambda weights: weights)


def block(x: Tensor, *parts: Tensor, heads: int, activation: str) -> Tensor:
    params = {f"b.{name}": 0.3 * part for name, part in zip(PARTS, parts, strict=True)}
    return pre_norm_block(
        params, "b", x, num_heads=heads, activation=activation, rate=0.0, generator=None
    )


def plain_block(x: Tensor, *parts: Tensor, heads: int, activation: str) -> Tensor:
    g1, b1, qkv, qkv_b, out, out_b, g2, b2, up, up_b, down, down_b = (0.3 * p for p in parts)
    act, linear = getattr(torch.nn.functional, activation), torch.nn.functional.linear
    y = x + linear(plain_attention(linear(plain_norm(x, g1, b1), qkv, qkv_b), heads), out, out_b)
    return y + linear(act(linear(plain_norm(y, g2, b2), up, up_b)), down, down_b)


def block_case(heads: int, width: int, inner: int, activation: str, *batch: int) -> Case:
    w, f = width, inner
    first = ((w,), (w,), (3 * w, w), (3 * w,), (w, w), (w,))
    last = ((w,), (w,), (f, w), (f,), (w, f), (w,))
    how = {"heads": heads, "activation": activation}
    return partial(block, **how), partial(plain_block, **how), ((*batch, w), *first, *last)


CASES: dict[str, Case] = {
    "linear": (ops.linear, torch.nn.functional.linear, ((3, 5, 4), (6, 4), (6,))),
    "linear, one row": (ops.linear, torch.nn.functional.linear, ((1, 4), (6, 4), (6,))),
    "linear, by the kernel": (
        ops.linear,
        torch.nn.functional.linear,
        ((5, 101, 65), (70, 65), (70,)),
    ),
    "gelu": (ops.gelu, torch.nn.functional.gelu, ((3, 5, 7),)),
    "gelu, whole lanes": (ops.gelu, torch.nn.functional.gelu, ((4, 64),)),
    "layer norm": (ops.layer_norm, plain_norm, ((3, 5, 7), (7,), (7,))),
    "layer norm, whole lanes": (ops.layer_norm, plain_norm, ((2, 70, 32), (32,), (32,))),
    **{
        f"attention {heads}x{width} over {length}": (
            lambda qkv, heads=heads: ops.causal_attention(qkv, heads),
            lambda qkv, heads=heads: plain_attention(qkv, heads),
            ((2, length, 3 * heads * width),),
        )
        for heads, width, length in [(1, 4, 1), (2, 3, 5), (2, 32, 50), (1, 16, 16), (3, 5, 140)]
    },
    "block, one head": block_case(1, 32, 32, "gelu", 3, 50),
    "block, one position": block_case(1, 4, 6, "gelu", 2, 1),
    "block, odd sizes": block_case(3, 15, 21, "gelu", 2, 13),
    "block, two heads, relu": block_case(2, 64, 256, "relu", 3, 49),
}


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def derivatives(function: Callable[..., Tensor], *leaves: Tensor) -> list[Tensor]:
    """Value, gradients, and the gradients of their product with a fixed direction."""
    leaves = tuple(leaf.detach().requires_grad_() for leaf in leaves)
    y = function(*leaves)
    g = draw(*y.shape, seed=20).to(y.dtype).requires_grad_()
    first = torch.autograd.grad(y, leaves, g, create_graph=True)
    directions = [draw(*x.shape, seed=30 + i).to(x.dtype) for i, x in enumerate(leaves)]
    along = sum((a * b).sum() for a, b in zip(first, directions, strict=True))
    second = torch.autograd.grad(along, (*leaves, g), materialize_grads=True)
    return [y, *first, *second]


@pytest.mark.parametrize("name", CASES)
def test_all_derivatives_equal_torch_in_double_precision(name: str) -> None:
    ours, plain, shapes = CASES[name]
    leaves = [draw(*shape, seed=i) for i, shape in enumerate(shapes)]
    exact = derivatives(plain, *leaves)
    single = derivatives(ours, *(leaf.float() for leaf in leaves))
    for got, expected in zip(single, exact, strict=True):
        scale = expected.abs().max().item() + 1e-6
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=2e-6 * scale)
    for got, expected in zip(derivatives(ours, *leaves), exact, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", CASES)
def test_strided_inputs(name: str) -> None:
    ours, _, shapes = CASES[name]
    leaves = [draw(*shape, seed=i).float() for i, shape in enumerate(shapes)]
    strided = [leaf.new_zeros(*leaf.shape, 2)[..., 0].copy_(leaf) for leaf in leaves]
    for got, expected in zip(derivatives(ours, *strided), derivatives(ours, *leaves), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_vmap(name: str) -> None:
    ours, _, shapes = CASES[name]
    leaves = [draw(3, *shape, seed=i).float() for i, shape in enumerate(shapes)]
    together = derivatives(torch.vmap(ours), *leaves)
    apart: Any = derivatives(
        lambda *xs: torch.stack([ours(*x) for x in zip(*xs, strict=True)]), *leaves
    )
    for got, expected in zip(together, apart, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


BLOCKS = [name for name in CASES if name.startswith("block")]


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("linear", [False, True])
def test_second_derivatives_of_blocks_whose_gradient_is_known(
    name: str, layers: int, linear: bool
) -> None:
    """Through the block alone (a linear readout moves nothing back) and through what follows it."""
    _, scaled, shapes = CASES[name]
    leaves = [
        0.3 * draw(*shape, seed=i) for i, shape in enumerate((shapes[0], *shapes[1:] * layers))
    ]

    def plain(x: Tensor, *parts: Tensor) -> Tensor:
        return scaled(x, *(part / 0.3 for part in parts))

    def ours(x: Tensor, *parts: Tensor) -> Tensor:
        result = ops.fused_block(x, parts, *cast(Any, scaled).keywords.values())
        assert result is not None
        return result

    readout = draw(*shapes[0], seed=50)

    def second(block: Callable[..., Tensor], dtype: torch.dtype, known: bool) -> list[Tensor]:
        x, *parts = (leaf.detach().clone().to(dtype).requires_grad_() for leaf in leaves)
        y = x.sin()
        count = len(parts) // layers
        for layer in range(layers):
            y = block(y, *parts[layer * count : (layer + 1) * count])
        loss = (y if linear else y.sin()).mul(readout.to(dtype)).sum()
        with linearising(known=True) if known else contextlib.nullcontext():
            first = torch.autograd.grad(loss, parts, create_graph=True)
        if known:
            assert not any(part.any() for part in first)
        directions = [draw(*part.shape, seed=60 + i).to(dtype) for i, part in enumerate(parts)]
        pairs = [pair for pair in zip(first, directions, strict=True) if pair[0].requires_grad]
        outputs, vectors = zip(*pairs, strict=True)
        inputs = (x, *parts)
        return list(torch.autograd.grad(outputs, inputs, vectors, materialize_grads=True))

    exact = second(plain, torch.float64, known=False)
    for got, expected in zip(second(ours, torch.float32, known=True), exact, strict=True):
        scale = expected.abs().max().item() + 1e-6
        torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-5 * scale)


def test_small_and_large_products_are_left_to_blas() -> None:
    x = torch.zeros(1)
    assert ops._by_kernel(505, 65, 70, x)
    assert not ops._by_kernel(100, 64, 64, x)
    assert not ops._by_kernel(2000, 1024, 1024, x)
    assert not ops._by_kernel(505, 65, 70, x.double())


def test_attention_reads_no_later_position() -> None:
    qkv = draw(1, 9, 12, seed=0).float()
    later = qkv.clone()
    later[:, 5:] = 7.0
    torch.testing.assert_close(
        ops.causal_attention(later, 2)[:, :5], ops.causal_attention(qkv, 2)[:, :5], rtol=0, atol=0
    )


def test_gelu_far_out() -> None:
    x = torch.tensor([-1e30, -40.0, -9.0, 0.0, 9.0, 40.0, 1e30, torch.nan])
    torch.testing.assert_close(
        ops.gelu(x), torch.nn.functional.gelu(x), rtol=1e-6, atol=1e-6, equal_nan=True
    )
