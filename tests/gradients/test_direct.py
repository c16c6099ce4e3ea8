"""Rung 3: `Direct` against central differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from farzi.metagrad import SGD, Adam, Direct, metagradient

STEPS = 7
OPTIMIZERS = {
    "sgd": SGD(lr=0.1, weight_decay=0.01),
    "momentum": SGD(lr=0.1, momentum=0.8, weight_decay=0.01),
    "adam": Adam(lr=0.05, eps_root=1e-4, weight_decay=0.01),
}


def difference(value: Callable[[Tensor], Tensor], at: Tensor, along: Tensor, h: float) -> float:
    return float((value(at + h * along) - value(at - h * along)) / (2 * h))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["params", "meta"])
def test_direct_equals_central_differences(name: str, kind: str, toy: Callable[..., Any]) -> None:
    problem = toy()
    run: dict[str, Any] = {"steps": STEPS, "optimizer": OPTIMIZERS[name], "adjoint": Direct()}
    result = metagradient(problem.inner, problem.outer, problem.params, problem.meta, **run)
    grads = result.param_grads if kind == "params" else result.meta_grads
    given = problem.params if kind == "params" else problem.meta
    for key, tensor in given.items():
        along = torch.randn(
            tensor.shape, generator=torch.Generator().manual_seed(3), dtype=tensor.dtype
        )

        def value(moved: Tensor, key: str = key) -> Tensor:
            changed = {**given, key: moved}
            params, meta = (
                (changed, problem.meta) if kind == "params" else (problem.params, changed)
            )
            return metagradient(problem.inner, problem.outer, params, meta, **run).value

        expected = difference(value, tensor, along, 1e-5)
        assert float((grads[key] * along).sum()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_direct_differentiates_hyper_parameters(name: str, toy: Callable[..., Any]) -> None:
    problem, optimizer = toy(), OPTIMIZERS[name]

    def run(optimizer: Any) -> Any:
        return metagradient(
            problem.inner,
            problem.outer,
            problem.params,
            problem.meta,
            steps=STEPS,
            optimizer=optimizer,
            adjoint=Direct(),
        )

    grads = run(optimizer).hyper_grads
    assert set(grads) == set(optimizer.hyper)
    for key, value in optimizer.hyper.items():
        h = 1e-5 * max(value, 1e-4)
        high, low = (run(replace(optimizer, **{key: value + s * h})).value for s in (1, -1))
        assert float(grads[key]) == pytest.approx(float((high - low) / (2 * h)), rel=1e-4, abs=1e-7)
