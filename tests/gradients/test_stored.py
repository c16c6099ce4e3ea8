"""Rung 4: `Stored` against `Direct`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from farzi.metagrad import SGD, Adam, Checkpointed, Direct, Stored, estimate, metagradient
from farzi.metagrad.memo import Pages
from farzi.models import SASRec, sequence_loss
from farzi.native import kernels_for

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


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("conv_size", [0, 3])
def test_what_short_runs_keep_besides_changes_no_bit(threads: int, conv_size: int) -> None:
    student = SASRec(num_tokens=90, context_length=11, width=24, num_heads=2, conv_size=conv_size)
    draw = torch.Generator().manual_seed(0)
    P = torch.randn(7, 11, 90, generator=draw).softmax(-1)
    hard = torch.randint(90, (5, 11), generator=draw)

    def gradients(adjoint: Any, **settings: Any) -> Any:
        params = student.init(torch.Generator().manual_seed(1))
        if settings.get("batched"):
            params = {name: torch.stack([x, 0.9 * x]) for name, x in params.items()}
        result = metagradient(
            lambda params, meta, step: sequence_loss(student, params, meta["P"]),
            lambda params, meta: sequence_loss(student, params, hard),
            params,
            {"P": P},
            steps=9,
            optimizer=Adam(lr=0.02, eps_root=1e-8),
            adjoint=adjoint,
            **settings,
        )
        return result.stats.state_bytes, result.meta_grads, result.param_grads

    torch.set_num_threads(threads)
    try:
        for settings in ({}, {"batched": True}):
            full, *grads = gradients(Stored(), **settings)
            none, *without = gradients(Stored(spare_bytes=0), **settings)
            _, *again = gradients(Checkpointed(slots=3), **settings)
            torch.testing.assert_close(grads, without, rtol=0, atol=0)
            torch.testing.assert_close(grads, again, rtol=0, atol=0)
            kernels_keep = kernels_for() is not None and not settings
            assert full > none if kernels_keep else full == none
    finally:
        torch.set_num_threads(1)


def test_spare_bytes_are_granted_to_whole_windows() -> None:
    pages = Pages(count=4, spare_bytes=100)
    assert pages.grants("block", 20)  # 80 of 100 for all four
    assert not pages.grants("head", 6)  # 24 more are too many
    assert pages.grants("block", 20)  # what was granted once stays so
    assert pages.grants("small", 5)
    with pytest.raises(ValueError, match="`spare_bytes` must be an int >= 0, got -1"):
        Stored(spare_bytes=-1)
