"""Toy problems whose meta-gradients are well away from zero, and how results are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

torch.set_num_threads(1)


@dataclass(frozen=True)
class Toy:
    """A tanh network that learns from six weighted points, judged on eight others."""

    dtype: torch.dtype = torch.float64
    scale: float = 1.0
    params: dict[str, Tensor] = field(init=False)
    meta: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        draw = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=draw, dtype=torch.float64).to(self.dtype)

        params = {"hidden": normal(3, 5), "bias": 0.1 * normal(5), "out": normal(5, 2)}
        meta = {"points": normal(6, 3), "targets": normal(6, 2), "weights": normal(6)}
        object.__setattr__(self, "params", params)
        object.__setattr__(self, "meta", meta)
        object.__setattr__(self, "_held_out", (normal(8, 3), normal(8, 2)))

    def predict(self, params: dict[str, Tensor], points: Tensor) -> Tensor:
        return torch.tanh(points @ params["hidden"] + params["bias"]) @ params["out"]

    def inner(self, params: dict[str, Tensor], meta: dict[str, Tensor], step: int) -> Tensor:
        rows = [(step + k) % 6 for k in range(4)]
        errors = (self.predict(params, meta["points"][rows]) - meta["targets"][rows]).square()
        weights = torch.sigmoid(meta["weights"][rows])
        return self.scale * (weights * errors.sum(1)).mean()

    def outer(self, params: dict[str, Tensor], meta: dict[str, Tensor]) -> Tensor:
        points, targets = self._held_out  # type: ignore[attr-defined]
        errors = (self.predict(params, points) - targets).square().mean()
        return errors + 0.01 * meta["weights"].square().sum()


@pytest.fixture
def toy() -> Callable[..., Toy]:
    return Toy


def vector(result: object, kinds: tuple[str, ...]) -> Tensor:
    grads = [grad for kind in kinds for grad in getattr(result, kind).values()]
    return torch.cat([grad.double().reshape(-1) for grad in grads])


@pytest.fixture
def relative_error() -> Callable[..., float]:
    """Largest relative error over the three kinds of gradients, each as one vector."""

    def measure(
        result: object,
        reference: object,
        kinds: tuple[str, ...] = ("meta_grads", "param_grads", "hyper_grads"),
    ) -> float:
        def error(kind: str) -> float:
            a, b = vector(result, (kind,)), vector(reference, (kind,))
            return float((a - b).norm() / b.norm())

        return max(error(kind) for kind in kinds)

    return measure
