"""Fresh students: how good synthetic sequences are, by what a student learns from them alone."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from farzi.data.sequences import Sequences
from farzi.distill.problem import Member, Problem
from farzi.distill.stopping import WatchedBatches, stop_if_asked
from farzi.errors import NonFiniteError
from farzi.evaluation import validation_loss
from farzi.metagrad import Adam, AdamW
from farzi.metagrad.optimizers import HyperSetting
from farzi.seeding import stream_seed
from farzi.synthetic import SyntheticSequences
from farzi.training import SyntheticBatches, TrainSettings, train

__all__ = ["LOOK_EVERY", "Fresh", "number", "train_fresh"]

LOOK_EVERY = 10  # inner steps between two looks at the validation loss, as in `TrainSettings`
PATIENCE = 5


class Fresh(NamedTuple):
    """How far a fresh student came.

    Attributes:
        loss: its lowest validation loss.
        step: the step that it had there.
    """

    loss: float
    step: int


def train_fresh(
    problem: Problem,
    synthetic: SyntheticSequences,
    validation_sequences: Sequences,
    steps: int,
    seed: int,
    *,
    patience: int = PATIENCE,
    look_every: int = LOOK_EVERY,
    look_growth: float = 0.0,
) -> Fresh:
    """Train a fresh student on `synthetic` until validation no longer improves.

    The student trains with the inner optimiser; where that is Adam as torch has it, by
    `farzi.training.train`, which later users of the artifact train with too.

    Args:
        problem: student, inner optimiser and batch size.
        synthetic: what it trains on.
        validation_sequences: real sequences.
        steps: the cap; it stops earlier where the loss no longer falls.
        seed: of its first weights and its batches.
        patience: looks without improvement after which it stops.
        look_every: steps between looks, at least.
        look_growth: steps between looks as a share of the steps so far, where that is more.

    Raises:
        NonFiniteError: the loss was never finite.
        StopRequested: a stop was asked for.
    """
    decay = _decay_of_torch(problem)
    if decay is None:
        looks = _Looks(patience, look_every, look_growth)
        return _by_inner_steps(problem, synthetic, validation_sequences, steps, seed, looks)
    batches = SyntheticBatches(synthetic, problem.inner_batch, seed)
    trained = train(
        problem.learner,
        WatchedBatches(batches, lambda step: stop_if_asked(problem.should_stop)),
        TrainSettings(
            lr=number(problem.optimizer.hyper["lr"]) or 0.0,
            max_steps=steps,
            eval_every=look_every,
            look_growth=look_growth,
            patience=patience,
            weight_decay=decay,
            seed=seed,
        ),
        lambda params: validation_loss(problem.student, params, validation_sequences),
        device=synthetic.latent.device,
    )
    return Fresh(trained.loss, trained.step)


def _decay_of_torch(problem: Problem) -> float | None:
    """The weight decay with which torch's AdamW is the inner optimiser; None where it is not."""
    optimizer = problem.optimizer
    if not isinstance(optimizer, Adam | AdamW):
        return None
    hyper = {name: number(value) for name, value in optimizer.hyper.items()}
    if None in hyper.values() or (hyper["b1"], hyper["b2"], hyper["eps"]) != (0.9, 0.999, 1e-8):
        return None
    if isinstance(optimizer, Adam) and hyper["weight_decay"]:
        return None
    return hyper["weight_decay"]


def number(setting: HyperSetting) -> float | None:
    """A hyper-parameter as one number for all tensors and steps; None where it is not one."""
    if isinstance(setting, Tensor):
        return float(setting) if setting.ndim == 0 else None
    return float(setting) if isinstance(setting, int | float) else None


class _Looks(NamedTuple):
    patience: int
    every: int
    growth: float


def _by_inner_steps(
    problem: Problem,
    synthetic: SyntheticSequences,
    validation_sequences: Sequences,
    steps: int,
    seed: int,
    looks: _Looks,
) -> Fresh:
    generator = torch.Generator().manual_seed(stream_seed(seed, "weights"))
    member = Member(problem.on_device(problem.student.init(generator)), None, 0, seed)
    best, best_step, looks_since_best = math.inf, 0, 0
    while member.age < steps and looks_since_best < looks.patience:
        until = max(looks.every, int(looks.growth * member.age))
        try:
            member = problem.advance(member, synthetic, min(until, steps - member.age))
        except NonFiniteError:
            break
        loss = validation_loss(problem.student, member.params, validation_sequences)
        looks_since_best += 1
        if loss < best:
            best, best_step, looks_since_best = loss, member.age, 0
    if not math.isfinite(best):
        raise NonFiniteError(
            f"the validation loss of a fresh student was never finite in {member.age} inner steps "
            f"of {problem.optimizer!r}; try a smaller lr.",
            step=member.age,
        )
    return Fresh(best, best_step)
