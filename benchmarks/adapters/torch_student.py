"""The student in plain PyTorch operations, as every PyTorch engine but the soft head runs it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, gelu, layer_norm, linear

from benchmarks.workload import HEADS, LENGTH, Workload

Params = Mapping[str, Tensor]
FUTURE = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)


def tensors(workload: Workload) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Parameters, P and the outer loss's tokens as tensors of their own."""
    params = {name: torch.from_numpy(value.copy()) for name, value in workload.params.items()}
    return params, torch.from_numpy(workload.P.copy()), torch.from_numpy(workload.tokens)


def hidden(p: Params, X: Tensor) -> Tensor:
    """Hidden states H (B, L, W) from raw embeddings X (B, L, W)."""
    batch, length, width = X.shape
    x = X + p["position"]
    y = layer_norm(x, (width,), p["norm1.weight"], p["norm1.bias"])
    qkv = linear(y, p["qkv.weight"], p["qkv.bias"]).view(batch, length, 3, HEADS, width // HEADS)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    scores = (q @ k.transpose(-1, -2)) / math.sqrt(width // HEADS)
    mixed = scores.masked_fill(FUTURE, -math.inf).softmax(-1) @ v
    x = x + linear(mixed.transpose(1, 2).reshape(X.shape), p["out.weight"], p["out.bias"])
    y = layer_norm(x, (width,), p["norm2.weight"], p["norm2.bias"])
    y = gelu(linear(y, p["up.weight"], p["up.bias"]))
    x = x + linear(y, p["down.weight"], p["down.bias"])
    return layer_norm(x, (width,), p["norm.weight"], p["norm.bias"])


def log_softmax_loss(p: Params, P: Tensor) -> Tensor:
    """Soft cross-entropy as usually written: P times the log-probabilities."""
    E = p["embedding"]
    logits = hidden(p, P @ E)[:, :-1] @ E.T
    return -(P[:, 1:] * logits.log_softmax(-1)).sum(-1).mean()


def logsumexp_loss(p: Params, P: Tensor) -> Tensor:
    """The same number as logsumexp(H E^T) - H . X_next."""
    E = p["embedding"]
    X = P @ E
    H = hidden(p, X)[:, :-1]
    return ((H @ E.T).logsumexp(-1) - (H * X[:, 1:]).sum(-1)).mean()


HEAD_LOSSES: dict[str, Callable[[Params, Tensor], Tensor]] = {
    "log_softmax": log_softmax_loss,
    "logsumexp": logsumexp_loss,
}


def outer_loss(p: Params, tokens: Tensor) -> Tensor:
    """Hard cross-entropy of the next token."""
    E = p["embedding"]
    logits = hidden(p, E[tokens])[:, :-1] @ E.T
    return cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


class Student(torch.nn.Module):
    """The same student as a module, for engines that want one; called with P it gives the loss."""

    def __init__(self, params: Params, head: str) -> None:
        super().__init__()
        for name, value in params.items():
            self.register_parameter(name.replace(".", "_"), torch.nn.Parameter(value))
        self.names = list(params)
        self.head = HEAD_LOSSES[head]

    def read(self) -> dict[str, Tensor]:
        return {name: getattr(self, name.replace(".", "_")) for name in self.names}

    def forward(self, P: Tensor | None, tokens: Tensor | None = None) -> Tensor:
        if P is not None:
            return self.head(self.read(), P)
        assert tokens is not None
        return outer_loss(self.read(), tokens)
