"""What every student is: a pure function of its parameters.

A student is a frozen dataclass of sizes. It owns no tensors: `init` draws parameters, `hidden`
reads them. That makes a whole training run a function of (parameters, data), which is what the
engine differentiates. Hard and soft tokens take one path, through their raw embedding
(`soft_head.embed`), and scores come from one `Head`: so loss, evaluation, teachers and starts
(`farzi.models.losses`) are the same for every student.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Head", "Params", "Student"]

Params = Mapping[str, Tensor]


@dataclass(frozen=True)
class Head:
    """How hidden states become scores: `scores(H) = H weight^T + bias`.

    Args:
        weight: (V, W), a row for every token. With tied embeddings it is the very tensor that
            `Student.embedding` returns, and the loss then reads soft tokens once instead of twice.
        bias: (V,), or None where there is none.

    Example:
        >>> import torch
        >>> from farzi.models import Head
        >>> head = Head(torch.eye(3), bias=torch.tensor([0.0, 0.0, 5.0]))
        >>> head.scores(torch.tensor([1.0, 2.0, 3.0]))
        tensor([1., 2., 8.])
        >>> head.table.shape, head.states(torch.zeros(2, 3)).shape
        (torch.Size([3, 4]), torch.Size([2, 4]))
    """

    weight: Tensor
    bias: Tensor | None = None

    @property
    def table(self) -> Tensor:
        """(V, W), or (V, W + 1) with the bias as the last column: what labels are read through."""
        if self.bias is None:
            return self.weight
        return torch.cat((self.weight, self.bias.unsqueeze(-1)), -1)

    def states(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., W) as wide as `table`: `states(H) table^T` are the scores."""
        if self.bias is None:
            return hidden
        return torch.cat((hidden, torch.ones_like(hidden[..., :1])), -1)

    def scores(self, hidden: Tensor) -> Tensor:
        """Scores (..., V) of hidden states (..., W)."""
        scores = hidden @ self.weight.T
        return scores if self.bias is None else scores + self.bias


class Student(Protocol):
    """A small autoregressive model over `num_tokens` tokens.

    Attributes:
        num_tokens: vocabulary size V.
        context_length: longest sequence it reads, L.
        width: width W of its hidden states. Its embedding may be of another width E where the head
            is not tied to it.

    Shapes: tokens (B, L) int64 or soft tokens (B, L, V); X (B, L, E); H (B, L, W).
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
        """Width W of the hidden states."""
        ...

    def init(
        self, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> dict[str, Tensor]:
        """Draw fresh parameters; equal generators give equal bits."""
        ...

    def embedding(self, params: Params) -> Tensor:
        """The table (V, E) that input tokens are read through."""
        ...

    def hidden(
        self, params: Params, embedded: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Hidden states H (B, L, W) from raw embeddings X (B, L, E).

        Causal: H at position t reads X up to t only, so right padding cannot reach a real position.
        With `generator`, dropout is on and drawn from it.
        """
        ...

    def head(self, params: Params) -> Head:
        """What scores hidden states; tied: `Head(self.embedding(params))`."""
        ...

    def settings(self) -> dict[str, str | int | float]:
        """Name and sizes, enough to build it again with `farzi.models.build_student`."""
        ...
