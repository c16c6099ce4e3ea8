"""SASRec (Kang and McAuley 2018): causal self-attention over a user's items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from farzi.models.causal import CausalTransformer

__all__ = ["SASRec"]


@dataclass(frozen=True)
class SASRec(CausalTransformer):
    """A pre-norm causal Transformer whose scores are inner products with item embeddings.

    Its feed-forward layers are as wide as the model. Arguments are those of `CausalTransformer`;
    the original has `activation="relu"` and no convolution.

    Example:
        >>> import torch
        >>> from farzi.models import SASRec
        >>> student = SASRec(num_tokens=10, context_length=4, width=8)
        >>> params = student.init(torch.Generator().manual_seed(0))
        >>> student.hidden(params, torch.zeros(2, 4, 8)).shape
        torch.Size([2, 4, 8])

    References:
        Kang and McAuley, ICDM 2018, arXiv 1808.09781.
    """

    name: ClassVar[str] = "sasrec"
    expansion: ClassVar[int] = 1
