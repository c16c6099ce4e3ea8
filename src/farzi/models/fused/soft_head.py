"""Embedding of soft tokens and next-token loss, one path for hard and soft tokens.

With tied embeddings E and X = P E, the cross-entropy of position t against the soft token P_{t+1}
is `logsumexp(H_t E^T) - H_t . X_{t+1}` as soon as each soft row sums to 1. The target therefore
costs W products instead of V, and the soft tokens are read once, by the embedding.

The sum of logsumexp and its first and second derivative are written by hand, a block of rows at a
time, so that the logits of a block stay in cache and no (B, L, V) tensor ever exists. With
Z = H E^T, S = softmax(Z), row weights w and cotangents U of dL/dH and C of dL/dE:

    L       = sum_r w_r logsumexp(Z_r)
    dL/dH   = w S E                                     dL/dE = S^T (w H)
    M       = U E^T + H C^T         Q = S * M           r = rowsum(Q) = U . (S E) + H . (S C)
    d/dH    = w (Q E - r (S E) + S C)                   d/dE = Q^T (w H) + S^T (w (U - r H))

where the last line differentiates <U, dL/dH> + <C, dL/dE>. The targets' part, H_t . X_{t+1}, is
bilinear.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import embedding

from farzi.metagrad.deferred import readout
from farzi.metagrad.memo import gradient_is_known, recall, room_for
from farzi.models.fused.factored import FactoredTokens
from farzi.models.fused.ops import with_signature
from farzi.native import kernels_for

__all__ = ["embed", "next_token_loss", "target_loss"]

BLOCK_BYTES = {"cpu": 1 << 19, "cuda": 1 << 27}
"""Size of one block of logits: half an L2 cache on CPU, since the second derivative holds two."""


def embed(tokens: Tensor | FactoredTokens, E: Tensor) -> Tensor:
    """Raw embedding X of hard or soft tokens.

    Args:
        tokens: hard tokens, int64 (B, L), or soft tokens P (B, L, V) whose rows sum to 1, formed or
            as their factors.
        E: token embedding (V, W).

    Returns:
        X (B, L, W): rows of E, or P E.

    Example:
        >>> import torch
        >>> from farzi.models.fused.soft_head import embed
        >>> embed(torch.tensor([[0, 2]]), torch.eye(3))
        tensor([[[1., 0., 0.],
                 [0., 0., 1.]]])
    """
    if isinstance(tokens, FactoredTokens):
        return tokens.read(E)
    return readout(tokens, E) if tokens.is_floating_point() else embedding(tokens, E)


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
    token is real. Differentiable twice, and under `torch.vmap`.

    Args:
        H: hidden states (B, L, W); position t predicts token t + 1.
        E: tied token embedding (V, W).
        X: raw embedding of the same tokens (B, L, W), from `embed`.
        mask: bool (B, L), True where a token is real; None when all are.
        bias: output bias (V,), or None.
        tokens: the tokens that X embeds; needed with `bias` only.

    Returns:
        A scalar, in nats per position.

    Example:
        >>> import torch
        >>> from farzi.models.fused.soft_head import embed, next_token_loss
        >>> E = torch.eye(4)
        >>> X = embed(torch.tensor([[0, 1, 2]]), E)
        >>> next_token_loss(torch.zeros(1, 3, 4), E, X)
        tensor(1.3863)
    """
    if bias is not None:
        if tokens is None:
            raise ValueError("`tokens` must be given with `bias`, got None.")
        column = bias.unsqueeze(-1)
        X = torch.cat((X, embed(tokens, column)), -1)
        H = torch.cat((H, torch.ones_like(H[..., :1])), -1)
        E = torch.cat((E, column), -1)
    # Row t of H and row t + 1 of X, as flat views: where a sequence ends they belong to two
    # sequences, and count nothing.
    real = torch.ones(H.shape[:-1], device=H.device) if mask is None else mask
    counts = torch.nn.functional.pad(real[..., 1:].to(H.dtype), (0, 1)).flatten()[:-1]
    H, X = H.reshape(-1, H.shape[-1])[:-1], X.reshape(-1, X.shape[-1])[1:]
    return _cross_entropy(H, E, X, counts / counts.sum())


