"""The longest real sequences, the end of each."""

from __future__ import annotations

import numpy as np

from farzi.data.sequences import Sequences
from farzi.evaluation import sequences_of
from farzi.experiments.rows.base import Row
from farzi.experiments.rows.random import hard
from farzi.experiments.splits import Split

__all__ = ["ROW", "choose"]


def choose(split: Split) -> Sequences:
    """S sequences, with as many positions as a student reads and one target more."""
    real = sequences_of(split.data, "train")
    longest = np.argsort(-real.lengths, kind="stable")[: split.num_sequences]
    return real.take(longest).last(split.context_length + 1)


ROW = Row(lambda split, draw, seed: hard(choose(split), split))
