"""One fresh student of a row: trained, timed, scored."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from farzi.evaluation import Scores, evaluate, sequences_of, validation_loss
from farzi.experiments.pace import Pace
from farzi.experiments.results import Choice, Look, Run, Training
from farzi.experiments.rows.base import Fixed, Sample, Size
from farzi.experiments.splits import Split
from farzi.models import Student
from farzi.training import Batch, Batches, Shifted, Trained, TrainSettings, patience_with, train

__all__ = ["Limits", "clock_name", "fixed_run", "scored_run", "train_student"]


@dataclass(frozen=True)
class Limits:
    """When a run is looked at, and when it stops.

    Looks grow rarer as a run grows older, so that they cost it a bounded share of its time, and a
    run stops when the loss has not fallen for a share of its steps, not for a number of them.

    Args:
        max_steps: most steps of a small row.
        max_epochs: most epochs of a row of all training data; None: as many as `max_steps` allows,
            or 200 where that is more.
        patience: looks without improvement after which a run stops.
        eval_every: steps between looks, at least; half an epoch of all training data where that is
            more.
        look_growth: steps between looks as a share of the steps so far, where that is more.
        validation_size: validation sequences that a look reads, at most.
    """

    max_steps: int
    max_epochs: int | None
    patience: int
    eval_every: int
    look_growth: float
    validation_size: int


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
    *,
    tell: Callable[[str], None] = lambda note: None,
) -> tuple[Student, Trained, Training]:
    """Train a fresh student on a sample, stopped by validation.

    Args:
        split: the split.
        sample: what it reads.
        choice: how it is trained.
        seed: of its first weights, its dropout and the order of what it reads.
        limits: when it is looked at and when it stops.
        device: where to compute.
        tell: called with a note a few times a second.
    """
    student = split.build_student(choice.dropout)
    read = sample.batches(choice.batch_size, seed)
    batches = _Counted(Shifted(read, choice.shift, seed) if choice.shift else read)
    looked = sequences_of(split.data, "validation")
    if len(looked) > limits.validation_size:
        looked = looked.take(np.arange(limits.validation_size))
    epoch = batches.steps_per_epoch
    most = _most_steps(sample, choice, limits, epoch)
    by_processor = _counts_processor_time(device)
    pace = Pace()

    def validate(params: Mapping[str, Tensor]) -> float:
        if by_processor:
            pace.take()
        return validation_loss(student, params, looked)

    trained = train(
        student,
        batches,
        TrainSettings(
            lr=choice.lr,
            max_steps=most,
            eval_every=max(limits.eval_every, epoch // 2 if sample.whole else 0),
            look_growth=limits.look_growth,
            patience=patience_with(choice.schedule, limits.patience, most),
            weight_decay=choice.weight_decay,
            smoothing=choice.smoothing,
            seed=seed,
            schedule=choice.schedule,
        ),
        validate,
        device=device,
        progress=lambda step, loss, left_s: tell(
            f"step {step:,}, loss {loss:.3f}, at most {left_s:.0f} s left"
        ),
        clock=time.process_time if by_processor else time.perf_counter,
    )
    training = Training(
        step=trained.step,
        loss=trained.loss,
        events=batches.events[trained.step - 1],
        seconds=round(trained.seconds, 4),
        total_seconds=round(trained.total_seconds, 4),
        stopped=trained.stopped,
        curve=tuple(Look(look.step, round(look.seconds, 4), look.loss) for look in trained.curve),
        pace_s=None if pace.seconds is None else round(pace.seconds, 6),
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
    *,
    tell: Callable[[str], None] = lambda note: None,
) -> Run:
    """Train the row's student number `seed` and score it on test, once.

    Its seed is one more, so that no scored student is the one that its row was tuned with.
    """
    student, trained, training = train_student(
        split, sample, choice, seed + 1, limits, device, tell=tell
    )
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
        counts=dict(scores.counts),
        choice=choice,
        training=training,
    )


def _most_steps(sample: Sample, choice: Choice, limits: Limits, epoch: int) -> int:
    if not sample.whole:
        return choice.num_steps or limits.max_steps
    if limits.max_epochs is None:
        return max(limits.max_steps, 200 * epoch)
    return limits.max_epochs * epoch


def _counts_processor_time(device: torch.device | str) -> bool:
    """Whether processor time tells what a run costs: other work on the machine does not count."""
    return torch.device(device).type == "cpu" and torch.get_num_threads() == 1


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
