"""Real sequences that stand for all others, with the teachers' labels.

Greedy k-centre: a sequence is the mean of the teachers' hidden states along its end; the first is
the one nearest the mean of all, each further one the farthest from all chosen so far, the earlier
one where two are as far.

References:
    Gonzalez 1985, Clustering to minimize the maximum intercluster distance.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from farzi.data.sequences import Sequences
from farzi.distill.teachers import mean_logits
from farzi.evaluation import sequences_of
from farzi.experiments.rows.base import Row
from farzi.experiments.rows.soft_labels import soft
from farzi.experiments.splits import Split

__all__ = ["ROW", "choose", "k_centres"]


def choose(split: Split) -> Sequences:
    """S sequences, with as many positions as a student reads and one target more."""
    real = sequences_of(split.data, "train")
    chosen = k_centres(_places(real, split), split.num_sequences)
    return real.take(chosen.numpy()).last(split.context_length + 1)


def k_centres(points: Tensor, num: int) -> Tensor:
    """The places of `num` rows of `points` (N, D) of which every other one has one nearby.

    Cost:
        `num` passes over the points.

    Example:
        >>> import torch
        >>> from farzi.experiments.rows.coreset_soft import k_centres
        >>> k_centres(torch.tensor([[0.0], [4.0], [5.0], [9.0]]), 3)
        tensor([1, 3, 0])
    """
    centre = (points - points.mean(0)).square().sum(1).argmin()
    chosen = [centre]
    nearest = torch.full((len(points),), float("inf"))
    while len(chosen) < min(num, len(points)):
        nearest = nearest.minimum((points - points[chosen[-1]]).square().sum(1))
        nearest[chosen[-1]] = -1.0
        chosen.append(nearest.argmax())
    return torch.stack(chosen)


@torch.no_grad()
def _places(real: Sequences, split: Split, batch_size: int = 256) -> Tensor:
    """The mean of the teachers' hidden states along the end of each sequence (N, n W)."""
    teacher = split.build_teacher()
    means = []
    for start in range(0, len(real), batch_size):
        rows = np.arange(start, min(start + batch_size, len(real)))
        padded, mask = real.padded(rows, split.context_length)
        hidden, _ = mean_logits(teacher, split.teachers, torch.from_numpy(padded))
        weight = torch.from_numpy(mask)[..., None]
        means.append((hidden * weight).sum(1) / weight.sum(1))
    return torch.cat(means)


ROW = Row(
    lambda split, draw, seed: soft(choose(split), split),
    needs=frozenset({"teachers"}),
)
