"""A call gives the same bits wherever it is made."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from farzi.errors import InPlaceError
from farzi.metagrad import (
    Adam,
    Checkpointed,
    CompiledLoss,
    Direct,
    MetaGradient,
    Reversible,
    Stored,
    estimate,
    metagradient,
    smoothness,
    unroll,
)

Tensors = dict[str, Tensor]
ADJOINTS = [Direct(), Stored(), Stored(graphs=True), Checkpointed(slots=2), Reversible()]
MODES: dict[str, Callable[[], Any]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "no_grad in inference_mode": lambda: _nested(torch.inference_mode, torch.no_grad),
}


@contextlib.contextmanager
def _nested(outer: Callable[[], Any], inner: Callable[[], Any]) -> Any:
    with outer(), inner():
        yield


class Problem:
    """A regression whose data the losses close over. Made where it is asked for."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(0)
        self.x = torch.randn(10, 4, generator=draw)
        self.y = torch.randn(10, generator=draw)
        self.params = {"w": torch.randn(4, generator=draw), "gain": torch.ones(())}
        self.meta = {"weight": torch.rand(10, generator=draw) + 0.5}
        self.lr = torch.full((5,), 0.05)

    def inner(self, params: Tensors, meta: Tensors, step: int) -> Tensor:
        rows = self.x[step % 3 :]
        errors = torch.tanh(rows @ params["w"]) * params["gain"] - self.y[step % 3 :]
        return (meta["weight"][step % 3 :] * errors.square()).mean()

    def outer(self, params: Tensors, meta: Tensors) -> Tensor:
        return (self.x @ params["w"] - self.y).square().mean() + meta["weight"].mean()

    def run(self, adjoint: Any, **more: Any) -> MetaGradient:
        optimizer = Adam(lr=self.lr, eps_root=1e-8)
        arguments = (self.inner, self.outer, self.params, self.meta)
        return metagradient(*arguments, steps=5, optimizer=optimizer, adjoint=adjoint, **more)


def assert_equal(one: MetaGradient, other: MetaGradient) -> None:
    assert torch.equal(one.value, other.value)
    assert not one.value.is_inference()
    for kind in ("meta_grads", "param_grads", "hyper_grads", "final_params"):
        a, b = getattr(one, kind), getattr(other, kind)
        assert all(torch.equal(a[name], b[name]) for name in b), kind
    for name, state in other.final_state.items():
        assert all(torch.equal(one.final_state[name][key], state[key]) for key in state)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("adjoint", ADJOINTS, ids=str)
def test_the_same_bits(adjoint: Any, mode: str) -> None:
    plain = Problem().run(adjoint)
    assert float(plain.meta_grads["weight"].abs().min()) > 1e-5
    made_outside = Problem()
    with MODES[mode]():
        assert_equal(made_outside.run(adjoint), plain)
        made_inside = Problem()
        assert_equal(made_inside.run(adjoint), plain)
    assert_equal(made_inside.run(adjoint), plain)


def test_going_on_from_a_state_made_inside() -> None:
    problem = Problem()
    state = problem.run(Stored()).final_state
    plain = problem.run(Stored(), state=state, first_step=5)
    with torch.inference_mode():
        inside = {name: {k: x.clone() for k, x in kept.items()} for name, kept in state.items()}
        assert_equal(problem.run(Stored(), state=inside, first_step=5), plain)


def test_several_starts() -> None:
    def run() -> MetaGradient:
        problem = Problem()
        problem.params = {name: torch.stack([x, 0.9 * x]) for name, x in problem.params.items()}
        return problem.run(Stored(), batched=True)

    plain = run()
    with torch.inference_mode():
        assert_equal(run(), plain)


def test_a_compiled_loss() -> None:
    def run() -> MetaGradient:
        problem = Problem()

        def loss(params: Tensors, meta: Tensors, inputs: Tensors) -> Tensor:
            errors = torch.tanh(inputs["x"] @ params["w"]) * params["gain"] - inputs["y"]
            return (meta["weight"] * errors.square()).mean()

        inner = CompiledLoss(
            loss, lambda step: {"x": problem.x * (step + 1), "y": problem.y}, backend="eager"
        )
        optimizer = Adam(lr=0.05, eps_root=1e-8)
        return metagradient(
            inner, problem.outer, problem.params, problem.meta, steps=3, optimizer=optimizer
        )

    plain = run()
    with torch.inference_mode():
        assert_equal(run(), plain)


def test_a_write_to_a_tensor_made_inside_is_refused() -> None:
    with torch.inference_mode():
        problem, total = Problem(), torch.zeros(())

    def inner(params: Tensors, meta: Tensors, step: int) -> Tensor:
        loss = problem.inner(params, meta, step)
        total.add_(loss.detach())
        return loss

    arguments = (inner, problem.outer, problem.params, problem.meta)
    with pytest.raises(InPlaceError):
        metagradient(*arguments, steps=2, optimizer=Adam(eps_root=1e-8))


def test_the_other_calls() -> None:
    def run(problem: Problem) -> tuple[Any, ...]:
        optimizer = Adam(lr=0.05, eps_root=1e-8)
        shared: dict[str, Any] = {"steps": 5, "optimizer": optimizer}
        trained, _ = unroll(problem.inner, problem.params, problem.meta, **shared)
        arguments = (problem.inner, problem.outer)
        told = estimate(*arguments, problem.params, problem.meta, **shared)
        starts = [problem.params]
        smooth = smoothness(*arguments, starts, problem.meta, compare=False, **shared)
        return trained, told.num_bytes, smooth[0].predicted, smooth[0].observed

    plain = run(Problem())
    with torch.inference_mode():
        inside = run(Problem())
    assert all(torch.equal(inside[0][name], x) for name, x in plain[0].items())
    assert inside[1] == pytest.approx(plain[1], rel=0.2)
    assert inside[2:] == plain[2:]
