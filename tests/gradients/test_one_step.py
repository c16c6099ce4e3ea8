"""Rung 1 and 2: one update against torch.optim, and gradcheck of one update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from farzi.metagrad import SGD, Adagrad, Adam, AdamW, RMSprop, init_state, update
from farzi.metagrad.update import advance_tensors

PAIRS: dict[str, tuple[Any, Callable[[list[Tensor]], torch.optim.Optimizer]]] = {
    "sgd": (SGD(lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
    "sgd-decay": (
        SGD(lr=0.1, weight_decay=0.3),
        lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.3),
    ),
    "momentum": (
        SGD(lr=0.1, momentum=0.8, weight_decay=0.3),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, weight_decay=0.3),
    ),
    "nesterov": (
        SGD(lr=0.1, momentum=0.8, weight_decay=0.3, nesterov=True),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, weight_decay=0.3, nesterov=True),
    ),
    "adagrad": (
        Adagrad(lr=0.1, lr_decay=0.2, weight_decay=0.3, initial_accumulator_value=0.1),
        lambda p: torch.optim.Adagrad(
            p, lr=0.1, lr_decay=0.2, weight_decay=0.3, initial_accumulator_value=0.1
        ),
    ),
    "rmsprop": (
        RMSprop(lr=0.1, alpha=0.9, weight_decay=0.3),
        lambda p: torch.optim.RMSprop(p, lr=0.1, alpha=0.9, weight_decay=0.3),
    ),
    "rmsprop-momentum": (
        RMSprop(lr=0.1, alpha=0.9, weight_decay=0.3, momentum=0.7),
        lambda p: torch.optim.RMSprop(p, lr=0.1, alpha=0.9, weight_decay=0.3, momentum=0.7),
    ),
    "adamw": (
        AdamW(lr=0.1, eps=1e-3, weight_decay=0.3),
        lambda p: torch.optim.AdamW(p, lr=0.1, eps=1e-3, weight_decay=0.3),
    ),
    "adam": (Adam(lr=0.1), lambda p: torch.optim.Adam(p, lr=0.1)),
    "adam-decay": (
        Adam(lr=0.1, b1=0.8, b2=0.95, eps=1e-3, weight_decay=0.3),
        lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.3),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_update_equals_torch(name: str) -> None:
    optimizer, make = PAIRS[name]
    draw = torch.Generator().manual_seed(1)
    params = {
        "a": torch.randn(3, 2, generator=draw, dtype=torch.float64),
        "b": torch.randn(4, generator=draw, dtype=torch.float64),
    }
    theirs = [tensor.clone().requires_grad_() for tensor in params.values()]
    torch_optimizer = make(theirs)
    state = init_state(optimizer, params)
    for step in range(1, 6):
        grads = {k: torch.randn(v.shape, generator=draw, dtype=v.dtype) for k, v in params.items()}
        for tensor, grad in zip(theirs, grads.values(), strict=True):
            tensor.grad = grad
        torch_optimizer.step()
        params, state = update(optimizer, params, grads, state, step)
        for ours, tensor in zip(params.values(), theirs, strict=True):
            torch.testing.assert_close(ours, tensor.detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", PAIRS)
def test_update_passes_gradcheck(name: str) -> None:
    optimizer = PAIRS[name][0]
    draw = torch.Generator().manual_seed(2)
    names = tuple(optimizer.hyper)
    num_accumulators = len(optimizer.accumulators)
    tensors = [
        torch.rand(3, generator=draw, dtype=torch.float64) + 0.5
        for _ in range(2 + num_accumulators)
    ]
    hyper = [torch.tensor(float(value), dtype=torch.float64) for value in optimizer.hyper.values()]

    def step(param: Tensor, grad: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        accumulators, values = rest[:num_accumulators], rest[num_accumulators:]
        named = dict(zip(names, values, strict=True))
        after, new = advance_tensors(optimizer, param, accumulators, grad, named, 3)
        return (after, *new)

    inputs = [t.requires_grad_() for t in (*tensors, *hyper)]
    assert torch.autograd.gradcheck(step, inputs)
