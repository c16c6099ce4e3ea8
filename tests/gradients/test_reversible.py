"""Rung 5 and 7: `Reversible` against its reference, exact arrival, scales, zero gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from farzi.errors import NonDeterministicError, NotReversibleError
from farzi.metagrad import (
    SGD,
    Accumulator,
    Adam,
    Checkpointed,
    Direct,
    Reversible,
    Stored,
    metagradient,
)

OPTIMIZERS = {
    "momentum": SGD(lr=0.1, momentum=0.8, weight_decay=0.01),
    "adam": Adam(lr=0.02, eps_root=1e-6, weight_decay=0.01),
}


def run(problem: Any, **settings: Any) -> Any:
    return metagradient(problem.inner, problem.outer, problem.params, problem.meta, **settings)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("steps", [2, 5, 20, 64])
def test_equals_direct_on_the_same_trajectory(
    name: str, steps: int, toy: Callable[..., Any], relative_error: Callable[..., float]
) -> None:
    settings = {"steps": steps, "optimizer": OPTIMIZERS[name]}
    reversible = run(toy(), adjoint=Reversible(), **settings)
    reference = run(toy(), adjoint=Direct(arithmetic="fixed"), **settings)
    assert torch.equal(reversible.value, reference.value)
    assert relative_error(reversible, reference) < 1e-9
    in_floats = relative_error(reversible, run(toy(), adjoint=Direct(), **settings))
    print(f"{name}, {steps} steps: {in_floats:.1e} from the run in floats")
    assert in_floats < 1e-6


def test_one_step(toy: Callable[..., Any], relative_error: Callable[..., float]) -> None:
    settings: dict[str, Any] = {"steps": 1, "optimizer": Adam(lr=0.02, eps_root=1e-4)}
    reversible = run(toy(), adjoint=Reversible(), **settings)
    reference = run(toy(), adjoint=Direct(arithmetic="fixed"), **settings)
    assert relative_error(reversible, reference) < 1e-9


@pytest.mark.parametrize(
    "adjoint",
    [Stored(arithmetic="fixed"), Checkpointed(slots=3, arithmetic="fixed")],
    ids=lambda a: a.name,
)
def test_fixed_arithmetic_is_one_trajectory(
    adjoint: Any, toy: Callable[..., Any], relative_error: Callable[..., float]
) -> None:
    settings = {"steps": 20, "optimizer": OPTIMIZERS["adam"]}
    reversible = run(toy(), adjoint=Reversible(), **settings)
    other = run(toy(), adjoint=adjoint, **settings)
    assert torch.equal(reversible.value, other.value)
    assert relative_error(other, reversible) < 1e-12


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("adam", torch.float32), ("adam", torch.float64), ("momentum", torch.float32)],
)
def test_start_is_recovered_after_2000_steps(
    name: str, dtype: torch.dtype, toy: Callable[..., Any]
) -> None:
    result = run(
        toy(dtype=dtype), steps=2000, optimizer=OPTIMIZERS[name], adjoint=Reversible()
    )  # raises unless every bit is back
    assert all(torch.isfinite(grad).all() for grad in result.meta_grads.values())


@pytest.mark.parametrize("steps", [20, 64])
def test_scale_of_the_loss_does_not_matter(
    steps: int, toy: Callable[..., Any], relative_error: Callable[..., float]
) -> None:
    errors = []
    for scale in (1e-6, 1.0, 1e6):
        settings: dict[str, Any] = {
            "steps": steps,
            "optimizer": Adam(lr=0.02, eps=0.0, eps_root=1e-6 * scale**2),
        }
        problem = toy(scale=scale)
        reversible = run(problem, adjoint=Reversible(), **settings)
        direct = run(problem, adjoint=Direct(), **settings)
        errors.append(relative_error(reversible, direct, ("meta_grads", "param_grads")))
    assert max(errors) < 1e-8
    assert max(errors) < 10 * min(errors)


def test_zero_and_masked_gradients_stay_finite(relative_error: Callable[..., float]) -> None:
    draw = torch.Generator().manual_seed(4)
    params = {
        "rows": torch.randn(4, 3, generator=draw, dtype=torch.float64),
        "unused": torch.ones(2, dtype=torch.float64),
        "late": torch.zeros(3, dtype=torch.float64),
    }
    meta = {"scale": torch.ones(3, dtype=torch.float64), "idle": torch.ones(5, dtype=torch.float64)}

    def inner(params: dict[str, Tensor], meta: dict[str, Tensor], step: int) -> Tensor:
        read = params["rows"][:2] * meta["scale"]
        late = params["late"] * float(step > 4)
        return (read + late - 1).square().mean()

    def outer(params: dict[str, Tensor], meta: dict[str, Tensor]) -> Tensor:
        return (params["rows"] - 0.5).square().sum() + params["late"].sum()

    settings: dict[str, Any] = {"steps": 12, "optimizer": Adam(lr=0.05, eps_root=1e-8)}
    result = metagradient(inner, outer, params, meta, adjoint=Reversible(), **settings)
    reference = metagradient(
        inner, outer, params, meta, adjoint=Direct(arithmetic="fixed"), **settings
    )
    assert relative_error(result, reference) < 1e-9
    assert torch.equal(result.meta_grads["idle"], torch.zeros(5, dtype=torch.float64))
    assert torch.equal(result.param_grads["unused"], torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(result.param_grads["rows"][2:], 2 * (params["rows"][2:] - 0.5))


def test_a_jump_of_the_gradient_makes_the_quanta_coarser(
    relative_error: Callable[..., float],
) -> None:
    params = {
        "a": torch.tensor([0.5, -0.3], dtype=torch.float64),
        "b": torch.tensor([0.1, 0.2], dtype=torch.float64),
    }
    meta = {"x": torch.tensor([1.0, 2.0], dtype=torch.float64)}

    def inner(params: dict[str, Tensor], meta: dict[str, Tensor], step: int) -> Tensor:
        scale = 1e-4 if step < 3 else 10.0 ** (step - 3)
        late = params["a"] * meta["x"] - torch.sin(params["b"])
        return scale * late.square().sum()

    def outer(params: dict[str, Tensor], meta: dict[str, Tensor]) -> Tensor:
        return params["a"].sum() + params["b"].square().sum()

    settings: dict[str, Any] = {"steps": 9, "optimizer": Adam(lr=0.01, eps_root=1e-12)}
    result = metagradient(inner, outer, params, meta, adjoint=Reversible(), **settings)
    reference = metagradient(
        inner, outer, params, meta, adjoint=Direct(arithmetic="fixed"), **settings
    )
    assert relative_error(result, reference) < 1e-9


def test_losses_whose_bits_depend_on_the_graph() -> None:
    draw = torch.Generator().manual_seed(5)
    params = {"w": torch.randn(8, 8, generator=draw), "v": torch.randn(8, 3, generator=draw)}
    meta = {"x": torch.randn(16, 8, generator=draw)}

    def inner(params: dict[str, Tensor], meta: dict[str, Tensor], step: int) -> Tensor:
        hidden = F.group_norm(F.silu(meta["x"] @ params["w"]), 2)
        return F.mish(hidden @ params["v"]).square().mean()

    def outer(params: dict[str, Tensor], meta: dict[str, Tensor]) -> Tensor:
        return params["v"].square().sum()

    result = metagradient(
        inner,
        outer,
        params,
        meta,
        steps=50,
        optimizer=Adam(lr=0.01, eps_root=1e-8),
        adjoint=Reversible(),
    )
    assert "graph" in result.stats.reason


@pytest.mark.parametrize(
    ("calls_before", "error"), [(12, NonDeterministicError), (21, NotReversibleError)]
)
def test_a_gradient_that_changes_on_the_way_back_is_found_out(
    calls_before: int, error: type[Exception], toy: Callable[..., Any]
) -> None:
    problem, calls = toy(), []

    def inner(params: dict[str, Tensor], meta: dict[str, Tensor], step: int) -> Tensor:
        calls.append(step)
        loss: Tensor = problem.inner(params, meta, step)
        drift = sum(p.sum() for p in params.values())
        # Same value, another gradient: what atomics and unstable kernels do.
        return loss + 1e-9 * (len(calls) > calls_before) * (drift - drift.detach())

    with pytest.raises(error):
        metagradient(
            inner,
            problem.outer,
            problem.params,
            problem.meta,
            steps=10,
            optimizer=Adam(lr=0.02, eps_root=1e-6),
            adjoint=Reversible(),
        )


@pytest.mark.parametrize(
    ("optimizer", "says"),
    [
        (SGD(lr=0.1), "`delta` reads the gradient"),
        (SGD(lr=0.1, momentum=0.5), "takes 0.5 of `velocity`"),
        (Adam(lr=0.1, b1=0.6), "takes 0.4 of `m`"),
    ],
)
def test_what_cannot_be_undone_says_why(optimizer: Any, says: str, toy: Callable[..., Any]) -> None:
    with pytest.raises(NotReversibleError, match=says) as caught:
        run(toy(), steps=3, optimizer=optimizer, adjoint=Reversible())
    assert "Checkpointed()" in str(caught.value)


def test_memory_per_step_is_a_fraction_of_a_byte(toy: Callable[..., Any]) -> None:
    draw = torch.Generator().manual_seed(6)
    params = {"w": torch.randn(40_000, generator=draw)}
    meta = {"x": torch.randn(40_000, generator=draw)}

    def inner(params: dict[str, Tensor], meta: dict[str, Tensor], step: int) -> Tensor:
        return (params["w"] * torch.cos(meta["x"] + step) - 1).square().sum()

    def outer(params: dict[str, Tensor], meta: dict[str, Tensor]) -> Tensor:
        return params["w"].square().sum()

    def state_bytes(steps: int) -> int:
        optimizer = Adam(lr=0.01, eps_root=1e-8)
        return metagradient(
            inner, outer, params, meta, steps=steps, optimizer=optimizer, adjoint=Reversible()
        ).stats.state_bytes

    slope = (state_bytes(300) - state_bytes(100)) / 200 / 40_000
    assert slope <= 0.03


def test_a_decay_that_depends_on_the_step(
    toy: Callable[..., Any], relative_error: Callable[..., float]
) -> None:
    @dataclass(frozen=True)
    class Warming:
        """Momentum that rises with the step, until `last` lets it fall too far."""

        last: float

        @property
        def hyper(self) -> dict[str, float]:
            return {"lr": 0.05}

        @property
        def accumulators(self) -> tuple[Accumulator, ...]:
            def decay(hyper: Any, step: int) -> float:
                return self.last if step == 9 else 0.7 + 0.02 * step

            return (Accumulator("velocity", decay, lambda grad, *_: grad),)

        def delta(
            self, accumulators: Any, grad: Tensor, param: Tensor, hyper: Any, step: int
        ) -> Any:
            return hyper["lr"] * accumulators["velocity"]

    settings: dict[str, Any] = {"steps": 9, "optimizer": Warming(last=0.9)}
    reversible = run(toy(), adjoint=Reversible(), **settings)
    reference = run(toy(), adjoint=Direct(arithmetic="fixed"), **settings)
    assert relative_error(reversible, reference) < 1e-9
    with pytest.raises(NotReversibleError, match="step 8") as caught:
        run(toy(), adjoint=Reversible(), steps=9, optimizer=Warming(last=0.1))
    assert caught.value.step == 8


def test_a_run_goes_on_from_a_state(toy: Callable[..., Any]) -> None:
    settings: dict[str, Any] = {"optimizer": OPTIMIZERS["adam"], "adjoint": Reversible()}
    problem = toy()
    whole = run(problem, steps=20, window=8, **settings)
    head = run(problem, steps=12, **settings)
    tail = metagradient(
        problem.inner,
        problem.outer,
        head.final_params,
        problem.meta,
        steps=8,
        first_step=12,
        state=head.final_state,
        **settings,
    )
    torch.testing.assert_close(tail.final_params, whole.final_params, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(tail.meta_grads, whole.meta_grads, rtol=1e-6, atol=1e-9)
