"""GRU4Rec (Hidasi et al. 2016): gated recurrent units over a user's items, cross-entropy form."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from farzi.models.base import Head, Params
from farzi.models.blocks import draw_parameters, dropout
from farzi.models.fused.ops import linear
from farzi.models.recurrent import gru, layer_shapes

__all__ = ["GRU4Rec"]


@dataclass(frozen=True)
class GRU4Rec:
    """Recurrent units over embedded items; a linear layer leads back to the embedding.

    It is trained on the cross-entropy over the whole catalogue at every position, in place of the
    sampled ranking losses of the first paper. Dropout falls on the inputs of every layer.

    Args:
        num_tokens: number of items V.
        context_length: longest sequence it reads, L.
        width: width W of embedding and state.
        num_layers: recurrent layers.
        dropout: rate in [0, 1), used only where a generator is passed.

    Example:
        >>> import torch
        >>> from farzi.models import GRU4Rec
        >>> student = GRU4Rec(num_tokens=10, context_length=4, width=8)
        >>> params = student.init(torch.Generator().manual_seed(0))
        >>> student.hidden(params, torch.zeros(2, 4, 8)).shape
        torch.Size([2, 4, 8])

    References:
        Hidasi et al. 2016, arXiv 1511.06939; Hidasi and Karatzoglou 2018, arXiv 1706.03847, for the
        cross-entropy and one item embedding for inputs and scores.
    """

    name: ClassVar[str] = "gru4rec"

    num_tokens: int
    context_length: int
    width: int = 16
    num_layers: int = 1
    dropout: float = 0.0

    def init(
        self, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> dict[str, Tensor]:
        """Embeddings N(0, 1/W), matrices Xavier-uniform, biases 0."""
        shapes: dict[str, tuple[int, ...]] = {"embedding": (self.num_tokens, self.width)}
        for layer in range(self.num_layers):
            shapes |= layer_shapes(f"layers.{layer}", self.width, self.width)
        shapes |= {"out.weight": (self.width, self.width), "out.bias": (self.width,)}
        return draw_parameters(shapes, generator, dtype)

    def embedding(self, params: Params) -> Tensor:
        """The item embedding (V, W), which is the head as well."""
        return params["embedding"]

    def hidden(
        self, params: Params, embedded: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Hidden states (B, L, W) from raw item embeddings (B, L, W)."""
        x = embedded * math.sqrt(self.width)
        for layer in range(self.num_layers):
            x = gru(params, f"layers.{layer}", dropout(x, self.dropout, generator))
        return linear(x, params["out.weight"], params["out.bias"])

    def head(self, params: Params) -> Head:
        """The embedding itself, without a bias."""
        return Head(params["embedding"])

    def settings(self) -> dict[str, str | int | float]:
        """Name and sizes."""
        return {"name": self.name, **asdict(self)}
