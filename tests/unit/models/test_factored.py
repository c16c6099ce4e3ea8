"""Tokens that are never formed give what formed ones give, twice differentiated."""

import resource

import pytest
import torch

from farzi import synthetic
from farzi.data.sequences import Sequences
from farzi.distill import problem as distill_problem
from farzi.distill.objectives.meta_matching import MetaMatching
from farzi.distill.problem import Problem
from farzi.evaluation import validation_loss
from farzi.metagrad import Adam, Checkpointed, Direct, Stored, metagradient
from farzi.models import SASRec, sequence_loss
from farzi.models.fused import factored
from farzi.models.fused.factored import FactoredTokens
from farzi.synthetic import SyntheticSequences
from farzi.training import SyntheticBatches, TrainSettings, train


@pytest.fixture(params=[1, 4 * 7, 1 << 22], ids=["a row", "four rows", "all rows"])
def block(request, monkeypatch):
    monkeypatch.setattr(factored, "BLOCK", request.param)


def inputs():
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 3, 4), (4, 7), (7, 5))
    return [
        torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in shapes
    ]


def test_value_and_both_derivatives_agree_with_autograd(block):
    """Of the value against the formed product; of the derivatives against central differences."""

    def read(Z, M, E):
        return FactoredTokens(Z, M).read(E)

    Z, M, E = inputs()
    torch.testing.assert_close(read(Z, M, E), (Z @ M).softmax(-1) @ E)
    assert torch.autograd.gradcheck(read, (Z, M, E))
    assert torch.autograd.gradgradcheck(read, (Z, M, E))
    constants = Z.detach(), M.detach()
    assert torch.autograd.gradcheck(lambda E: read(*constants, E), (E,))
    assert torch.autograd.gradgradcheck(lambda E: read(*constants, E.square()), (E,))


@pytest.mark.parametrize("adjoint", [Direct(), Stored(), Checkpointed()], ids=repr)
def test_a_meta_gradient_through_training_on_them(block, adjoint):
    student = SASRec(num_tokens=7, context_length=3, width=4)
    params = student.init(torch.Generator().manual_seed(1))
    params = {name: value.double() for name, value in params.items()}
    Z, M, _ = inputs()
    Y = Z.detach().flip(0)
    real = torch.tensor([[0, 1, 2, 3], [4, 5, 6, 0]])

    def gradients(form):
        def inner(params, meta, step):
            tokens, labels = form(meta["Z"], meta["M"]), form(meta["Y"], meta["M"])
            return sequence_loss(student, params, tokens, labels=labels)

        def outer(params, meta):
            return sequence_loss(student, params, real)

        meta = {"Z": Z.detach(), "M": M.detach(), "Y": Y}
        optimizer = Adam(lr=0.05, eps_root=1e-8)
        return metagradient(
            inner, outer, params, meta, steps=4, optimizer=optimizer, adjoint=adjoint
        ).meta_grads

    formed = gradients(lambda Z, M: (Z @ M).softmax(-1))
    for name, gradient in gradients(FactoredTokens).items():
        torch.testing.assert_close(gradient, formed[name], rtol=1e-9, atol=1e-14)
        assert gradient.abs().max() > 1e-6


@pytest.mark.parametrize("hard", [False, True])
def test_large_batches_are_read_from_their_factors(monkeypatch, hard):
    """Training on them, and the distiller's inner loss, give what formed tokens give."""
    generator = torch.Generator().manual_seed(0)
    Z, Y = torch.randn(2, 6, 3, 4, generator=generator)
    few = SyntheticSequences(
        torch.randint(7, (6, 3), generator=generator) if hard else Z,
        torch.randn(4, 7, generator=generator),
        Y,
        temperature=0.5,
    )
    student = SASRec(num_tokens=7, context_length=3, width=4)
    real = Sequences.from_lists([[0, 1, 2, 3], [4, 5, 6, 0]])

    def problem():
        return Problem(student, Adam(lr=0.05, eps_root=1e-8), Stored(), few, real, 4, 4, 2, seed=0)

    def results():
        settings = TrainSettings(lr=0.05, max_steps=20)
        trained = train(
            student, SyntheticBatches(few, 4), settings, lambda p: validation_loss(student, p, real)
        )
        here = problem()
        objective = MetaMatching()
        window = objective.window(here, here.fresh_member(0), few, 0)
        return [torch.tensor(trained.loss), *window.gradients.values()]

    expected = results()
    for module, name in ((synthetic, "MOST_FORMED"), (distill_problem, "MOST_DECODED")):
        monkeypatch.setattr(module, name, 0)
    monkeypatch.setattr(SyntheticSequences, "_soft", None)  # nothing is formed any more
    for found, value in zip(results(), expected, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-3, atol=1e-3 * float(value.abs().max()))


def test_memory_does_not_grow_with_the_rows():
    """A million tokens and 500 rows: 2 GB formed, a few blocks and the tables' own size here."""
    num_tokens, rows = 1_000_000, 500
    Z, M = torch.randn(1, rows, 2), torch.randn(2, num_tokens)
    E = torch.randn(num_tokens, 2, requires_grad=True)
    before = peak_bytes()
    FactoredTokens(Z, M).read(E).square().sum().backward()
    assert peak_bytes() - before < 8 * factored.BLOCK * 4 + 4 * E.numel() * 4
    assert torch.isfinite(E.grad).all()


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
