"""The examples of docs/engine.md run, and do what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "engine.md"


@pytest.fixture(scope="module")
def namespace() -> dict[str, Any]:
    """Every block of the page, run in order."""
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
    return names


def test_data_weights_differ(namespace: dict[str, Any]) -> None:
    assert 0 < int(namespace["harmful"].sum()) < 32


def test_a_learned_schedule_is_no_longer_flat(namespace: dict[str, Any]) -> None:
    rates = namespace["rates"]
    assert rates.shape == (50,)
    assert rates.std() > 1e-3


def test_distilled_points_stand_in_for_the_data(namespace: dict[str, Any]) -> None:
    metagradient, errors = namespace["metagradient"], namespace["errors"]

    def after(meta: dict[str, Any]) -> float:
        result = metagradient(
            lambda params, meta, step: errors(params, meta["x"], meta["y"]).mean(),
            lambda params, meta: errors(params, namespace["x"], namespace["y"]).mean(),
            namespace["params"],
            meta,
            steps=50,
            optimizer=namespace["optimizer"],
        )
        return float(result.value)

    torch = namespace["torch"]
    draw = torch.Generator().manual_seed(1)
    fresh = [
        after({k: torch.randn(v.shape, generator=draw) for k, v in namespace["synthetic"].items()})
        for _ in range(9)
    ]
    assert after(namespace["synthetic"]) < sorted(fresh)[4]


def test_own_optimizer_runs_with_every_adjoint(namespace: dict[str, Any]) -> None:
    from farzi.metagrad import Checkpointed, Direct, Reversible, Stored

    for adjoint in (Direct(), Stored(), Checkpointed(slots=2), Reversible()):
        result = namespace["metagradient"](
            lambda params, meta, step: namespace["errors"](params, meta["x"], meta["y"]).mean(),
            lambda params, meta: params["w"].square().sum(),
            namespace["params"],
            namespace["synthetic"],
            steps=5,
            optimizer=namespace["SmoothSign"](),
            adjoint=adjoint,
        )
        assert result.hyper_grads["beta"].shape == ()
