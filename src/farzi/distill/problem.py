"""Both levels of a distillation: students trained on synthetic sequences, and real data.

An objective says what is lowered; how a student trains on synthetic sequences, how that is
differentiated and what real data there are is the same for all of them, and stands here.

Everything drawn is a function of (seed, purpose, place).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from farzi.data.sequences import Sequences
from farzi.distill.stopping import ShouldStop, never, stop_if_asked
from farzi.distill.teachers import Omega
from farzi.metagrad import Adjoint, CompiledLoss, Optimizer, metagradient, readout, unroll
from farzi.metagrad.inner_loop import InnerLoss
from farzi.metagrad.metagradient import OuterLoss
from farzi.metagrad.rule import PullBack
from farzi.metagrad.update import State
from farzi.models import Student, embedded_loss, sequence_loss, with_dropout
from farzi.models.fused.soft_head import embed
from farzi.seeding import stream, stream_seed
from farzi.synthetic import SyntheticSequences
from farzi.training import Batch, SyntheticBatches, real_batch

__all__ = ["Member", "Problem", "Window", "decoded", "pulled_to_factors"]

MOST_DECODED = 1 << 28
"""Soft tokens are decoded once an outer step where they have at most so many elements, else at each
inner step, or never (`farzi.synthetic.MOST_FORMED`): that takes less memory, and more time."""


@dataclass(frozen=True)
class Member:
    """One student of the pool: weights, optimiser state, inner steps so far, its seed."""

    params: dict[str, Tensor]
    state: State | None
    age: int
    seed: int


@dataclass(frozen=True)
class Window:
    """What an objective gives for some inner steps of one student.

    Attributes:
        value: what is lowered.
        gradients: its gradient for every factor of the synthetic sequences.
        member: the student after the window.
    """

    value: float
    gradients: dict[str, Tensor]
    member: Member


@dataclass(frozen=True)
class Problem:
    """Students, their training on synthetic sequences, and the real data to judge them by.

    Args:
        student: their architecture.
        optimizer: the inner optimiser.
        adjoint: how an unroll is differentiated.
        start: the sequences before the first outer step; their lengths and temperature stay.
        train_sequences: real sequences of training users.
        window: inner steps that one gradient goes through.
        stride: inner steps by which a student grows older then; 0: the window.
        window_lr: step size inside the windows; 0: the optimiser's own.
        dropout: of students while they train.
        inner_batch: synthetic sequences an inner step.
        outer_batch: real sequences an outer step.
        seed: of everything drawn.
        omega: teacher runs, where something reads them.
        pull_back: in place of the exact derivative of an optimiser's step (`paper_rule`).
        compiled: whether torch compiles the inner steps.
        should_stop: asked at every inner step, forward and on the way back.
    """

    student: Student
    optimizer: Optimizer
    adjoint: Adjoint
    start: SyntheticSequences
    train_sequences: Sequences
    window: int
    inner_batch: int
    outer_batch: int
    seed: int
    stride: int = 0
    window_lr: float = 0.0
    dropout: float = 0.0
    omega: Omega | None = None
    pull_back: PullBack | None = None
    compiled: bool = False
    should_stop: ShouldStop = never

    @property
    def device(self) -> torch.device:
        """Where the synthetic sequences are."""
        return self.start.decoder.device

    @functools.cached_property
    def teachers(self) -> tuple[dict[str, Tensor], ...]:
        """The best weights of every teacher run, on the device; none without runs."""
        if self.omega is None:
            return ()
        return tuple(self.on_device(params) for params in self.omega.teachers())

    @property
    def teacher(self) -> Student:
        """Architecture of the teachers, without dropout."""
        return self.student if self.omega is None else self.omega.student(self.student)

    @property
    def learner(self) -> Student:
        """The student with the dropout that it trains with."""
        return with_dropout(self.student, self.dropout) if self.dropout else self.student

    def on_device(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights on the device, of the sequences' dtype."""
        decoder = self.start.decoder
        return {name: value.to(decoder.device, decoder.dtype) for name, value in params.items()}

    def fresh_member(self, seed: int) -> Member:
        """A student with first weights of its own."""
        generator = torch.Generator().manual_seed(stream_seed(self.seed, "pool weights", seed))
        return Member(self.on_device(self.student.init(generator)), None, 0, seed)

    def real_batch(self, number: int) -> Batch:
        """The real sequences of draw `number`, on the device."""
        generator = stream(self.seed, "outer batch", number)
        size = min(self.outer_batch, len(self.train_sequences))
        chosen = generator.choice(len(self.train_sequences), size, replace=False)
        batch = real_batch(self.train_sequences, chosen, self.student.context_length, generator)
        return batch.to(self.device)

    def inner_loss(self, seed: int) -> InnerLoss:
        """The loss of a student on the synthetic batch of its step.

        Its meta-parameters are the factors, or what `decoded` makes of them.
        """
        batches = SyntheticBatches(self.start, self.inner_batch, seed)

        def inputs(step: int) -> dict[str, Tensor]:
            stop_if_asked(self.should_stop)
            rows = batches.indices(step)
            given = {"rows": rows, "mask": self.start.mask(rows)}
            if self.dropout:  # a seed of the step alone: a step that is made again draws the same
                given["draws"] = torch.tensor(stream_seed(self.seed, "pool dropout", seed, step))
            return {name: value for name, value in given.items() if value is not None}

        loss = self._loss.over(inputs)
        return loss if self.compiled else loss.__call__

    @functools.cached_property
    def _loss(self) -> CompiledLoss:
        """What every student's inner loss is made of; all share what is compiled of it."""
        student, start = self.learner, self.start

        def loss(
            params: Mapping[str, Tensor], meta: Mapping[str, Tensor], inputs: Mapping[str, Tensor]
        ) -> Tensor:
            rows = inputs.get("rows")
            whole = "decoder" not in meta
            mask = inputs.get("mask")
            generator = None
            if "draws" in inputs:
                generator = torch.Generator(self.device).manual_seed(int(inputs["draws"]))
            if not whole:
                tokens, labels = start.with_factors(meta).to_read(rows)
                return sequence_loss(
                    student, params, tokens, labels=labels, mask=mask, generator=generator
                )

            def read(soft: Tensor, table: Tensor) -> Tensor:
                return readout(soft, table, rows)

            if start.has_hard_tokens:
                embedded = embed(start.tokens(rows), student.embedding(params))
            elif "labels" not in meta:
                return sequence_loss(
                    student, params, meta["tokens"], mask=mask, generator=generator, read=read
                )
            else:
                embedded = read(meta["tokens"], student.embedding(params))
            targets = read(meta["labels"], student.head(params).table)
            return embedded_loss(student, params, embedded, targets, mask, generator)

        return CompiledLoss(loss)

    def advance(
        self,
        member: Member,
        synthetic: SyntheticSequences,
        steps: int,
        soft: Mapping[str, Tensor] | None = None,
    ) -> Member:
        """The student `steps` inner steps later; no gradient.

        Args:
            member: the student before.
            synthetic: what it trains on.
            steps: how many, 0 or more.
            soft: what `leaves` made of the sequences, where they are decoded already.
        """
        if not steps:
            return member
        params, state = unroll(
            self.inner_loss(member.seed),
            member.params,
            decoded(synthetic) if soft is None else soft,
            steps=steps,
            optimizer=self.optimizer,
            state=member.state,
            first_step=member.age,
        )
        return replace(member, params=params, state=state, age=member.age + steps)

    def differentiate(
        self, member: Member, synthetic: SyntheticSequences, outer_loss: OuterLoss
    ) -> Window:
        """Train a student for a window, and differentiate an outer loss of it through all of that.

        With a step size of its own for the window, the student then trains beside it, from where it
        stood, at its own.

        Args:
            member: the student before the window.
            synthetic: the sequences it trains on.
            outer_loss: (params, meta) -> scalar; a function of the weights after the window.
        """
        factors, soft = self.leaves(synthetic)
        optimizer = self.optimizer
        if self.window_lr:
            optimizer = replace(optimizer, lr=self.window_lr)  # type: ignore[type-var]
        result = metagradient(
            self.inner_loss(member.seed),
            outer_loss,
            member.params,
            soft,
            steps=self.window,
            optimizer=optimizer,
            adjoint=self.adjoint,
            pull_back=self.pull_back,
            state=member.state,
            first_step=member.age,
        )
        older, steps = member, self.stride or self.window
        if not self.window_lr:
            older = replace(
                member,
                params=result.final_params,
                state=result.final_state,
                age=member.age + self.window,
            )
            steps -= self.window
        if steps:
            still = {name: value.detach() for name, value in soft.items()}
            older = self.advance(older, synthetic, steps, still)
        return Window(
            float(result.value), pulled_to_factors(factors, soft, result.meta_grads), older
        )

    def leaves(self, synthetic: SyntheticSequences) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The factors as leaves of a graph, and what the inner loss reads of them.

        That is the soft tokens where they are small enough to be decoded once, else the factors.
        """
        factors = {name: x.detach().requires_grad_() for name, x in synthetic.factors().items()}
        if synthetic.num_sequences * synthetic.length * synthetic.num_tokens <= MOST_DECODED:
            return factors, decoded(synthetic.with_factors(factors))
        return factors, factors


def pulled_to_factors(
    factors: dict[str, Tensor], soft: dict[str, Tensor], gradients: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Gradients for what `Problem.leaves` gave as gradients for the factors."""
    if soft is factors:
        return dict(gradients)
    pulled = torch.autograd.grad(
        list(soft.values()), list(factors.values()), [gradients[name] for name in soft]
    )
    return dict(zip(factors, pulled, strict=True))


def decoded(synthetic: SyntheticSequences) -> dict[str, Tensor]:
    """Soft tokens and labels by name, as far as they are soft and there, formed."""
    labels = synthetic.labels()
    if synthetic.has_hard_tokens and labels is not None:
        return {"labels": labels}
    tokens = {"tokens": synthetic.tokens()}
    return tokens if labels is None else tokens | {"labels": labels}
