"""Values, gradients and second derivatives of the soft head, with and without the kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from farzi import native
from farzi.models.fused import soft_head
from farzi.models.fused.soft_head import embed, next_token_loss

BATCH, LENGTH, TOKENS, WIDTH = 3, 5, 11, 4


@pytest.fixture(params=["kernels", "torch"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both implementations; blocks of 16 rows, so that there are several."""
    monkeypatch.setattr(soft_head, "BLOCK_BYTES", {"cpu": 0})
    if request.param == "torch":
        monkeypatch.setattr(soft_head, "kernels_for", lambda *tensors: None)
    elif native.kernels_for() is None:
        pytest.skip(native.status())
    return str(request.param)


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def plain_loss(
    H: Tensor, E: Tensor, P: Tensor, mask: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """Cross-entropy against soft tokens as usually written."""
    logits = H[:, :-1] @ E.T
    logits = logits if bias is None else logits + bias
    nll = -(P[:, 1:] * logits.log_softmax(-1)).sum(-1)
    return nll.mean() if mask is None else nll[mask[:, 1:]].mean()


def inputs(dtype: torch.dtype = torch.float64, **sizes: int) -> tuple[Tensor, Tensor, Tensor]:
    batch, length = sizes.get("batch", BATCH), sizes.get("length", LENGTH)
    tokens, width = sizes.get("tokens", TOKENS), sizes.get("width", WIDTH)
    H = draw(batch, length, width, seed=0, dtype=dtype)
    E = draw(tokens, width, seed=1, dtype=dtype)
    P = draw(batch, length, tokens, seed=2).softmax(-1).to(dtype)
    return H, E, P


def right_padded(*lengths: int) -> Tensor:
    return torch.arange(LENGTH) < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("mask", [None, right_padded(5, 3, 2)], ids=["whole", "padded"])
@pytest.mark.parametrize("with_bias", [False, True])
def test_value_is_the_cross_entropy(mask: Tensor | None, with_bias: bool) -> None:
    H, E, P = inputs()
    bias = draw(TOKENS, seed=3) if with_bias else None
    loss = next_token_loss(H, E, embed(P, E), mask, bias=bias, tokens=P)
    torch.testing.assert_close(loss, plain_loss(H, E, P, mask, bias), rtol=1e-13, atol=0)


@pytest.mark.parametrize("with_bias", [False, True])
def test_hard_tokens_are_one_hot_soft_tokens(with_bias: bool) -> None:
    H, E, _ = inputs(torch.float32)
    bias = draw(TOKENS, seed=3, dtype=torch.float32) if with_bias else None
    hard = torch.arange(BATCH * LENGTH).view(BATCH, LENGTH) % TOKENS
    soft = one_hot(hard, TOKENS).float()
    losses = [
        next_token_loss(H, E, embed(tokens, E), bias=bias, tokens=tokens) for tokens in (hard, soft)
    ]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=0)
    logits = H[:, :-1] @ E.T if bias is None else H[:, :-1] @ E.T + bias
    expected = cross_entropy(logits.flatten(0, 1), hard[:, 1:].flatten())
    torch.testing.assert_close(losses[0], expected, rtol=1e-6, atol=0)


