"""Nothing that is not finite is ever returned: the error names step, tensor and likely cause."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from farzi.errors import NonFiniteError
from farzi.metagrad import (
    SGD,
    Adam,
    AdamW,
    Checkpointed,
    Direct,
    Reversible,
    Stored,
    metagradient,
    unroll,
)

Tensors = dict[str, Tensor]
ADJOINTS = [
    Direct(),
    Direct(arithmetic="fixed"),
    Stored(),
    Stored(graphs=True),
    Checkpointed(slots=2),
    Reversible(),
]
every_adjoint = pytest.mark.parametrize("adjoint", ADJOINTS, ids=str)
SMOOTH = Adam(lr=0.05, eps_root=1e-8)


def plain(params: Tensors, meta: Tensors) -> Tensor:
    return (params["w"] - 0.5 * meta["x"]).square().sum()


def failure(
    inner: Callable[[Tensors, Tensors, int], Tensor],
    outer: Callable[[Tensors, Tensors], Any] = lambda params, meta: params["w"].square().sum(),
    *,
    b: Tensor | None = None,
    x: Tensor | None = None,
    optimizer: Any = SMOOTH,
    steps: int = 4,
    **more: Any,
) -> NonFiniteError:
    """The error of a call with first step 10."""
    params = {"w": torch.linspace(0.5, 1.0, 4), "b": torch.ones(2) if b is None else b}
    meta = {"x": torch.linspace(-1.0, 1.0, 4) if x is None else x}
    with pytest.raises(NonFiniteError) as caught:
        metagradient(
            inner, outer, params, meta, steps=steps, optimizer=optimizer, first_step=10, **more
        )
    assert "\n" not in str(caught.value)
    return caught.value


@every_adjoint
def test_a_second_derivative_at_the_very_first_step(adjoint: Any) -> None:
    def inner(params: Tensors, meta: Tensors, step: int) -> Tensor:
        return plain(params, meta) + 0.1 * params["b"].norm() + params["b"].sum()

    error = failure(inner, b=torch.zeros(2), adjoint=adjoint)
    assert (error.step, error.tensor) == (10, "b")
    assert "second derivative" in str(error)
    assert "eps_root" not in str(error)


@every_adjoint
def test_a_second_derivative_in_the_middle(adjoint: Any) -> None:
    def inner(params: Tensors, meta: Tensors, step: int) -> Tensor:
        away = 0.0 if step == 12 else 1.0
        return plain(params, meta) + 0.1 * (params["b"] - params["b"].detach() + away).norm()

    error = failure(inner, adjoint=adjoint)
    assert (error.step, error.tensor) == (12, "b")
    assert "eps_root" not in str(error)


@every_adjoint
def test_a_mixed_derivative_alone(adjoint: Any) -> None:
    def inner(params: Tensors, meta: Tensors, step: int) -> Tensor:
        read = meta["x"] if step == 12 else meta["x"] + 1.0
        return params["w"].square().sum() + (params["b"].sum() * read.sqrt()).sum()

    outer = failure(inner, lambda p, m: p["b"].sum(), x=torch.zeros(4), adjoint=adjoint)
    assert (outer.step, outer.tensor) == (12, "x")
    assert "second derivative" in str(outer)


@every_adjoint
def test_a_gradient(adjoint: Any) -> None:
    def inner(params: Tensors, meta: Tensors, step: int) -> Tensor:
        away = 0.0 if step == 12 else 1.0
        return plain(params, meta) + (params["b"] - params["b"].detach() + away).sqrt().sum()

    error = failure(inner, adjoint=adjoint)
    assert (error.step, error.tensor) == (12, "b")
    assert "the gradient of the inner loss of `b`" in str(error)
    assert "eps_root" not in str(error)


@every_adjoint
def test_the_last_gradient(adjoint: Any) -> None:
    def inner(params: Tensors, meta: Tensors, step: int) -> Tensor:
        away = 0.0 if step == 13 else 1.0
        return plain(params, meta) + (params["b"] - params["b"].detach() + away).sqrt().sum()

    error = failure(inner, adjoint=adjoint)
    assert (error.step, error.tensor) == (13, "b")


@every_adjoint
def test_the_inner_loss(adjoint: Any) -> None:
    def inner(params: Tensors, meta: Tensors, step: int) -> Tensor:
        away = 0.0 if step == 12 else 1.0
        return plain(params, meta) + (params["b"] - params["b"].detach() + away).log().sum()

    error = failure(inner, adjoint=adjoint)
    assert (error.step, error.tensor) == (12, "b")
    assert "the inner loss is -inf at step 12" in str(error)


@every_adjoint
def test_an_input(adjoint: Any) -> None:
    def inner(params: Tensors, meta: Tensors, step: int) -> Tensor:
        return plain(params, meta) + params["b"].square().sum()

    error = failure(inner, b=torch.tensor([1.0, float("nan")]), adjoint=adjoint)
    assert (error.step, error.tensor) == (10, "b")
    x = torch.tensor([1.0, 2.0, float("inf"), 1.0])
    error = failure(inner, x=x, adjoint=adjoint)
    assert (error.step, error.tensor) == (10, "x")


@every_adjoint
def test_weights_that_run_away(adjoint: Any) -> None:
    def inner(params: Tensors, meta: Tensors, step: int) -> Tensor:
        return plain(params, meta)

    error = failure(inner, optimizer=SGD(lr=1e20, momentum=0.9), adjoint=adjoint)
    assert error.tensor == "w"
    assert "learning rate" in str(error)


@pytest.mark.parametrize("adjoint", [a for a in ADJOINTS if a.name != "Reversible"], ids=str)
@pytest.mark.parametrize("optimizer", [Adam(lr=0.05), AdamW(lr=0.05)], ids=["adam", "adamw"])
def test_eps_root_is_advised_where_it_helps(adjoint: Any, optimizer: Any) -> None:
    def inner(params: Tensors, meta: Tensors, step: int) -> Tensor:
        return plain(params, meta) + 0.0 * params["b"].sum()

    error = failure(inner, optimizer=optimizer, adjoint=adjoint)
    assert (error.step, error.tensor) == (13, "b")
    assert "raise eps_root (now 0)" in str(error)


@every_adjoint
def test_a_state_that_overflows_without_a_trace_in_the_losses(adjoint: Any) -> None:
    def inner(params: Tensors, meta: Tensors, step: int) -> Tensor:
        return plain(params, meta) + 1e25 * params["b"].sum()

    error = failure(inner, adjoint=adjoint)
    assert (error.step, error.tensor) == (10, "b")
    assert "float32" in str(error)


@every_adjoint
def test_the_outer_loss(adjoint: Any) -> None:
    def inner(params: Tensors, meta: Tensors, step: int) -> Tensor:
        return plain(params, meta)

    error = failure(inner, lambda p, m: (p["b"] - 1.0).norm().log(), adjoint=adjoint)
    assert (error.step, error.tensor) == (14, "b")
    assert "the outer loss is -inf after step 13" in str(error)
    error = failure(inner, lambda p, m: (p["b"] - 1.0).sqrt().sum(), adjoint=adjoint)
    assert (error.step, error.tensor) == (14, "b")
    assert "gradient of the outer loss for `b`" in str(error)
    error = failure(
        inner, lambda p, m: (p["b"] * m["x"].sqrt().sum()).sum(), x=torch.zeros(4), adjoint=adjoint
    )
    assert error.tensor == "x"


@pytest.mark.parametrize("metric", [torch.tensor([1.0, float("nan")]), float("inf")], ids=str)
def test_a_metric(metric: Any) -> None:
    def inner(params: Tensors, meta: Tensors, step: int) -> Tensor:
        return plain(params, meta)

    def outer(params: Tensors, meta: Tensors) -> Any:
        return params["w"].sum(), {"fine": 1, "loss": [0.5, metric]}

    error = failure(inner, outer, has_aux=True)
    assert error.tensor == "metrics['loss'][1]"


def test_several_starts() -> None:
    def inner(params: Tensors, meta: Tensors, step: int) -> Tensor:
        return plain(params, meta) + params["b"].norm() + 2.0 * params["b"].sum()

    params = {"w": torch.ones(3, 4), "b": torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, 1.0]])}
    with pytest.raises(NonFiniteError) as caught:
        metagradient(
            inner,
            lambda p, m: p["b"].sum(),
            params,
            {"x": torch.ones(4)},
            steps=3,
            optimizer=SMOOTH,
            batched=True,
        )
    assert (caught.value.step, caught.value.tensor) == (0, "b")


def test_an_ordinary_run() -> None:
    def inner(params: Tensors, meta: Tensors, step: int) -> Tensor:
        return plain(params, meta) + (params["b"] - params["b"].detach()).sqrt().sum()

    with pytest.raises(NonFiniteError) as caught:
        unroll(
            inner,
            {"w": torch.ones(4), "b": torch.ones(1)},
            {"x": torch.ones(4)},
            steps=1,
            optimizer=SMOOTH,
        )
    assert (caught.value.step, caught.value.tensor) == (0, "b")
