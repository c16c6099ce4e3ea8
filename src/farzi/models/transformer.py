"""A small causal Transformer language model with tied embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from farzi.models.causal import CausalTransformer

__all__ = ["Transformer"]


@dataclass(frozen=True)
class Transformer(CausalTransformer):
    """Pre-norm causal blocks with a feed-forward layer four times as wide as the model.

    Arguments are those of `CausalTransformer`.

    Example:
        >>> import torch
        >>> from farzi.models import Transformer
        >>> model = Transformer(num_tokens=10, context_length=4, width=8)
        >>> sum(p.numel() for p in model.init(torch.Generator().manual_seed(0)).values())
        1000

    References:
        Vaswani et al. 2017, arXiv 1706.03762; pre-norm: Xiong et al. 2020, arXiv 2002.04745.
    """

    name: ClassVar[str] = "transformer"
    expansion: ClassVar[int] = 4
