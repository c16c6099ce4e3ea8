"""The inner loop as a value: loss, optimiser, steps, starting state."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from farzi.metagrad.compiled import CompiledLoss, Program
from farzi.metagrad.deferred import ThinProducts, reading
from farzi.metagrad.flat import FlatState, Layout, check_tensors
from farzi.metagrad.guards import (
    LossLog,
    OrdinaryCopies,
    first_evaluation,
    seeded,
    translated,
)
from farzi.metagrad.optimizers import Elementwise, Optimizer, WholeUpdate
from farzi.metagrad.update import (
    HyperSchedule,
    State,
    flatten_state,
)

__all__ = [
    "InnerLoop",
    "InnerLoss",
    "Tensors",
    "gradient",
    "inner_loop",
    "positive_int",
]

Tensors: TypeAlias = dict[str, Tensor]
InnerLoss: TypeAlias = Callable[[Tensors, Tensors, int], Tensor]


@dataclass(frozen=True)
class InnerLoop:
    """Everything that decides the trajectory. Steps are counted from 0 within this loop (`i`).

    Attributes:
        begin: the first step to be differentiated.
        num_starts: length of the leading axis of every parameter, or None for one start.
    """

    inner_loss: InnerLoss
    optimizer: Optimizer
    layout: Layout
    meta: Tensors
    schedule: HyperSchedule
    start: FlatState
    steps: int
    begin: int
    first_step: int
    seed: int | None
    num_starts: int | None
    log: LossLog = field(repr=False)
    copies: OrdinaryCopies = field(repr=False, default_factory=OrdinaryCopies)

    @property
    def program(self) -> Program | None:
        """The inner loss's derivatives where they are compiled."""
        if not isinstance(self.inner_loss, CompiledLoss):
            return None
        return self.inner_loss.program(self.layout, self.num_starts, self.meta)

    def inputs(self, i: int) -> Mapping[str, Tensor]:
        """What step i of a compiled loss reads besides."""
        assert isinstance(self.inner_loss, CompiledLoss)
        inputs = self.inner_loss.inputs(self.first_step + i)
        return {name: x.clone() if x.is_inference() else x for name, x in inputs.items()}

    def number(self, i: int) -> int:
        """The optimiser's number of step i, from 1."""
        return self.first_step + i + 1

    def loss(
        self,
        params: Tensors,
        meta: Tensors,
        i: int,
        thin: Mapping[str, ThinProducts] | None = None,
    ) -> Tensor:
        """The inner loss of step i; its sum over starts where there are several.

        Where `meta` has a leading axis of starts, each start reads its own. What reads `meta` by
        `readout` adds its gradient to `thin`.
        """
        step = self.first_step + i
        with translated(step):
            loss = self.copies.around(self._evaluated, params, meta, step, thin)
        expected = () if self.num_starts is None else (self.num_starts,)
        if not isinstance(loss, Tensor) or loss.shape != expected:
            got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"`inner_loss` must return a scalar tensor, got {got}.")
        return loss if self.num_starts is None else loss.sum()

    def _evaluated(
        self,
        params: Tensors,
        meta: Tensors,
        step: int,
        thin: Mapping[str, ThinProducts] | None,
    ) -> Any:
        """What the inner loss returns; one value for each start where there are several."""
        with seeded(self.seed, step, self.layout.device):
            if self.num_starts is None:
                with reading(meta, thin):
                    return self.inner_loss(params, meta, step)
            axes = {name: 0 if meta[name].ndim > self.meta[name].ndim else None for name in meta}
            return torch.vmap(
                lambda w, x: self.inner_loss(w, x, step),
                in_dims=(0, axes),
                randomness="different",
            )(params, meta)


def gradient(loop: InnerLoop, param: Tensor, i: int, *, record: bool = True) -> Tensor:
    """The inner gradient at step i, without a graph, as a flat vector.

    With `record`, the loss is noted, or compared with what was noted for the step.
    """
    layout = loop.layout
    program = loop.program
    if program is not None:
        return _compiled_gradient(loop, program, param, i, record=record)
    with torch.enable_grad():
        leaves = [view.detach().requires_grad_() for view in layout.split(param)]
        with (
            first_evaluation(param, layout, loop.meta, loop.seed, loop.first_step)
            if i == 0
            else contextlib.nullcontext()
        ):
            loss = loop.loss(layout.named(leaves), loop.meta, i)
        if record:
            loop.log.record(i, loss)
        if not loss.requires_grad:
            return torch.zeros_like(param)
        with translated(loop.first_step + i):
            return layout.join(torch.autograd.grad(loss, leaves, allow_unused=True))


def _compiled_gradient(
    loop: InnerLoop, program: Program, param: Tensor, i: int, *, record: bool
) -> Tensor:
    """`gradient` by the compiled program; the first step is also evaluated under the watch."""
    if i == 0 and record:
        with first_evaluation(param, loop.layout, loop.meta, loop.seed, loop.first_step):
            loop.loss(loop.layout.unflatten(param), loop.meta, i)
    with translated(loop.first_step + i):
        grad, loss = program.gradient(param, loop.meta, loop.inputs(i))
    if record:
        loop.log.record(i, loss)
    return grad


def positive_int(value: object, name: str, least: int = 1) -> int:
    """`value`, or `ValueError` where it is not an int >= `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"`{name}` must be an int >= {least}, got {value!r}.")
    return value


def inner_loop(
    inner_loss: InnerLoss,
    params: Mapping[str, Tensor],
    meta: Mapping[str, Tensor],
    *,
    steps: int,
    optimizer: Optimizer,
    window: int | None = None,
    state: State | None = None,
    first_step: int = 0,
    seed: int | None = None,
    batched: bool = False,
) -> InnerLoop:
    """Check the arguments of `metagradient` and `unroll` and put them together."""
    positive_int(steps, "steps")
    positive_int(first_step, "first_step", least=0)
    if window is not None and positive_int(window, "window") > steps:
        raise ValueError(f"`window` must be at most `steps` = {steps}, got {window}.")
    if seed is not None:
        positive_int(seed, "seed", least=0)
        if isinstance(inner_loss, CompiledLoss):
            raise ValueError(
                "`seed` must be None with a CompiledLoss, which takes what it draws as `inputs`, "
                f"got {seed}."
            )
    if not isinstance(optimizer, Elementwise | WholeUpdate):
        raise ValueError(f"`optimizer` must be an optimiser of farzi.metagrad, got {optimizer!r}.")
    layout = Layout.of(params)
    check_tensors(meta, "meta", layout.device)
    num_starts = _num_starts(params) if batched else None
    return InnerLoop(
        inner_loss=inner_loss,
        optimizer=optimizer,
        layout=layout,
        meta={
            name: tensor.clone() if tensor.is_inference() else tensor.detach()
            for name, tensor in meta.items()
        },
        schedule=HyperSchedule(optimizer.hyper, steps, layout),
        start=FlatState(layout.flatten(params), flatten_state(optimizer, layout, state)),
        steps=steps,
        begin=0 if window is None else steps - window,
        first_step=first_step,
        seed=seed,
        num_starts=num_starts,
        log=LossLog(first_step),
    )


def _num_starts(params: Mapping[str, Tensor]) -> int:
    counts = {name: tensor.shape[0] if tensor.ndim else None for name, tensor in params.items()}
    first = next(iter(counts.values()))
    for name, count in counts.items():
        if count is None or count != first or count == 0:
            raise ValueError(
                f"`params[{name!r}]` must have a leading axis of {first} starts with "
                f"`batched=True`, "
                f"got shape {tuple(params[name].shape)}."
            )
    assert first is not None
    return first
