"""Rung 4: `Stored` against `Direct`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from farzi.metagrad import SGD, Adam, Direct, Stored, estimate, metagradient

OPTIMIZERS = {
    "sgd": SGD(lr=0.1, weight_decay=0.01),
    "momentum": SGD(lr=0.1, momentum=0.8, weight_decay=0.01),
    "adam": Adam(lr=0.02, eps_root=1e-6, weight_decay=0.01),
}


def run(problem: Any, **settings: Any) -> Any:
    return metagradient(problem.inner, problem.outer, problem.params, problem.meta, **settings)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("steps", [1, 2, 5, 20, 64])
def test_stored_equals_direct(
    name: str, steps: int, toy: Callable[..., Any], relative_error: Callable[..., float]
) -> None:
    settings = {"steps": steps, "optimizer": OPTIMIZERS[name]}
    direct = run(toy(), adjoint=Direct(), **settings)
    for adjoint in (Stored(), Stored(graphs=True)):
        stored = run(toy(), adjoint=adjoint, **settings)
        torch.testing.assert_close(stored.value, direct.value, rtol=1e-12, atol=0)
        assert relative_error(stored, direct) < 1e-9


@pytest.mark.parametrize("adjoint", [Direct(), Stored(), Stored(graphs=True)], ids=str)
def test_window_differentiates_the_last_steps(
    adjoint: Any, toy: Callable[..., Any], relative_error: Callable[..., float]
) -> None:
    problem, optimizer = toy(), Adam(lr=0.02, eps_root=1e-6)
    whole = run(problem, steps=12, window=5, optimizer=optimizer, adjoint=adjoint)
    head = run(problem, steps=7, optimizer=optimizer)
    tail = metagradient(
        problem.inner,
        problem.outer,
        head.final_params,
        problem.meta,
        steps=5,
        first_step=7,
        state=head.final_state,
        optimizer=optimizer,
        adjoint=adjoint,
    )
    torch.testing.assert_close(whole.value, tail.value, rtol=0, atol=0)
    assert relative_error(whole, tail) < 1e-12


def test_two_chained_calls_equal_one_long_one(toy: Callable[..., Any]) -> None:
    problem, optimizer = toy(), Adam(lr=0.02, eps_root=1e-6)
    whole = run(problem, steps=12, optimizer=optimizer)
    head = run(problem, steps=7, optimizer=optimizer)
    tail = metagradient(
        problem.inner,
        problem.outer,
        head.final_params,
        problem.meta,
        steps=5,
        first_step=7,
        state=head.final_state,
        optimizer=optimizer,
    )
    for ours, theirs in [
        (tail.final_params, whole.final_params),
        (tail.final_state["v"], whole.final_state["v"]),
    ]:
        for key in ours:
            torch.testing.assert_close(ours[key], theirs[key], rtol=0, atol=0)


@pytest.mark.parametrize("adjoint", [Direct(), Stored(), Stored(graphs=True)], ids=str)
def test_hyper_gradients_have_the_shape_given(adjoint: Any, toy: Callable[..., Any]) -> None:
    rates = torch.linspace(0.01, 0.05, 6, dtype=torch.float64)
    optimizer = Adam(lr=rates, b1=torch.tensor(0.9), eps_root=1e-6)
    grads = run(toy(), steps=6, optimizer=optimizer, adjoint=adjoint).hyper_grads
    assert grads["lr"].shape == (6,)
    assert grads["lr"].dtype == torch.float64
    assert grads["b1"].shape == ()
    assert grads["b1"].dtype == torch.float32
    assert grads["b2"].shape == ()
    constant = Adam(lr=0.03, eps_root=1e-6)
    varied = Adam(lr=torch.full((6,), 0.03, dtype=torch.float64), eps_root=1e-6)
    one = run(toy(), steps=6, optimizer=constant, adjoint=adjoint).hyper_grads["lr"]
    each = run(toy(), steps=6, optimizer=varied, adjoint=adjoint).hyper_grads["lr"]
    torch.testing.assert_close(each.sum(), one, rtol=1e-10, atol=0)


def test_inputs_are_left_alone_and_outputs_are_detached(toy: Callable[..., Any]) -> None:
    problem = toy()
    before = {**problem.params, **problem.meta}
    copies = {key: tensor.clone() for key, tensor in before.items()}
    result = run(problem, steps=4, optimizer=Adam(lr=0.02, eps_root=1e-6))
    for key, tensor in before.items():
        torch.testing.assert_close(tensor, copies[key], rtol=0, atol=0)
        assert tensor.grad is None
        assert not tensor.requires_grad
    tensors = [result.value, *result.meta_grads.values(), *result.param_grads.values()]
    tensors += [*result.hyper_grads.values(), *result.final_params.values()]
    assert not any(tensor.requires_grad for tensor in tensors)


def test_graphs_are_planned_for_and_need_float_arithmetic(toy: Callable[..., Any]) -> None:
    problem = toy()
    settings = {"steps": 9, "optimizer": Adam(lr=0.02, eps_root=1e-6)}
    arguments = (problem.inner, problem.outer, problem.params, problem.meta)
    plain = estimate(*arguments, adjoint=Stored(), **settings).state_bytes
    assert estimate(*arguments, adjoint=Stored(graphs=True), **settings).state_bytes > plain
    with pytest.raises(ValueError, match="`graphs` must be False"):
        Stored(arithmetic="fixed", graphs=True)
