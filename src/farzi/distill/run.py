"""A distillation from data to artifact, in a folder that it can be taken up from.

A run that is killed at any moment and resumed writes the same artifact, byte for byte, as one that
was left alone, on the same machine with the same number of threads.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import farzi
from farzi.artifact import Artifact, write_artifact
from farzi.data.prepared import PreparedData
from farzi.data.sequences import Sequences
from farzi.distill.distiller import Distiller, DistillState
from farzi.distill.folder import Metrics, claim, load_state, locked, save_state, state_file
from farzi.distill.settings import DistillSettings
from farzi.distill.starts import StartInputs
from farzi.distill.teachers import Omega, TeacherSettings, teacher_runs
from farzi.distill.world import ALONE, World
from farzi.evaluation import rounded, sequences_of
from farzi.models import Student, student_from, with_dropout
from farzi.seeding import stream
from farzi.synthetic import SyntheticSequences

__all__ = ["RunOutcome", "distill", "make_artifact"]

SAVE_EVERY = 10  # outer steps between two saves of the state

Report = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class RunOutcome:
    """What a run left.

    Attributes:
        folder: the run.
        artifact: its artifact, or None where it was stopped before the end.
        stopped: why the outer loop ended.
        start_loss: fresh students' validation loss before the first outer step.
        best_loss: the lowest one.
        best_step: the outer step it was reached at.
        outer_steps: outer steps taken.
    """

    folder: Path
    artifact: Path | None
    stopped: str
    start_loss: float
    best_loss: float
    best_step: int
    outer_steps: int


def distill(
    data: PreparedData,
    out: str | os.PathLike[str],
    settings: DistillSettings,
    *,
    resume: bool = False,
    device: torch.device | str = "cpu",
    report: Report | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    world: World = ALONE,
) -> RunOutcome:
    """Distil a prepared source into `out`, or go on with the run that is there.

    Args:
        data: the prepared source.
        out: run folder; it must be empty or missing unless `resume`.
        settings: how.
        resume: go on with the run in `out`; the settings must be those it was begun with.
        device: where to compute.
        report: called with (stage, done, total, note).
        should_stop: asked after every outer step; True saves and returns.
        world: the processes of this run; only the first writes the result.

    Raises:
        SettingsError: `out` is in use, or its settings differ.
        RunLockedError: another process writes to `out`.
        DataError: the source is too small.
    """
    began = time.perf_counter()
    folder = Path(out)
    say: Report = report or (lambda stage, done, total, note: None)
    first = world.rank == 0
    if first:
        claim(folder, _identity(data, settings, world.size), data.origin, resume)
    world.wait()
    with locked(folder) if first else contextlib.nullcontext():
        student = _student(data, settings)
        teacher = with_dropout(student, settings.dropout)
        train_sequences = sequences_of(data, "train")
        validation_sequences = _sample(
            sequences_of(data, "validation"), settings.validation_size, settings.seed
        )
        omega: Omega | None = None
        if not first:
            world.wait()
        if settings.needs_teachers:
            omega = teacher_runs(
                teacher,
                train_sequences,
                validation_sequences,
                TeacherSettings(
                    num_runs=settings.num_teachers,
                    lr=settings.teacher_lr,
                    batch_size=settings.teacher_batch,
                    max_epochs=settings.teacher_epochs,
                    smoothing=settings.teacher_smoothing,
                    seed=settings.seed,
                ),
                folder / "teachers",
                device=device,
                progress=lambda done, total, note: say("teachers", done, total, note),
            )
        if first:
            world.wait()
        inputs = StartInputs(
            data=data,
            train_sequences=train_sequences,
            student=student,
            num_sequences=settings.num_sequences,
            length=settings.length,
            latent_dim=settings.latent_dim,
            labels=settings.labels,
            temperature=settings.temperature,
            seed=settings.seed,
            omega=omega,
        )
        start = _on(settings.start_value(inputs), device)
        distiller = Distiller(
            student,
            settings,
            train_sequences,
            validation_sequences,
            start,
            omega,
            world,
        )
        file = state_file(folder, world.rank)
        state = load_state(file, settings.optimizer, device) if resume else None
        metrics = Metrics(folder / "metrics.jsonl", state.step if state else None, first)
        if state is None:
            state = distiller.begin(lambda done, total, note: say("students", done, total, note))
            before_s = time.perf_counter() - began
            metrics.add({"step": 0, "fresh_loss": state.best_loss, "wall_s": before_s})
            metrics.write()
            save_state(state, file)
        state = _loop(distiller, state, metrics, file, say, should_stop)
        start_loss = metrics.start_loss()
        finished = state.stopped is not None or state.step >= settings.outer_steps
        reason = state.stopped or ("all outer steps taken" if finished else "asked to stop")
        path = folder / "artifact"
        if finished and first:
            artifact = make_artifact(data, settings, state, start_loss)
            write_artifact(artifact, path, overwrite=path.exists())
        return RunOutcome(
            folder=folder,
            artifact=path if finished else None,
            stopped=reason,
            start_loss=start_loss,
            best_loss=state.best_loss,
            best_step=state.best_step,
            outer_steps=state.step,
        )


def _loop(
    distiller: Distiller,
    state: DistillState,
    metrics: Metrics,
    file: Path,
    say: Report,
    should_stop: Callable[[], bool],
) -> DistillState:
    settings = distiller.settings
    look = f"fresh loss {state.best_loss:.3f}"
    while state.step < settings.outer_steps and state.stopped is None:
        started = time.perf_counter()
        state, record = distiller.step(state)
        record["wall_s"] = time.perf_counter() - started
        metrics.add(record)
        looking = state.step % settings.validate_every == 0 or state.step == settings.outer_steps
        if looking:
            agreement = distiller.alignment(state)
            state, record = distiller.look(state)
            record["agreement"] = agreement
            metrics.add(record)
            look = f"fresh loss {record['fresh_loss']:.3f} (best {state.best_loss:.3f})"
            look += "".join(f", cos {name} {value:.2f}" for name, value in agreement.items())
        stopping = distiller.world.agree(should_stop())
        if looking or stopping or state.step % SAVE_EVERY == 0:
            metrics.write()
            save_state(state, file)
        say("outer steps", state.step, settings.outer_steps, look)
        if stopping:
            break
    return state


# -------------------------------------------------------------------------------- the result


def make_artifact(
    data: PreparedData, settings: DistillSettings, state: DistillState, start_loss: float
) -> Artifact:
    """The best sequences of a run as an artifact."""
    best = _on(state.best, "cpu")
    return Artifact(
        latent=best.latent.contiguous(),
        decoder=best.decoder.contiguous(),
        label_latent=None if best.label_latent is None else best.label_latent.contiguous(),
        lengths=best.lengths,
        temperature=best.temperature,
        recipe={
            "student": _student(data, settings).settings(),
            "optimizer": "adam",
            "lr": settings.inner_lr,
            "steps": settings.inner_steps,
            "batch_size": settings.inner_batch,
            "start": settings.start,
            "outer_steps": state.best_step,
            "num_threads": torch.get_num_threads(),
            "versions": {"farzi": farzi.__version__, "torch": str(torch.__version__)},
        },
        source={
            "name": data.name,
            "task": data.task,
            "fingerprint": data.fingerprint,
            "split_kind": data.split_kind,
            "split_seed": data.split_seed,
            "train_users_hash": data.train_users_hash,
            "seen_items": data.seen_items,
            "protocol": data.protocol,
        },
        vocabulary=data.vocabulary.decode(np.arange(data.vocabulary.size)),  # type: ignore[arg-type]
        scores={
            "validation": rounded({"start_loss": start_loss, "fresh_loss": state.best_loss}),
        },
    )


# ------------------------------------------------------------------------------------- parts


def _student(data: PreparedData, settings: DistillSettings) -> Student:
    """The student that the settings name, without dropout."""
    sizes = ("context_length", "width", "num_layers", "num_heads", "conv_size")
    defaults = {name: getattr(settings, name) for name in sizes}
    return student_from(settings.student, {"num_tokens": data.vocabulary.size, **defaults})


def _sample(sequences: Sequences, size: int, seed: int) -> Sequences:
    if len(sequences) <= size:
        return sequences
    generator = stream(seed, "validation sample")
    return sequences.take(np.sort(generator.permutation(len(sequences))[:size]))


def _on(synthetic: SyntheticSequences, device: torch.device | str) -> SyntheticSequences:
    factors = {name: factor.to(device) for name, factor in synthetic.factors().items()}
    lengths = None if synthetic.lengths is None else synthetic.lengths.to(device)
    return replace(synthetic.with_factors(factors), lengths=lengths)


def _identity(data: PreparedData, settings: DistillSettings, num_ranks: int) -> dict[str, Any]:
    """What must be the same for a run to be taken up again."""
    return {
        "settings": settings.as_dict(),
        "source": data.name,
        "fingerprint": data.fingerprint,
        "split_kind": data.split_kind,
        "split_seed": data.split_seed,
        "threads": torch.get_num_threads(),
        "processes": num_ranks,
        "versions": {"farzi": farzi.__version__, "torch": str(torch.__version__)},
    }
