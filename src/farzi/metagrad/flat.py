"""Parameters as one flat vector.

A small student has a few dozen tensors; updating each on its own would cost more in launches than
in arithmetic. The engine keeps every quantity of a parameter's shape (weights, accumulators,
gradients, cotangents) as one contiguous vector, and hands the losses views into it.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

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
    """Where each named tensor lies in the flat vector.

    Attributes:
        names: in the order of the vector: groups of tensors lie together.
        given: the same names in the order in which the tensors were given.
        counts: number of tensors in each group.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    sizes: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    given: tuple[str, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(
        cls, params: Mapping[str, Tensor], groups: Mapping[str, Hashable] | None = None
    ) -> Layout:
        """The layout of `params`, group by group; `ValueError` where they cannot share a vector."""
        if not params:
            raise ValueError("`params` must hold at least one tensor, got none.")
        check_tensors(params, "params")
        first = next(iter(params.values()))
        for name, tensor in params.items():
            if tensor.dtype != first.dtype:
                raise ValueError(
                    f"`params[{name!r}]` must be {first.dtype} like the others, got {tensor.dtype}."
                )
        members: dict[Hashable, list[str]] = {}
        for name in params:
            members.setdefault(groups[name] if groups else None, []).append(name)
        names = tuple(name for group in members.values() for name in group)
        return cls(
            names=names,
            shapes=tuple(params[name].shape for name in names),
            sizes=tuple(params[name].numel() for name in names),
            dtype=first.dtype,
            device=first.device,
            given=tuple(params),
            counts=tuple(map(len, members.values())),
        )

    @cached_property
    def groups(self) -> tuple[Layout, ...]:
        """The layout of each group's part of the vector."""
        ends = tuple(itertools.accumulate(self.counts, initial=0))
        return tuple(
            replace(
                self,
                names=self.names[a:b],
                shapes=self.shapes[a:b],
                sizes=self.sizes[a:b],
                given=self.names[a:b],
                counts=(b - a,),
            )
            for a, b in itertools.pairwise(ends)
        )

    @cached_property
    def group_sizes(self) -> list[int]:
        """Elements of each group."""
        return [group.numel for group in self.groups]

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
        """`parts` by name, in the order given."""
        by_name = dict(zip(self.names, parts, strict=True))
        return by_name if self.given == self.names else {k: by_name[k] for k in self.given}

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
