"""Soft tokens that are never formed: softmax(Z M) E as attention over the vocabulary, in blocks.

With a vocabulary of a million, one sequence of 50 soft tokens is 200 MB, and training holds several
such tensors. Here a few rows at a time are decoded, read and forgotten, and decoded again on the
way back. The first and the second derivative are written by hand. With P = softmax(Z M),
X = P E, a cotangent G of X, U = G E^T and g = rowsum(P * U):

    dE = P^T G          dA = P * (U - g)          dZ = dA M^T          dM = Z^T dA

and with cotangents a of dZ, b of dM, c of dE, T = a M + Z b, t = rowsum(P * T) and D = G c^T:

    F = P * (T - t)     N = U * T - U t - T g + D         Q = P * (N - rowsum(P * N))
    to G: F E + P c     to E: F^T G     to Z: Q M^T + dA b^T     to M: Z^T Q + a^T dA
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

__all__ = ["BLOCK", "FactoredTokens"]

BLOCK = 1 << 22
"""Most elements of one block of decoded rows; a derivative holds up to five of them."""


@dataclass(frozen=True)
class FactoredTokens:
    """Soft tokens softmax(Z M) as their factors; `farzi.models.losses` reads them like a tensor.

    Args:
        latent: Z (B, L, K).
        decoder: M (K, V), divided by the temperature.

    Example:
        >>> import torch
        >>> from farzi.models.fused.factored import FactoredTokens
        >>> tokens = FactoredTokens(torch.zeros(1, 2, 3), torch.ones(3, 4))
        >>> tokens.shape, tokens.read(torch.eye(4))[0, 0]
        (torch.Size([1, 2, 4]), tensor([0.2500, 0.2500, 0.2500, 0.2500]))
    """

    latent: Tensor
    decoder: Tensor

    @property
    def shape(self) -> torch.Size:
        """(B, L, V), as of the tokens themselves."""
        return torch.Size((*self.latent.shape[:-1], self.decoder.shape[1]))

    def to(self, device: torch.device | str) -> FactoredTokens:
        """The same on another device."""
        return FactoredTokens(self.latent.to(device), self.decoder.to(device))

    def read(self, table: Tensor) -> Tensor:
        """softmax(Z M) E, (B, L, W), for a table E (V, W).

        Twice differentiable in Z, M and E.

        Cost:
            Memory for a few blocks of `BLOCK` elements, whatever V is, beside M, E and their
            derivatives; time of the decoded product, and of decoding once for each derivative.
        """
        rows = self.latent.reshape(-1, self.latent.shape[-1])
        read: Tensor = _Read.apply(rows, self.decoder, table)[0]  # type: ignore[no-untyped-call]
        return read.view(*self.latent.shape[:-1], table.shape[1])


def _blocks(num_rows: int, num_tokens: int) -> Iterator[slice]:
    size = max(1, BLOCK // num_tokens)
    for start in range(0, num_rows, size):
        yield slice(start, start + size)


class _Read(Function):
    """X, and the logsumexp of each row."""

    @staticmethod
    def forward(Z: Tensor, M: Tensor, E: Tensor) -> tuple[Tensor, Tensor]:
        X, level = E.new_empty(len(Z), E.shape[1]), E.new_empty(len(Z), 1)
        for rows in _blocks(len(Z), M.shape[1]):
            A = Z[rows] @ M
            level[rows] = A.logsumexp(1, keepdim=True)
            X[rows] = A.sub_(level[rows]).exp_() @ E
        return X, level

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs, *output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        if cotangents[0] is None:
            return None, None, None
        Z, M, E, X, level = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        if not any(wanted[:2]):  # an ordinary training: the factors are constants
            return None, None, _TableOnly.apply(cotangents[0], Z, M, level)  # type: ignore[no-untyped-call]
        return tuple(_Gradient.apply(cotangents[0], Z, M, E, X.detach(), level))  # type: ignore[no-untyped-call]


class _TableOnly(Function):
    """dE = P^T G."""

    @staticmethod
    def forward(G: Tensor, Z: Tensor, M: Tensor, level: Tensor) -> Tensor:
        dE = G.new_zeros(M.shape[1], G.shape[1])
        for rows in _blocks(len(Z), M.shape[1]):
            dE.addmm_(_decode(Z[rows], M, level[rows]).T, G[rows])
        return dE

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, c: Tensor) -> tuple[Tensor | None, ...]:
        Z, M, level = ctx.saved_tensors
        to_G = c.new_empty(len(Z), c.shape[1])
        for rows in _blocks(len(Z), M.shape[1]):
            to_G[rows] = _decode(Z[rows], M, level[rows]) @ c
        return to_G, None, None, None


class _Gradient(Function):
    """(dZ, dM, dE), differentiable once more."""

    @staticmethod
    def forward(
        G: Tensor, Z: Tensor, M: Tensor, E: Tensor, X: Tensor, level: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        dZ, dM, dE = torch.empty_like(Z), torch.zeros_like(M), torch.zeros_like(E)
        g = (G * X).sum(1, keepdim=True)
        for rows in _blocks(len(Z), M.shape[1]):
            P = _decode(Z[rows], M, level[rows])
            dE.addmm_(P.T, G[rows])
            dA = (G[rows] @ E.T).sub_(g[rows]).mul_(P)
            dZ[rows] = dA @ M.T
            dM.addmm_(Z[rows].T, dA)
        return dZ, dM, dE

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor | None, ...]:
        G, Z, M, E, X, level = ctx.saved_tensors
        to_G, to_Z = torch.empty_like(G), torch.empty_like(Z)
        to_M, to_E = torch.zeros_like(M), torch.zeros_like(E)
        g = (G * X).sum(1, keepdim=True)
        for rows in _blocks(len(Z), M.shape[1]):
            P = _decode(Z[rows], M, level[rows])
            U, T = G[rows] @ E.T, (a[rows] @ M).addmm_(Z[rows], b)
            t = (P * T).sum(1, keepdim=True)
            N = (G[rows] @ c.T).addcmul_(U, T - t).sub_(T * g[rows])
            Q = N.sub_((P * N).sum(1, keepdim=True)).mul_(P)
            F = T.sub_(t).mul_(P)
            dA = U.sub_(g[rows]).mul_(P)
            to_G[rows] = (F @ E).addmm_(P, c)
            to_E.addmm_(F.T, G[rows])
            to_Z[rows] = (Q @ M.T).addmm_(dA, b.T)
            to_M.addmm_(Z[rows].T, Q).addmm_(a[rows].T, dA)
        return to_G, to_Z, to_M, to_E, None, None


def _decode(Z: Tensor, M: Tensor, level: Tensor) -> Tensor:
    """The rows of P, in memory of their own."""
    return (Z @ M).sub_(level).exp_()
