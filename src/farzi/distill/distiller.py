"""The outer loop: from a start to distilled sequences, one record a step.

Students live in a small pool at staggered ages. An outer step takes one of them, trains it for a
window of inner steps, differentiates the objective through that window, and puts it back older;
past the horizon it is begun anew. So windows lie at every place of long runs, and no inner step is
spent on getting there (docs/decisions/student-pool.md).

Everything drawn is a function of (seed, purpose, step): a state alone decides what follows.
"""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from farzi.data.sequences import Sequences
from farzi.distill.fresh import train_fresh
from farzi.distill.problem import Member, Problem
from farzi.distill.routine import Routine, find_routine
from farzi.distill.settings import DistillSettings
from farzi.distill.stopping import ShouldStop, never
from farzi.distill.teachers import Omega
from farzi.distill.world import ALONE, World
from farzi.errors import NonFiniteError
from farzi.metagrad.paper_rule import paper_rule
from farzi.models import Student
from farzi.synthetic import SyntheticSequences

__all__ = ["DistillState", "Distiller", "Member", "Record"]

Record = dict[str, Any]

_FRESH = 1_000_000  # seeds of validation students lie above those of the pool


@dataclass(frozen=True)
class DistillState:
    """All that the outer loop needs to go on.

    Attributes:
        synthetic: the sequences now.
        step: outer steps taken.
        first: first moments of the outer Adam by block.
        second: second moments.
        members: the pool.
        num_begun: students begun so far.
        start_loss: validation loss of fresh students before the first outer step.
        best: the sequences with the lowest validation loss.
        best_step: outer step of `best`.
        best_loss: its validation loss.
        looks_since_best: looks without improvement.
        stopped: why the loop ended, or None.
        routine: how students train, where it was chosen on the start.
    """

    synthetic: SyntheticSequences
    step: int
    first: dict[str, Tensor]
    second: dict[str, Tensor]
    members: tuple[Member, ...]
    num_begun: int
    start_loss: float
    best: SyntheticSequences
    best_step: int
    best_loss: float
    looks_since_best: int
    stopped: str | None = None
    routine: Routine | None = None


