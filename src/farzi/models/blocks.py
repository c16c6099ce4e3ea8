"""The parts students are built of, as pure functions with their first two derivatives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import relu

from farzi.models.base import Params
from farzi.models.fused import ops
from farzi.models.fused.ops import gelu, layer_norm, linear

__all__ = [
    "block_shapes",
    "causal_attention",
    "causal_conv",
    "draw_parameters",
    "dropout",
    "feed_forward",
    "norm",
    "pre_norm_block",
]

PARTS = tuple(
    f"{layer}.{kind}"
    for layer in (
        "norm1",
        "attention.qkv",
        "attention.out",
        "norm2",
        "feed_forward.up",
        "feed_forward.down",
    )
    for kind in ("weight", "bias")
)
"""A block's parameters in the order in which `ops.fused_block` takes them."""


def dropout(x: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    """Inverted dropout drawn from `generator`; the identity without one or at rate 0."""
    if generator is None or rate == 0.0:
        return x
    keep = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype) >= rate
    return x * keep / (1.0 - rate)


def norm(params: Params, name: str, x: Tensor) -> Tensor:
    """LayerNorm over the last axis with parameters `name.weight` and `name.bias`."""
    return layer_norm(x, params[f"{name}.weight"], params[f"{name}.bias"])


def causal_conv(x: Tensor, weight: Tensor) -> Tensor:
    """Depthwise convolution of every position with those before it.

    `y_t = sum_k w_k x_{t-k}`, a channel at a time, with zeros before the first position.

    Args:
        x: (B, L, W).
        weight: (K, W); row k weighs what stands k positions back.

    Returns:
        (B, L, W).

    References:
        The short convolution of Gu and Dao 2023, arXiv 2312.00752, and of So et al. 2021, arXiv
        2109.08668.
    """
    length = x.shape[-2]
    before = torch.nn.functional.pad(x, (0, 0, weight.shape[0] - 1, 0))
    taps = range(weight.shape[0] - 1, -1, -1)
    shifted = torch.stack([before[..., tap : tap + length, :] for tap in taps], -2)
    return (shifted * weight).sum(-2)


def causal_attention(
    params: Params,
    name: str,
    x: Tensor,
    num_heads: int,
    rate: float,
    generator: torch.Generator | None,
) -> Tensor:
    """Multi-head self-attention in which position t reads positions up to t; x (B, L, W)."""
    qkv = linear(x, params[f"{name}.qkv.weight"], params[f"{name}.qkv.bias"])
    drop = None
    if generator is not None and rate > 0.0:
        drop = partial(dropout, rate=rate, generator=generator)
    mixed = ops.causal_attention(qkv, num_heads, drop)
    return linear(mixed, params[f"{name}.out.weight"], params[f"{name}.out.bias"])


def feed_forward(params: Params, name: str, x: Tensor, activation: str) -> Tensor:
    """Two linear layers with `gelu` or `relu` between."""
    inner = linear(x, params[f"{name}.up.weight"], params[f"{name}.up.bias"])
    inner = gelu(inner) if activation == "gelu" else relu(inner)
    return linear(inner, params[f"{name}.down.weight"], params[f"{name}.down.bias"])


def pre_norm_block(
    params: Params,
    name: str,
    x: Tensor,
    *,
    num_heads: int,
    activation: str,
    rate: float,
    generator: torch.Generator | None,
) -> Tensor:
    """X + attention(norm(x)), then x + feed_forward(norm(x))."""
    if generator is None or rate == 0.0:
        parts = tuple(params[f"{name}.{part}"] for part in PARTS)
        z = ops.fused_block(x, parts, num_heads, activation)
        if z is not None:
            return z
    attended = causal_attention(
        params, f"{name}.attention", norm(params, f"{name}.norm1", x), num_heads, rate, generator
    )
    x = x + dropout(attended, rate, generator)
    fed = feed_forward(params, f"{name}.feed_forward", norm(params, f"{name}.norm2", x), activation)
    return x + dropout(fed, rate, generator)


def block_shapes(name: str, width: int, inner_width: int) -> dict[str, tuple[int, ...]]:
    """Parameter shapes of one `pre_norm_block`."""
    return {
        f"{name}.norm1.weight": (width,),
        f"{name}.norm1.bias": (width,),
        f"{name}.attention.qkv.weight": (3 * width, width),
        f"{name}.attention.qkv.bias": (3 * width,),
        f"{name}.attention.out.weight": (width, width),
        f"{name}.attention.out.bias": (width,),
        f"{name}.norm2.weight": (width,),
        f"{name}.norm2.bias": (width,),
        f"{name}.feed_forward.up.weight": (inner_width, width),
        f"{name}.feed_forward.up.bias": (inner_width,),
        f"{name}.feed_forward.down.weight": (width, inner_width),
        f"{name}.feed_forward.down.bias": (width,),
    }


def draw_parameters(
    shapes: Mapping[str, tuple[int, ...]], generator: torch.Generator, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Embeddings N(0, 1/W), matrices Xavier-uniform, norm weights 1, everything else 0.

    A convolution starts as the identity, so that it draws nothing.
    """
    return {name: _draw(name, shape, generator, dtype) for name, shape in shapes.items()}


def _draw(
    name: str, shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype
) -> Tensor:
    if name in ("embedding", "position"):
        return torch.randn(shape, generator=generator, dtype=dtype) / math.sqrt(shape[-1])
    if name == "conv.weight":
        weight = torch.zeros(shape, dtype=dtype)
        weight[0] = 1.0
        return weight
    if len(shape) == 2:
        bound = math.sqrt(6.0 / (shape[0] + shape[1]))
        return (torch.rand(shape, generator=generator, dtype=dtype) * 2 - 1) * bound
    is_norm_weight = name.split(".")[-2].startswith("norm") and name.endswith("weight")
    return (torch.ones if is_norm_weight else torch.zeros)(shape, dtype=dtype)
