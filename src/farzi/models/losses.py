"""Loss and scores of a student: one path for all of them, whatever their head.

Hard tokens, soft tokens and soft labels, tied and untied heads, with and without a bias: training,
evaluation, teachers and starts all come through here. Inputs are read through the embedding, labels
through the head's table. Where the two are one tensor, tokens that are labels as well are read
once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from farzi.models.base import Params, Student
from farzi.models.fused.factored import FactoredTokens
from farzi.models.fused.soft_head import embed, target_loss
from farzi.models.fused.soft_targets import read_once, soft_target_loss

__all__ = ["embedded_loss", "hidden_states", "logits", "sequence_loss"]


def sequence_loss(
    student: Student,
    params: Params,
    tokens: Tensor | FactoredTokens,
    *,
    labels: Tensor | FactoredTokens | None = None,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    smoothing: float = 0.0,
    read: Callable[[Any, Tensor], Tensor] = embed,
    once: bool = False,
) -> Tensor:
    """Mean next-token cross-entropy of a batch.

    Args:
        student: the model.
        params: its parameters.
        tokens: hard tokens, int64 (B, L), or soft tokens (B, L, V). Without labels the last one is
            a target only, so L may be the student's context length plus 1.
        labels: soft labels (B, L, V), row t the target of position t; None makes every token the
            label of the position before it.
        mask: bool (B, L), True where a token is real; None when all are. With labels, a position
            counts when its token is real.
        generator: draws dropout; None turns it off.
        smoothing: share of every label that is spread over all tokens alike (Szegedy et al. 2016).
        read: (tokens, table) -> rows of the table, by which tokens and labels are read, where that
            is not to be `embed`.
        once: no second derivative will be asked for, and labels are constants: on CPU they then
            cost no matrix product more than ids.

    Returns:
        A scalar, in nats per position.

    Example:
        >>> import torch
        >>> from farzi.models import SASRec, sequence_loss
        >>> student = SASRec(num_tokens=5, context_length=3, width=4)
        >>> params = student.init(torch.Generator().manual_seed(0))
        >>> tokens = torch.tensor([[0, 1, 2]])
        >>> hard = sequence_loss(student, params, tokens)
        >>> soft = sequence_loss(student, params, torch.nn.functional.one_hot(tokens, 5).float())
        >>> bool(torch.isclose(hard, soft))
        True
    """
    if once and read is embed:
        read = read_once
    if once and isinstance(labels, Tensor):
        embedded = read(tokens, student.embedding(params))
        head, hidden = student.head(params), student.hidden(params, embedded, generator)
        states = head.states(hidden)
        fused = soft_target_loss(states, head.table, labels, mask, smoothing)
        if fused is not None:
            return fused
        rows = _smoothed(read(labels, head.table), head.table, smoothing)
        return target_loss(states, head.table, rows, mask)
    targets = None if labels is None else read(labels, student.head(params).table)
    embedded = read(tokens, student.embedding(params))
    if targets is None:
        tied = is_tied(student, params)
        targets = embedded if tied else read(tokens, student.head(params).table)
        mask = None if mask is None else mask[..., 1:]
        embedded, targets = embedded[..., :-1, :], targets[..., 1:, :]
    return embedded_loss(student, params, embedded, targets, mask, generator, smoothing)


def embedded_loss(
    student: Student,
    params: Params,
    embedded: Tensor,
    targets: Tensor,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """`sequence_loss` of inputs and labels that are read already.

    Args:
        student: the model.
        params: its parameters.
        embedded: inputs read through the embedding (B, L, E).
        targets: labels read through the head's table (B, L, W), row t the target of position t.
        mask: bool (B, L), True where a position counts; None when all do.
        generator: draws dropout; None turns it off.
        smoothing: share of every label that is spread over all tokens alike.
    """
    head = student.head(params)
    table = head.table
    targets = _smoothed(targets, table, smoothing)
    hidden = student.hidden(params, embedded, generator)
    return target_loss(head.states(hidden), table, targets, mask)


def _smoothed(targets: Tensor, table: Tensor, smoothing: float) -> Tensor:
    """(1 - s) P + s / V in place of P, read."""
    if not smoothing:
        return targets
    return targets.lerp(table.mean(-2).expand_as(targets), smoothing)


def hidden_states(
    student: Student, params: Params, tokens: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Hidden states (B, L, W) of hard tokens (B, L) or soft ones (B, L, V)."""
    return student.hidden(params, embed(tokens, student.embedding(params)), generator)


def logits(student: Student, params: Params, hidden: Tensor) -> Tensor:
    """Scores (..., V) of the next token, from hidden states (..., W).

    Example:
        >>> import torch
        >>> from farzi.models import SASRec, hidden_states, logits
        >>> student = SASRec(num_tokens=5, context_length=3, width=4)
        >>> params = student.init(torch.Generator().manual_seed(0))
        >>> hidden = hidden_states(student, params, torch.tensor([[0, 1, 2]]))
        >>> logits(student, params, hidden[:, -1]).shape
        torch.Size([1, 5])
    """
    return student.head(params).scores(hidden)


def is_tied(student: Student, params: Params) -> bool:
    """Whether the head is the embedding itself, without a bias."""
    head = student.head(params)
    return head.bias is None and head.weight is student.embedding(params)
