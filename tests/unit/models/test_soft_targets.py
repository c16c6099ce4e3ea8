"""The fused loss of constant labels and its gradients are those of the other path."""

import pytest
import torch

from farzi.models.fused.soft_head import embed, target_loss
from farzi.models.fused.soft_targets import read_once, soft_target_loss
from farzi.native import in_use

needs_kernels = pytest.mark.skipif(not in_use(), reason="no C kernels")


def made(rows, num_tokens, width, scale=1.0):
    generator = torch.Generator().manual_seed(rows + num_tokens)
    H = torch.randn(2, rows, width, generator=generator) * scale
    E = torch.randn(num_tokens, width, generator=generator)
    Q = torch.randn(2, rows, num_tokens, generator=generator).mul(3).softmax(-1)
    mask = torch.rand(2, rows, generator=generator) < 0.7
    mask[0, 0] = True
    return H, E, Q, mask


@needs_kernels
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("rows", "num_tokens", "width"),
    [(1, 2, 1), (3, 7, 5), (16, 16, 16), (33, 40, 33), (40, 1001, 32), (50, 129, 48)],
)
def test_value_and_gradients(rows, num_tokens, width, masked, smoothing):
    H, E, Q, mask = made(rows, num_tokens, width)
    mask = mask if masked else None
    with_gradient = [x.requires_grad_() for x in (H, E)]
    fused = soft_target_loss(H, E, Q, mask, smoothing)
    found = torch.autograd.grad(3 * fused, with_gradient)
    double = [x.detach().double().requires_grad_() for x in (H, E)]
    targets = Q.double() * (1 - smoothing) + smoothing / num_tokens
    exact = target_loss(*double, embed(targets / targets.sum(-1, keepdim=True), double[1]), mask)
    expected = torch.autograd.grad(3 * exact, double)
    assert float(fused.detach()) == pytest.approx(float(exact.detach()), rel=1e-5, abs=1e-6)
    for gradient, value in zip(found, expected, strict=True):
        size = float(value.abs().max())
        torch.testing.assert_close(gradient.double(), value, rtol=1e-5, atol=1e-5 * size + 1e-9)


@needs_kernels
@pytest.mark.parametrize(("rows", "num_tokens", "width"), [(1, 2, 1), (33, 40, 33), (40, 999, 32)])
def test_soft_tokens_are_read_alike(rows, num_tokens, width):
    G, E, P, _ = made(rows, num_tokens, width)
    E.requires_grad_()
    found, expected = read_once(P, E), embed(P, E)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    gradients = [torch.autograd.grad(read, E, G)[0] for read in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)
    ids = P.argmax(-1)
    assert torch.equal(read_once(ids, E), embed(ids, E))


@needs_kernels
def test_large_logits_and_what_is_not_finite():
    H, E, Q, _ = made(20, 50, 8, scale=200.0)
    exact = target_loss(H.double(), E.double(), embed(Q.double(), E.double()))
    H.requires_grad_()
    loss = soft_target_loss(H, E, Q)
    assert float(loss.detach()) == pytest.approx(float(exact), rel=1e-5)
    broken = H.detach().clone()
    broken[1, 3, 2] = float("nan")
    assert torch.isnan(soft_target_loss(broken.requires_grad_(), E, Q))


@needs_kernels
def test_only_where_it_may_be_used():
    H, E, Q, _ = made(4, 6, 3)
    H.requires_grad_()
    assert soft_target_loss(H, E, Q.clone().requires_grad_()) is None
    assert soft_target_loss(H.double(), E.double(), Q.double()) is None
    with torch.no_grad():
        assert soft_target_loss(H, E, Q) is None
    (gradient,) = torch.autograd.grad(soft_target_loss(H, E, Q), H, create_graph=True)
    with pytest.raises(RuntimeError, match=r"does not require grad|once_differentiable"):
        torch.autograd.grad(gradient.sum(), H)
