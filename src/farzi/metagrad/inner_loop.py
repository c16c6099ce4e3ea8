"""The inner loop as a value: loss, optimiser, steps, starting state."""

from __future__ import annotations

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
    dense_parts,
    first_evaluation,
    seeded,
    translated,
)
from farzi.metagrad.memo import forgetting
from farzi.metagrad.optimizers import Elementwise, HyperSetting, Optimizer, WholeUpdate
from farzi.metagrad.precision import lowered_by, said, without_lowering
from farzi.metagrad.rule import PullBack, UpdateRule
from farzi.metagrad.schedule import HyperSchedule, grouped_names
from farzi.metagrad.update import State, flatten_state

__all__ = [
    "InnerLoop",
    "InnerLoss",
    "Tensors",
    "described",
    "gradient",
    "inner_loop",
    "positive_int",
]

Tensors: TypeAlias = dict[str, Tensor]
InnerLoss: TypeAlias = Callable[[Tensors, Tensors, int], Tensor] | Callable[..., Tensor]
"""(params, meta, step) -> scalar; (params, meta, step, part) with `micro_batches` > 1."""


@dataclass(frozen=True)
class InnerLoop:
    """Everything that decides the trajectory. Steps are counted from 0 within this loop (`i`).

    Attributes:
        rule: how a state and its gradient become the next state.
        begin: the first step to be differentiated.
        micro_batches: parts of a step, whose gradients are averaged.
        notes: what was found out about the loss, for `stats.reason`.
    """

    inner_loss: InnerLoss
    rule: UpdateRule
    meta: Tensors
    start: FlatState
    steps: int
    begin: int
    seed: int | None
    micro_batches: int
    log: LossLog = field(repr=False)
    copies: OrdinaryCopies = field(repr=False, default_factory=OrdinaryCopies)
    notes: set[str] = field(repr=False, default_factory=set)

    @property
    def optimizer(self) -> Optimizer:
        """The inner optimiser."""
        return self.rule.optimizer

    @property
    def layout(self) -> Layout:
        """Of the flat vectors."""
        return self.rule.layout

    @property
    def first_step(self) -> int:
        """Number of the first step."""
        return self.rule.first_step

    @property
    def num_starts(self) -> int | None:
        """Length of the leading axis of every parameter, or None for one start."""
        return self.rule.num_starts

    @property
    def program(self) -> Program | None:
        """The inner loss's derivatives where they are compiled."""
        if not isinstance(self.inner_loss, CompiledLoss):
            return None
        return self.inner_loss.program(self.layout, self.num_starts, self.meta)

    def inputs(self, i: int, part: int = 0) -> Mapping[str, Tensor]:
        """What step i of a compiled loss reads besides."""
        assert isinstance(self.inner_loss, CompiledLoss)
        inputs = self.inner_loss.inputs(*self._place(i, part))
        return {name: x.clone() if x.is_inference() else x for name, x in inputs.items()}

    def _place(self, i: int, part: int) -> tuple[int, ...]:
        """What the loss is told of where it is: the step, and the part where there are several."""
        step = self.first_step + i
        return (step,) if self.micro_batches == 1 else (step, part)

    def loss(
        self,
        params: Tensors,
        meta: Tensors,
        i: int,
        thin: Mapping[str, ThinProducts] | None = None,
        part: int = 0,
    ) -> Tensor:
        """The inner loss of step i, or of a part of it; summed over starts where there are several.

        Where `meta` has a leading axis of starts, each start reads its own. What reads `meta` by
        `readout` adds its gradient to `thin`.
        """
        with translated(self.first_step + i):
            place = self._place(i, part)
            loss = self.copies.around(self._evaluated, params, meta, place, thin)
        expected = () if self.num_starts is None else (self.num_starts,)
        if not isinstance(loss, Tensor) or loss.shape != expected:
            got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"`inner_loss` must return a scalar tensor, got {got}.")
        return loss if self.num_starts is None else loss.sum()

    def _evaluated(
        self,
        params: Tensors,
        meta: Tensors,
        place: tuple[int, ...],
        thin: Mapping[str, ThinProducts] | None,
    ) -> Any:
        """What the inner loss returns; one value for each start where there are several."""
        with seeded(self.seed, place, self.layout.device):
            if self.num_starts is None:
                with reading(meta, thin):
                    return self.inner_loss(params, meta, *place)
            axes = {name: 0 if meta[name].ndim > self.meta[name].ndim else None for name in meta}
            return torch.vmap(
                lambda w, x: self.inner_loss(w, x, *place),
                in_dims=(0, axes),
                randomness="different",
            )(params, meta)


def gradient(loop: InnerLoop, param: Tensor, i: int, *, record: bool = True) -> Tensor:
    """The inner gradient at step i, without a graph, as a flat vector.

    With `record`, the loss is noted, or compared with what was noted for the step.
    """
    if loop.micro_batches == 1:
        return _gradient_of_part(loop, param, i, 0, record)
    with forgetting():
        total = _gradient_of_part(loop, param, i, 0, record)
        for part in range(1, loop.micro_batches):
            total += _gradient_of_part(loop, param, i, part, record)
    return total.div_(loop.micro_batches)


