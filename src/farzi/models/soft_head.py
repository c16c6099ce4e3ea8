"""Embedding of soft tokens and next-token loss, one path for hard and soft tokens.

With tied embeddings E and X = P E, the cross-entropy of position t against the soft token P_{t+1} is
`logsumexp(H_t E^T) - H_t . X_{t+1}` as soon as each soft row sums to 1. The target therefore costs
W products instead of V, and the soft tokens are read once, by the embedding.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import embedding

__all__ = ["embed", "next_token_loss"]


def embed(tokens: Tensor, E: Tensor) -> Tensor:
    """Raw embedding X of hard or soft tokens.

    Args:
        tokens: hard tokens, int64 (B, L), or soft tokens P (B, L, V) whose rows sum to 1.
        E: token embedding (V, W).

    Returns:
        X (B, L, W): rows of E, or P E.

    Example:
        >>> import torch
        >>> from farzi.models.soft_head import embed
        >>> embed(torch.tensor([[0, 2]]), torch.eye(3))
        tensor([[[1., 0., 0.],
                 [0., 0., 1.]]])
    """
    if tokens.is_floating_point():
        return tokens @ E
    return embedding(tokens, E)


def next_token_loss(
    H: Tensor,
    E: Tensor,
    X: Tensor,
    mask: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    tokens: Tensor | None = None,
) -> Tensor:
    """Mean over positions of the cross-entropy of the next token.

    `logsumexp(H_t E^T + b) - H_t . X_{t+1} - b . P_{t+1}`, averaged over the positions whose next
    token is real.

    Args:
        H: hidden states (B, L, W); position t predicts token t + 1.
        E: tied token embedding (V, W).
        X: raw embedding of the same tokens (B, L, W), from `embed`.
        mask: bool (B, L), True where a token is real; None when all are.
        bias: output bias (V,), or None.
        tokens: the tokens that X embeds; needed with `bias` only.

    Returns:
        A scalar.

    Example:
        >>> import torch
        >>> from farzi.models.soft_head import embed, next_token_loss
        >>> E = torch.eye(4)
        >>> X = embed(torch.tensor([[0, 1, 2]]), E)
        >>> next_token_loss(torch.zeros(1, 3, 4), E, X)
        tensor(1.3863)
    """
    hidden, target = H[..., :-1, :], X[..., 1:, :]
    logits = hidden @ E.transpose(-1, -2)
    if bias is not None:
        logits = logits + bias
    nll = logits.logsumexp(-1) - (hidden * target).sum(-1)
    if bias is not None:
        if tokens is None:
            raise ValueError("`tokens` must be given with `bias`, got None.")
        nll = nll - _bias_of(tokens[:, 1:], bias)
    if mask is None:
        return nll.mean()
    valid = mask[..., 1:].to(nll.dtype)
    return (nll * valid).sum() / valid.sum()


def _bias_of(tokens: Tensor, bias: Tensor) -> Tensor:
    return tokens @ bias if tokens.is_floating_point() else bias[tokens]
