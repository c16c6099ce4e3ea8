"""Every optimiser with every adjoint; the table in docs/engine.md is generated here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from farzi.errors import NotReversibleError
from farzi.metagrad import (
    SGD,
    Accumulator,
    Adagrad,
    Adam,
    AdamW,
    Checkpointed,
    Direct,
    Reversible,
    RMSprop,
    Stored,
    metagradient,
)
from farzi.metagrad.paper_rule import paper_rule

STEPS = 64


@dataclass(frozen=True)
class Signed:
    """A user's own optimiser: a smooth sign of the running mean, with decoupled decay."""

    lr: float | Tensor = 0.02
    beta: float | Tensor = 0.9
    accumulators = (
        Accumulator(
            "mean",
            decay=lambda hyper, step: hyper["beta"],
            increment=lambda grad, param, earlier, hyper, step: (1 - hyper["beta"]) * grad,
        ),
    )

    @property
    def hyper(self) -> dict[str, Any]:
        return {"lr": self.lr, "beta": self.beta}

    def delta(self, accumulators: Any, grad: Tensor, param: Tensor, hyper: Any, step: int) -> Any:
        return hyper["lr"] * torch.tanh(10 * accumulators["mean"])

    def decoupled_decay(self, hyper: Any, step: int) -> Any:
        return 0.1 * hyper["lr"]


@dataclass(frozen=True)
class NormalisedGradient:
    """A user's own optimiser that is not elementwise: it gives `update` alone."""

    lr: float | Tensor = 0.05
    state_names: tuple[str, ...] = ("mean",)

    @property
    def hyper(self) -> dict[str, Any]:
        return {"lr": self.lr}

    def update(
        self, param: Tensor, state: Mapping[str, Tensor], grad: Tensor, hyper: Any, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        mean = 0.9 * state["mean"] + 0.1 * grad
        return param - hyper["lr"] * mean / (mean.norm() + 0.1), {"mean": mean}


OPTIMIZERS: dict[str, Any] = {
    "SGD": SGD(lr=0.1, weight_decay=0.01),
    "SGD, momentum": SGD(lr=0.1, momentum=0.8, weight_decay=0.01),
    "SGD, Nesterov": SGD(lr=0.1, momentum=0.8, weight_decay=0.01, nesterov=True),
    "Adagrad": Adagrad(lr=0.1, lr_decay=0.01, eps_root=1e-6, weight_decay=0.01),
    "RMSprop": RMSprop(lr=0.01, eps_root=1e-4, weight_decay=0.01),
    "RMSprop, momentum": RMSprop(lr=0.003, eps_root=1e-4, weight_decay=0.01, momentum=0.8),
    "Adam": Adam(lr=0.02, eps_root=1e-6, weight_decay=0.01),
    "AdamW": AdamW(lr=0.02, eps_root=1e-6, weight_decay=0.1),
    "your own, elementwise": Signed(),
    "your own, `update` alone": NormalisedGradient(),
}
ADJOINTS = {
    "Direct": Direct,
    "Stored": Stored,
    "Checkpointed": lambda **settings: Checkpointed(slots=6, **settings),
    "Reversible": Reversible,
}
IRREVERSIBLE = {
    "SGD",
    "SGD, Nesterov",
    "Adagrad",
    "RMSprop",
    "your own, `update` alone",
}


def run(problem: Any, optimizer: Any, adjoint: Any, **more: Any) -> Any:
    return metagradient(
        problem.inner,
        problem.outer,
        problem.params,
        problem.meta,
        steps=STEPS,
        optimizer=optimizer,
        adjoint=adjoint,
        **more,
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_adjoint_gives_the_same_gradients(
    name: str, toy: Callable[..., Any], relative_error: Callable[..., float]
) -> None:
    optimizer = OPTIMIZERS[name]
    direct = run(toy(), optimizer, Direct())
    assert set(direct.hyper_grads) == set(optimizer.hyper)
    for adjoint in ("Stored", "Checkpointed"):
        assert relative_error(run(toy(), optimizer, ADJOINTS[adjoint]()), direct) < 1e-9
    if name == "your own, `update` alone":
        with pytest.raises(ValueError, match="arithmetic='fixed'"):
            run(toy(), optimizer, Stored(arithmetic="fixed"))
        return
    fixed = run(toy(), optimizer, Direct(arithmetic="fixed"))
    for adjoint in ("Stored", "Checkpointed"):
        again = run(toy(), optimizer, ADJOINTS[adjoint](arithmetic="fixed"))
        assert relative_error(again, fixed) < 1e-9
    if name not in IRREVERSIBLE:
        assert relative_error(run(toy(), optimizer, Reversible()), fixed) < 1e-9
    assert relative_error(fixed, direct) < 1e-6


@pytest.mark.parametrize("name", sorted(IRREVERSIBLE))
def test_what_cannot_be_undone_says_what_to_do(name: str, toy: Callable[..., Any]) -> None:
    with pytest.raises(NotReversibleError, match=r"Checkpointed\(\)") as caught:
        run(toy(), OPTIMIZERS[name], Reversible())
    assert type(OPTIMIZERS[name]).__name__ in str(caught.value)


def test_paper_rule(toy: Callable[..., Any], relative_error: Callable[..., float]) -> None:
    optimizer = Adam(lr=0.02, eps_root=1e-6)
    with pytest.raises(ValueError, match="`pull_back`"):
        run(toy(), optimizer, Direct(), pull_back=paper_rule)
    with pytest.raises(ValueError, match="it is a rule for Adam"):
        run(toy(), SGD(lr=0.1), Stored(), pull_back=paper_rule)
    stored = run(toy(), optimizer, Stored(), pull_back=paper_rule)
    with pytest.raises(ValueError, match="hyper_grads"):
        stored.hyper_grads  # noqa: B018
    kinds = ("meta_grads", "param_grads")
    checkpointed = run(toy(), optimizer, Checkpointed(slots=6), pull_back=paper_rule)
    assert relative_error(checkpointed, stored, kinds) == 0.0
    exact = run(toy(), Adam(lr=0.02, eps_root=1e-6), Stored())
    assert relative_error(stored, exact, kinds) > 1e-2


def table() -> str:
    """Which optimiser runs with which adjoint."""
    lines = [f"| optimiser | {' | '.join(ADJOINTS)} |", "| --- |" + " --- |" * len(ADJOINTS)]
    for name in OPTIMIZERS:
        cells = ["no" if a == "Reversible" and name in IRREVERSIBLE else "yes" for a in ADJOINTS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def test_the_documented_table_is_this_one() -> None:
    page = Path(__file__).parents[2] / "docs" / "engine.md"
    assert table() in page.read_text(), f"put this into docs/engine.md:\n{table()}"
