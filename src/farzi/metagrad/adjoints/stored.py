"""Every gradient of the window is kept; the states between follow from them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from farzi.metagrad.adjoints.base import Backward, Cotangents, Forward, Plan, Report
from farzi.metagrad.flat import FlatState
from farzi.metagrad.hvp import Linearised, MetaGradients, linearise
from farzi.metagrad.inner_loop import InnerLoop, gradient, positive_int
from farzi.metagrad.memo import Memo, Pages
from farzi.metagrad.trajectory import Arithmetic, trajectory

__all__ = ["Stored"]


@dataclass(frozen=True)
class Stored:
    """Keep every gradient; compute none again.

    The fastest adjoint where the gradients fit: one gradient a step forward, one Hessian-vector
    product a step back. A state of every sqrt(steps) is kept too, and the states between are had
    again by the optimiser's update alone, bit for bit. Functions that use `farzi.metagrad.memo`
    keep what they compute as well.

    Args:
        arithmetic: "fixed" follows the fixed-point trajectory of `Reversible`.
        graphs: keep every gradient's graph as well, so that the way back evaluates no loss again.
            Fastest for losses whose operations are plain torch, where there is memory for it.
            Without effect on a step of several micro-batches.
        spare_bytes: short runs keep more while it fits in here: what a loss asks for by
            `farzi.metagrad.memo.room_for`, such as the activations of a student's kernels.

    Cost:
        One value a parameter a step, 4 bytes in float32, what the loss asks to have kept, and 2
        sqrt(steps) states of (1 + number of accumulators) values a parameter. With `graphs`, every
        activation of every step.
    """

    arithmetic: Arithmetic = "float"
    graphs: bool = False
    spare_bytes: int = 1 << 28

    def __post_init__(self) -> None:
        positive_int(self.spare_bytes, "spare_bytes", least=0)
        if self.graphs and self.arithmetic != "float":
            raise ValueError("`graphs` must be False with `arithmetic='fixed'`.")

    @property
    def name(self) -> str:
        """Name in `stats`."""
        return "Stored"

    def plan(self, loop: InnerLoop) -> Plan:
        """Bytes of all gradients, of the states held beside them, and of what the loss keeps."""
        length = loop.steps - loop.begin
        if self.graphs and loop.micro_batches == 1:
            return Plan(length * (loop.start.num_bytes + _graph_bytes(loop)))
        stretch = math.isqrt(length)
        num_states = math.ceil(length / stretch) + stretch
        item = loop.layout.dtype.itemsize
        state_item = 8 if self.arithmetic == "fixed" else item
        state_bytes = loop.layout.numel * (1 + len(loop.start.accumulators)) * state_item
        gradient_bytes = loop.layout.numel * item
        return Plan(
            num_states * state_bytes
            + length * (gradient_bytes + _kept_bytes(loop, self.spare_bytes))
        )

    def forward(self, loop: InnerLoop, report: Report) -> Forward:
        """Run the inner loop and keep its gradients."""
        if self.graphs and loop.micro_batches == 1:
            return _forward_with_graphs(loop, report)
        path = trajectory(loop, self.arithmetic)
        stretch = math.isqrt(loop.steps - loop.begin)
        state = path.start
        for i in range(loop.begin):
            state = path.advance(state, i)
        anchors = []
        known: list[tuple[Tensor, Memo]] = []
        pages = Pages(loop.steps - loop.begin, self.spare_bytes)
        for i in range(loop.begin, loop.steps):
            if len(known) % stretch == 0:
                anchors.append(state)
            memo = Memo(pages, i - loop.begin)
            with memo.recording():
                grad = path.gradient(path.values(state).param, i)
            known.append((pages.keep("gradient", i - loop.begin, grad), memo))
            state = path.advance_with(state, grad, i)
        final = path.values(state)
        report.forward_steps = loop.steps
        report.state_bytes = (len(anchors) + stretch) * state.num_bytes + sum(
            grad.numel() * grad.element_size() + memo.num_bytes for grad, memo in known
        )

        def backward(d_param: Tensor, meta: MetaGradients) -> Backward:
            cotangents = Cotangents(loop, d_param, meta)
            after = final
            while anchors:
                states = [anchors.pop()]
                first = loop.begin + len(anchors) * stretch
                last = loop.begin + len(known) - 1
                for i in range(first, last):
                    states.append(path.advance_with(states[-1], known[i - loop.begin][0], i))
                for i in reversed(range(first, last + 1)):
                    before = path.values(states.pop())
                    linearised = linearise(loop, before.param, i, meta, known.pop())
                    rounded = after.accumulators if path.rounds else None
                    cotangents.step_back(i, before, linearised, rounded)
                    after = before
            return cotangents.finish()

        return Forward(final, backward)


def _forward_with_graphs(loop: InnerLoop, report: Report) -> Forward:
    """Run the inner loop and keep the linearisation of every step in the window."""
    own = MetaGradients(loop.meta, loop.num_starts)
    state = loop.start
    kept: list[tuple[FlatState, Linearised]] = []
    for i in range(loop.steps):
        if i < loop.begin:
            grad = gradient(loop, state.param, i)
        else:
            if i == 0:
                gradient(loop, state.param, i, record=False)
            linearised = linearise(loop, state.param, i, own)
            loop.log.record(i, linearised.loss)
            kept.append((state, linearised))
            grad = linearised.grad
        state = loop.rule.advance(state, grad, i)
    report.forward_steps = loop.steps
    report.state_bytes = len(kept) * loop.start.num_bytes

    def backward(d_param: Tensor, meta: MetaGradients) -> Backward:
        cotangents = Cotangents(loop, d_param, own)
        while kept:
            before, linearised = kept.pop()
            cotangents.step_back(loop.begin + len(kept), before, linearised, None)
        meta.add(own.total())
        return cotangents.finish()

    return Forward(state, backward)


def _graph_bytes(loop: InnerLoop) -> int:
    """Bytes of the tensors that the graph of one step's gradient saves, parameters left out."""
    sizes: dict[int, int] = {}

    def note(saved: Tensor) -> Tensor:
        sizes[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
        linearised = linearise(loop, loop.start.param, 0, MetaGradients(loop.meta, loop.num_starts))
    for held in (loop.start.param, *loop.meta.values()):
        sizes.pop(held.untyped_storage().data_ptr(), None)
    del linearised
    return sum(sizes.values())


def _kept_bytes(loop: InnerLoop, spare_bytes: int) -> int:
    """Bytes that one evaluation of the loss asks to have kept."""
    memo = Memo(Pages(loop.steps - loop.begin, spare_bytes))
    with memo.recording():
        gradient(loop, loop.start.param, 0, record=False)
    return memo.num_bytes
