"""The inner loop's steps, in floating or in fixed point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor

from farzi.errors import NotReversibleError
from farzi.metagrad.fixed_point import (
    BitStack,
    Decay,
    Fixed,
    GroupedDecay,
    coarsened,
    quantised,
    refined,
    rounded,
)
from farzi.metagrad.flat import FlatState, Layout
from farzi.metagrad.guards import AT_ITS_EDGE, check_finite, overflow
from farzi.metagrad.hvp import MetaGradients, linearise
from farzi.metagrad.inner_loop import InnerLoop, gradient
from farzi.metagrad.optimizers import Elementwise

__all__ = [
    "Arithmetic",
    "FixedState",
    "FixedTrajectory",
    "FloatTrajectory",
    "Spill",
    "Trajectory",
    "check_reversible",
    "trajectory",
]

Arithmetic: TypeAlias = Literal["float", "fixed"]


@dataclass(frozen=True)
class FixedState:
    """Parameters and accumulators between two steps, in fixed point."""

    param: Fixed
    accumulators: tuple[Fixed, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of the counts."""
        return self.param.num_bytes + sum(a.num_bytes for a in self.accumulators)


AnyState = TypeVar("AnyState", FlatState, FixedState)


class Trajectory(Protocol[AnyState]):
    """The states of one inner loop, in some arithmetic."""

    rounds: bool
    start: AnyState

    def gradient(self, param: Tensor, i: int) -> Tensor:
        """The gradient of step i at `param`."""
        ...

    def advance(self, state: AnyState, i: int) -> AnyState:
        """The state after step i."""
        ...

    def advance_with(self, state: AnyState, grad: Tensor, i: int) -> AnyState:
        """The state after step i, given its gradient."""
        ...

    def values(self, state: AnyState) -> FlatState:
        """The state as floats."""
        ...


class FloatTrajectory:
    """Steps in floating point."""

    rounds = False

    def __init__(self, loop: InnerLoop) -> None:
        self._loop = loop
        self.start = loop.start

    def gradient(self, param: Tensor, i: int) -> Tensor:
        """The gradient of step i at `param`."""
        return gradient(self._loop, param, i)

    def advance(self, state: FlatState, i: int) -> FlatState:
        """The state after step i."""
        return self.advance_with(state, self.gradient(state.param, i), i)

    def advance_with(self, state: FlatState, grad: Tensor, i: int) -> FlatState:
        """The state after step i, given its gradient."""
        return self._loop.rule.advance(state, grad, i)

    def values(self, state: FlatState) -> FlatState:
        """The state itself."""
        return state


_Lost: TypeAlias = list[tuple[int, int, Tensor]]


@dataclass
class Spill:
    """What undoing needs besides the state: bits of decays, and the formats that were left.

    Attributes:
        bits: of the parameter's decoupled decay, then of each accumulator.
        formats: (step, index as in `bits`) -> the vector's format before, and the bits it lost.
    """

    bits: tuple[BitStack, ...]
    formats: dict[tuple[int, int], tuple[Fixed, _Lost]] = field(default_factory=dict)

    @classmethod
    def of(cls, loop: InnerLoop) -> Spill:
        """An empty one for `loop`."""
        blocks = max(loop.layout.numel, 1024)
        return cls(tuple(BitStack(blocks) for _ in range(1 + len(loop.start.accumulators))))

    @property
    def empty(self) -> bool:
        """Whether everything kept was used."""
        return not self.formats and all(stack.empty for stack in self.bits)

    @property
    def num_bytes(self) -> int:
        """Bytes held."""
        lost = sum(
            low.numel() * low.element_size()
            for _, parts in self.formats.values()
            for _, _, low in parts
        )
        return lost + sum(stack.num_bytes for stack in self.bits)


