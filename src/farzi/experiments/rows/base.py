"""What a row of a comparison is: data that fresh students are trained on, or a model as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from farzi.evaluation import Scores
from farzi.experiments.splits import Split
from farzi.training import Batches

__all__ = ["Fixed", "Need", "Row", "Sample", "Size"]

Need: TypeAlias = Literal["teachers", "distilled"]


@dataclass(frozen=True)
class Size:
    """What a row holds: sequences, tokens in all, and bytes to ship."""

    sequences: int
    tokens: int
    num_bytes: int


@dataclass(frozen=True)
class Sample:
    """Data that students are trained on.

    Args:
        size: how much they are.
        batches: (sequences a step, seed of the order) -> batches.
        whole: whether these are all training sequences: then a run is looked at after every epoch,
            and its batch size is tuned as well.
    """

    size: Size
    batches: Callable[[int, int], Batches]
    whole: bool = False


@dataclass(frozen=True)
class Fixed:
    """A model that needs no training here, scored once a split."""

    size: Size
    scores: Callable[[], Scores]


@dataclass(frozen=True)
class Row:
    """A row of a comparison, as a value.

    Args:
        build: (split, draw, seed) -> its data or its model. Equal arguments give equal values;
            draws with other numbers are independent where the row is drawn at random.
        needs: what a split must have for it.
        drawn: whether each fresh student gets a draw of its own.
        sized: whether it has as many sequences as an artifact; else it is all training sequences,
            or no data at all.
        trained: whether it is data to train on; else it is a model as it is.
        tasks: the tasks it is for.
    """

    build: Callable[[Split, int, int], Sample | Fixed]
    needs: frozenset[Need] = frozenset()
    drawn: bool = False
    sized: bool = True
    trained: bool = True
    tasks: tuple[str, ...] = ("recommend", "language")

    def missing(self, split: Split) -> str | None:
        """Why the row cannot be built on a split; None where it can."""
        if split.data.task not in self.tasks:
            return f"is for {' and '.join(self.tasks)} sources"
        if "teachers" in self.needs and not split.teachers:
            return "needs teachers"
        if "distilled" in self.needs and not split.distilled:
            return "needs an artifact"
        return None
