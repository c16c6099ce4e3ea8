"""Real sequences with the teachers' mean prediction as labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from farzi.data.sequences import Sequences
from farzi.distill.teachers import mean_logits
from farzi.experiments.rows.base import Sample, Size
from farzi.experiments.splits import Split
from farzi.synthetic import SyntheticSequences
from farzi.training import Batches, SyntheticBatches

__all__ = ["hard_size", "soft", "soft_size"]


def soft(sequences: Sequences, split: Split) -> Sample:
    """These sequences with labels: as many positions as a student reads, and one target more.

    They are read as distilled sequences are, so that a step takes no longer: the teachers' hidden
    states are the label latents, and their embeddings the decoder.
    """
    padded, mask = sequences.padded(np.arange(len(sequences)), split.context_length + 1)
    tokens = torch.from_numpy(padded)[:, :-1]
    hidden, table = mean_logits(split.build_teacher(), split.teachers, tokens)
    few = SyntheticSequences(
        tokens, table.T.contiguous(), hidden, lengths=torch.from_numpy(mask.sum(1)) - 1
    )

    def batches(batch_size: int, seed: int) -> Batches:
        return SyntheticBatches(few, batch_size, seed)

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
