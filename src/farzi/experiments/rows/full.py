"""All training sequences."""

from __future__ import annotations

from farzi.evaluation import sequences_of
from farzi.experiments.rows.base import Row, Sample
from farzi.experiments.rows.soft_labels import hard_size
from farzi.experiments.splits import Split
from farzi.training import RealBatches

__all__ = ["ROW"]


def _build(split: Split, draw: int, seed: int) -> Sample:
    real = sequences_of(split.data, "train")
    return Sample(
        hard_size(real),
        lambda batch_size, order: RealBatches(real, split.context_length, batch_size, order),
        whole=True,
    )


ROW = Row(_build, sized=False)