@dataclass(frozen=True)
class Distiller:
    """The outer loop as pure steps from one `DistillState` to the next.

    Args:
        student: architecture of the inner students.
        settings: how.
        train_sequences: real sequences that the outer loss reads.
        validation_sequences: real sequences that choose the best step.
        start: the sequences to begin from.
        omega: teacher runs: targets of the outer loss, and where some students start.
        world: the processes; draw d of an outer step on rank r is what draw d * size + r of a
            single process with all their students would be.
        should_stop: asked at every inner step; a stop leaves the state as it was.
    """

    student: Student
    settings: DistillSettings
    train_sequences: Sequences
    validation_sequences: Sequences
    start: SyntheticSequences
    omega: Omega | None = None
    world: World = ALONE
    should_stop: ShouldStop = never

    @functools.cached_property
    def problem(self) -> Problem:
        """Students, their training on synthetic sequences, and real data: what objectives read."""
        settings = self.settings
        return Problem(
            student=self.student,
            optimizer=settings.inner.optimizer,
            adjoint=settings.inner.adjoint,
            start=self.start,
            train_sequences=self.train_sequences,
            window=settings.inner.window,
            stride=settings.inner.stride,
            window_lr=settings.inner.window_lr,
            dropout=settings.inner.dropout,
            inner_batch=settings.inner.batch_size,
            outer_batch=settings.outer.batch_size,
            seed=settings.seed,
            omega=self.omega,
            pull_back=paper_rule if settings.inner.rule == "paper" else None,
            compiled=settings.inner.compiled,
            should_stop=self.should_stop,
        )

    def find_routine(
        self, progress: Callable[[int, int, str], None] = lambda done, total, note: None
    ) -> Routine | None:
        """How students train on the start, where the settings ask for it to be chosen."""
        return find_routine(
            self.problem,
            self.start,
            self.validation_sequences,
            self.settings.routine,
            _FRESH - 1,
            progress,
        )

    def trained_by(self, routine: Routine | None) -> Distiller:
        """The same outer loop with students that train by a routine."""
        if routine is None:
            return self
        settings = replace(self.settings, inner=routine.inner(self.settings.inner))
        return replace(self, settings=settings)

    def begin(self, progress: Callable[[int, int, str], None] | None = None) -> DistillState:
        """A pool with staggered ages, and the start validated as outer step 0."""
        inner, outer = self.settings.inner, self.settings.outer
        members = []
        for index in range(outer.num_students if outer.steps else 0):
            place = self._across_ranks(index)
            member = self.settings.objective.begin(self.problem, place)
            strides = inner.steps // inner.pace if self.settings.objective.goes_on else 0
            of_all = outer.num_students * self.world.size
            age = place * strides // of_all * inner.pace
            members.append(self.problem.advance(member, self.start, age))
            if progress is not None:
                progress(index + 1, outer.num_students, "students at staggered ages")
        zeros = {name: torch.zeros_like(block) for name, block in self.start.factors().items()}
        loss = self.fresh_loss(self.start)
        return DistillState(
            synthetic=self.start,
            step=0,
            first=zeros,
            second=zeros,
            members=tuple(members),
            num_begun=len(members),
            start_loss=loss,
            best=self.start,
            best_step=0,
            best_loss=loss,
            looks_since_best=0,
        )

    def step(self, state: DistillState) -> tuple[DistillState, Record]:
        """One outer step: meta-gradients of some students, then an update of every block.

        A student whose loss or gradient is not finite is begun anew, and its gradient is left out.
        """
        inner, outer = self.settings.inner, self.settings.outer
        members, num_begun = list(state.members), state.num_begun
        gradients: list[dict[str, Tensor]] = []
        values: list[float] = []
        restarted: list[str] = []
        ages = []
        for draw in range(outer.students_per_step):
            turn = state.step * outer.students_per_step + draw
            number = self._across_ranks(turn)
            place = turn % len(members)
            member = members[place]
            try:
                window = self.settings.objective.window(
                    self.problem, member, state.synthetic, number
                )
            except NonFiniteError as error:
                restarted.append(str(error))
                member = replace(member, age=inner.steps)
            else:
                member = window.member
                gradients.append(window.gradients)
                values.append(window.value)
                ages.append(member.age)
            is_old = member.age + inner.pace > inner.steps
            if is_old or not self.settings.objective.goes_on:
                number = self._across_ranks(num_begun)
                member = self.settings.objective.begin(self.problem, number)
                num_begun += 1
            members[place] = member
        state = replace(state, members=tuple(members), num_begun=num_begun, step=state.step + 1)
        record: Record = {"step": state.step, "ages": ages}
        if restarted:
            record["restarted"] = restarted
        if self.world.agree(bool(gradients)):
            blocks = state.synthetic.factors()
            mean = {
                name: torch.stack([gradient[name] for gradient in gradients]).mean(0)
                if gradients
                else torch.zeros_like(block)
                for name, block in blocks.items()
            }
            mean = self.world.average(mean)
            state = self._update(state, mean)
            if values:
                record["outer_loss"] = statistics.fmean(values)
            record["gradient_norm"] = {name: float(block.norm()) for name, block in mean.items()}
        if len(gradients) > 1:
            record["agreement"] = _agreement(gradients)
        return state, record

    def look(self, state: DistillState) -> tuple[DistillState, Record]:
        """Validate by fresh students, keep the best, and stop where nothing gets better."""
        loss = self.fresh_loss(state.synthetic)
        record: Record = {"step": state.step, "fresh_loss": loss}
        if loss < state.best_loss:
            state = replace(
                state,
                best=state.synthetic,
                best_step=state.step,
                best_loss=loss,
                looks_since_best=0,
            )
        else:
            state = replace(state, looks_since_best=state.looks_since_best + 1)
        if state.looks_since_best >= self.settings.outer.patience:
            reason = (
                f"fresh students' validation loss has not fallen below {state.best_loss:.4f} "
                f"(outer step {state.best_step}) for {state.looks_since_best} looks"
            )
            state = replace(state, stopped=reason)
            record["stopped"] = reason
        return state, record

    def alignment(self, state: DistillState, num_students: int = 3) -> dict[str, float]:
        """Mean cosine between different students' meta-gradients on one real batch, by block.

        Near 0 the gradient is about each student alone, and a step along it helps no other.
        """
        gradients = []
        for member in state.members[:num_students]:
            try:
                window = self.settings.objective.window(
                    self.problem, member, state.synthetic, state.step
                )
                gradients.append(window.gradients)
            except NonFiniteError:
                continue
        return _agreement(gradients)

    def fresh_loss(self, synthetic: SyntheticSequences) -> float:
        """Validation loss of fresh students trained on `synthetic`, mean over their seeds."""
        seeds = range(_FRESH, _FRESH + self.settings.outer.validation_seeds)
        looks: dict[str, Any] = {}
        if (routine := self.settings.routine).tries:  # a long training, as it was when chosen
            looks = {"patience": routine.patience, "look_growth": 0.1}
        return statistics.fmean(
            train_fresh(
                self.problem,
                synthetic,
                self.validation_sequences,
                self.settings.inner.steps,
                seed,
                **looks,
            ).loss
            for seed in seeds
        )

    def _across_ranks(self, number: int) -> int:
        """A count of this process as one over all processes."""
        return number * self.world.size + self.world.rank

    def _update(self, state: DistillState, gradients: Mapping[str, Tensor]) -> DistillState:
        """Adam on gradients of unit RMS, each block with its own step relative to its size."""
        outer = self.settings.outer
        step_sizes = {
            "latent": outer.lr_latent,
            "labels": outer.lr_labels,
            "decoder": outer.lr_decoder,
        }
        b1, b2, number = 0.9, 0.99, state.step
        schedule = _schedule(number, outer.steps)
        first, second, blocks = {}, {}, {}
        for name, block in state.synthetic.factors().items():
            gradient = gradients[name]
            gradient = gradient / (gradient.square().mean().sqrt() + 1e-30)
            first[name] = b1 * state.first[name] + (1 - b1) * gradient
            second[name] = b2 * state.second[name] + (1 - b2) * gradient.square()
            size = self.start.factors()[name].square().mean().sqrt()
            direction = first[name] / (1 - b1**number)
            direction = direction / ((second[name] / (1 - b2**number)).sqrt() + 1e-8)
            blocks[name] = block - step_sizes[name] * schedule * size * direction
        synthetic = state.synthetic.with_factors(blocks)
        return replace(state, synthetic=synthetic, first=first, second=second)


def _schedule(step: int, steps: int, warm_up: int = 10, floor: float = 0.1) -> float:
    """A linear warm-up, then a cosine from 1 to `floor`."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
    return min(1.0, step / warm_up) * (floor + (1 - floor) * cosine)


def _agreement(gradients: list[dict[str, Tensor]]) -> dict[str, float]:
    """Mean pairwise cosine by block."""
    if len(gradients) < 2:
        return {}
    return {
        name: statistics.fmean(
            float(
                torch.nn.functional.cosine_similarity(a[name].flatten(), b[name].flatten(), dim=0)
            )
            for a, b in itertools.combinations(gradients, 2)
        )
        for name in gradients[0]
    }
