"""Several starting points in one call equal as many calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from farzi.metagrad import (
    SGD,
    Adam,
    Checkpointed,
    Direct,
    Reversible,
    RMSprop,
    Stored,
    metagradient,
)

ADAM = Adam(lr=0.02, eps_root=1e-6)


def starts(problem: Any, count: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(8)
    return {
        name: torch.stack(
            [
                tensor + 0.1 * torch.randn(tensor.shape, generator=draw, dtype=tensor.dtype)
                for _ in range(count)
            ]
        )
        for name, tensor in problem.params.items()
    }


@pytest.mark.parametrize(
    "adjoint", [Direct(), Stored(), Checkpointed(slots=3), Reversible()], ids=lambda a: a.name
)
@pytest.mark.parametrize("optimizer", [ADAM, SGD(lr=0.1, momentum=0.8)], ids=["adam", "sgd"])
def test_equals_one_call_for_each_start(
    adjoint: Any, optimizer: Any, toy: Callable[..., Any]
) -> None:
    problem = toy()
    params = starts(problem, 3)
    settings: dict[str, Any] = {"steps": 9, "optimizer": optimizer}
    together = metagradient(
        problem.inner,
        problem.outer,
        params,
        problem.meta,
        batched=True,
        adjoint=adjoint,
        **settings,
    )
    assert together.value.shape == (3,)
    alone = [
        metagradient(
            problem.inner,
            problem.outer,
            {name: tensor[n] for name, tensor in params.items()},
            problem.meta,
            adjoint=Stored(),
            **settings,
        )
        for n in range(3)
    ]
    close = {"rtol": 1e-6, "atol": 1e-9}  # Reversible rounds; the others agree to 1e-12
    for n, one in enumerate(alone):
        torch.testing.assert_close(together.value[n], one.value, **close)
        for kind in ("meta_grads", "param_grads", "final_params"):
            for name, expected in getattr(one, kind).items():
                torch.testing.assert_close(getattr(together, kind)[name][n], expected, **close)
    for name, total in together.hyper_grads.items():
        expected = torch.stack([one.hyper_grads[name] for one in alone]).sum()
        torch.testing.assert_close(total, expected, **close)


def test_metrics_keep_the_axis(toy: Callable[..., Any]) -> None:
    problem = toy()

    def outer(params: Any, meta: Any) -> Any:
        value = problem.outer(params, meta)
        return value, {"twice": 2 * value}

    result = metagradient(
        problem.inner,
        outer,
        starts(problem, 2),
        problem.meta,
        steps=3,
        optimizer=ADAM,
        has_aux=True,
        batched=True,
    )
    torch.testing.assert_close(result.metrics["twice"], 2 * result.value)


def test_dropout_differs_between_starts_and_repeats(toy: Callable[..., Any]) -> None:
    problem = toy()
    same = {name: torch.stack([t, t]) for name, t in problem.params.items()}

    def inner(params: Any, meta: Any, step: int) -> Tensor:
        mask = F.dropout(torch.ones(5, dtype=torch.float64), 0.5)
        return problem.inner({**params, "bias": params["bias"] * mask}, meta, step)

    settings: dict[str, Any] = {"steps": 4, "optimizer": ADAM, "seed": 3, "batched": True}
    results = [
        metagradient(inner, problem.outer, same, problem.meta, adjoint=adjoint, **settings)
        for adjoint in (Stored(), Checkpointed(slots=2), Direct())
    ]
    for other in results[1:]:
        torch.testing.assert_close(other.meta_grads, results[0].meta_grads, rtol=1e-9, atol=1e-12)
    assert results[0].value[0] != results[0].value[1]


def test_chained_calls(toy: Callable[..., Any]) -> None:
    problem = toy()
    params = starts(problem, 2)
    settings: dict[str, Any] = {"optimizer": RMSprop(lr=0.01, eps_root=1e-4), "batched": True}
    whole = metagradient(
        problem.inner, problem.outer, params, problem.meta, steps=8, window=3, **settings
    )
    head = metagradient(problem.inner, problem.outer, params, problem.meta, steps=5, **settings)
    tail = metagradient(
        problem.inner,
        problem.outer,
        head.final_params,
        problem.meta,
        steps=3,
        first_step=5,
        state=head.final_state,
        **settings,
    )
    torch.testing.assert_close(tail.meta_grads, whole.meta_grads, rtol=1e-12, atol=1e-14)
