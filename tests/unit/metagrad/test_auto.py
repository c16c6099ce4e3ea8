"""The choice of an adjoint, and what a call is expected to take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from farzi.errors import MemoryBudgetError
from farzi.metagrad import (
    SGD,
    Adam,
    Auto,
    Checkpointed,
    Direct,
    Reversible,
    Stored,
    estimate,
    metagradient,
)
from farzi.metagrad.adjoints import auto
from farzi.metagrad.inner_loop import inner_loop
from farzi.metagrad.memory import available_bytes, peak_bytes
from farzi.models import SASRec, sequence_loss
from farzi.native import kernels_for

ADAM = Adam(lr=0.01, eps_root=1e-6)
STATE_BYTES = 3 * 4 * (16 * 64 + 64 * 4)


def run(net: Any, **settings: Any) -> Any:
    return metagradient(net.inner, net.outer, net.params, net.meta, **settings)


def stored_bytes(net: Any, optimizer: Any, steps: int) -> int:
    loop = inner_loop(net.inner, net.params, net.meta, steps=steps, optimizer=optimizer)
    return Stored().plan(loop).state_bytes


@pytest.mark.parametrize(
    ("share", "optimizer", "chosen"),
    [
        (1.0, ADAM, "Stored"),
        (0.99, ADAM, "Checkpointed"),
        (0.25, ADAM, "Reversible"),
        (0.2, SGD(lr=0.01), "Checkpointed"),
        (0.08, ADAM, "Checkpointed"),
    ],
)
def test_choice_follows_the_budget(
    share: float, optimizer: Any, chosen: str, net: Callable[..., Any]
) -> None:
    budget = int(share * stored_bytes(net(), optimizer, 30))
    stats = run(net(), steps=30, optimizer=optimizer, adjoint=Auto(budget_bytes=budget)).stats
    assert stats.adjoint == chosen
    assert "allowed" in stats.reason
    assert stats.state_bytes <= budget


def test_no_state_fits(net: Callable[..., Any]) -> None:
    with pytest.raises(MemoryBudgetError, match="no adjoint fits"):
        run(net(), steps=30, optimizer=ADAM, adjoint=Auto(budget_bytes=STATE_BYTES - 1))


def test_half_of_the_memory_available_is_the_default(
    net: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    enough = 2 * stored_bytes(net(), ADAM, 30)
    monkeypatch.setattr(auto, "available_bytes", lambda device: enough)
    assert run(net(), steps=30, optimizer=ADAM).stats.adjoint == "Stored"
    assert run(net(), steps=36, optimizer=ADAM).stats.adjoint != "Stored"
    monkeypatch.setattr(auto, "available_bytes", lambda device: None)
    assert "not known" in run(net(), steps=3, optimizer=ADAM).stats.reason


def test_memory_available_is_a_number_of_bytes() -> None:
    found = available_bytes(torch.device("cpu"))
    assert found is None or found > 2**20


@pytest.mark.parametrize(
    "adjoint",
    [Direct(), Stored(), Checkpointed(slots=5), Checkpointed(), Reversible(), Auto()],
    ids=lambda a: a.name,
)
def test_estimate(adjoint: Any, net: Callable[..., Any]) -> None:
    problem = net()
    arguments = (problem.inner, problem.outer, problem.params, problem.meta)
    settings: dict[str, Any] = {"steps": 60, "optimizer": ADAM, "adjoint": adjoint}
    expected = estimate(*arguments, **settings)
    with peak_bytes(torch.device("cpu")) as peak:
        stats = metagradient(*arguments, **settings).stats
    assert expected.recomputed_steps == stats.recomputed_steps
    assert expected.adjoint == stats.adjoint
    assert expected.num_bytes == pytest.approx(peak.num_bytes, rel=0.2)
    if stats.adjoint != "Direct":
        assert expected.state_bytes == pytest.approx(stats.state_bytes, rel=0.2)
    assert 0 < expected.wall_s < 60


def test_estimate_takes_schedules_and_windows(net: Callable[..., Any]) -> None:
    problem = net()
    rates = torch.linspace(0.01, 0.001, 40)
    expected = estimate(
        problem.inner,
        problem.outer,
        problem.params,
        problem.meta,
        steps=40,
        window=10,
        optimizer=Adam(lr=rates, eps_root=1e-6),
        adjoint=Checkpointed(slots=2),
    )
    assert expected.recomputed_steps == 20 - 9


@pytest.mark.skipif(kernels_for() is None, reason="only the kernels keep what is spare")
def test_what_is_spare_takes_no_more_than_is_left() -> None:
    student = SASRec(num_tokens=90, context_length=11, width=24)
    params = student.init(torch.Generator().manual_seed(0))
    P = torch.full((7, 11, 90), 1 / 90)

    def loss(params: Any, meta: Any, step: int = 0) -> torch.Tensor:
        return sequence_loss(student, params, meta["P"])

    loop = inner_loop(loss, params, {"P": P}, steps=9, optimizer=ADAM)
    lean, full = (Stored(spare_bytes=spare).plan(loop).state_bytes for spare in (0, 1 << 28))
    assert full > lean
    for budget in (lean, (lean + full) // 2, full, 2 * full):
        adjoint = Auto(budget_bytes=budget)
        stats = metagradient(loss, loss, params, {"P": P}, steps=9, optimizer=ADAM, adjoint=adjoint)
        assert stats.stats.adjoint == "Stored"
        assert lean <= stats.stats.state_bytes <= budget
        assert budget < full or stats.stats.state_bytes == full
