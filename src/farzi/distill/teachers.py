"""Omega: weights along teacher runs on the real training users, on disk, sampled.

A teacher serves twice: its predictions start the latents, and its early weights may start inner
students, so that they see token space through an aligned window (METAGRAD in docs/maths.md).
Nothing of it reaches the students that are scored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from farzi.data.sequences import Sequences
from farzi.errors import DataError
from farzi.evaluation import validation_loss
from farzi.models import Params, Student, hidden_states
from farzi.training import RealBatches, TrainSettings, train

__all__ = ["Omega", "TeacherSettings", "mean_logits", "teacher_runs"]


@dataclass(frozen=True)
class TeacherSettings:
    """How teachers are trained.

    Args:
        num_runs: runs, each from its own seed.
        lr: Adam's step size.
        batch_size: real sequences a step.
        max_epochs: the cap; a run stops on validation.
        patience: epochs without improvement after which it stops.
        smoothing: label smoothing.
        seed: of the first run.
    """

    num_runs: int = 2
    lr: float = 0.01
    batch_size: int = 64
    max_epochs: int = 60
    patience: int = 5
    smoothing: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Omega:
    """Teacher runs in a folder: one safetensors file a run, weights of every epoch in it.

    Args:
        folder: where they are.
        best: (run, epoch) with the lowest validation loss.
        losses: validation loss of every epoch, by run.
    """

    folder: Path
    best: tuple[int, int]
    losses: tuple[tuple[float, ...], ...]

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
        """The finished runs in `folder`; None where they are not finished."""
        record = folder / "omega.json"
        if not record.is_file():
            return None
        values = json.loads(record.read_text(encoding="utf-8"))
        run, epoch = values["best"]
        return cls(folder, (run, epoch), tuple(tuple(losses) for losses in values["losses"]))


def teacher_runs(
    student: Student,
    train_sequences: Sequences,
    validation_sequences: Sequences,
    settings: TeacherSettings,
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int, str], None] | None = None,
) -> Omega:
    """Train the teachers, each stopped on validation, and keep the weights of every epoch.

    Finished runs in `folder` are taken as they are.

    Args:
        student: the teachers' architecture, with dropout.
        train_sequences: training users only.
        validation_sequences: validation users; they choose epoch and run.
        settings: how.
        folder: made where it is missing.
        device: where to compute.
        progress: called with (epochs done, most there can be, a note).
    """
    if (finished := Omega.load(folder)) is not None:
        return finished
    if not len(train_sequences):
        raise DataError("there is no training sequence to train a teacher on.")
    folder.mkdir(parents=True, exist_ok=True)
    best: tuple[float, int, int] | None = None
    losses: list[tuple[float, ...]] = []
    for run in range(settings.num_runs):
        seed = settings.seed + run
        batches = RealBatches(
            train_sequences, student.context_length, settings.batch_size, seed=seed
        )
        epoch_steps = batches.steps_per_epoch
        weights: dict[str, Tensor] = {}

        def keep(
            step: int,
            params: dict[str, Tensor],
            loss: float,
            run: int = run,
            weights: dict[str, Tensor] = weights,
            epoch_steps: int = epoch_steps,
        ) -> None:
            epoch = step // epoch_steps
            weights |= {f"{epoch}/{name}": value.cpu().clone() for name, value in params.items()}
            if progress is not None:
                done = run * settings.max_epochs + epoch
                note = f"run {run + 1}, validation loss {loss:.3f}"
                progress(done, settings.num_runs * settings.max_epochs, note)

        trained = train(
            student,
            batches,
            TrainSettings(
                lr=settings.lr,
                max_steps=settings.max_epochs * epoch_steps,
                eval_every=epoch_steps,
                patience=settings.patience,
                smoothing=settings.smoothing,
                seed=seed,
            ),
            lambda params: validation_loss(student, params, validation_sequences),
            device=device,
            on_look=keep,
        )
        draft = folder / f".run-{run:02}.safetensors"
        save_file(weights, draft)
        draft.rename(_run_file(folder, run))
        losses.append(tuple(look.loss for look in trained.curve))
        if best is None or trained.loss < best[0]:
            best = (trained.loss, run, trained.step // epoch_steps)
    if best is None:
        raise ValueError(f"`num_runs` must be an int >= 1, got {settings.num_runs}.")
    draft = folder / ".omega.json"
    draft.write_text(json.dumps({"best": best[1:], "losses": losses}), encoding="utf-8")
    draft.rename(folder / "omega.json")
    return Omega(folder, best[1:], tuple(losses))


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
