"""What SASRec and the Transformer language model share: all but the feed-forward layer's width."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from farzi.models.base import Head, Params
from farzi.models.blocks import (
    block_shapes,
    causal_conv,
    draw_parameters,
    dropout,
    norm,
    pre_norm_block,
)

__all__ = ["CausalTransformer"]


@dataclass(frozen=True)
class CausalTransformer:
    """Pre-norm causal blocks over tied embeddings, with learned positions.

    Args:
        num_tokens: vocabulary size V: number of items or of words.
        context_length: longest sequence it reads, L.
        width: model width W, a multiple of `num_heads`.
        num_layers: number of blocks.
        num_heads: attention heads.
        conv_size: positions that a depthwise causal convolution of the embedded tokens reads, the
            present one among them; 0: no convolution, as in the original.
        dropout: rate in [0, 1), used only where a generator is passed.
        activation: `gelu` (smooth, so that meta-gradients are of use) or `relu`.

    Raises:
        ValueError: a size does not fit, or the activation is unknown.
    """

    name: ClassVar[str]
    expansion: ClassVar[int]
    """Width of a feed-forward layer in widths of the model."""

    num_tokens: int
    context_length: int
    width: int = 16
    num_layers: int = 1
    num_heads: int = 1
    conv_size: int = 0
    dropout: float = 0.0
    activation: str = "gelu"

    def __post_init__(self) -> None:
        if self.width % self.num_heads:
            raise ValueError(
                f"`width` must be a multiple of `num_heads` = {self.num_heads}, got {self.width}."
            )
        if self.conv_size < 0:
            raise ValueError(f"`conv_size` must be >= 0, got {self.conv_size}.")
        if self.activation not in ("gelu", "relu"):
            raise ValueError(f"`activation` must be gelu or relu, got {self.activation!r}.")

    def init(
        self, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> dict[str, Tensor]:
        """Embeddings N(0, 1/W), matrices Xavier-uniform, norms 1, biases 0."""
        shapes: dict[str, tuple[int, ...]] = {
            "embedding": (self.num_tokens, self.width),
            "position": (self.context_length, self.width),
        }
        if self.conv_size:
            shapes["conv.weight"] = (self.conv_size, self.width)
        for layer in range(self.num_layers):
            shapes |= block_shapes(f"blocks.{layer}", self.width, self.expansion * self.width)
        shapes |= {"norm.weight": (self.width,), "norm.bias": (self.width,)}
        return draw_parameters(shapes, generator, dtype)

    def embedding(self, params: Params) -> Tensor:
        """The token embedding (V, W), which is the head as well."""
        return params["embedding"]

    def hidden(
        self, params: Params, embedded: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Hidden states (B, L, W) from raw token embeddings (B, L, W)."""
        length = embedded.shape[-2]
        x = embedded * math.sqrt(self.width)
        if self.conv_size:
            x = causal_conv(x, params["conv.weight"])
        x = x + params["position"][..., :length, :]
        x = dropout(x, self.dropout, generator)
        for layer in range(self.num_layers):
            x = pre_norm_block(
                params,
                f"blocks.{layer}",
                x,
                num_heads=self.num_heads,
                activation=self.activation,
                rate=self.dropout,
                generator=generator,
            )
        return norm(params, "norm", x)

    def head(self, params: Params) -> Head:
        """The embedding itself, without a bias."""
        return Head(params["embedding"])

    def settings(self) -> dict[str, str | int | float]:
        """Name and sizes."""
        return {"name": self.name, **asdict(self)}
