"""Earlier states are had by undoing the steps, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from farzi.errors import NotReversibleError
from farzi.metagrad.adjoints.base import Backward, Cotangents, Forward, Plan, Report
from farzi.metagrad.flat import FlatState
from farzi.metagrad.hvp import MetaGradients, linearise
from farzi.metagrad.inner_loop import InnerLoop
from farzi.metagrad.optimizers import Elementwise
from farzi.metagrad.trajectory import FixedState, FixedTrajectory, Spill, check_reversible
from farzi.metagrad.update import state_names

__all__ = ["Reversible"]


@dataclass(frozen=True)
class Reversible:
    """Undo the steps in fixed point: memory that hardly grows with their number.

    Weights and accumulators are int64 counts of a quantum chosen for each tensor. The gradient is
    the exact adjoint of the unrounded update at the states of that run. Arriving at the start is
    always checked. For SGD with momentum, Adam, AdamW, and RMSprop with momentum.

    Raises:
        NotReversibleError: before the first step, where the optimiser's step cannot be undone;
            after the last, where undoing did not arrive at the start.
        SaturationError: a state grew out of its fixed-point range in one step.
    """

    @property
    def name(self) -> str:
        """Name in `stats`."""
        return "Reversible"

    def plan(self, loop: InnerLoop) -> Plan:
        """Two states of int64, and the bits that decays are expected to lose."""
        vectors = 1 + len(loop.start.accumulators)
        bits = 0.0
        if isinstance(loop.optimizer, Elementwise):
            for i in range(loop.begin, loop.steps):
                bits += sum(2 * max(rates) for rates in loop.rule.decay_rates(i))
        numel = loop.layout.numel
        return Plan(2 * 8 * vectors * numel + round(numel * bits / 8))

    def forward(self, loop: InnerLoop, report: Report) -> Forward:
        """Run the inner loop in fixed point, keeping the bits that its decays lose."""
        check_reversible(loop)
        path = FixedTrajectory(loop)
        if path.builds_graph:
            report.notes.append(
                "the gradient's bits depend on whether a graph is built, so every one builds it"
            )
        begin = path.start
        for i in range(loop.begin):
            begin = path.advance(begin, i)
        spill = Spill.of(loop)
        end = begin
        for i in range(loop.begin, loop.steps):
            end = path.advance(end, i, spill)
        report.forward_steps = loop.steps
        report.state_bytes = 2 * begin.num_bytes + spill.num_bytes

        def backward(d_param: Tensor, meta: MetaGradients) -> Backward:
            cotangents = Cotangents(loop, d_param, meta)
            state = end
            for i in reversed(range(loop.begin, loop.steps)):
                after = tuple(a.values for a in state.accumulators)
                param = path.undo_param(state, after, i, spill)
                values = param.values
                linearised = linearise(loop, values, i, meta)
                accumulators = path.undo_accumulators(
                    state, after, values, linearised.grad, i, spill
                )
                state = FixedState(param, accumulators)
                before = FlatState(values, tuple(a.values for a in accumulators))
                cotangents.step_back(i, before, linearised, after)
            _check_arrival(loop, state, begin, spill)
            return cotangents.finish()

        return Forward(path.values(end), backward)


def _check_arrival(loop: InnerLoop, state: FixedState, begin: FixedState, spill: Spill) -> None:
    """Raise unless `state`, undone, is `begin`, and nothing that was kept is left over."""
    vectors = ("parameter", *state_names(loop.optimizer))
    pairs = zip(
        vectors,
        (state.param, *state.accumulators),
        (begin.param, *begin.accumulators),
        strict=True,
    )
    for what, arrived, expected in pairs:
        wrong = arrived.counts != expected.counts
        if not spill.empty or bool(wrong.any()):
            at = int(wrong.nonzero()[0]) if bool(wrong.any()) else 0
            raise NotReversibleError(
                f"undoing the run did not arrive at its start ({what} of "
                f"`{loop.layout.name_at(at)}`): "
                "the inner loss gave other gradients on the way back. On CUDA ask for "
                "deterministic "
                "kernels and CUBLAS_WORKSPACE_CONFIG=:4096:8; otherwise use Checkpointed().",
                step=loop.first_step + loop.begin,
                tensor=loop.layout.name_at(at),
            )
