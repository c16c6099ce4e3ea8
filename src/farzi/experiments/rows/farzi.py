"""Distilled sequences."""

from __future__ import annotations

from farzi.experiments.rows.base import Row, Sample, Size
from farzi.experiments.splits import Split
from farzi.training import SyntheticBatches

__all__ = ["ROW", "distilled"]


def distilled(name: str) -> Row:
    """The row of the distilled sequences that a split knows by this name."""

    def build(split: Split, draw: int, seed: int) -> Sample:
        few = split.distilled[name]
        return Sample(
            Size(few.num_sequences, few.num_sequences * few.length, few.num_bytes),
            lambda batch_size, order: SyntheticBatches(few, batch_size, order),
        )

    return Row(build, needs=frozenset({"distilled"}))


ROW = distilled("farzi")
