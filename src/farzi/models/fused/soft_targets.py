"""The cross-entropy of constant soft labels, for a derivative that is taken once.

Ordinary training on distilled sequences reads the same labels at every step and needs no second
derivative. With Z = H E^T, S = softmax(Z) and labels Q both derivatives read S - Q alone:

    L = sum_r w_r (logsumexp(Z_r) - Q_r . Z_r)      dL/dH = w (S - Q) E      dL/dE = (S - Q)^T (w H)

so with the labels subtracted where the softmax stands, a step costs no product more than one on
ids; read as rows Q E, they cost two.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from farzi.models.fused.factored import FactoredTokens
from farzi.models.fused.soft_head import embed
from farzi.native import kernels_for

__all__ = ["read_once", "soft_target_loss"]


def read_once(tokens: Tensor | FactoredTokens, E: Tensor) -> Tensor:
    """`embed`, for constant tokens and a derivative that is taken once: soft ones by the kernels.

    Args:
        tokens: hard tokens, int64 (B, L), or soft tokens (B, L, V), formed or as their factors.
        E: token embedding (V, W).

    Returns:
        (B, L, W).
    """
    if isinstance(tokens, FactoredTokens) or not tokens.is_floating_point():
        return embed(tokens, E)
    if tokens.requires_grad or not torch.is_grad_enabled() or kernels_for(tokens, E) is None:
        return embed(tokens, E)
    read: Tensor = _ReadOnce.apply(tokens.reshape(-1, tokens.shape[-1]), E)  # type: ignore[no-untyped-call]
    return read.view(*tokens.shape[:-1], E.shape[1])


class _ReadOnce(Function):
    """P E, and P^T G on the way back."""

    @staticmethod
    def forward(ctx: Any, P: Tensor, E: Tensor) -> Tensor:
        kernels = kernels_for(P)
        assert kernels is not None
        ctx.save_for_backward(P)
        E = E.contiguous()
        return kernels.product(P, E, E.new_empty(len(P), E.shape[1]))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, G: Tensor) -> tuple[None, Tensor]:
        (P,) = ctx.saved_tensors
        kernels = kernels_for(P)
        assert kernels is not None
        G = G.contiguous()
        return None, kernels.product(P.T, G, G.new_empty(P.shape[1], G.shape[1]))


def soft_target_loss(
    H: Tensor, E: Tensor, Q: Tensor, mask: Tensor | None = None, smoothing: float = 0.0
) -> Tensor | None:
    """Mean over positions of the cross-entropy of soft labels; None where no kernel is for it.

    Args:
        H: hidden states (B, L, W).
        E: the head's table (V, W).
        Q: soft labels (B, L, V), whose rows sum to 1; constants.
        mask: bool (B, L), True where a position counts; None when all do.
        smoothing: share of every label that is spread over all tokens alike.

    Returns:
        A scalar, in nats per position, once differentiable in H and E.

    Cost:
        Three products of (B L, V, W), as for ids; B L V floats of labels are read once.
    """
    if Q.requires_grad or not torch.is_grad_enabled():
        return None
    H, Q = H.reshape(-1, H.shape[-1]), Q.reshape(-1, Q.shape[-1])
    counts = H.new_ones(len(H)) if mask is None else mask.reshape(-1).to(H.dtype)
    if kernels_for(H, E, Q, counts) is None:
        return None
    loss: Tensor = _SoftTargets.apply(H, E, Q, counts / counts.sum(), smoothing)  # type: ignore[no-untyped-call]
    return loss


class _SoftTargets(Function):
    """The value; both derivatives are made with it."""

    @staticmethod
    def forward(
        ctx: Any, H: Tensor, E: Tensor, Q: Tensor, weights: Tensor, smoothing: float
    ) -> Tensor:
        kernels = kernels_for(H)
        assert kernels is not None
        H, E, Q = H.contiguous(), E.contiguous(), Q.contiguous()
        losses, dH, dE = torch.empty_like(weights), torch.empty_like(H), torch.empty_like(E)
        share = 1.0 - smoothing, smoothing / len(E)
        given = (H, E, weights, Q, *share)
        kernels.run("soft_targets", len(H), *E.shape, *given, losses, dH, dE)
        ctx.save_for_backward(dH, dE)
        return losses.dot(weights)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, ...]:
        dH, dE = ctx.saved_tensors
        return dH * d_loss, dE * d_loss, None, None, None
