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
        num_bytes = split.num_bytes.get(name, few.num_bytes)
        return Sample(
            Size(few.num_sequences, few.num_sequences * few.length, num_bytes),
            lambda batch_size, order: SyntheticBatches(few, batch_size, order),
        )

    return Row(build, needs=frozenset({"distilled"}))


ROW = distilled("farzi")