class FixedTrajectory:
    """Steps in fixed point, and their inverses.

    The gradient is computed in floats, at the float values of the fixed-point state. Its bits must
    be the same forward and back; where the first one shows that building a graph changes them,
    every one is computed with a graph.

    Args:
        loop: the inner loop; its first gradient fixes the scales.
    """

    rounds = True

    def __init__(self, loop: InnerLoop) -> None:
        if not isinstance(loop.optimizer, Elementwise):
            raise ValueError(
                f"`arithmetic='fixed'` needs an optimiser of accumulators and a delta, got "
                f"{type(loop.optimizer).__name__}, which gives `update` alone."
            )
        self._loop = loop
        self._optimizer = loop.optimizer
        self._rule = loop.rule
        self._scratch = MetaGradients(loop.meta, loop.num_starts)
        plain = gradient(loop, loop.start.param, 0, record=False)
        self._first = linearise(loop, loop.start.param, 0, self._scratch).grad
        check_finite(
            self._first,
            loop.layout,
            "the gradient of the inner loss",
            loop.first_step,
            AT_ITS_EDGE,
        )
        self.builds_graph = not torch.equal(plain, self._first)
        self.start = self._calibrated()

    def _decays(self, i: int) -> tuple[Decay | GroupedDecay | None, ...]:
        """Of the parameter, then of each accumulator."""
        sizes = tuple(self._loop.layout.group_sizes)
        return tuple(GroupedDecay.of(rates, sizes) for rates in self._rule.decay_rates(i))

    def _calibrated(self) -> FixedState:
        """The start, with the scales that the first step asks for."""
        loop, layout = self._loop, self._loop.layout
        first = self._rule.prepared(self._first, 0)
        decays = self._decays(0)
        named: dict[str, Tensor] = {}
        accumulators = []
        for accumulator, given, decay in zip(
            self._optimizer.accumulators, loop.start.accumulators, decays[1:], strict=True
        ):
            increment = self._rule.increment(accumulator, first, loop.start.param, named, 0)
            what = f"the first increment of `{accumulator.name}`"
            check_finite(increment, layout, what, loop.first_step, overflow(layout))
            named[accumulator.name] = increment + self._rule.kept(accumulator, given, 0)
            taken = max(0.0 if decay is None else decay.rate, 1 / loop.steps)
            references = [
                max(old, new / taken)
                for old, new in zip(
                    _magnitudes(given, layout), _magnitudes(increment, layout), strict=True
                )
            ]
            accumulators.append(quantised(given, references, layout, _range_bits(decay)))
        delta = self._rule.delta(named, first, loop.start.param, 0)
        check_finite(delta, layout, "the first step", loop.first_step, overflow(layout))
        reach = min(loop.steps, 32)
        references = [
            max(old, new * reach)
            for old, new in zip(
                _magnitudes(loop.start.param, layout), _magnitudes(delta, layout), strict=True
            )
        ]
        param = quantised(loop.start.param, references, layout, _range_bits(decays[0]))
        return FixedState(param, tuple(accumulators))

    def values(self, state: FixedState) -> FlatState:
        """The state as floats."""
        return FlatState(state.param.values, tuple(a.values for a in state.accumulators))

    def gradient(self, param: Tensor, i: int) -> Tensor:
        """The gradient of step i at `param`, with the bits that the way back will find."""
        if self.builds_graph:
            linearised = linearise(self._loop, param, i, self._scratch)
            self._loop.log.record(i, linearised.loss)
            return linearised.grad
        return gradient(self._loop, param, i)

    def advance(self, state: FixedState, i: int, spill: Spill | None = None) -> FixedState:
        """The state after step i; with `spill`, what undoing it needs is kept there."""
        param = state.param.values
        return self.advance_with(state, self.gradient(param, i), i, spill, param)

    def advance_with(
        self,
        state: FixedState,
        grad: Tensor,
        i: int,
        spill: Spill | None = None,
        param: Tensor | None = None,
    ) -> FixedState:
        """The state after step i, given its gradient."""
        grad = self._rule.prepared(grad, i)
        decays = self._decays(i)
        param = state.param.values if param is None else param
        named: dict[str, Tensor] = {}
        accumulators = []
        for index, accumulator in enumerate(self._optimizer.accumulators):
            increment = self._rule.increment(accumulator, grad, param, named, i)
            after = self._add(
                state.accumulators[index], increment, decays[1 + index], i, 1 + index, spill
            )
            named[accumulator.name] = after.values
            accumulators.append(after)
        delta = self._rule.delta(named, grad, param, i)
        moved = self._add(state.param, delta.neg(), decays[0], i, 0, spill)
        return FixedState(moved, tuple(accumulators))

    def _add(
        self,
        fixed: Fixed,
        increment: Tensor,
        decay: Decay | GroupedDecay | None,
        i: int,
        index: int,
        spill: Spill | None,
    ) -> Fixed:
        """`fixed`, decayed, plus `increment` (values)."""
        scaled, largest = rounded(fixed, increment)
        if not fixed.bound + largest + 1 < fixed.limit:
            what = "the parameter" if index == 0 else f"`{self._names[index]}`"
            before = fixed
            fixed, lost = coarsened(
                fixed, increment, self._loop.layout, what, self._loop.first_step + i
            )
            if lost and spill is not None:
                spill.formats[i, index] = (replace(before, counts=torch.empty(0)), lost)
            scaled, largest = rounded(fixed, increment)
        added = scaled.to(torch.int64)
        if decay is None:
            counts = added.add_(fixed.counts)
        elif spill is None:
            counts = added.add_(decay.apply(fixed.counts))
        else:
            counts = added.add_(decay.apply_keeping(fixed.counts, spill.bits[index]))
        kept = fixed.bound if decay is None else fixed.bound * (1 - decay.rate) + 1
        return replace(fixed, counts=counts, bound=kept + largest)

    @property
    def _names(self) -> tuple[str, ...]:
        return ("parameter", *(a.name for a in self._optimizer.accumulators))

    def undo_param(self, state: FixedState, after: Sequence[Tensor], i: int, spill: Spill) -> Fixed:
        """The parameters before step i, from the state after it and its accumulators' values."""
        unread = state.param.quantum
        delta = self._rule.delta(self._named(after), unread, unread, i)
        return self._subtract(state.param, delta.neg(), self._decays(i)[0], i, 0, spill)

    def undo_accumulators(
        self,
        state: FixedState,
        after: Sequence[Tensor],
        param: Tensor,
        grad: Tensor,
        i: int,
        spill: Spill,
    ) -> tuple[Fixed, ...]:
        """The accumulators before step i: the last first, since it may have read the others."""
        grad = self._rule.prepared(grad, i)
        decays = self._decays(i)
        named = self._named(after)
        before = list(state.accumulators)
        for index, accumulator in reversed(list(enumerate(self._optimizer.accumulators))):
            del named[accumulator.name]
            increment = self._rule.increment(accumulator, grad, param, named, i)
            before[index] = self._subtract(
                before[index], increment, decays[1 + index], i, 1 + index, spill
            )
        return tuple(before)

    def _named(self, values: Sequence[Tensor]) -> dict[str, Tensor]:
        return dict(zip((a.name for a in self._optimizer.accumulators), values, strict=True))

    def _subtract(
        self,
        fixed: Fixed,
        increment: Tensor,
        decay: Decay | GroupedDecay | None,
        i: int,
        index: int,
        spill: Spill,
    ) -> Fixed:
        """The inverse of `_add`."""
        counts = fixed.counts - rounded(fixed, increment)[0].to(torch.int64)
        if decay is not None:
            counts = decay.undo(counts, spill.bits[index])
        if (i, index) in spill.formats:
            before, lost = spill.formats.pop((i, index))
            return replace(before, counts=refined(counts, lost, self._loop.layout))
        return replace(fixed, counts=counts)


