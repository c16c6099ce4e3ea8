"""Every item ranked by its count in training: what every model must beat."""

from __future__ import annotations

from farzi.evaluation import most_popular
from farzi.experiments.rows.base import Fixed, Row, Size
from farzi.experiments.splits import Split

__all__ = ["ROW"]


def _build(split: Split, draw: int, seed: int) -> Fixed:
    size = Size(0, 0, 4 * split.data.vocabulary.size)
    return Fixed(size, lambda: most_popular(split.data))


ROW = Row(_build, sized=False, trained=False, tasks=("recommend",))
