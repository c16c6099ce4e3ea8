"""Omega: weights along teacher runs on the real training users, on disk, sampled.

A teacher serves twice: its predictions start the latents, and its early weights may start inner
students, so that they see token space through an aligned window (METAGRAD in docs/maths.md).
Nothing of it reaches the students that are scored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from farzi.data.columns import shorten
from farzi.data.files import read_json
from farzi.data.sequences import Sequences
from farzi.distill.ranges import Mistake, above_zero, refuse, share
from farzi.distill.sealed import load_sealed, save_sealed, write_text
from farzi.distill.stopping import ShouldStop, WatchedBatches, never, stop_if_asked
from farzi.errors import ArtifactError, DataError, SettingsError
from farzi.evaluation import validation_loss
from farzi.models import (
    STUDENTS,
    Params,
    Student,
    build_student,
    hidden_states,
    student_from,
    with_dropout,
)
from farzi.models.weights import shapes_from_file
from farzi.seeding import stream_seed
from farzi.training import RealBatches, Schedule, TrainSettings, train

__all__ = ["Omega", "TeacherSettings", "mean_logits", "same_kind", "teacher_runs"]


@dataclass(frozen=True)
class TeacherSettings:
    """How teachers are trained.

    Args:
        num_runs: runs, each from its own seed.
        lr: Adam's step size.
        batch_size: real sequences a step.
        max_epochs: the cap; a run stops on validation.
        patience: epochs without improvement after which it stops.
        dropout: of the teachers, where the student has dropout.
        smoothing: label smoothing.
        schedule: `constant`, or `linear`: the step size falls to nothing at the last epoch that
            `max_epochs` allows.
        student: their architecture by name and sizes, such as `sasrec:conv_size=4`; empty: the
            inner students'. Their predictions serve any student; their weights, where students
            begin from them, only their own kind.
    """

    num_runs: int = 4
    lr: float = 0.02
    batch_size: int = 64
    max_epochs: int = 60
    patience: int = 5
    dropout: float = 0.2
    smoothing: float = 0.1
    schedule: Schedule = "constant"
    student: str = ""

    def __post_init__(self) -> None:
        mistakes = above_zero(self, "num_runs", "lr", "batch_size", "max_epochs", "patience")
        mistakes += share(self, "dropout", "smoothing")
        if self.schedule not in get_args(Schedule):
            what = f"must be {' or '.join(get_args(Schedule))}"
            mistakes.append(Mistake("schedule", self.schedule, what))
        refuse(mistakes)

    def build(self, student: Student) -> Student:
        """The teachers of a student, with their dropout.

        Args:
            student: what the teachers teach: their architecture where none is named, and their
                vocabulary and context.

        Raises:
            SettingsError: `student` names none of farzi's own, or a size that it cannot have.
        """
        if not self.student:
            return with_dropout(student, self.dropout)
        if self.student.partition(":")[0] not in STUDENTS:
            known = ", ".join(STUDENTS)
            raise SettingsError(
                f"`teachers.student` must be one of {known}, with sizes where asked for, such as "
                f"sasrec:conv_size=4, got {self.student!r}."
            )
        sizes = {"num_tokens": student.num_tokens, "context_length": student.context_length}
        return with_dropout(student_from(self.student, {"width": 32, **sizes}), self.dropout)


@dataclass(frozen=True)
class Omega:
    """Teacher runs in a folder: one safetensors file a run, weights of every epoch in it.

    Args:
        folder: where they are.
        best: (run, epoch) with the lowest validation loss.
        losses: validation loss of every epoch, by run.
        settings: of the models, as `Student.settings` gives them; empty in runs of before they were
            kept.
    """

    folder: Path
    best: tuple[int, int]
    losses: tuple[tuple[float, ...], ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def student(self, own: Student) -> Student:
        """The architecture of the runs, without dropout.

        Args:
            own: the inner students, which it is unless the runs say otherwise.

        Raises:
            DataError: a run's weights are not those of this architecture.
        """
        record = self.folder / "omega.json"
        same = not self.settings or same_kind(self.settings, own.settings())
        weights = {} if same else self.weights(0, 1)
        try:
            student = own if same else with_dropout(build_student(self.settings), 0.0)
            shapes = shapes_from_file(record, student, weights, absurd=not same)
        except (SettingsError, ArtifactError) as error:
            what = shorten(str(error).removeprefix(f"{record}: "), 200)
            raise DataError(f"{record}: `student`: {what}") from None
        if not same and shapes != {name: value.shape for name, value in weights.items()}:
            raise DataError(f"{record}: `student` is not that of the weights beside it.")
        for run, curve in enumerate(self.losses):
            self._check_shapes(run, len(curve), shapes)
        return student

    def _check_shapes(self, run: int, epochs: int, shapes: Mapping[str, torch.Size]) -> None:
        """Raise where an epoch's weights have other names or shapes."""
        expected = {
            f"{epoch}/{name}": tuple(shape)
            for epoch in range(1, epochs + 1)
            for name, shape in shapes.items()
        }
        with safe_open(_run_file(self.folder, run), framework="pt") as file:
            names = list(file.keys())
            held = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        if held != expected:
            wrong = min(
                name
                for name in held.keys() | expected.keys()
                if held.get(name) != expected.get(name)
            )
            raise DataError(
                f"{_run_file(self.folder, run)}: `{shorten(wrong, 60)}` is not what its student "
                "has; remove the folder to train anew."
            )

    def weights(self, run: int, epoch: int) -> dict[str, Tensor]:
        """Weights after `epoch` epochs (from 1) of a run."""
        prefix = f"{epoch}/"
        with safe_open(_run_file(self.folder, run), framework="pt") as file:
            return {
                name.removeprefix(prefix): file.get_tensor(name)
                for name in file.keys()  # noqa: SIM118 - a safetensors handle is no mapping
                if name.startswith(prefix)
            }

    def teachers(self) -> tuple[dict[str, Tensor], ...]:
        """The best weights of every run: together they predict better than any one of them."""
        return tuple(
            self.weights(run, 1 + losses.index(min(losses)))
            for run, losses in enumerate(self.losses)
        )

    def sample(self, generator: np.random.Generator, last_epoch: int = 3) -> dict[str, Tensor]:
        """Weights of a random run after 1 to `last_epoch` epochs."""
        run = int(generator.integers(len(self.losses)))
        epoch = int(generator.integers(1, min(last_epoch, len(self.losses[run])) + 1))
        return self.weights(run, epoch)

    @classmethod
    def load(cls, folder: Path) -> Omega | None:
        """The finished runs in `folder`; None where they are not finished.

        Raises:
            DataError: a file of theirs is missing or damaged.
        """
        record = folder / "omega.json"
        if not record.is_file():
            return None
        try:
            values = read_json(record)
        except (OSError, ValueError) as error:
            raise DataError(f"{record}: cannot be read ({error}).") from None
        losses = _field(record, values, "losses", _are_losses)
        best = _field(record, values, "best", lambda x: _is_place(x, losses))
        for run, curve in enumerate(losses):
            file = _run_file(folder, run)
            if _field(record, values, "sealed", lambda x: isinstance(x, bool), default=False):
                tensors, inside = load_sealed(file)
                if inside.get("losses") != curve:
                    raise DataError(f"{file}: `losses` are not those of {record.name}.")
                _check_epochs(file, tensors, len(curve))
            elif not file.is_file():
                raise DataError(f"{file}: is missing.")
        settings = _field(record, values, "student", lambda x: isinstance(x, dict), default={})
        curves = tuple(tuple(curve) for curve in losses)
        return cls(folder, (best[0], best[1]), curves, settings)


