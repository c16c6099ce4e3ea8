"""All training sequences with the teachers' labels: the most that their labels can give."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from farzi.distill.teachers import mean_logits
from farzi.evaluation import sequences_of
from farzi.experiments.rows.base import Row, Sample
from farzi.experiments.rows.soft_labels import soft_size
from farzi.experiments.splits import Split
from farzi.training import Batch, RealBatches

__all__ = ["ROW"]


@dataclass(frozen=True)
class _Labelled:
    """Windows of real sequences, labelled when they are read.

    Cost:
        one forward pass of each teacher a step.
    """

    real: RealBatches
    split: Split

    @property
    def steps_per_epoch(self) -> int:
        return self.real.steps_per_epoch

    @torch.no_grad()
    def __call__(self, step: int) -> Batch:
        batch = self.real(step)
        if batch.mask is None:
            raise TypeError("batches of real sequences have a mask.")
        tokens = batch.formed[:, :-1]
        hidden, table = mean_logits(self.split.build_teacher(), self.split.teachers, tokens)
        return Batch(tokens, (hidden @ table.T).softmax(-1), batch.mask[:, 1:])


def _build(split: Split, draw: int, seed: int) -> Sample:
    real = sequences_of(split.data, "train")

    def batches(batch_size: int, order: int) -> _Labelled:
        return _Labelled(RealBatches(real, split.context_length, batch_size, order), split)

    return Sample(soft_size(real, split), batches, whole=True)


ROW = Row(_build, needs=frozenset({"teachers"}), sized=False)