def target_loss(H: Tensor, E: Tensor, Y: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over positions of the cross-entropy of soft targets P, given as Y = P E.

    `logsumexp(H_t E^T) - H_t . Y_t`, differentiable like `next_token_loss`.

    Args:
        H: hidden states (B, L, W).
        E: tied token embedding (V, W).
        Y: raw embedding of each position's target (B, L, W), from `embed`.
        mask: bool (B, L), True where a position counts; None when all do.

    Returns:
        A scalar, in nats per position.

    Example:
        >>> import torch
        >>> from farzi.models.fused.soft_head import embed, target_loss
        >>> E = torch.eye(4)
        >>> target_loss(torch.zeros(1, 2, 4), E, embed(torch.tensor([[1, 2]]), E))
        tensor(1.3863)
    """
    H, Y = H.reshape(-1, H.shape[-1]), Y.reshape(-1, Y.shape[-1])
    counts = H.new_ones(len(H)) if mask is None else mask.reshape(-1).to(H.dtype)
    return _cross_entropy(H, E, Y, counts / counts.sum())


def _cross_entropy(H: Tensor, E: Tensor, Y: Tensor, weights: Tensor) -> Tensor:
    """sum_r w_r (logsumexp(H_r E^T) - H_r . Y_r); H, Y (R, W), E (V, W), constant weights (R,)."""
    if torch.compiler.is_compiling():  # what follows is written for eager torch
        return ((H @ E.T).logsumexp(-1) - (H * Y).sum(-1)).dot(weights)
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in (H, E, Y))
    loss: Tensor = _CrossEntropy.apply(H, E, Y, weights, wanted, wanted)[0]  # type: ignore[no-untyped-call]
    return loss


@with_signature
class _CrossEntropy(Function):
    """The value; with `wanted` also what the derivatives read, while each block is in cache.

    That is `levels` (3, R): logsumexp, the highest logit, and 1 / sum exp(logit - highest); S E;
    S^T (w H); and the exponentials themselves. The last but one is empty where the others were
    recalled, the last unless it is `kept` and there is room.
    """

    @staticmethod
    def forward(
        H: Tensor, E: Tensor, Y: Tensor, weights: Tensor, wanted: bool, kept: bool
    ) -> tuple[Tensor, ...]:
        H, E = H.contiguous(), E.contiguous()
        dE = H.new_empty(0)
        size = _panels_size(H, E, weights) if kept else 0
        if size and not room_for(H.element_size() * size):
            size = 0

        def compute() -> tuple[Tensor, ...]:
            nonlocal dE
            levels, SE, dE, S = _first(H, E, weights, wanted, size)
            return (levels, SE, S) if size else (levels, SE)

        levels, SE, *panels = recall(compute, in_pages=not size)
        S = panels[0] if size else H.new_empty(0)
        return (levels[0] - (H * Y).sum(-1)).dot(weights), levels, SE, dE, S

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs[:4], *output[1:])
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        if cotangents[0] is None:
            return (None,) * 6
        first = _Gradient.apply(cotangents[0], *ctx.saved_tensors)  # type: ignore[no-untyped-call]
        return *first, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> Any:
        calls = [
            _CrossEntropy.apply(*args, torch.is_grad_enabled(), False)  # type: ignore[no-untyped-call]
            for args in _unbatched(info.batch_size, in_dims, inputs[:4])
        ]
        return tuple(map(torch.stack, zip(*calls, strict=True))), (0,) * 5


@with_signature
class _Gradient(Function):
    """(dL/dH, dL/dE, dL/dY), differentiable once more."""

    @staticmethod
    def forward(
        d_loss: Tensor,
        H: Tensor,
        E: Tensor,
        Y: Tensor,
        weights: Tensor,
        levels: Tensor,
        SE: Tensor,
        dE: Tensor,
        S: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        w = (weights * d_loss)[:, None]
        dH, dY = (SE - Y).mul_(w), H * -w
        if dE.numel() == E.numel():
            return dH, dE * d_loss, dY
        if gradient_is_known() and E.is_leaf:
            return dH, E.new_zeros(()).expand_as(E), dY
        return dH, _first(H.contiguous(), E.contiguous(), weights, True)[2].mul_(d_loss), dY

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:-2], inputs[-1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, U: Tensor, C: Tensor, D: Tensor) -> tuple[Tensor | None, ...]:
        d_loss, H, E, Y, weights, levels, SE, S = ctx.saved_tensors
        H, E, U = H.contiguous(), E.contiguous(), U.contiguous()
        w = weights * d_loss
        r, d_H, d_E = _second(H, E, w, levels, S, SE, U, C.contiguous())
        to_loss = None
        if ctx.needs_input_grad[0]:
            to_loss = (r - (U * Y).sum(-1) - (D * H).sum(-1)).dot(weights)
        column = -w[:, None]
        return to_loss, d_H.addcmul_(D, column), d_E, U * column, *(None,) * 5

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor) -> Any:
        calls = [
            _Gradient.apply(*args)  # type: ignore[no-untyped-call]
            for args in _unbatched(info.batch_size, in_dims, inputs)
        ]
        return tuple(map(torch.stack, zip(*calls, strict=True))), (0, 0, 0)


LANES = 16
"""Rows that the kernels' panels are padded to, at most."""


def _panels_size(H: Tensor, E: Tensor, weights: Tensor) -> int:
    """Values that the kernels keep of the exponentials; 0 where there are none."""
    if kernels_for(H, E, weights) is None:
        return 0
    return (len(E) + 1) * -(-len(H) // LANES) * LANES


def _first(
    H: Tensor, E: Tensor, weights: Tensor, wanted: bool, size: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Levels, S E, dL/dE, and `size` exponentials; S E and dL/dE are empty unless `wanted`."""
    levels, S = H.new_empty(3, len(H)), H.new_empty(size)
    SE, dE = (torch.empty_like(H), torch.empty_like(E)) if wanted else (H.new_empty(0),) * 2
    kernels = kernels_for(H, E, weights)
    if kernels is not None:
        results = (levels, S if size else None, *((SE, dE) if wanted else (None, None)))
        kernels.run("log_partition", len(H), *E.shape, H, E, weights, *results)
        return levels, SE, dE, S
    dE.zero_()
    for rows, block in _blocks(H, E):
        top = block.amax(1, keepdim=True)
        total = block.sub_(top).exp_().sum(1, keepdim=True)
        levels[:, rows] = torch.cat((top + total.log(), top, 1 / total), 1).T
        if wanted:
            dE.addmm_(block.T, H[rows] * (weights[rows, None] / total))
            torch.mm(block, E, out=SE[rows]).div_(total)
    return levels, SE, dE, S


def _second(
    H: Tensor,
    E: Tensor,
    weights: Tensor,
    levels: Tensor,
    exponentials: Tensor,
    SE: Tensor,
    U: Tensor,
    C: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """r, d/dH and d/dE."""
    r, d_H, d_E = torch.empty_like(levels[0]), torch.empty_like(H), torch.empty_like(E)
    kernels = kernels_for(H, E, weights, U, C)
    if kernels is not None:
        kept = exponentials if exponentials.numel() else None
        given = (H, E, weights, levels, kept, SE, U, C)
        kernels.run("log_partition_second", len(H), *E.shape, *given, r, d_H, d_E)
        return r, d_H, d_E
    w = weights[:, None]
    torch.sum(U * SE, 1, out=r)
    d_E.zero_()
    M = _block_buffer(H, E)
    for rows, S in _blocks(H, E):
        S.sub_(levels[0, rows, None]).exp_()
        h, u = H[rows], U[rows]
        m = torch.mm(u, E.T, out=M[: len(h)]).addmm_(h, C.T)
        SC = torch.mm(S, C, out=d_H[rows])
        level = r[rows].add_((h * SC).sum(1))[:, None]
        d_E.addmm_(S.T, w[rows] * (u - level * h))
        Q = m.mul_(S)
        SC.addmm_(Q, E).sub_(level * SE[rows])
        d_E.addmm_(Q.T, w[rows] * h)
    return r, d_H.mul_(w), d_E


def _unbatched(
    size: int, in_dims: tuple[int | None, ...], inputs: tuple[Tensor, ...]
) -> Iterator[tuple[Tensor, ...]]:
    """The arguments of each call of a batch."""
    for i in range(size):
        yield tuple(
            x if dim is None else x.select(dim, i).contiguous()
            for x, dim in zip(inputs, in_dims, strict=False)
        )


def _block_buffer(H: Tensor, E: Tensor) -> Tensor:
    """Uninitialised memory for the logits of one block of rows."""
    row_bytes = E.shape[0] * E.element_size()
    rows = max(16, BLOCK_BYTES.get(H.device.type, 1 << 27) // row_bytes)
    return H.new_empty(min(rows, H.shape[0]), E.shape[0])


def _blocks(H: Tensor, E: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of rows and their logits, which the next block overwrites."""
    buffer = _block_buffer(H, E)
    for start in range(0, H.shape[0], len(buffer)):
        rows = slice(start, start + len(buffer))
        h = H[rows]
        yield rows, torch.mm(h, E.T, out=buffer[: len(h)])