def same_kind(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether settings of two students agree in all but dropout."""
    names = set(one) | set(other)
    return all(one.get(name) == other.get(name) for name in names - {"dropout"})


def _field(
    file: Path, values: Any, name: str, fits: Callable[[Any], bool], default: Any = None
) -> Any:
    value = values.get(name, default) if isinstance(values, dict) else None
    if not fits(value):
        raise DataError(f"{file}: `{name}` is missing or wrong; remove the folder to train anew.")
    return value


def _are_losses(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(curve, list) and curve for curve in value)
        and all(isinstance(loss, int | float) for curve in value for loss in curve)
    )


def _is_place(value: Any, losses: list[list[float]]) -> bool:
    if not isinstance(value, list) or len(value) != 2 or not all(type(x) is int for x in value):
        return False
    run, epoch = value
    return bool(0 <= run < len(losses) and 1 <= epoch <= len(losses[run]))


def _check_epochs(file: Path, tensors: dict[str, Tensor], num_epochs: int) -> None:
    held = {name.partition("/")[0] for name in tensors}
    if held != {str(epoch) for epoch in range(1, num_epochs + 1)}:
        raise DataError(f"{file}: does not hold the weights of epochs 1 to {num_epochs}.")


def teacher_runs(
    student: Student,
    train_sequences: Sequences,
    validation_sequences: Sequences,
    settings: TeacherSettings,
    folder: Path,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int, str], None] | None = None,
    should_stop: ShouldStop = never,
) -> Omega:
    """Train the teachers, each stopped on validation, and keep the weights of every epoch.

    Finished runs in `folder` are taken as they are, so that a stop loses one run at most.

    Args:
        student: the teachers' architecture, with dropout.
        train_sequences: training users only.
        validation_sequences: validation users; they choose epoch and run.
        settings: how.
        folder: made where it is missing.
        seed: of the distillation; each run draws from a stream of its own, which no student shares.
        device: where to compute.
        progress: called with (steps done, most there can be, a note).
        should_stop: asked before every step.

    Raises:
        DataError: there is nothing to train on, or a file cannot be read or written.
        StopRequested: a stop was asked for.
    """
    if (finished := Omega.load(folder)) is not None:
        return finished
    curves = train_runs(
        student,
        train_sequences,
        validation_sequences,
        settings,
        folder,
        range(settings.num_runs),
        seed=seed,
        device=device,
        progress=progress,
        should_stop=should_stop,
    )
    best_run = min(range(len(curves)), key=lambda run: min(curves[run]))
    best = (best_run, 1 + curves[best_run].index(min(curves[best_run])))
    kind = dict(student.settings())
    record = {"best": best, "losses": curves, "sealed": True, "student": kind}
    write_text(folder / "omega.json", json.dumps(record))
    return Omega(folder, best, tuple(tuple(curve) for curve in curves), kind)


def train_runs(
    student: Student,
    train_sequences: Sequences,
    validation_sequences: Sequences,
    settings: TeacherSettings,
    folder: Path,
    numbers: Iterable[int],
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int, str], None] | None = None,
    should_stop: ShouldStop = never,
) -> list[list[float]]:
    """Train some of the runs of `teacher_runs`, each into a file; those that are there are taken.

    Several processes may train different ones into one folder at once.

    `numbers` says which of them; the other arguments are those of `teacher_runs`.

    Returns:
        validation loss of every epoch, by run.

    Raises:
        DataError: there is nothing to train on, or a file cannot be read or written.
        StopRequested: a stop was asked for.
    """
    if not len(train_sequences):
        raise DataError("there is no training sequence to train a teacher on.")
    folder.mkdir(parents=True, exist_ok=True)
    curves: list[list[float]] = []
    for run in numbers:
        file = _run_file(folder, run)
        if file.is_file():
            tensors, record = load_sealed(file)
            curve = _field(file, record, "losses", lambda x: _are_losses([x]))
            _check_epochs(file, tensors, len(curve))
        else:
            batches = RealBatches(
                train_sequences,
                student.context_length,
                settings.batch_size,
                seed=stream_seed(seed, "teacher", run),
            )
            one = _OneRun(run, settings, batches.steps_per_epoch, progress, should_stop)
            train(
                student,
                WatchedBatches(batches, one.begin_step),
                TrainSettings(
                    lr=settings.lr,
                    max_steps=settings.max_epochs * batches.steps_per_epoch,
                    eval_every=batches.steps_per_epoch,
                    patience=settings.patience,
                    smoothing=settings.smoothing,
                    schedule=settings.schedule,
                    seed=stream_seed(seed, "teacher", run),
                ),
                lambda params: validation_loss(student, params, validation_sequences),
                device=device,
                on_look=one.keep,
            )
            curve = one.losses
            save_sealed(file, one.weights, {"losses": curve})
        curves.append(curve)
    return curves


@dataclass
class _OneRun:
    """What is kept of one teacher run while it goes on, and how far it is."""

    run: int
    settings: TeacherSettings
    epoch_steps: int
    progress: Callable[[int, int, str], None] | None
    should_stop: ShouldStop
    losses: list[float] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)

    def begin_step(self, step: int) -> None:
        stop_if_asked(self.should_stop)
        if self.progress is not None:
            epochs = self.settings.max_epochs
            most = epochs * self.epoch_steps
            note = f"run {self.run + 1} of {self.settings.num_runs}, "
            note += f"epoch {step // self.epoch_steps + 1} of at most {epochs}"
            if self.losses:
                note += f", validation loss {self.losses[-1]:.3f} (best {min(self.losses):.3f})"
            self.progress(self.run * most + step, self.settings.num_runs * most, note)

    def keep(self, step: int, params: dict[str, Tensor], loss: float) -> None:
        epoch = step // self.epoch_steps
        self.weights |= {f"{epoch}/{name}": value.cpu().clone() for name, value in params.items()}
        self.losses.append(loss if math.isfinite(loss) else math.inf)


def _run_file(folder: Path, run: int) -> Path:
    return folder / f"run-{run:02}.safetensors"


@torch.no_grad()
def mean_logits(
    student: Student | Sequence[Student], teachers: Sequence[Params], tokens: Tensor
) -> tuple[Tensor, Tensor]:
    """Factors of the mean of several models' logits: H (B, L, n W) and E (V, n W) of n models.

    Up to a constant a position, mean logits are mean log-probabilities: softmax(H E^T) is the
    normalised geometric mean of the predictions. A head's bias is one more column of E.

    Args:
        student: the architecture of all teachers, or of each.
        teachers: weights of each.
        tokens: int64 (B, L), or soft tokens (B, L, V).
    """
    students = student if isinstance(student, Sequence) else [student] * len(teachers)
    pairs = list(zip(students, teachers, strict=True))
    heads = [each.head(params) for each, params in pairs]
    hidden = [
        head.states(hidden_states(each, params, tokens)) / len(teachers)
        for head, (each, params) in zip(heads, pairs, strict=True)
    ]
    return torch.cat(hidden, -1), torch.cat([head.table for head in heads], 1)