def derivatives(loss: Any, *leaves: Tensor) -> list[Tensor]:
    """Gradients, and the gradient of their product with a fixed direction."""
    leaves = tuple(leaf.detach().requires_grad_() for leaf in leaves)
    first = torch.autograd.grad(loss(*leaves), leaves, create_graph=True)
    directions = [draw(*x.shape, seed=7 + i, dtype=x.dtype) for i, x in enumerate(leaves)]
    along = sum((a * b).sum() for a, b in zip(first, directions, strict=True))
    return [*first, *torch.autograd.grad(along, leaves)]


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("mask", [None, right_padded(5, 3, 2)], ids=["whole", "padded"])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)], ids=["f64", "f32"]
)
def test_derivatives_equal_autograd(
    mask: Tensor | None, with_bias: bool, dtype: torch.dtype, tolerance: float
) -> None:
    H, E, P = inputs(dtype)
    leaves = (H, E, P) + ((draw(TOKENS, seed=3, dtype=dtype),) if with_bias else ())

    def head(H: Tensor, E: Tensor, P: Tensor, bias: Tensor | None = None) -> Tensor:
        return next_token_loss(H, E, embed(P, E), mask, bias=bias, tokens=P)

    def plain(H: Tensor, E: Tensor, P: Tensor, bias: Tensor | None = None) -> Tensor:
        # The head takes rows of P to sum to 1; so must this where P is moved.
        total = P[:, 1:].sum(-1)
        logits = H[:, :-1] @ E.T
        logits = logits if bias is None else logits + bias
        nll = logits.logsumexp(-1) - (P[:, 1:] * logits).sum(-1) + 0 * total
        return nll.mean() if mask is None else nll[mask[:, 1:]].mean()

    for ours, expected in zip(derivatives(head, *leaves), derivatives(plain, *leaves), strict=True):
        scale = expected.abs().max().item() + 1e-6
        torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("sizes", [(1, 2, 3, 1), (2, 40, 37, 17), (5, 30, 130, 33), (1, 3, 5, 70)])
def test_sizes_that_fill_no_block(sizes: tuple[int, int, int, int]) -> None:
    batch, length, tokens, width = sizes
    H, E, P = inputs(torch.float32, batch=batch, length=length, tokens=tokens, width=width)
    ours = derivatives(lambda H, E: next_token_loss(H, E, embed(P, E)), H, E)
    exact = derivatives(
        lambda H, E: plain_loss(H, E, P.double() / P.double().sum(-1, keepdim=True)),
        H.double(),
        E.double(),
    )
    for got, expected in zip(ours, exact, strict=True):
        scale = expected.abs().max().item()
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.usefixtures("path")
def test_extreme_logits_stay_finite_and_exact() -> None:
    H, E, P = inputs(torch.float32)
    loss = next_token_loss(300 * H, E, embed(P, E))
    torch.testing.assert_close(loss, plain_loss(300 * H, E, P), rtol=1e-5, atol=0)
    for gradient in derivatives(lambda H: next_token_loss(H, E, embed(P, E)), 300 * H):
        assert bool(gradient.isfinite().all())


@pytest.mark.usefixtures("path")
def test_nan_is_not_hidden() -> None:
    H, E, P = inputs(torch.float32)
    H[0, 0, 0] = torch.nan
    assert bool(next_token_loss(H, E, embed(P, E)).isnan())


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vmap_over_students(dtype: torch.dtype) -> None:
    H, E, P = inputs(dtype)
    many = torch.stack([E, 2 * E, -E])

    def loss(E: Tensor) -> Tensor:
        return next_token_loss(H, E, embed(P, E))

    together = derivatives(lambda many: torch.vmap(loss)(many).sum(), many)
    apart = derivatives(lambda many: sum(loss(E) for E in many), many)
    for a, b in zip(together, apart, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_no_tensor_of_the_size_of_the_logits_is_kept() -> None:
    from farzi.metagrad.memory import peak_bytes

    H, E, P = inputs(torch.float64, batch=20, length=51, tokens=2000, width=2)
    X = embed(P, E)
    with peak_bytes(torch.device("cpu")) as peak:
        derivatives(lambda H, E: next_token_loss(H, E, X), H, E)
    assert peak.num_bytes < 0.25 * 20 * 50 * 2000 * 8


def test_bias_needs_tokens() -> None:
    H, E, P = inputs()
    with pytest.raises(ValueError, match="`tokens` must be given with `bias`"):
        next_token_loss(H, E, embed(P, E), bias=torch.zeros(TOKENS, dtype=torch.float64))
