"""A compiled loss gives the gradients of the same loss, uncompiled, with every adjoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from farzi.errors import NonFiniteError, StochasticLossError
from farzi.metagrad import (
    SGD,
    Adam,
    AdamW,
    Checkpointed,
    CompiledLoss,
    Direct,
    Reversible,
    RMSprop,
    Stored,
    metagradient,
    readout,
)
from farzi.models import SASRec, embedded_loss

ADAM = Adam(lr=0.02, eps_root=1e-6)
# aot_eager traces what inductor would compile, and runs it at once: seconds instead of minutes.
QUICK = "aot_eager"


def toy_loss(problem: Any, backend: str = QUICK) -> CompiledLoss:
    """`problem.inner` with the rows of its mini-batch as inputs."""

    def loss(params: Mapping[str, Tensor], meta: Mapping[str, Tensor], inputs: Any) -> Tensor:
        rows = inputs["rows"]
        errors = (problem.predict(params, meta["points"][rows]) - meta["targets"][rows]).square()
        weights = torch.sigmoid(meta["weights"][rows])
        return problem.scale * (weights * errors.sum(1)).mean()

    device = problem.params["out"].device
    rows = [torch.tensor([(step + k) % 6 for k in range(4)], device=device) for step in range(6)]
    return CompiledLoss(loss, lambda step: {"rows": rows[step % 6]}, backend=backend)


@pytest.mark.parametrize(
    "adjoint", [Stored(), Checkpointed(slots=3), Reversible(), Direct()], ids=lambda a: a.name
)
def test_equals_the_loss_itself(
    adjoint: Any, toy: Callable[..., Any], relative_error: Callable[..., float]
) -> None:
    problem = toy()
    reference = Direct(arithmetic="fixed" if isinstance(adjoint, Reversible) else "float")
    for optimizer in (ADAM, AdamW(lr=0.02, eps_root=1e-6, weight_decay=0.1)):
        settings: dict[str, Any] = {"steps": 20, "optimizer": optimizer}
        arguments = (problem.outer, problem.params, problem.meta)
        expected = metagradient(problem.inner, *arguments, adjoint=reference, **settings)
        compiled = metagradient(toy_loss(problem), *arguments, adjoint=adjoint, **settings)
        torch.testing.assert_close(compiled.value, expected.value, rtol=1e-9, atol=0)
        assert relative_error(compiled, expected) < 1e-9


@pytest.mark.parametrize("optimizer", [SGD(lr=0.1, momentum=0.8), RMSprop(lr=0.01, eps_root=1e-6)])
def test_other_optimisers_and_a_window(
    optimizer: Any, toy: Callable[..., Any], relative_error: Callable[..., float]
) -> None:
    problem = toy()
    settings: dict[str, Any] = {"steps": 12, "window": 5, "optimizer": optimizer}
    arguments = (problem.outer, problem.params, problem.meta)
    expected = metagradient(problem.inner, *arguments, adjoint=Stored(), **settings)
    compiled = metagradient(toy_loss(problem), *arguments, adjoint=Stored(), **settings)
    assert relative_error(compiled, expected) < 1e-9


def test_several_starts_at_once(toy: Callable[..., Any]) -> None:
    problem = toy()
    params = {name: torch.stack([x, 0.9 * x, 1.1 * x]) for name, x in problem.params.items()}
    settings: dict[str, Any] = {"steps": 6, "optimizer": ADAM, "batched": True}
    arguments = (problem.outer, params, problem.meta)
    expected = metagradient(problem.inner, *arguments, adjoint=Stored(), **settings)
    compiled = metagradient(toy_loss(problem), *arguments, adjoint=Stored(), **settings)
    for name, gradient in expected.meta_grads.items():
        torch.testing.assert_close(compiled.meta_grads[name], gradient, rtol=1e-9, atol=1e-12)


def sasrec_loss(backend: str) -> tuple[CompiledLoss, dict[str, Tensor], dict[str, Tensor]]:
    """A student on soft tokens and labels, by the code that the distiller uses."""
    student = SASRec(num_tokens=11, context_length=6, width=8)
    draw = torch.Generator().manual_seed(0)

    def loss(params: Mapping[str, Tensor], meta: Mapping[str, Tensor], inputs: Any) -> Tensor:
        table = student.embedding(params)
        X, Y = (readout(meta[name], table, inputs["rows"]) for name in ("tokens", "labels"))
        return embedded_loss(student, params, X, Y)

    meta = {
        name: torch.randn(6, 6, 11, generator=draw, dtype=torch.float64).softmax(-1)
        for name in ("tokens", "labels")
    }
    orders = [torch.randperm(6, generator=draw)[:3] for _ in range(8)]
    inner = CompiledLoss(loss, lambda step: {"rows": orders[step]}, backend=backend)
    return inner, student.init(draw, torch.float64), meta


@pytest.mark.parametrize("backend", [QUICK, pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore")  # inductor's own deprecations are not ours
def test_a_student_on_soft_tokens(backend: str, relative_error: Callable[..., float]) -> None:
    inner, params, meta = sasrec_loss(backend)

    def outer(params: Mapping[str, Tensor], meta: Mapping[str, Tensor]) -> Tensor:
        return inner.loss(params, meta, {"rows": torch.tensor([0, 5])})

    def plain(params: Mapping[str, Tensor], meta: Mapping[str, Tensor], step: int) -> Tensor:
        return inner(params, meta, step)

    settings: dict[str, Any] = {"steps": 8, "optimizer": ADAM, "adjoint": Stored()}
    expected = metagradient(plain, outer, params, meta, **settings)
    compiled = metagradient(inner, outer, params, meta, **settings)
    assert relative_error(compiled, expected) < 1e-9


def test_one_compilation_serves_other_inputs(toy: Callable[..., Any]) -> None:
    problem = toy()
    inner = toy_loss(problem)
    other = inner.over(lambda step: {"rows": torch.tensor([0, 1, 2, 3])})
    settings: dict[str, Any] = {"steps": 3, "optimizer": ADAM, "adjoint": Stored()}
    arguments = (problem.outer, problem.params, problem.meta)
    values = [metagradient(loss, *arguments, **settings).value for loss in (inner, other)]
    assert values[0] != values[1]
    assert len(inner._programs) == 1
    assert inner._programs is other._programs


def test_more_programs_than_torch_recompiles_one_function(toy: Callable[..., Any]) -> None:
    for index in range(10):
        loss = CompiledLoss(
            lambda params, meta, inputs, index=index: (params["w"] * meta["x"]).sum() * index,
            backend=QUICK,
        )
        result = metagradient(
            loss,
            lambda params, meta: params["w"].sum(),
            {"w": torch.ones(index + 1)},
            {"x": torch.ones(index + 1)},
            steps=2,
            optimizer=SGD(lr=0.5),
            adjoint=Stored(),
        )
        expected = torch.full((index + 1,), -float(index))
        torch.testing.assert_close(result.meta_grads["x"], expected)


def test_named_errors(toy: Callable[..., Any]) -> None:
    problem = toy()
    arguments = (problem.outer, problem.params, problem.meta)
    settings: dict[str, Any] = {"optimizer": ADAM, "adjoint": Stored()}
    with pytest.raises(ValueError, match="`seed` must be None with a CompiledLoss"):
        metagradient(toy_loss(problem), *arguments, steps=2, seed=1, **settings)

    def drawn(params: Any, meta: Any, inputs: Any) -> Tensor:
        return (torch.rand(()) * params["out"]).sum()

    with pytest.raises(StochasticLossError):
        metagradient(CompiledLoss(drawn, backend=QUICK), *arguments, steps=2, **settings)

    def broken(params: Any, meta: Any, inputs: Any) -> Tensor:
        return params["out"].square().sum() * inputs["factor"]

    infinite = CompiledLoss(
        broken,
        lambda step: {"factor": torch.tensor(torch.inf if step == 3 else 1.0).double()},
        backend=QUICK,
    )
    with pytest.raises(NonFiniteError) as caught:
        metagradient(infinite, *arguments, steps=5, **settings)
    assert caught.value.step == 3