def _range_bits(decay: Decay | GroupedDecay | None) -> int:
    return 60 if decay is None else decay.range_bits


def _magnitudes(flat: Tensor, layout: Layout) -> list[float]:
    return [part.abs().max().item() if part.numel() else 0.0 for part in layout.split(flat)]


def trajectory(loop: InnerLoop, arithmetic: Arithmetic) -> Trajectory[Any]:
    """The trajectory of `loop` in the arithmetic asked for."""
    if arithmetic == "float":
        return FloatTrajectory(loop)
    if arithmetic == "fixed":
        return FixedTrajectory(loop)
    raise ValueError(f"`arithmetic` must be 'float' or 'fixed', got {arithmetic!r}.")


def check_reversible(loop: InnerLoop) -> None:
    """Raise `NotReversibleError` unless every step of the optimiser can be undone.

    A step is undone parameter first, so what is subtracted from it may read the new accumulators
    and the step, never the gradient or the parameter, which are not known by then.
    """
    optimizer = loop.optimizer
    name = type(optimizer).__name__
    advice = "use Checkpointed() (or Stored(), where the states fit)"
    if not isinstance(optimizer, Elementwise):
        raise NotReversibleError(f"{name} gives `update` alone, which cannot be undone; {advice}.")
    probe = {
        key: torch.full((1,), 0.5, dtype=torch.float64, requires_grad=True)
        for key in ("gradient", "parameter", *(a.name for a in optimizer.accumulators))
    }
    named = {a.name: probe[a.name] for a in optimizer.accumulators}
    with torch.enable_grad():
        hyper = loop.rule.schedule.at(0)[0]
        delta = optimizer.delta(
            named, probe["gradient"], probe["parameter"], hyper, loop.rule.number(0)
        )
        for key in ("gradient", "parameter"):
            reads = torch.autograd.grad(delta, probe[key], allow_unused=True, retain_graph=True)
            if reads[0] is not None:
                raise NotReversibleError(
                    f"{name} cannot be undone: its `delta` reads the {key} of the step, which is "
                    "not "
                    f"known until the step is undone; {advice}.",
                    tensor=key,
                )
    whats = ("the parameter", *(f"`{a.name}`" for a in optimizer.accumulators))
    for i in range(loop.steps):
        for what, rate in zip(whats, map(max, loop.rule.decay_rates(i)), strict=True):
            decay = Decay.of(rate)
            if decay is not None and not decay.reversible:
                raise NotReversibleError(
                    f"{name} cannot be undone: its decay takes {rate:g} of {what} away at step "
                    f"{loop.first_step + i}, and only less than 0.4 can be given back; {advice}.",
                    step=loop.first_step + i,
                )
