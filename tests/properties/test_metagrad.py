"""Random small losses, shapes and optimisers: every adjoint agrees with `Direct`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from farzi.errors import NotReversibleError
from farzi.metagrad import (
    SGD,
    Adagrad,
    Adam,
    AdamW,
    Checkpointed,
    Direct,
    MetaGradient,
    Reversible,
    RMSprop,
    Stored,
    metagradient,
)

torch.set_num_threads(1)

rates = st.floats(1e-3, 0.05)
decays = st.floats(0.65, 0.99)
weights = st.sampled_from([0.0, 1e-3, 0.1])
roots = st.sampled_from([1e-6, 1e-4])
optimizers = st.one_of(
    st.builds(SGD, lr=rates, momentum=st.sampled_from([0.0, 0.7, 0.95]), weight_decay=weights),
    st.builds(SGD, lr=rates, momentum=decays, nesterov=st.just(True)),
    st.builds(Adagrad, lr=rates, eps_root=roots, weight_decay=weights),
    st.builds(
        RMSprop,
        lr=rates,
        alpha=decays,
        eps_root=roots,
        weight_decay=weights,
        momentum=st.sampled_from([0.0, 0.8]),
    ),
    st.builds(Adam, lr=rates, b1=decays, b2=decays, eps_root=roots, weight_decay=weights),
    st.builds(AdamW, lr=rates, b1=decays, eps_root=roots, weight_decay=weights),
)


@dataclass(frozen=True)
class Problem:
    """A loss over a matrix read twice, a scalar, masked rows and an unused tensor."""

    rows: int
    columns: int
    seed: int
    masked: int
    shared: bool
    schedule: bool

    def _normal(self, *shape: int) -> Tensor:
        draw = torch.Generator().manual_seed(self.seed + sum(shape))
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    @property
    def params(self) -> dict[str, Tensor]:
        return {
            "matrix": self._normal(self.rows, self.columns),
            "scalar": torch.tensor(0.7, dtype=torch.float64),
            "unused": self._normal(2),
        }

    @property
    def meta(self) -> dict[str, Tensor]:
        return {
            "x": self._normal(self.rows, 3),
            "gain": torch.tensor(0.4, dtype=torch.float64),
            "idle": self._normal(2, 2),
        }

    def inner(self, params: dict[str, Tensor], meta: dict[str, Tensor], step: int) -> Tensor:
        mask = (torch.arange(self.rows) >= self.masked).double()[:, None]
        read = meta["x"].T @ (mask * params["matrix"])
        hidden = torch.tanh(read * params["scalar"] + meta["gain"])
        loss = (hidden - 0.3).square().mean() + 0.1 * params["scalar"].square()
        if self.shared:
            loss = loss + 0.1 * torch.sin((mask * params["matrix"]) @ hidden.T).mean()
        return loss * (1.0 + 0.2 * (step % 3))

    def outer(self, params: dict[str, Tensor], meta: dict[str, Tensor]) -> Tensor:
        return (params["matrix"] - 0.5).square().mean() + torch.cos(params["scalar"] * meta["gain"])


problems = st.builds(
    Problem,
    rows=st.integers(1, 4),
    columns=st.integers(1, 3),
    seed=st.integers(0, 1000),
    masked=st.integers(0, 1),
    shared=st.booleans(),
    schedule=st.booleans(),
)


def run(problem: Problem, optimizer: Any, steps: int, adjoint: Any, **more: Any) -> MetaGradient:
    return metagradient(
        problem.inner,
        problem.outer,
        problem.params,
        problem.meta,
        steps=steps,
        optimizer=optimizer,
        adjoint=adjoint,
        **more,
    )


def assert_same(one: MetaGradient, other: MetaGradient, tolerance: float) -> None:
    for kind in ("meta_grads", "param_grads", "hyper_grads"):
        a, b = (
            torch.cat([grad.reshape(-1) for grad in getattr(result, kind).values()])
            for result in (one, other)
        )
        assert float((a - b).norm()) <= tolerance * max(float(b.norm()), 1e-6), kind


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(problems, optimizers, st.integers(1, 9), st.integers(1, 4), st.data())
def test_adjoints_agree(
    problem: Problem, optimizer: Any, steps: int, slots: int, data: st.DataObject
) -> None:
    window = data.draw(st.none() | st.integers(1, steps))
    if problem.schedule:
        schedule = torch.linspace(1.0, 0.5, steps, dtype=torch.float64) * optimizer.lr
        optimizer = type(optimizer)(**{**optimizer.__dict__, "lr": schedule})
    direct = run(problem, optimizer, steps, Direct(), window=window)
    for adjoint in (Stored(), Checkpointed(slots=slots)):
        result = run(problem, optimizer, steps, adjoint, window=window)
        assert_same(result, direct, 1e-9)
    fixed = run(problem, optimizer, steps, Direct(arithmetic="fixed"), window=window)
    checkpointed = Checkpointed(slots=slots, arithmetic="fixed")
    assert_same(run(problem, optimizer, steps, checkpointed, window=window), fixed, 1e-9)
    try:
        reversible = run(problem, optimizer, steps, Reversible(), window=window)
    except NotReversibleError:
        return
    assert torch.equal(reversible.value, fixed.value)
    assert_same(reversible, fixed, 1e-9)
