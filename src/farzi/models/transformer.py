"""A small causal Transformer language model with tied embeddings."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from farzi.models.base import Params
from farzi.models.blocks import (
    block_shapes,
    causal_conv,
    draw_parameters,
    dropout,
    norm,
    pre_norm_block,
)

__all__ = ["Transformer"]


@dataclass(frozen=True)
class Transformer:
    """Pre-norm causal blocks with a feed-forward layer four times as wide as the model.

    Args:
        num_tokens: vocabulary size V.
        context_length: longest sequence it reads, L.
        width: model width W, a multiple of `num_heads`.
        num_layers: number of blocks.
        num_heads: attention heads.
        conv_size: positions that a depthwise causal convolution of the embedded tokens reads, the
            present one among them; 0: no convolution, as in the original.
        dropout: rate in [0, 1), used only where a generator is passed.
        activation: `gelu` or `relu`.

    Example:
        >>> import torch
        >>> from farzi.models import Transformer
        >>> model = Transformer(num_tokens=10, context_length=4, width=8)
        >>> sum(p.numel() for p in model.init(torch.Generator().manual_seed(0)).values())
        1000

    References:
        Vaswani et al. 2017, arXiv 1706.03762; pre-norm: Xiong et al. 2020, arXiv 2002.04745.
    """

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
            shapes |= block_shapes(f"blocks.{layer}", self.width, 4 * self.width)
        shapes |= {"norm.weight": (self.width,), "norm.bias": (self.width,)}
        return draw_parameters(shapes, generator, dtype)

    def embedding(self, params: Params) -> Tensor:
        """The tied token embedding E (V, W)."""
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

    def settings(self) -> dict[str, str | int | float]:
        """Name and sizes."""
        return {"name": "transformer", **asdict(self)}
