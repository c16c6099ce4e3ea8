"""The teachers themselves: the mean of their predictions, which soft labels are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from farzi.evaluation import Scores, evaluate
from farzi.experiments.rows.base import Fixed, Row, Size
from farzi.experiments.splits import Split
from farzi.models import Head, Params, Student

__all__ = ["ROW", "Ensemble"]


@dataclass(frozen=True)
class Ensemble:
    """Several models of one architecture as one, whose logits are the mean of theirs.

    Its embedding is theirs side by side, and so are its head's table and its hidden states, divided
    by their number: the product of the two is the mean.

    Args:
        member: the architecture.
        size: models in it, n.
    """

    member: Student
    size: int

    @property
    def num_tokens(self) -> int:
        """Vocabulary size V."""
        return self.member.num_tokens

    @property
    def context_length(self) -> int:
        """Longest sequence it reads, L."""
        return self.member.context_length

    @property
    def width(self) -> int:
        """Width of the hidden states without what a bias adds to them, n W."""
        return self.size * self.member.width

    def init(
        self, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> dict[str, Tensor]:
        """Fresh members side by side."""
        return self.joined(tuple(self.member.init(generator, dtype) for _ in range(self.size)))

    def joined(self, members: tuple[Params, ...]) -> dict[str, Tensor]:
        """The parameters of an ensemble of these."""
        return {
            f"{place}/{name}": value
            for place, params in enumerate(members)
            for name, value in params.items()
        }

    def embedding(self, params: Params) -> Tensor:
        """The members' embeddings side by side (V, n E)."""
        return torch.cat([self.member.embedding(each) for each in self._members(params)], -1)

    def hidden(
        self, params: Params, embedded: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """The members' hidden states side by side, as wide as the head, over their number."""
        members = self._members(params)
        parts = embedded.chunk(self.size, -1)
        states = [
            self.member.head(each).states(self.member.hidden(each, part, generator))
            for each, part in zip(members, parts, strict=True)
        ]
        return torch.cat(states, -1) / self.size

    def head(self, params: Params) -> Head:
        """The members' tables side by side; a bias is a column of its own."""
        tables = [self.member.head(each).table for each in self._members(params)]
        return Head(torch.cat(tables, -1))

    def settings(self) -> dict[str, str | int | float]:
        """Those of a member, and their number."""
        return {**self.member.settings(), "members": self.size}

    def _members(self, params: Params) -> list[dict[str, Tensor]]:
        members: list[dict[str, Tensor]] = [{} for _ in range(self.size)]
        for name, value in params.items():
            place, _, own = name.partition("/")
            members[int(place)][own] = value
        return members


def _build(split: Split, draw: int, seed: int) -> Fixed:
    ensemble = Ensemble(split.build_teacher(), len(split.teachers))
    params = ensemble.joined(split.teachers)
    num_bytes = sum(value.numel() * value.element_size() for value in params.values())

    def scores() -> Scores:
        return evaluate(ensemble, params, split.data, "test")

    return Fixed(Size(0, 0, num_bytes), scores)


ROW = Row(_build, needs=frozenset({"teachers"}), sized=False, trained=False)
