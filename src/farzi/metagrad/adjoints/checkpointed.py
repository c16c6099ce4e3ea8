"""A few states are kept; the others are recomputed from them, in the optimal order."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from farzi.metagrad.adjoints.base import Backward, Cotangents, Forward, Plan, Report
from farzi.metagrad.fixed_point import Fixed
from farzi.metagrad.flat import FlatState
from farzi.metagrad.hvp import MetaGradients, linearise
from farzi.metagrad.inner_loop import InnerLoop, positive_int
from farzi.metagrad.trajectory import (
    Arithmetic,
    FixedState,
    trajectory,
)

__all__ = ["Checkpointed", "forward_steps", "schedule"]

Place: TypeAlias = Literal["memory", "cpu", "disk"]


@dataclass(frozen=True)
class Checkpointed:
    """Keep `slots` states and recompute the others, in the binomial order (Griewank, Walther).

    Equal to `Stored` bit for bit.

    Args:
        slots: number of states kept at once, the start among them; None takes the fewest with which
            no step is run more than three times in all.
        on: "memory" keeps them where the parameters are; "cpu" in main memory; "disk" in a
            temporary folder.
        arithmetic: "fixed" follows the fixed-point trajectory of `Reversible`.

    Cost:
        `forward_steps(steps, slots)` inner steps, and one more for the final weights: 580 + 1 for
        200 steps with 8 slots. `slots` states.

    References:
        Griewank and Walther, Algorithm 799: Revolve, 2000, https://doi.org/10.1145/347837.347846
    """

    slots: int | None = None
    on: Place = "memory"
    arithmetic: Arithmetic = "float"

    def __post_init__(self) -> None:
        if self.slots is not None:
            positive_int(self.slots, "slots")
        if self.on not in ("memory", "cpu", "disk"):
            raise ValueError(f"`on` must be 'memory', 'cpu' or 'disk', got {self.on!r}.")

    @property
    def name(self) -> str:
        """Name in `stats`."""
        return "Checkpointed"

    def plan(self, loop: InnerLoop) -> Plan:
        """A state a slot."""
        length = loop.steps - loop.begin
        slots = self._slots(length)
        item = 8 if self.arithmetic == "fixed" else loop.start.param.element_size()
        state_bytes = loop.layout.numel * (1 + len(loop.start.accumulators)) * item
        return Plan(
            state_bytes * min(slots, max(length - 1, 1)),
            forward_steps(length, slots) - (length - 1),
        )

    def _slots(self, length: int) -> int:
        return fewest_slots(length) if self.slots is None else min(self.slots, length)

    def forward(self, loop: InnerLoop, report: Report) -> Forward:
        """Run the inner loop, keeping the states that the schedule asks for."""
        path = trajectory(loop, self.arithmetic)
        length = loop.steps - loop.begin
        slots = self._slots(length)
        snapshots = _snapshots(self.on)
        state = path.start
        for i in range(loop.begin):
            state = path.advance(state, i)
        actions = schedule(length, slots)

        def run(state: Any) -> tuple[Any, int | None]:
            """The next step to be differentiated, and the state before it."""
            for verb, k in actions:
                if verb == "store":
                    snapshots.put(k, state)
                    report.state_bytes = max(report.state_bytes, snapshots.num_bytes)
                elif verb == "load":
                    state = snapshots.get(k)
                elif verb == "drop":
                    snapshots.drop(k)
                elif verb == "advance":
                    state = path.advance(state, loop.begin + k)
                    report.forward_steps += 1
                else:
                    return state, k
            return state, None

        state, k = run(state)
        last = path.advance(state, loop.steps - 1)
        report.forward_steps += loop.begin + 1
        first_run = report.forward_steps
        final = path.values(last)

        def backward(d_param: Tensor, meta: MetaGradients) -> Backward:
            nonlocal state, k
            cotangents = Cotangents(loop, d_param, meta)
            while k is not None:
                i = loop.begin + k
                before = path.values(state)
                linearised = linearise(loop, before.param, i, meta)
                after = None
                if path.rounds:
                    after = path.values(path.advance_with(state, linearised.grad, i)).accumulators
                cotangents.step_back(i, before, linearised, after)
                state, k = run(state)
            report.recomputed_steps = report.forward_steps - first_run
            snapshots.close()
            return cotangents.finish()

        return Forward(final, backward)


def forward_steps(length: int, slots: int) -> int:
    """Least number of steps taken to have the state before each of `length` steps, last first.

    The start takes one of the `slots`. With r the least number such that C(slots + r, slots) >=
    length, it is r * length - C(slots + r, slots + 1).

    Example:
        >>> from farzi.metagrad.adjoints.checkpointed import forward_steps
        >>> forward_steps(200, 8)
        580
    """
    repeats = 0
    while math.comb(slots + repeats, slots) < length:
        repeats += 1
    return repeats * length - math.comb(slots + repeats, slots + 1)


def fewest_slots(length: int, repeats: int = 3) -> int:
    """The fewest slots with which no step is taken more than `repeats` times."""
    slots = 1
    while math.comb(slots + repeats, slots) < length:
        slots += 1
    return slots


def _split(length: int, slots: int) -> int:
    """How far to go before the next state is kept; `slots` counts the current one."""
    repeats = 0
    while math.comb(slots + repeats, slots) < length:
        repeats += 1
    most = math.comb(slots + repeats - 1, slots)
    left = math.comb(slots + repeats - 2, slots - 1)
    return max(1, min(most, length - left))


def schedule(length: int, slots: int) -> Iterator[tuple[str, int]]:
    """The optimal order: ("store" | "load" | "drop" | "advance" | "reverse", step)."""
    yield "store", 0
    kept, end, at = [0], length, 0
    while end > 0:
        while end - at > 1 and len(kept) < slots:
            target = at + _split(end - at, slots - len(kept) + 1)
            for k in range(at, target):
                yield "advance", k
            at = target
            if end - at > 1:
                yield "store", at
                kept.append(at)
        for k in range(at, end - 1):
            yield "advance", k
        yield "reverse", end - 1
        end -= 1
        if kept and kept[-1] == end:
            yield "drop", kept.pop()
        if kept:
            at = kept[-1]
            yield "load", at


class _Snapshots(Protocol):
    """Where states are kept."""

    num_bytes: int

    def put(self, k: int, state: Any) -> None: ...
    def get(self, k: int) -> Any: ...
    def drop(self, k: int) -> None: ...
    def close(self) -> None: ...


def _map_state(state: Any, function: Any) -> Any:
    """`state` with `function` applied to the tensors that change from step to step."""
    if isinstance(state, FixedState):

        def over(fixed: Fixed) -> Fixed:
            return replace(fixed, counts=function(fixed.counts))

        return FixedState(over(state.param), tuple(map(over, state.accumulators)))
    return FlatState(function(state.param), tuple(map(function, state.accumulators)))


class _InMemory:
    """States never change in place: keeping one is keeping a reference, or a copy elsewhere."""

    def __init__(self, device: str | None) -> None:
        self._device = device
        self._kept: dict[int, tuple[Any, torch.device]] = {}
        self.num_bytes = 0

    def put(self, k: int, state: Any) -> None:
        self.num_bytes += state.num_bytes
        home = _device_of(state)
        if self._device is not None:
            state = _map_state(state, lambda t: t.to(self._device))
        self._kept[k] = (state, home)

    def get(self, k: int) -> Any:
        state, home = self._kept[k]
        return _map_state(state, lambda t: t.to(home))

    def drop(self, k: int) -> None:
        self.num_bytes -= self._kept.pop(k)[0].num_bytes

    def close(self) -> None:
        self._kept.clear()


class _OnDisk:
    """States in a temporary folder, one memory-mapped file a tensor."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="farzi-states-")
        self._kept: dict[int, tuple[Any, torch.device]] = {}
        self._count = 0
        self.num_bytes = 0

    def _write(self, tensor: Tensor) -> tuple[Path, int, torch.dtype]:
        self._count += 1
        path = Path(self._folder.name) / str(self._count)
        mapped = torch.from_file(str(path), shared=True, size=tensor.numel(), dtype=tensor.dtype)
        mapped.copy_(tensor)
        return path, tensor.numel(), tensor.dtype

    def put(self, k: int, state: Any) -> None:
        self.num_bytes += state.num_bytes
        home = _device_of(state)
        self._kept[k] = (_map_state(state, self._write), home)

    def get(self, k: int) -> Any:
        state, home = self._kept[k]

        def read(file: tuple[Path, int, torch.dtype]) -> Tensor:
            path, size, dtype = file
            return torch.from_file(str(path), size=size, dtype=dtype).to(home, copy=True)

        return _map_state(state, read)

    def drop(self, k: int) -> None:
        state, _ = self._kept.pop(k)
        _map_state(state, lambda file: file[0].unlink())

    def close(self) -> None:
        self._folder.cleanup()


def _device_of(state: Any) -> torch.device:
    param = state.param
    device: torch.device = param.counts.device if isinstance(param, Fixed) else param.device
    return device


def _snapshots(on: Place) -> _Snapshots:
    if on == "disk":
        return _OnDisk()
    return _InMemory("cpu" if on == "cpu" else None)
