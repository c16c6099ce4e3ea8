"""Modules as functions of their parameters, which is what the losses of `metagradient` are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from farzi.errors import InPlaceError

__all__ = ["functional"]


def functional(
    module: torch.nn.Module,
) -> tuple[Callable[..., Any], dict[str, Tensor]]:
    """A module as a function, and the parameters that it starts from.

    Args:
        module: any module that does not change its buffers. Parameters that require no gradient are
            frozen: they stay in the module.

    Returns:
        `apply`: (params, *args, **kwargs) -> what the module returns for the arguments with these
            parameters in place of its own.
        `params`: copies of its parameters by name; one entry for parameters that are tied.

    Raises:
        ValueError: it is no module, or has no parameter that requires a gradient.
        InPlaceError: from `apply`: the module changes a buffer, as BatchNorm in training does.

    Example:
        >>> import torch
        >>> from farzi.metagrad import SGD, functional, metagradient
        >>> apply, params = functional(torch.nn.Linear(2, 1))
        >>> x, y = torch.ones(3, 2), torch.zeros(3, 1)
        >>> result = metagradient(
        ...     lambda params, meta, step: (
        ...         meta["weight"] * (apply(params, x) - y).square()).mean(),
        ...     lambda params, meta: (apply(params, x) - y).square().mean(),
        ...     params, {"weight": torch.ones(3, 1)}, steps=2, optimizer=SGD(lr=0.1))
        >>> sorted(result.final_params)
        ['bias', 'weight']
    """
    if not isinstance(module, torch.nn.Module):
        raise ValueError(f"`module` must be a torch.nn.Module, got {type(module).__name__}.")
    params = {
        name: parameter.detach().clone()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }
    if not params:
        raise ValueError(f"{type(module).__name__} has no parameter that requires a gradient.")
    places = [
        (owner, name, f"{prefix}.{name}" if prefix else name)
        for prefix, owner in module.named_modules()
        for name in owner._buffers
    ]

    def apply(params: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        before = [_version(owner._buffers[name]) for owner, name, _ in places]
        result = torch.func.functional_call(module, dict(params), args, kwargs)
        for (owner, name, full), known in zip(places, before, strict=True):
            if _version(owner._buffers[name]) != known:
                raise InPlaceError(
                    f"{type(owner).__name__} changes its buffer `{full}` when it is called; put "
                    "the module in eval mode, or take a layer without running statistics.",
                    tensor=full,
                )
        return result

    return apply, params


def _version(buffer: Tensor | None) -> tuple[int, int]:
    """Which tensor a buffer is, and how often it was written to where that is counted."""
    counted = buffer is not None and not buffer.is_inference()
    return id(buffer), buffer._version if counted and buffer is not None else 0
