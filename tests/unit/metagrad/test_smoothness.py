"""The diagnostic tells a smooth run from a chaotic one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from farzi.metagrad import SGD, Adam, agreement, random_window, smoothness


def starts(net: Any, count: int) -> list[dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(9)
    return [
        {k: v + 0.3 * torch.randn(v.shape, generator=draw) for k, v in net.params.items()}
        for _ in range(count)
    ]


def test_a_smooth_run_is_predicted(net: Callable[..., Any]) -> None:
    problem = net(width=8)
    lines = smoothness(
        problem.inner,
        problem.outer,
        starts(problem, 2),
        problem.meta,
        steps=20,
        optimizer=Adam(lr=0.01, eps_root=1e-4),
    )
    assert [line.change for line in lines] == [
        "as asked",
        "eps_root x10",
        "eps_root x100",
        "lr / 2",
        "window 10",
    ]
    assert lines[0].predicted < 0
    assert lines[0].ratio == pytest.approx(1.0, abs=0.1)
    assert set(lines[0].agreement) == {"x", "y"}
    for found in lines[0].agreement.values():
        assert -1 <= found.cosine <= 1
        assert found.mean_norm <= found.norm * (1 + 1e-6)


def test_a_chaotic_run_is_not() -> None:
    """Gradient descent on a quartic, far beyond the rate at which it is stable."""
    meta = {"x": torch.tensor([1.0], dtype=torch.float64)}

    def inner(params: dict[str, Tensor], meta: dict[str, Tensor], step: int) -> Tensor:
        return (params["w"].square() - meta["x"]).square().sum() / 4

    def outer(params: dict[str, Tensor], meta: dict[str, Tensor]) -> Tensor:
        return (params["w"] - 0.9).square().sum()

    beginnings = [{"w": torch.tensor([w], dtype=torch.float64)} for w in (0.3, 0.31)]
    calm, chaotic = (
        smoothness(
            inner,
            outer,
            beginnings,
            meta,
            steps=80,
            optimizer=SGD(lr=rate),
            compare=False,
        )[0]
        for rate in (0.1, 1.9)
    )
    assert calm.ratio == pytest.approx(1.0, abs=0.05)
    assert calm.agreement["x"].cosine == pytest.approx(1.0)
    assert abs(chaotic.ratio - 1.0) > 0.5


def test_agreement_of_known_vectors() -> None:
    one, other = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    found = agreement([{"x": one}, {"x": other}, {"x": -one}])["x"]
    assert found.cosine == pytest.approx((0 + 0 - 1) / 3)
    assert found.norm == pytest.approx(10 / 3)
    assert found.mean_norm == pytest.approx(4 / 3)
    assert agreement([{"x": one}])["x"].cosine == 1.0
    assert agreement([{"x": torch.zeros(2)}] * 2)["x"].cosine == 0.0
    assert not math.isnan(agreement([{"x": torch.zeros(2)}] * 2)["x"].cosine)


def test_random_windows_end_anywhere() -> None:
    draw = torch.Generator().manual_seed(1)
    windows = [random_window(10, 3, generator=draw) for _ in range(200)]
    assert {w["steps"] for w in windows} == set(range(3, 11))
    assert {w["window"] for w in windows} == {3}
    with pytest.raises(ValueError, match="`window` must be at most `horizon`"):
        random_window(2, 3)


@pytest.mark.parametrize("bad", [{"starts": []}, {"relative_step": 0.0}])
def test_bad_arguments(bad: Any, net: Callable[..., Any]) -> None:
    problem = net(width=4)
    settings = {"starts": starts(problem, 1), "relative_step": 1e-3, **bad}
    with pytest.raises(ValueError, match=next(iter(bad))):
        smoothness(
            problem.inner,
            problem.outer,
            settings["starts"],
            problem.meta,
            steps=2,
            optimizer=SGD(lr=0.1),
            relative_step=settings["relative_step"],
        )
