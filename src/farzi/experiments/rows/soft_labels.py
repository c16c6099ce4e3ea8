"""Real sequences with the teachers' mean prediction as labels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from farzi.data.sequences import Sequences
from farzi.distill.teachers import mean_logits
from farzi.experiments.rows.base import Sample, Size
from farzi.experiments.splits import Split
from farzi.seeding import stream
from farzi.training import Batch, Batches

__all__ = ["SoftLabelBatches", "hard_size", "soft", "soft_size"]


@dataclass(frozen=True)
class SoftLabelBatches:
    """Real tokens with the teachers' mean prediction as labels, which is computed once.

    Args:
        tokens: int64 (S, L).
        lengths: int64 (S,), positions that are real.
        hidden: the teachers' hidden states (S, L, n W).
        table: their embeddings (V, n W).
        batch_size: sequences a step.
        seed: of the order.
    """

    tokens: Tensor
    lengths: Tensor
    hidden: Tensor
    table: Tensor
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every sequence is read once."""
        return -(-len(self.tokens) // self.batch_size)

    def __call__(self, step: int) -> Batch:
        """The batch of step `step`, from 0."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = stream(self.seed, "order", epoch).permutation(len(self.tokens))
        chosen = torch.from_numpy(order[position * self.batch_size :][: self.batch_size])
        labels = (self.hidden[chosen] @ self.table.T).softmax(-1)
        mask = torch.arange(self.tokens.shape[1]) < self.lengths[chosen, None]
        return Batch(self.tokens[chosen], labels, mask)


def soft(sequences: Sequences, split: Split) -> Sample:
    """These sequences with labels: as many positions as a student reads, and one target more."""
    padded, mask = sequences.padded(np.arange(len(sequences)), split.context_length + 1)
    tokens = torch.from_numpy(padded)[:, :-1]
    hidden, table = mean_logits(split.build_teacher(), split.teachers, tokens)
    lengths = torch.from_numpy(mask.sum(1)) - 1

    def batches(batch_size: int, seed: int) -> Batches:
        return SoftLabelBatches(tokens, lengths, hidden, table, batch_size, seed)

    return Sample(soft_size(sequences, split), batches)


def hard_size(sequences: Sequences) -> Size:
    """Size of sequences of whole numbers: four bytes a token."""
    return Size(len(sequences), sequences.num_tokens, 4 * sequences.num_tokens)


def soft_size(sequences: Sequences, split: Split) -> Size:
    """The same with labels at full rank: the teachers' hidden states and embeddings, in float16."""
    size = hard_size(sequences)
    teacher = split.build_teacher()
    width = sum(teacher.head(params).table.shape[1] for params in split.teachers)
    labels = 2 * width * (size.tokens - size.sequences + split.data.vocabulary.size)
    return replace(size, num_bytes=size.num_bytes + labels)
