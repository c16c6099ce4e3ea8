"""Losses and arguments that break: each its named error, with the step and the tensor."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from farzi.errors import (
    InPlaceError,
    NonDeterministicError,
    NonFiniteError,
    NotTwiceDifferentiableError,
    StochasticLossError,
)
from farzi.metagrad import (
    SGD,
    Adam,
    Checkpointed,
    Direct,
    Reversible,
    Stored,
    metagradient,
)

ADAM = Adam(lr=0.01, eps_root=1e-6)
ADJOINTS = [Direct(), Stored(), Checkpointed(slots=2), Reversible()]
every_adjoint = pytest.mark.parametrize("adjoint", ADJOINTS, ids=lambda a: a.name)


def outer(params: dict[str, Tensor], meta: dict[str, Tensor]) -> Tensor:
    return params["w"].square().sum()


def run(inner: Any, *, steps: int = 5, optimizer: Any = ADAM, **settings: Any) -> Any:
    params = settings.pop("params", {"w": torch.linspace(0.5, 1.0, 6)})
    meta = settings.pop("meta", {"x": torch.linspace(-1.0, 1.0, 6)})
    return metagradient(inner, outer, params, meta, steps=steps, optimizer=optimizer, **settings)


def base(params: dict[str, Tensor], meta: dict[str, Tensor]) -> Tensor:
    return torch.tanh(params["w"] * meta["x"]).square().sum()


@every_adjoint
def test_dropout_needs_a_seed(adjoint: Any) -> None:
    def inner(params: dict[str, Tensor], meta: dict[str, Tensor], step: int) -> Tensor:
        return F.dropout(params["w"], 0.5).square().sum() + base(params, meta)

    with pytest.raises(StochasticLossError, match="seed") as caught:
        run(inner, adjoint=adjoint)
    assert caught.value.step == 0


@every_adjoint
def test_dropout_with_a_seed(adjoint: Any) -> None:
    def inner(params: dict[str, Tensor], meta: dict[str, Tensor], step: int) -> Tensor:
        return F.dropout(params["w"] * meta["x"], 0.5).square().sum() + base(params, meta)

    before = torch.get_rng_state()
    result = run(inner, adjoint=adjoint, seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    reference = run(inner, adjoint=Direct(), seed=7)
    torch.testing.assert_close(result.meta_grads, reference.meta_grads, rtol=1e-4, atol=1e-7)
    other = run(inner, adjoint=adjoint, seed=8)
    assert not torch.equal(other.meta_grads["x"], result.meta_grads["x"])


@pytest.mark.parametrize("draw", [random.random, np.random.random], ids=["python", "numpy"])
def test_other_global_generators_are_refused(draw: Callable[[], float]) -> None:
    def inner(params: dict[str, Tensor], meta: dict[str, Tensor], step: int) -> Tensor:
        return base(params, meta) * draw()

    with pytest.raises(StochasticLossError, match="NumPy"):
        run(inner, seed=1)


@every_adjoint
def test_fused_attention(adjoint: Any) -> None:
    def inner(params: dict[str, Tensor], meta: dict[str, Tensor], step: int) -> Tensor:
        q = (params["w"][:, None] * meta["x"]).view(1, 1, 6, 6)
        return F.scaled_dot_product_attention(q, q, q).square().sum()

    with pytest.raises(NotTwiceDifferentiableError, match="sdpa_kernel") as caught:
        run(inner, adjoint=adjoint)
    assert caught.value.step is not None


def test_a_loss_linear_in_its_parameters_is_no_error() -> None:
    def inner(params: dict[str, Tensor], meta: dict[str, Tensor], step: int) -> Tensor:
        return (params["w"] * meta["x"]).sum()

    stored, direct = (run(inner, adjoint=a, optimizer=SGD(lr=0.1)) for a in (Stored(), Direct()))
    torch.testing.assert_close(stored.meta_grads, direct.meta_grads)
    assert stored.meta_grads["x"].abs().min() > 0.1


def test_a_loss_without_parameters_moves_nothing() -> None:
    def inner(params: dict[str, Tensor], meta: dict[str, Tensor], step: int) -> Tensor:
        return meta["x"].square().sum()

    for adjoint in ADJOINTS:
        result = run(inner, adjoint=adjoint)
        assert torch.equal(result.final_params["w"], torch.linspace(0.5, 1.0, 6))
        assert torch.equal(result.meta_grads["x"], torch.zeros(6))


@pytest.mark.parametrize("name", ["w", "x"])
@every_adjoint
def test_in_place_change_of_an_input(adjoint: Any, name: str) -> None:
    def inner(params: dict[str, Tensor], meta: dict[str, Tensor], step: int) -> Tensor:
        with torch.no_grad():
            (params if name == "w" else meta)[name].mul_(0.9)
        return base(params, meta)

    with pytest.raises(InPlaceError, match=name) as caught:
        run(inner, adjoint=adjoint)
    assert caught.value.step == 0
    assert caught.value.tensor == name


def test_in_place_change_that_autograd_refuses() -> None:
    def inner(params: dict[str, Tensor], meta: dict[str, Tensor], step: int) -> Tensor:
        return params["w"].mul_(2.0).square().sum()

    with pytest.raises(InPlaceError, match="in place") as caught:
        run(inner)
    assert caught.value.step == 0


def test_batch_norm_in_training() -> None:
    norm = torch.nn.BatchNorm1d(1)

    def inner(params: dict[str, Tensor], meta: dict[str, Tensor], step: int) -> Tensor:
        return norm(params["w"][:, None] * meta["x"][:, None]).square().sum() + base(params, meta)

    with pytest.raises(InPlaceError, match="BatchNorm"):
        run(inner)
    norm.eval()
    run(inner)


def test_in_place_change_of_an_intermediate_is_allowed() -> None:
    def inner(params: dict[str, Tensor], meta: dict[str, Tensor], step: int) -> Tensor:
        product = params["w"] * meta["x"]
        product.add_(1.0)
        return product.square().sum()

    assert torch.isfinite(run(inner).meta_grads["x"]).all()


@every_adjoint
def test_nan_at_a_step(adjoint: Any) -> None:
    def inner(params: dict[str, Tensor], meta: dict[str, Tensor], step: int) -> Tensor:
        return base(params, meta) * (float("nan") if step == 13 else 1.0)

    with pytest.raises(NonFiniteError, match="step 13") as caught:
        run(inner, steps=9, first_step=10, adjoint=adjoint)
    assert caught.value.step == 13


def test_nan_in_the_outer_loss() -> None:
    def bad(params: dict[str, Tensor], meta: dict[str, Tensor]) -> Tensor:
        return params["w"].sum() * float("inf")

    with pytest.raises(NonFiniteError, match="outer loss") as caught:
        metagradient(
            lambda params, meta, step: base(params, meta),
            bad,
            {"w": torch.ones(2)},
            {"x": torch.ones(2)},
            steps=3,
            optimizer=ADAM,
        )
    assert caught.value.step == 3


@pytest.mark.parametrize("adjoint", [Direct(), Stored(), Checkpointed()], ids=lambda a: a.name)
def test_a_second_moment_of_zero_without_eps_root(adjoint: Any) -> None:
    def inner(params: dict[str, Tensor], meta: dict[str, Tensor], step: int) -> Tensor:
        return base(params, meta) + params["unused"].sum() * 0.0

    params = {"w": torch.linspace(0.5, 1.0, 6), "unused": torch.ones(2)}
    with pytest.raises(NonFiniteError, match="eps_root") as caught:
        run(inner, adjoint=adjoint, optimizer=Adam(lr=0.01), params=params)
    assert caught.value.tensor == "unused"
    assert caught.value.step is not None


@pytest.mark.parametrize("adjoint", ADJOINTS[1:], ids=lambda a: a.name)
def test_a_loss_with_a_memory(adjoint: Any) -> None:
    calls = []

    def inner(params: dict[str, Tensor], meta: dict[str, Tensor], step: int) -> Tensor:
        calls.append(step)
        return base(params, meta) * (1.0 + 0.01 * len(calls))

    with pytest.raises(NonDeterministicError, match="function of `step`") as caught:
        run(inner, adjoint=adjoint)
    assert caught.value.step is not None


def test_a_loss_with_a_memory_is_found_out_by_direct() -> None:
    calls = []

    def inner(params: dict[str, Tensor], meta: dict[str, Tensor], step: int) -> Tensor:
        calls.append(step)
        return base(params, meta) * (1.0 + 0.01 * len(calls))

    with pytest.raises(NonDeterministicError):
        run(inner, adjoint=Direct())


def simple(params: dict[str, Tensor], meta: dict[str, Tensor], step: int) -> Tensor:
    return base(params, meta)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"params": {"w": torch.arange(6)}}, r"`params\['w'\]` must be float32 or float64"),
        ({"meta": {"x": torch.arange(6)}}, r"`meta\['x'\]` must be float32 or float64"),
        ({"params": {"w": torch.ones(6).half()}}, "float16"),
        ({"meta": {"x": [1.0]}}, r"`meta\['x'\]` must be a tensor, got list"),
        ({"params": {}}, "at least one tensor"),
        ({"params": {"w": torch.ones(6), "b": torch.ones(1).double()}}, r"`params\['b'\]`"),
        ({"meta": {"x": torch.ones(6, device="meta")}}, r"`meta\['x'\]` must be on cpu"),
        ({"steps": 0}, "`steps` must be an int >= 1, got 0"),
        ({"steps": True}, "`steps` must be an int >= 1, got True"),
        ({"steps": 3, "window": 4}, "`window` must be at most `steps` = 3, got 4"),
        ({"window": 0}, "`window` must be an int >= 1"),
        ({"first_step": -1}, "`first_step` must be an int >= 0"),
        ({"seed": 1.5}, "`seed` must be an int"),
        ({"optimizer": "adam"}, "`optimizer` must be an optimiser"),
        ({"optimizer": Adam(lr=torch.ones(4))}, r"`lr` must be a float tensor of shape \(\) or"),
        ({"optimizer": Adam(lr=float("nan"))}, "`lr` must be finite"),
        ({"optimizer": Adam(lr="fast")}, "`lr` must be a float or a tensor"),
        ({"state": {"m": {"w": torch.ones(6)}}}, "`state` must have the keys"),
        ({"batched": True, "params": {"w": torch.tensor(1.0)}}, "leading axis"),
        (
            {"state": {"m": {"w": torch.ones(6)}, "v": {"w": torch.ones(2)}}},
            r"`state\['v'\]\['w'\]` must be",
        ),
    ],
)
def test_bad_arguments(settings: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        run(simple, **settings)


def test_losses_must_be_scalar() -> None:
    with pytest.raises(ValueError, match=r"`inner_loss` must return a scalar tensor, got \(6,\)"):
        run(lambda params, meta, step: params["w"])
    with pytest.raises(ValueError, match="`outer_loss` must return a scalar tensor, got float"):
        metagradient(
            simple,
            lambda params, meta: 1.0,
            {"w": torch.ones(2)},
            {"x": torch.ones(2)},
            steps=1,
            optimizer=ADAM,
        )
