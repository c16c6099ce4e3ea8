"""Real sequences drawn at random, the end of each."""

from __future__ import annotations

from farzi.data.sequences import Sequences
from farzi.evaluation import sequences_of
from farzi.experiments.rows.base import Row, Sample
from farzi.experiments.rows.soft_labels import hard_size
from farzi.experiments.splits import Split
from farzi.seeding import stream
from farzi.training import RealBatches

__all__ = ["ROW", "choose", "hard"]


def choose(split: Split, draw: int, seed: int) -> Sequences:
    """S sequences, with as many positions as a student reads and one target more."""
    real = sequences_of(split.data, "train")
    chosen = stream(seed, "row sample", draw).permutation(len(real))[: split.num_sequences]
    return real.take(chosen).last(split.context_length + 1)


def hard(sequences: Sequences, split: Split) -> Sample:
    """These sequences as they are, every token the label of the position before it."""
    return Sample(
        hard_size(sequences),
        lambda batch_size, order: RealBatches(sequences, split.context_length, batch_size, order),
    )


ROW = Row(lambda split, draw, seed: hard(choose(split, draw, seed), split), drawn=True)
