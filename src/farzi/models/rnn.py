"""A recurrent language model: GRU or LSTM cells, tied or untied."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from farzi.models.base import Head, Params
from farzi.models.blocks import draw_parameters, dropout
from farzi.models.recurrent import CELLS, layer_shapes

__all__ = ["RNN"]


@dataclass(frozen=True)
class RNN:
    """Recurrent layers over embedded words, and scores from their state.

    Dropout falls on the inputs of every layer and on the last state, never on what goes from one
    position to the next.

    Args:
        num_tokens: vocabulary size V.
        context_length: longest sequence it reads, L.
        width: width W of embedding and state.
        num_layers: recurrent layers.
        cell: `lstm` or `gru`.
        tied: whether the embedding scores as well; else a matrix and a bias of their own do.
        dropout: rate in [0, 1), used only where a generator is passed.

    Raises:
        ValueError: the cell is unknown.

    Example:
        >>> import torch
        >>> from farzi.models import RNN
        >>> student = RNN(num_tokens=10, context_length=4, width=8, cell="gru", tied=False)
        >>> params = student.init(torch.Generator().manual_seed(0))
        >>> student.head(params).bias.shape
        torch.Size([10])

    References:
        Zaremba et al. 2014, arXiv 1409.2329; tied: Press and Wolf 2017, arXiv 1608.05859.
    """

    name: ClassVar[str] = "rnn"

    num_tokens: int
    context_length: int
    width: int = 16
    num_layers: int = 1
    cell: str = "lstm"
    tied: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.cell not in CELLS:
            raise ValueError(f"`cell` must be {' or '.join(CELLS)}, got {self.cell!r}.")

    def init(
        self, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> dict[str, Tensor]:
        """Embeddings N(0, 1/W), matrices Xavier-uniform, biases 0."""
        shapes: dict[str, tuple[int, ...]] = {"embedding": (self.num_tokens, self.width)}
        for layer in range(self.num_layers):
            shapes |= layer_shapes(f"layers.{layer}", self.width, self.width, self.cell)
        if not self.tied:
            shapes |= {
                "head.weight": (self.num_tokens, self.width),
                "head.bias": (self.num_tokens,),
            }
        return draw_parameters(shapes, generator, dtype)

    def embedding(self, params: Params) -> Tensor:
        """The word embedding (V, W)."""
        return params["embedding"]

    def hidden(
        self, params: Params, embedded: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Hidden states (B, L, W) from raw word embeddings (B, L, W)."""
        x = embedded * math.sqrt(self.width)
        for layer in range(self.num_layers):
            x = CELLS[self.cell](params, f"layers.{layer}", dropout(x, self.dropout, generator))
        return dropout(x, self.dropout, generator)

    def head(self, params: Params) -> Head:
        """The embedding itself without a bias, or where it is not tied `head.*`."""
        if self.tied:
            return Head(params["embedding"])
        return Head(params["head.weight"], params["head.bias"])

    def settings(self) -> dict[str, str | int | float]:
        """Name and sizes."""
        return {"name": self.name, **asdict(self)}
