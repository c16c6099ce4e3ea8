"""What every student is: a pure function of its parameters.

A student is a frozen dataclass of sizes. It owns no tensors: `init` draws parameters, `hidden`
reads them. That makes a whole training run a function of (parameters, data), which is what the
engine differentiates. Hard and soft tokens take one path, through their raw embedding
(`soft_head.embed`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Params", "Student"]

Params = Mapping[str, Tensor]


class Student(Protocol):
    """A small autoregressive model over `num_tokens` tokens with tied embeddings.

    Attributes:
        num_tokens: vocabulary size V.
        context_length: longest sequence it reads, L.
        width: model width W.

    Shapes: tokens (B, L) int64 or soft tokens (B, L, V); X, H (B, L, W).
    """

    @property
    def num_tokens(self) -> int:
        """Vocabulary size V."""
        ...

    @property
    def context_length(self) -> int:
        """Longest sequence it reads, L."""
        ...

    @property
    def width(self) -> int:
        """Model width W."""
        ...

    def init(
        self, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> dict[str, Tensor]:
        """Draw fresh parameters; equal generators give equal bits."""
        ...

    def embedding(self, params: Params) -> Tensor:
        """The tied token embedding E (V, W)."""
        ...

    def hidden(
        self, params: Params, embedded: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Hidden states H (B, L, W) from raw embeddings X (B, L, W).

        Causal: H at position t reads X up to t only, so right padding cannot reach a real position.
        With `generator`, dropout is on and drawn from it.
        """
        ...

    def settings(self) -> dict[str, str | int | float]:
        """Name and sizes, enough to build it again with `farzi.models.build_student`."""
        ...
