"""Real sequences drawn at random, with the teachers' labels."""

from __future__ import annotations

from farzi.experiments.rows.base import Row
from farzi.experiments.rows.random import choose
from farzi.experiments.rows.soft_labels import soft

__all__ = ["ROW"]

ROW = Row(
    lambda split, draw, seed: soft(choose(split, draw, seed), split),
    needs=frozenset({"teachers"}),
    drawn=True,
)