def _gradient_of_part(loop: InnerLoop, param: Tensor, i: int, part: int, record: bool) -> Tensor:
    """The gradient of one micro-batch of step i."""
    if i == 0:
        return _first_gradient(loop, param, part, record)
    grad, loss = _evaluated_gradient(loop, param, i, part)
    if record:
        loop.log.record(i, loss, part)
    return grad


def _first_gradient(loop: InnerLoop, param: Tensor, part: int, record: bool) -> Tensor:
    """The gradient of the first step: watched, and compared with one in full precision."""
    watch = first_evaluation(param, loop.layout, loop.meta, loop.seed, loop.first_step)
    if loop.program is None:
        with watch as dtypes:
            grad, loss = _evaluated_gradient(loop, param, 0, part)
    else:
        with watch as dtypes:
            loop.loss(loop.layout.unflatten(param), loop.meta, 0, part=part)
        grad, loss = _evaluated_gradient(loop, param, 0, part)
    if record:
        loop.log.record(0, loss, part)
    by = lowered_by(dtypes, loop.layout.device)
    if by is not None and not loop.notes:

        def full() -> Tensor:
            with without_lowering(loop.layout.dtype):
                return _evaluated_gradient(loop, param, 0, part, compiled=False)[0]

        loop.notes.add(said(by, grad, full))
    return grad


def _evaluated_gradient(
    loop: InnerLoop, param: Tensor, i: int, part: int, *, compiled: bool = True
) -> tuple[Tensor, Tensor]:
    """The gradient of one micro-batch of step i, and its loss."""
    layout, step = loop.layout, loop.first_step + i
    program = loop.program
    if program is not None and compiled:
        with translated(step):
            return program.gradient(param, loop.meta, loop.inputs(i, part))
    with torch.enable_grad():
        leaves = [view.detach().requires_grad_() for view in layout.split(param)]
        loss = loop.loss(layout.named(leaves), loop.meta, i, part=part)
        if not loss.requires_grad:
            return torch.zeros_like(param), loss
        with translated(step):
            parts = torch.autograd.grad(loss, leaves, allow_unused=True)
    return layout.join(dense_parts(parts, layout, step)), loss


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
    clip_norm: HyperSetting | None = None,
    micro_batches: int = 1,
    pull_back: PullBack | None = None,
) -> InnerLoop:
    """Check the arguments of `metagradient` and `unroll` and put them together."""
    positive_int(micro_batches, "micro_batches")
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
    check_arguments(inner_loss, params, meta, optimizer)
    hyper = optimizer.hyper
    layout = Layout.of(params, grouped_names(hyper, tuple(params)))
    check_tensors(meta, "meta", layout.device)
    return InnerLoop(
        inner_loss=inner_loss,
        rule=UpdateRule(
            optimizer=optimizer,
            layout=layout,
            schedule=HyperSchedule(hyper, clip_norm, steps, first_step, layout),
            first_step=first_step,
            num_starts=_num_starts(params) if batched else None,
            own_pull_back=pull_back,
        ),
        meta={
            name: tensor.clone() if tensor.is_inference() else tensor.detach()
            for name, tensor in meta.items()
        },
        start=FlatState(layout.flatten(params), flatten_state(optimizer, layout, state)),
        steps=steps,
        begin=0 if window is None else steps - window,
        seed=seed,
        micro_batches=micro_batches,
        log=LossLog(first_step),
    )


def check_arguments(inner_loss: object, params: object, meta: object, optimizer: object) -> None:
    """Raise `ValueError` unless these are losses, tensors by name and an optimiser."""
    if not callable(inner_loss):
        raise ValueError(
            f"`inner_loss` must be a function (params, meta, step), got {described(inner_loss)}."
        )
    for name, tensors in (("params", params), ("meta", meta)):
        if isinstance(tensors, torch.nn.Module):
            raise ValueError(
                f"`{name}` must be a dict of tensors by name, got the module "
                f"{type(tensors).__name__}; `apply, params = functional(module)` gives them."
            )
        if not isinstance(tensors, Mapping):
            raise ValueError(
                f"`{name}` must be a dict of tensors by name, got {described(tensors)}."
            )
    if isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(
            f"`optimizer` must be an optimiser of farzi.metagrad, which is a value such as "
            f"Adam(lr=0.001), got torch.optim.{type(optimizer).__name__}."
        )
    if isinstance(optimizer, type) or not isinstance(optimizer, Elementwise | WholeUpdate):
        raise ValueError(
            "`optimizer` must be an optimiser of farzi.metagrad, such as Adam(lr=0.001), got "
            f"{described(optimizer)}."
        )


def described(value: object) -> str:
    """A value's kind, in few words."""
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


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
