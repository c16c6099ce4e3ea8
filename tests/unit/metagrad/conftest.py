"""A network of moderate size, so that bytes and bits mean something."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

torch.set_num_threads(1)


@dataclass(frozen=True)
class Net:
    """A tanh network of `width` on `points` points."""

    width: int = 64
    points: int = 32

    def _normal(self, seed: int, *shape: int) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / shape[-1] ** 0.5

    @property
    def params(self) -> dict[str, Tensor]:
        return {"first": self._normal(0, 16, self.width), "second": self._normal(1, self.width, 4)}

    @property
    def meta(self) -> dict[str, Tensor]:
        return {"x": self._normal(2, self.points, 16), "y": self._normal(3, self.points, 4)}

    @staticmethod
    def inner(params: dict[str, Tensor], meta: dict[str, Tensor], step: int) -> Tensor:
        hidden = torch.tanh(meta["x"] @ params["first"])
        return (hidden @ params["second"] - meta["y"]).square().mean()

    @staticmethod
    def outer(params: dict[str, Tensor], meta: dict[str, Tensor]) -> Tensor:
        return torch.tanh(params["first"]).square().mean() + params["second"].square().mean()


@pytest.fixture
def net() -> Callable[..., Net]:
    return Net
