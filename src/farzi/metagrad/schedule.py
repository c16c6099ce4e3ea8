"""Hyper-parameters as they are given, and as each step and each group of tensors reads them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

import torch
from torch import Tensor

from farzi.metagrad.flat import Layout
from farzi.metagrad.optimizers import HyperSetting

__all__ = ["Entry", "HyperSchedule", "grouped_names", "mapped"]

Entry: TypeAlias = tuple[str, str | None]
"""A hyper-parameter's name, and the pattern of tensors that it is for; None for all."""


def _is_for(pattern: str, tensor: str) -> bool:
    """Whether a pattern means a tensor: its name, a module that it is in, or a glob."""
    return pattern == tensor or tensor.startswith(f"{pattern}.") or fnmatchcase(tensor, pattern)


def _pattern(name: str, given: Mapping[str, Any], tensor: str) -> str:
    """The first pattern of `given` that means `tensor`."""
    for pattern in given:
        if _is_for(pattern, tensor):
            return pattern
    raise ValueError(f"`{name}` has no value for the tensor `{tensor}`; add one for '*', the rest.")


def grouped_names(
    hyper: Mapping[str, HyperSetting], tensors: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """For each tensor the patterns that its hyper-parameters are taken from.

    Raises:
        ValueError: a tensor has no value, or a pattern means none that is left to it.
    """
    grouped = {name: given for name, given in hyper.items() if isinstance(given, Mapping)}
    groups = {
        tensor: tuple(_pattern(name, given, tensor) for name, given in grouped.items())
        for tensor in tensors
    }
    for index, (name, given) in enumerate(grouped.items()):
        for pattern in given:
            if all(group[index] != pattern for group in groups.values()):
                raise ValueError(
                    f"`{name}[{pattern!r}]` is for no tensor: none of {sorted(tensors)} matches it "
                    "that an earlier pattern does not take."
                )
    return groups


def mapped(setting: HyperSetting, function: Callable[[Any], Any]) -> HyperSetting:
    """`function` of a hyper-parameter's every value: of floats, tensors, schedules and groups."""
    if isinstance(setting, Mapping):
        return {pattern: mapped(value, function) for pattern, value in setting.items()}  # type: ignore[misc]
    if callable(setting):
        return lambda step: function(setting(step))
    mapped_value: HyperSetting = function(setting)
    return mapped_value


class HyperSchedule:
    """The hyper-parameters of an unroll: floats forward, leaves and gradients on the way back.

    Args:
        hyper: of the optimiser, by name.
        clip_norm: the bound of the gradient's norm, or None.
        steps: number of inner steps.
        first_step: number of the first, for schedules that are functions.
        layout: gives the groups of tensors, the device, and the dtype of a float's gradient.
    """

    def __init__(
        self,
        hyper: Mapping[str, HyperSetting],
        clip_norm: HyperSetting | None,
        steps: int,
        first_step: int,
        layout: Layout,
    ) -> None:
        self._layout = layout
        self._given: dict[Entry, Any] = {}
        self._rows: dict[Entry, list[float]] = {}
        settings = dict(hyper)
        if clip_norm is not None:
            if isinstance(clip_norm, Mapping):
                raise ValueError("`clip_norm` bounds the norm of all gradients: it has no groups.")
            if "clip_norm" in hyper:
                raise ValueError("`clip_norm` is a hyper-parameter of the optimiser already.")
            settings["clip_norm"] = clip_norm
        self.names = tuple(settings)
        self.clips = clip_norm is not None
        for name, setting in settings.items():
            parts = setting if isinstance(setting, Mapping) else {None: setting}
            for pattern, value in parts.items():
                label = name if pattern is None else f"{name}[{pattern!r}]"
                self._given[name, pattern] = value
                self._rows[name, pattern] = _rows(label, value, steps, first_step)
        if self.clips and min(self._rows["clip_norm", None]) <= 0:
            raise ValueError(f"`clip_norm` must be above 0, got {clip_norm}.")
        self._entries = [self._entries_of(group) for group in layout.groups]
        varies = any(len(rows) > 1 for rows in self._rows.values())
        self._constant = None if varies else self._at(0)

    def _entries_of(self, group: Layout) -> dict[str, Entry]:
        """Where one group of tensors reads each of the optimiser's hyper-parameters."""
        tensor = group.names[0]
        entries = {}
        for name in self.names[: -1 if self.clips else None]:
            patterns = {pattern: None for key, pattern in self._given if key == name and pattern}
            entries[name] = (name, _pattern(name, patterns, tensor) if patterns else None)
        return entries

    def at(self, i: int) -> tuple[Mapping[str, float], ...]:
        """The optimiser's hyper-parameters at step i (from 0), as floats, for each group."""
        return self._at(i) if self._constant is None else self._constant

    def _at(self, i: int) -> tuple[dict[str, float], ...]:
        return tuple(
            {name: _row(self._rows[entry], i) for name, entry in entries.items()}
            for entries in self._entries
        )

    def clip_norm(self, i: int) -> float:
        """The bound of the gradient's norm at step i, where there is one."""
        return _row(self._rows["clip_norm", None], i)

    def leaves(self) -> dict[Entry, Tensor]:
        """One float64 leaf for each, of the shape given, to differentiate with respect to."""
        return {
            entry: torch.tensor(
                rows if _varies(self._given[entry]) else rows[0],
                dtype=torch.float64,
                device=self._layout.device,
                requires_grad=True,
            )
            for entry, rows in self._rows.items()
        }

    def leaves_at(self, leaves: Mapping[Entry, Tensor], i: int) -> tuple[dict[str, Tensor], ...]:
        """What each group reads of the `leaves` at step i."""
        return tuple(
            {name: _element(leaves[entry], i) for name, entry in entries.items()}
            for entries in self._entries
        )

    def by_entry(self, per_step: Tensor) -> dict[Entry, Tensor]:
        """Gradients (steps, groups, names) as one (steps,) vector for each hyper-parameter."""
        vectors = {}
        for name, pattern in self._rows:
            index = self.names.index(name)
            of = [
                group
                for group, entries in enumerate(self._entries)
                if entries.get(name, (name, None)) == (name, pattern)
            ]
            vectors[name, pattern] = per_step[:, of, index].sum(1)
        return vectors

    def gradients(self, per_step: Mapping[Entry, Tensor]) -> dict[str, Any]:
        """`per_step` gradients, each (steps,), brought to the shape and dtype given."""
        gradients: dict[str, Any] = {}
        for (name, pattern), given in self._given.items():
            total = per_step[name, pattern]
            if not _varies(given):
                total = total.sum()
            if isinstance(given, Tensor):
                total = total.to(given.dtype).to(given.device)
            else:
                total = total.to(self._layout.dtype)
            if pattern is None:
                gradients[name] = total
            else:
                gradients.setdefault(name, {})[pattern] = total
        return gradients


def _rows(label: str, value: object, steps: int, first_step: int) -> list[float]:
    """The values of one hyper-parameter: one, or one for each step."""
    if isinstance(value, Tensor):
        if value.shape not in ((), (steps,)) or not value.is_floating_point():
            raise ValueError(
                f"`{label}` must be a float tensor of shape () or ({steps},), got "
                f"{value.dtype} of shape {tuple(value.shape)}."
            )
        rows = value.detach().double().reshape(-1).tolist()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        rows = [float(value)]
    elif callable(value):
        rows = [_called(label, value, first_step + i) for i in range(steps)]
    else:
        raise ValueError(
            f"`{label}` must be a float or a tensor, a function of the step, or these by name of "
            f"tensors, got {value!r}."
        )
    for row in rows:
        if not math.isfinite(row):
            raise ValueError(f"`{label}` must be finite, got {row}.")
    return rows


def _called(label: str, schedule: Callable[[int], object], step: int) -> float:
    value = schedule(step)
    if isinstance(value, Tensor) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"`{label}` must return a float for every step, got {value!r} at {step}.")
    return float(value)


def _varies(given: object) -> bool:
    """Whether a hyper-parameter has a gradient for each step."""
    return given.ndim > 0 if isinstance(given, Tensor) else callable(given)


def _row(rows: list[float], i: int) -> float:
    return rows[i] if len(rows) > 1 else rows[0]


def _element(leaf: Tensor, i: int) -> Tensor:
    return leaf[i] if leaf.ndim else leaf
