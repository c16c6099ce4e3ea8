"""One fresh student of a row: trained, timed, scored."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from farzi.evaluation import Scores, evaluate, sequences_of, validation_loss
from farzi.experiments.results import Choice, Look, Run, Training
from farzi.experiments.rows.base import Fixed, Sample, Size
from farzi.experiments.splits import Split
from farzi.models import Student
from farzi.training import Batch, Batches, Trained, TrainSettings, train

__all__ = ["Limits", "clock_name", "fixed_run", "scored_run", "train_student"]


@dataclass(frozen=True)
class Limits:
    """When a run is looked at, and when it stops.

    Args:
        max_steps: cap of a small row, in steps.
        max_epochs: cap of the full row, in epochs.
        patience: looks without improvement after which a run stops.
        eval_every: steps between looks at a small row; a full row is looked at every epoch.
        validation_size: validation sequences that a look reads, at most.
    """

    max_steps: int = 1000
    max_epochs: int = 80
    patience: int = 6
    eval_every: int = 10
    validation_size: int = 2048


def clock_name(device: torch.device | str = "cpu") -> str:
    """What the seconds of a run are."""
    if _counts_processor_time(device):
        return "processor time on one thread, looks at validation not counted"
    return f"wall time on {device}, looks at validation not counted"


def train_student(
    split: Split,
    sample: Sample,
    choice: Choice,
    seed: int,
    limits: Limits,
    device: torch.device | str = "cpu",
) -> tuple[Student, Trained, Training]:
    """Train a fresh student on a sample, stopped by validation.

    Args:
        split: the split.
        sample: what it reads.
        choice: how it is trained.
        seed: of its first weights, its dropout and the order of what it reads.
        limits: when it is looked at and when it stops.
        device: where to compute.
    """
    student = split.build_student(choice.dropout)
    batches = _Counted(sample.batches(choice.batch_size, seed))
    looked = sequences_of(split.data, "validation")
    if len(looked) > limits.validation_size:
        looked = looked.take(np.arange(limits.validation_size))
    clock = _Clock(time.process_time if _counts_processor_time(device) else time.perf_counter)

    def look(params: dict[str, Tensor]) -> float:
        with clock.paused():
            return validation_loss(student, params, looked)

    epoch = batches.steps_per_epoch
    trained = train(
        student,
        batches,
        TrainSettings(
            lr=choice.lr,
            max_steps=limits.max_epochs * epoch if sample.whole else limits.max_steps,
            eval_every=epoch if sample.whole else limits.eval_every,
            patience=limits.patience,
            weight_decay=choice.weight_decay,
            smoothing=choice.smoothing,
            seed=seed,
        ),
        look,
        device=device,
    )
    curve = tuple(
        Look(look.step, round(seconds, 4), look.loss)
        for look, seconds in zip(trained.curve, clock.marks, strict=True)
    )
    best = next(place for place, each in enumerate(curve) if each.step == trained.step)
    training = Training(
        step=trained.step,
        loss=trained.loss,
        events=batches.events[trained.step - 1],
        seconds=curve[best].seconds,
        total_seconds=curve[-1].seconds,
        stopped=trained.stopped,
        curve=curve,
    )
    return student, trained, training


def scored_run(
    row: str,
    split: Split,
    sample: Sample,
    choice: Choice,
    seed: int,
    limits: Limits,
    device: torch.device | str = "cpu",
) -> Run:
    """Train the row's student number `seed` and score it on test, once.

    Its seed is one more, so that no scored student is the one that its row was tuned with.
    """
    student, trained, training = train_student(split, sample, choice, seed + 1, limits, device)
    scores = evaluate(student, trained.params, split.data, "test")
    return _run(row, split, seed, sample.size, scores, choice, training)


def fixed_run(row: str, split: Split, fixed: Fixed) -> Run:
    """Score a model that needs no training."""
    return _run(row, split, 0, fixed.size, fixed.scores(), None, None)


def _run(
    row: str,
    split: Split,
    seed: int,
    size: Size,
    scores: Scores,
    choice: Choice | None,
    training: Training | None,
) -> Run:
    return Run(
        row=row,
        split_seed=split.seed,
        seed=seed,
        sequences=size.sequences,
        tokens=size.tokens,
        num_bytes=size.num_bytes,
        metrics={name: float(value) for name, value in scores.metrics.items()},
        per_user={name: tuple(values.tolist()) for name, values in scores.per_user.items()},
        choice=choice,
        training=training,
    )


def _counts_processor_time(device: torch.device | str) -> bool:
    """Whether processor time tells what a run costs: other work on the machine does not count."""
    return torch.device(device).type == "cpu" and torch.get_num_threads() == 1


class _Clock:
    """Seconds since it was made, without those in which it was paused."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.started = now()
        self.marks: list[float] = []

    def paused(self) -> _Clock:
        return self

    def __enter__(self) -> None:
        self.entered = self.now()
        self.marks.append(self.entered - self.started)

    def __exit__(self, *error: object) -> None:
        self.started += self.now() - self.entered


@dataclass
class _Counted:
    """Batches that count the tokens that were read until each step."""

    batches: Batches
    events: list[int] = field(default_factory=list)

    @property
    def steps_per_epoch(self) -> int:
        return self.batches.steps_per_epoch

    def __call__(self, step: int) -> Batch:
        batch = self.batches(step)
        if batch.mask is not None:
            read = int(batch.mask.sum())
        else:
            read = batch.tokens.shape[0] * batch.tokens.shape[1]
        if step == len(self.events):
            self.events.append(read + (self.events[-1] if self.events else 0))
        return batch
