"""Parameters as one flat vector.

A small student has a few dozen tensors; updating each on its own would cost more in launches than
in arithmetic. The engine keeps every quantity of a parameter's shape (weights, accumulators,
gradients, cotangents) as one contiguous vector, and hands the losses views into it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["FlatState", "Layout", "check_tensors"]


def check_tensors(
    tensors: Mapping[str, Tensor], argument: str, device: torch.device | None = None
) -> None:
    """Raise `ValueError` unless every tensor is float32 or float64 and on the one device."""
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(
                f"`{argument}[{name!r}]` must be a tensor, got {type(tensor).__name__}."
            )
        if tensor.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"`{argument}[{name!r}]` must be float32 or float64, got {tensor.dtype}; "
                "close over constants instead of passing them."
            )
        device = tensor.device if device is None else device
        if tensor.device != device:
            raise ValueError(
                f"`{argument}[{name!r}]` must be on {device} like the others, got {tensor.device}."
            )


@dataclass(frozen=True)
class Layout:
    """Where each named tensor lies in the flat vector."""

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    sizes: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, params: Mapping[str, Tensor]) -> Layout:
        """The layout of `params`, in their order; `ValueError` where they cannot share a vector."""
        if not params:
            raise ValueError("`params` must hold at least one tensor, got none.")
        check_tensors(params, "params")
        first = next(iter(params.values()))
        for name, tensor in params.items():
            if tensor.dtype != first.dtype:
                raise ValueError(
                    f"`params[{name!r}]` must be {first.dtype} like the others, got {tensor.dtype}."
                )
        return cls(
            names=tuple(params),
            shapes=tuple(tensor.shape for tensor in params.values()),
            sizes=tuple(tensor.numel() for tensor in params.values()),
            dtype=first.dtype,
            device=first.device,
        )

    @property
    def numel(self) -> int:
        """Length of the flat vector."""
        return sum(self.sizes)

    def check(self, tensors: Mapping[str, Tensor], argument: str) -> None:
        """Raise `ValueError` unless `tensors` has this layout's names, shapes, dtype and device."""
        if set(tensors) != set(self.names):
            raise ValueError(
                f"`{argument}` must have the keys of `params` {sorted(self.names)}, "
                f"got {sorted(tensors)}."
            )
        for name, shape in zip(self.names, self.shapes, strict=True):
            tensor = tensors[name]
            if (tensor.shape, tensor.dtype, tensor.device) != (shape, self.dtype, self.device):
                raise ValueError(
                    f"`{argument}[{name!r}]` must be {self.dtype} of shape {tuple(shape)} on "
                    f"{self.device}, got {tensor.dtype} of shape {tuple(tensor.shape)} on "
                    f"{tensor.device}."
                )

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """A new flat vector that holds `tensors`."""
        return torch.cat([tensors[name].detach().reshape(-1) for name in self.names])

    def join(self, parts: Iterable[Tensor | None]) -> Tensor:
        """A new flat vector of `parts`, in order; zeros where a part is None."""
        return torch.cat(
            [
                self._zeros(size) if part is None else part.reshape(-1)
                for part, size in zip(parts, self.sizes, strict=True)
            ]
        )

    def _zeros(self, size: int) -> Tensor:
        return torch.zeros(size, dtype=self.dtype, device=self.device)

    def split(self, flat: Tensor) -> list[Tensor]:
        """Views of `flat` with the tensors' shapes, in order. Differentiable."""
        return [
            part if len(shape) == 1 else part.view(shape)
            for part, shape in zip(flat.split_with_sizes(self.sizes), self.shapes, strict=True)
        ]

    def named(self, parts: Sequence[Tensor]) -> dict[str, Tensor]:
        """`parts` by name."""
        return dict(zip(self.names, parts, strict=True))

    def unflatten(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of `flat` by name."""
        return self.named(self.split(flat))

    def name_at(self, index: int) -> str:
        """Name of the tensor that the flat vector's element `index` belongs to."""
        for name, size in zip(self.names, self.sizes, strict=True):
            if index < size:
                return name
            index -= size
        raise IndexError(index)


@dataclass(frozen=True)
class FlatState:
    """Parameters and accumulators between two steps, each a flat vector."""

    param: Tensor
    accumulators: tuple[Tensor, ...]

    def clone(self) -> FlatState:
        """A copy that shares no memory."""
        return FlatState(self.param.clone(), tuple(a.clone() for a in self.accumulators))

    @property
    def num_bytes(self) -> int:
        """Bytes held."""
        return sum(t.numel() * t.element_size() for t in (self.param, *self.accumulators))
