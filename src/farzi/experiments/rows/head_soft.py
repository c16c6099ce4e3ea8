"""The longest real sequences, with the teachers' labels."""

from __future__ import annotations

from farzi.experiments.rows.base import Row
from farzi.experiments.rows.head import choose
from farzi.experiments.rows.soft_labels import soft

__all__ = ["ROW"]

ROW = Row(
    lambda split, draw, seed: soft(choose(split), split),
    needs=frozenset({"teachers"}),
)
