"""The training loss of a student, one path for hard tokens, soft tokens and soft labels."""

from __future__ import annotations

import torch
from torch import Tensor

from farzi.models.base import Params, Student
from farzi.models.fused.soft_head import embed, target_loss

__all__ = ["embedded_loss", "sequence_loss"]


def sequence_loss(
    student: Student,
    params: Params,
    tokens: Tensor,
    *,
    labels: Tensor | None = None,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    smoothing: float = 0.0,
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

    Returns:
        A scalar, in nats a position.

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
    table = student.embedding(params)
    targets = None if labels is None else embed(labels, table)
    return embedded_loss(student, params, embed(tokens, table), targets, mask, generator, smoothing)


def embedded_loss(
    student: Student,
    params: Params,
    embedded: Tensor,
    targets: Tensor | None = None,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """`sequence_loss` of tokens and labels that are embedded already, both (B, L, W)."""
    table = student.embedding(params)
    if targets is None:
        embedded, targets = embedded[..., :-1, :], embedded[..., 1:, :]
        mask = None if mask is None else mask[..., 1:]
    if smoothing:  # (1 - s) P + s / V in place of P, embedded
        targets = targets.lerp(table.mean(-2).expand_as(targets), smoothing)
    hidden = student.hidden(params, embedded, generator)
    return target_loss(hidden, table, targets, mask)
