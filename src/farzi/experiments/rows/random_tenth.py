"""A tenth of the real sequences, drawn at random: what one would try first for a quick search."""

from __future__ import annotations

from farzi.evaluation import sequences_of
from farzi.experiments.rows.base import Row, Sample
from farzi.experiments.rows.random import hard
from farzi.experiments.splits import Split
from farzi.seeding import stream

__all__ = ["ROW"]


def _build(split: Split, draw: int, seed: int) -> Sample:
    real = sequences_of(split.data, "train")
    chosen = stream(seed, "row sample", draw).permutation(len(real))
    return hard(real.take(chosen[: max(1, len(real) // 10)]), split)


ROW = Row(_build, drawn=True, sized=False)
