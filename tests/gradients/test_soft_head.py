"""The soft head's derivatives against finite differences, and in whole training runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from farzi.metagrad import Adam, Direct, Reversible, Stored, metagradient
from farzi.models import SASRec
from farzi.models.fused.soft_head import _cross_entropy, embed, next_token_loss

STUDENT = SASRec(num_tokens=9, context_length=6, width=4, num_heads=2)


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def test_first_and_second_derivative_against_central_differences() -> None:
    H, E, Y = (draw(n, 3, seed=n).requires_grad_() for n in (7, 5, 7))
    weights = draw(7, seed=2).sigmoid()

    def loss(H: Tensor, E: Tensor, Y: Tensor) -> Tensor:
        return _cross_entropy(H, E, Y, weights)

    assert torch.autograd.gradcheck(loss, (H, E, Y))
    assert torch.autograd.gradgradcheck(loss, (H, E, Y))


def problem(dtype: torch.dtype, *, head: bool) -> tuple[Any, ...]:
    """A student on soft tokens, with the head or with the loss as usually written."""
    drawn = STUDENT.init(torch.Generator().manual_seed(0), dtype=torch.float64)
    params = {name: value.to(dtype) for name, value in drawn.items()}
    P = (2 * draw(3, 6, 9, seed=1)).softmax(-1).to(dtype)
    tokens = torch.arange(24).view(4, 6) % 9

    def loss(params: dict[str, Tensor], tokens: Tensor) -> Tensor:
        E = params["embedding"]
        X = embed(tokens, E)
        H = STUDENT.hidden(params, X)
        if head:
            return next_token_loss(H, E, X)
        partition = (H[:, :-1] @ E.T).logsumexp(-1)
        return (partition - (H[:, :-1] * X[:, 1:]).sum(-1)).mean()

    return (
        lambda params, meta, step: loss(params, meta["P"]),
        lambda params, meta: loss(params, tokens),
        params,
        {"P": P},
    )


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-3)], ids=["f64", "f32"]
)
def test_training_runs_with_the_head_equal_direct(dtype: torch.dtype, tolerance: float) -> None:
    settings: dict[str, Any] = {"steps": 12, "optimizer": Adam(lr=0.01, eps_root=1e-6)}
    expected = metagradient(*problem(torch.float64, head=False), adjoint=Direct(), **settings)
    for adjoint in (Direct(), Stored(), Reversible()):
        got = metagradient(*problem(dtype, head=True), adjoint=adjoint, **settings)
        error = (got.meta_grads["P"].double() - expected.meta_grads["P"]).norm()
        # Reversible differentiates a rounded trajectory.
        allowed = max(tolerance, 1e-7) if isinstance(adjoint, Reversible) else tolerance
        assert float(error / expected.meta_grads["P"].norm()) < allowed


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
def test_forward_and_way_back_have_the_same_bits(dtype: torch.dtype) -> None:
    settings: dict[str, Any] = {"steps": 4, "optimizer": Adam(lr=0.01, eps_root=1e-6)}
    stats = metagradient(*problem(dtype, head=True), adjoint=Reversible(), **settings).stats
    assert "bits" not in stats.reason
