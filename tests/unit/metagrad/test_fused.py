"""The hand-written updates against the ones derived from the optimiser's definition."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from farzi import native
from farzi.metagrad import Adam, AdamW
from farzi.metagrad.flat import FlatState, Layout
from farzi.metagrad.paper_rule import paper_rule
from farzi.metagrad.update import advance, advance_flat, derived_pull_back, pull_back

OPTIMIZERS = {
    "adam": Adam(lr=0.1, eps_root=1e-3),
    "adam-plain": Adam(lr=0.1, eps=1e-4),
    "adam-decay": Adam(lr=0.1, b1=0.8, b2=0.95, eps=1e-3, eps_root=1e-5, weight_decay=0.3),
    "adamw": AdamW(lr=0.1, eps_root=1e-3, weight_decay=0.3),
    "adamw-plain": AdamW(lr=0.1, weight_decay=0.0),
}


def vectors(count: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(11, generator=draw, dtype=torch.float64) for _ in range(count)]


def problem(rounded: bool) -> tuple[Layout, FlatState, Any, Tensor, Tensor, list[Tensor]]:
    w, g, m, v, m_after, v_after, dw, dm, dv = vectors(9)
    after = (m_after, v_after.abs()) if rounded else None
    layout = Layout.of({"w": w})
    return layout, FlatState(w, (m, v.abs())), after, g, dw, [dm, dv]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("step", [1, 2, 50])
def test_update(name: str, step: int) -> None:
    optimizer = OPTIMIZERS[name]
    layout, state, _, grad, *_ = problem(rounded=False)
    by_hand = advance(optimizer, layout, state, grad, optimizer.hyper, step)
    param, accumulators = advance_flat(
        optimizer, layout, state.param, state.accumulators, grad, optimizer.hyper, step
    )
    torch.testing.assert_close(by_hand.param, param, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(by_hand.accumulators, accumulators, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("step", [1, 2, 50])
@pytest.mark.parametrize("rounded", [False, True])
def test_pull_back(name: str, step: int, rounded: bool) -> None:
    optimizer = OPTIMIZERS[name]
    layout, state, after, grad, dw, d_accumulators = problem(rounded)
    arguments = (optimizer, layout, state, after, grad, optimizer.hyper, step, dw, d_accumulators)
    with torch.no_grad():
        by_hand, derived = pull_back(*arguments), derived_pull_back(*arguments)
    tolerance = {"rtol": 1e-11, "atol": 1e-13}
    torch.testing.assert_close(by_hand.grad, derived.grad, **tolerance)
    torch.testing.assert_close(by_hand.param, derived.param, **tolerance)
    torch.testing.assert_close(by_hand.accumulators, derived.accumulators, **tolerance)
    torch.testing.assert_close(by_hand.hyper, derived.hyper, **tolerance)


def single(value: Any) -> Any:
    """`value` in float32, long enough for whole lanes, several blocks and a rest."""
    if isinstance(value, Tensor):
        return torch.cat([value.float() * (1 + k / 64) for k in range(131)])
    if isinstance(value, FlatState):
        return FlatState(single(value.param), single(value.accumulators))
    return value if value is None else type(value)(map(single, value))


@pytest.mark.skipif(native.kernels_for() is None, reason=native.status())
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("step", [1, 50])
@pytest.mark.parametrize("rounded", [False, True])
def test_the_compiled_passes(name: str, step: int, rounded: bool) -> None:
    optimizer = OPTIMIZERS[name]
    _, *values = problem(rounded)
    state, after, grad, dw, d_accumulators = map(single, values)
    layout = Layout.of({"w": grad})

    def both(at: torch.dtype) -> list[Tensor]:
        def to(value: Any) -> Any:
            return value.to(at) if isinstance(value, Tensor) else type(value)(map(to, value))

        before = FlatState(to(state.param), to(state.accumulators))
        known = None if after is None else to(after)
        cotangents = (to(dw), to(d_accumulators))
        common = (to(grad), optimizer.hyper, step)
        moved = advance(optimizer, layout, before, *common)
        pulled = pull_back(optimizer, layout, before, known, *common, *cotangents)
        assert pulled.hyper is not None
        vectors = [moved.param, *moved.accumulators, pulled.grad, pulled.param]
        return [*vectors, *pulled.accumulators, pulled.hyper]

    compiled, exact = both(torch.float32), both(torch.float64)
    for got, expected in zip(compiled, exact, strict=True):
        scale = expected.abs().max().item()
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-6 * scale)
    for again, first in zip(both(torch.float32), compiled, strict=True):
        assert torch.equal(again, first)


def test_pull_back_is_the_written_formula() -> None:
    """The formulas of the derivation, spelled out."""
    optimizer = Adam(lr=0.1, eps_root=1e-3)
    layout, state, after, g, dw, (dm, dv) = problem(rounded=True)
    m, v = after
    a, b1, b2, t = 0.1, 0.9, 0.999, 3
    c1, c2 = 1 - b1**t, 1 - b2**t
    s = torch.sqrt(v / c2 + 1e-3)
    r = s + 1e-8
    d_rate = -((m / c1) / r * dw).sum()
    dm_all = dm - a / (c1 * r) * dw
    dv_all = dv + a * (m / c1) / (2 * c2 * s * r**2) * dw
    u = (1 - b1) * dm_all + 2 * (1 - b2) * g * dv_all
    pulled = pull_back(optimizer, layout, state, after, g, optimizer.hyper, t, dw, [dm, dv])
    assert pulled.hyper is not None
    torch.testing.assert_close(pulled.hyper[0], d_rate)
    torch.testing.assert_close(pulled.grad, u)
    torch.testing.assert_close(pulled.accumulators, (b1 * dm_all, b2 * dv_all))


def test_paper_rule_is_exact_for_one_step() -> None:
    layout, _, _, g, dw, _ = problem(rounded=False)
    w, zero = vectors(1)[0], torch.zeros(11, dtype=torch.float64)
    start = FlatState(w, (zero, zero))
    exact, paper = (
        product(
            Adam(lr=0.1, eps_root=1e-3),
            layout,
            start,
            None,
            g,
            Adam(lr=0.1, eps_root=1e-3).hyper,
            1,
            dw,
            [zero.clone(), zero.clone()],
        )
        for product in (pull_back, paper_rule)
    )
    torch.testing.assert_close(paper.grad, exact.grad, rtol=1e-9, atol=1e-15)
    assert paper.hyper is None
    assert not math.isclose(float(paper.accumulators[0].norm()), 0.0)
