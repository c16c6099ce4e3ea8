"""A distillation from data to artifact, in a folder that it can be taken up from.

A run that is killed at any moment and resumed writes the same artifact, byte for byte, as one that
was left alone, on the same machine with the same number of threads.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import farzi
from farzi.artifact import Artifact, smallest_dtype, write_artifact
from farzi.data.prepared import PreparedData
from farzi.data.sequences import Sequences
from farzi.distill.distiller import Distiller, DistillState
from farzi.distill.folder import (
    Metrics,
    OnRecord,
    check_claim,
    claim,
    load_state,
    locked,
    save_state,
    state_file,
)
from farzi.distill.fresh import number
from farzi.distill.objectives import Objective
from farzi.distill.settings import DistillSettings, StudentSettings, named
from farzi.distill.starts import Start, StartInputs
from farzi.distill.stopping import ShouldStop, StopRequested, never, stop_if_asked
from farzi.distill.teachers import Omega, same_kind, teacher_runs, train_runs
from farzi.distill.world import ALONE, World
from farzi.errors import SettingsError
from farzi.evaluation import rounded, sequences_of
from farzi.metagrad import Adjoint, Optimizer, metagradient
from farzi.metagrad.paper_rule import paper_rule
from farzi.models import STUDENTS, Student, with_dropout
from farzi.native import kernels_for
from farzi.seeding import stream
from farzi.synthetic import SyntheticSequences
from farzi.training import TrainSettings

__all__ = ["Plan", "RunOutcome", "conditions", "distill", "make_artifact", "plan_run"]

FAR_WORSE = 1.5  # times the loss of guessing: a poor start stays below it
_log = logging.getLogger("farzi")

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


@dataclass(frozen=True)
class Plan:
    """A run that nothing speaks against, before anything is trained or written.

    Attributes:
        data: the prepared source.
        settings: every setting, presets included.
        student: the inner students.
        teacher: what is trained on real data: the same with dropout, or another.
        inputs: what the start reads; teachers are missing yet.
        warnings: what a reader of the result should know, a line each.
    """

    data: PreparedData
    settings: DistillSettings
    student: Student
    teacher: Student
    inputs: StartInputs
    warnings: tuple[str, ...] = ()

    @property
    def size_line(self) -> str:
        """The size in words, such as `size 11x10: 110 tokens, 25 % of 446 training events`."""
        size, events = self.settings, self.data.train.num_tokens
        tokens = size.num_sequences * size.length
        share = 100 * tokens / max(events, 1)
        return (
            f"size {size.num_sequences}x{size.length}: {tokens:,} tokens, {share:.2g} % of "
            f"{events:,} training events"
        )

    @property
    def loop_line(self) -> str:
        """What it means that there is no outer step, in words; empty where there are some."""
        if self.settings.outer.steps:
            return ""
        return "no outer step: the sequences stay as they begin (--outer-steps 40 would take some)"

    @property
    def lines(self) -> list[str]:
        """What is said before a run begins, beside its warnings."""
        return [line for line in (self.size_line, self.loop_line) if line]

    def identity(self, device: torch.device | str = "cpu", num_ranks: int = 1) -> dict[str, Any]:
        """What must be the same for a run to be taken up again, to the same bytes."""
        now = conditions(device, num_ranks)
        return {
            "settings": self.settings.as_dict(),
            "source": self.data.name,
            "fingerprint": self.data.fingerprint,
            "split_kind": self.data.split_kind,
            "split_seed": self.data.split_seed,
            "threads": now["num_threads"],
            "processes": now["processes"],
            "device": now["device"],
            "student": self.student.settings(),
            "kernels": now["kernels"],
            "versions": now["versions"],
            **(
                {"tokenizer": self.data.tokenizer.sha256} if self.data.tokenizer is not None else {}
            ),
        }

    def train_teachers(
        self,
        folder: str | os.PathLike[str],
        *,
        device: torch.device | str = "cpu",
        report: Report | None = None,
        should_stop: ShouldStop = never,
    ) -> Omega:
        """Train the run's teachers into a folder, or take those that are there.

        Several runs may share them: `distill(..., teachers=folder)`.
        """
        say: Report = report or (lambda stage, done, total, note: None)
        return teacher_runs(
            self.teacher,
            self.inputs.train_sequences,
            self.validation_sequences,
            self.settings.teachers,
            Path(folder),
            seed=self.settings.seed,
            device=device,
            progress=lambda done, total, note: say("teachers", done, total, note),
            should_stop=should_stop,
        )

    def train_share(
        self,
        folder: str | os.PathLike[str],
        rank: int,
        size: int,
        *,
        device: torch.device | str = "cpu",
        report: Report | None = None,
    ) -> None:
        """Train every `size`-th teacher run, from `rank` on; other processes train the others."""
        if Omega.load(Path(folder)) is not None:
            return
        say: Report = report or (lambda stage, done, total, note: None)
        train_runs(
            self.teacher,
            self.inputs.train_sequences,
            self.validation_sequences,
            self.settings.teachers,
            Path(folder),
            range(rank, self.settings.teachers.num_runs, size),
            seed=self.settings.seed,
            device=device,
            progress=lambda done, total, note: say("teachers", done, total, note),
        )

    @property
    def validation_sequences(self) -> Sequences:
        """The validation sequences that teachers and looks read."""
        return _sample(
            sequences_of(self.data, "validation"),
            self.settings.outer.validation_size,
            self.settings.seed,
        )

    def check_out(
        self,
        out: str | os.PathLike[str],
        *,
        resume: bool = False,
        device: torch.device | str = "cpu",
        num_ranks: int = 1,
    ) -> None:
        """Refuse a folder that the run may not write to or go on in; changes nothing.

        Raises:
            SettingsError: it is in use or cannot be written, or its run was begun otherwise.
        """
        check_claim(Path(out), self.identity(device, num_ranks), resume)


def plan_run(
    data: PreparedData,
    settings: DistillSettings | Mapping[str, Any] | None = None,
    *,
    student: Student | StudentSettings | str | None = None,
    objective: Objective | str | None = None,
    start: Start | str | None = None,
    optimizer: Optimizer | str | None = None,
    adjoint: Adjoint | str | None = None,
) -> Plan:
    """Check everything about a run that can be known before it begins; see `distill`.

    Raises:
        SettingsError: a setting is wrong.
        DataError: the source is too small for what is asked.
        NotReversibleError: the adjoint cannot undo the optimiser.
    """
    value = None
    if student is not None and not isinstance(student, str | StudentSettings):
        value, student = student, StudentSettings.of(student)
    choices = {
        "student": student,
        "objective": objective,
        "start": start,
        "inner.optimizer": optimizer,
        "inner.adjoint": adjoint,
    }
    given = {name: value for name, value in choices.items() if value is not None}
    if isinstance(settings, DistillSettings):
        chosen = settings.with_values(given)
    else:
        from farzi.distill.parse import settings_for

        chosen = settings_for(data, settings or {}, given)
    sizes = {"num_tokens": data.vocabulary.size, "context_length": chosen.context_length}
    built = value or chosen.student.build(**sizes)
    for name, size in sizes.items():
        if getattr(built, name) != size:
            what = f"must have `{name}` {size}, got {getattr(built, name)}."
            raise SettingsError(f"`student` {what}")
    if chosen.inner.compiled and (reason := getattr(built, "not_compiled", None)):
        raise SettingsError(f"`inner.compiled` must be false for this student: {reason}.")
    if chosen.inner.dropout or any(chosen.routine.dropouts):
        if chosen.inner.compiled:
            raise SettingsError("`routine.dropouts` must be empty with `inner.compiled`.")
        if with_dropout(built, 0.5) is built:
            what = f"{type(built).__name__} has no dropout that could be set."
            raise SettingsError(f"`inner.dropout` must be 0 for this student: {what}")
    teacher = chosen.teachers.build(built)
    if value is None and built.settings()["name"] in STUDENTS:  # every size is known now
        chosen = replace(chosen, student=StudentSettings.of(built))
    inputs = StartInputs(
        data=data,
        train_sequences=sequences_of(data, "train"),
        student=built,
        num_sequences=chosen.num_sequences,
        length=chosen.length,
        latent_dim=chosen.latent_dim,
        labels=chosen.labels,
        temperature=chosen.temperature,
        seed=chosen.seed,
    )
    warnings = (*chosen.start.check(inputs), *_larger_than_the_data(data, chosen))
    _check_adjoint(chosen)
    _check_weights(chosen, built, teacher)
    return Plan(data, chosen, built, teacher, inputs, warnings)


def _larger_than_the_data(data: PreparedData, settings: DistillSettings) -> tuple[str, ...]:
    """A warning where the factors take more bytes than the events, as small as they are stored."""
    tokens = settings.num_sequences * settings.length
    rank = settings.latent_dim
    ids = getattr(settings.start, "tokens", "soft") == "ids"
    positions = tokens * (2 if settings.labels and not ids else 1)
    width = {"int8": 1, "float32": 4}.get(settings.dtype, 2)
    factors = width * rank * (positions + data.vocabulary.size) + (4 * tokens if ids else 0)
    events = 4 * data.train.num_tokens
    if factors <= events:
        return ()
    return (
        f"the artifact will take about {factors / 1e3:,.0f} kB, and the training events that it "
        f"stands for {events / 1e3:,.0f} kB: it saves steps, not bytes (--size and --latent-dim "
        "make it smaller)",
    )


def _check_weights(settings: DistillSettings, student: Student, teacher: Student) -> None:
    """Refuse students that begin from the weights of teachers of another kind."""
    begins = getattr(settings.objective, "begins_from_teachers", False)
    if begins and not same_kind(student.settings(), teacher.settings()):
        raise SettingsError(
            f"`teachers.student` must be empty where students begin from teachers' weights, as "
            f"with the objective {settings.as_dict()['objective']['name']}, "
            f"got {settings.teachers.student!r}."
        )


def _check_adjoint(settings: DistillSettings) -> None:
    """Differentiate two steps of a parabola, so that what does not fit together raises at once."""

    def loss(params: Mapping[str, torch.Tensor], meta: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return (params["w"] - meta["x"]).square().sum()

    metagradient(
        lambda params, meta, step: loss(params, meta),
        loss,
        {"w": torch.ones(1)},
        {"x": torch.zeros(1)},
        steps=2,
        optimizer=_without_groups(settings.inner.optimizer),
        adjoint=settings.inner.adjoint,
        pull_back=paper_rule if settings.inner.rule == "paper" else None,
    )


def _without_groups(optimizer: Any) -> Any:
    """The optimiser with one value for all tensors where it has several."""
    grouped = {
        name: next(iter(value.values()))
        for name, value in optimizer.hyper.items()
        if isinstance(value, Mapping)
    }
    return replace(optimizer, **grouped) if grouped else optimizer


def distill(
    data: PreparedData,
    out: str | os.PathLike[str],
    settings: DistillSettings | Mapping[str, Any] | None = None,
    *,
    student: Student | StudentSettings | str | None = None,
    objective: Objective | str | None = None,
    start: Start | str | None = None,
    optimizer: Optimizer | str | None = None,
    adjoint: Adjoint | str | None = None,
    resume: bool = False,
    teachers: str | os.PathLike[str] | None = None,
    device: torch.device | str = "cpu",
    report: Report | None = None,
    on_record: OnRecord | None = None,
    should_stop: ShouldStop = never,
    world: World = ALONE,
) -> RunOutcome:
    """Distil a prepared source into `out`, or go on with the run that is there.

    Args:
        data: the prepared source.
        out: run folder; it must be empty or missing unless `resume`.
        settings: all of them, taken as they are; or some by (nested or dotted) name, over what
            suits the source; or None for what suits it.
        student: the inner students' architecture: a value, or its name.
        objective: what the outer loop lowers: a value, or its name.
        start: where the sequences begin: a value, or its name.
        optimizer: the inner optimiser: a value, or its name.
        adjoint: how a window of inner steps is differentiated: a value, or its name.
        resume: go on with the run in `out`; the settings must be those it was begun with.
        teachers: folder of teachers that several runs share; None: the run's own.
        device: where to compute.
        report: called with (stage, done, total, note).
        on_record: called with every record of `metrics.jsonl` when it is made.
        should_stop: asked before every inner step, by several processes after every outer step;
            True saves what is complete and returns.
        world: the processes of this run; only the first writes the result.

    Raises:
        SettingsError: a setting is wrong, `out` is in use, or its settings differ.
        RunLockedError: another process writes to `out`.
        DataError: the source is too small, or a file of the run is damaged or cannot be written.

    Example:
        >>> import tempfile
        >>> from farzi.data import prepare
        >>> from farzi.distill import distill
        >>> from farzi.metagrad import SGD
        >>> some = {"outer.steps": 0, "num_sequences": 4, "length": 8, "inner.steps": 25}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = distill(prepare("stdlib-calls"), folder, some, start="random",
        ...                   optimizer=SGD(lr=0.5, momentum=0.9))
        >>> run.stopped
        'all outer steps taken'
    """
    began = time.perf_counter()
    plan = plan_run(
        data,
        settings,
        student=student,
        objective=objective,
        start=start,
        optimizer=optimizer,
        adjoint=adjoint,
    )
    folder = Path(out)
    first = world.rank == 0
    identity = plan.identity(device, world.size)
    if first:
        check_claim(folder, identity, resume)
        for line in plan.lines:
            _log.info("%s", line)
        for warning in plan.warnings:
            _log.warning("%s", warning)
    with locked(folder) if first else contextlib.nullcontext():
        if first:
            claim(folder, identity, data.origin, resume)
        world.wait()
        run = _Run(
            plan,
            folder,
            device,
            report or (lambda stage, done, total, note: None),
            should_stop,
            world,
            began,
            folder / "teachers" if teachers is None else Path(teachers),
            on_record if first else None,
        )
        try:
            return run.go(resume)
        except StopRequested:  # before there was anything to save
            return RunOutcome(folder, None, "asked to stop", math.nan, math.nan, 0, 0)


def diverged(loss: float, num_tokens: int) -> str:
    """What to say of students that guess far worse than at random; nothing where they do not.

    Args:
        loss: validation loss of the students that are trained on the start, in nats.
        num_tokens: vocabulary size V; guessing has a loss of log V.
    """
    chance = math.log(num_tokens)
    if loss <= FAR_WORSE * chance:
        return ""
    return (
        f"students of the start have a validation loss of {loss:,.3g}, far above that of guessing "
        f"({chance:.3g}): their training diverges; lower `inner.optimizer.lr`."
    )


@dataclass(frozen=True)
class _Run:
    """The stages of a run in its folder."""

    plan: Plan
    folder: Path
    device: torch.device | str
    say: Report
    should_stop: ShouldStop
    world: World
    began: float
    teachers: Path
    on_record: OnRecord | None

    @property
    def ask(self) -> ShouldStop:
        """What inner steps ask; several processes must agree, which they do after outer steps."""
        return self.should_stop if self.world.size == 1 else never

    def go(self, resume: bool) -> RunOutcome:
        """From teachers to artifact."""
        settings, first = self.plan.settings, self.world.rank == 0
        inputs = self.plan.inputs
        validation_sequences = self.plan.validation_sequences
        if self.world.size > 1 and settings.needs_teachers:
            self.plan.train_share(
                self.teachers,
                self.world.rank,
                self.world.size,
                device=self.device,
                report=self.say,
            )
            self.world.wait()
        if not first:
            self.world.wait()
        omega = self._teachers() if settings.needs_teachers else None
        if first:
            self.world.wait()
        stop_if_asked(self.ask)
        start = _on(settings.start(replace(inputs, omega=omega)), self.device)
        distiller = Distiller(
            self.plan.student,
            settings,
            inputs.train_sequences,
            validation_sequences,
            start,
            omega,
            self.world,
            self.ask,
        )
        file = state_file(self.folder, self.world.rank)
        state = None
        if resume:
            shapes = self.plan.student.init(torch.Generator().manual_seed(0))
            state = load_state(file, settings.inner.optimizer, self.device, start, shapes)
        metrics = Metrics(
            self.folder / "metrics.jsonl", state.step if state else None, first, self.on_record
        )
        if state is None:
            routine = distiller.find_routine(
                lambda done, total, note: self.say("routine", done, total, note)
            )
            distiller = distiller.trained_by(routine)
            state = distiller.begin(
                lambda done, total, note: self.say("students", done, total, note)
            )
            state = replace(state, routine=routine)
            before_s = time.perf_counter() - self.began
            chosen = {} if routine is None else {"routine": routine.to_json()}
            begun = {"step": 0, "fresh_loss": state.start_loss, "wall_s": before_s}
            metrics.add(begun | chosen)
            metrics.write()
            save_state(state, file, distiller.start)
            if first and (said := diverged(state.start_loss, self.plan.data.vocabulary.size)):
                _log.warning("%s", said)
        else:
            distiller = distiller.trained_by(state.routine)
        state = self._outer_loop(distiller, state, metrics, file)
        finished = state.stopped is not None or state.step >= settings.outer.steps
        path = self.folder / "artifact"
        if finished and first:
            artifact = make_artifact(self.plan, state, conditions(self.device, self.world.size))
            write_artifact(artifact, path, overwrite=path.exists())
        return RunOutcome(
            folder=self.folder,
            artifact=path if finished else None,
            stopped=state.stopped or ("all outer steps taken" if finished else "asked to stop"),
            start_loss=state.start_loss,
            best_loss=state.best_loss,
            best_step=state.best_step,
            outer_steps=state.step,
        )

    def _teachers(self) -> Omega:
        return self.plan.train_teachers(
            self.teachers, device=self.device, report=self.say, should_stop=self.ask
        )

    def _outer_loop(
        self, distiller: Distiller, state: DistillState, metrics: Metrics, file: Path
    ) -> DistillState:
        outer = self.plan.settings.outer
        note = f"fresh loss {state.best_loss:.3f}"
        while state.step < outer.steps and state.stopped is None:
            num_records = len(metrics.records)
            try:
                after, looked = self._outer_step(distiller, state, metrics)
            except StopRequested:  # the state is that after the last complete step
                metrics.drop_after(num_records)
                metrics.write()
                save_state(state, file, distiller.start)
                return state
            state, note = after, looked or note
            stopping = self.world.agree(self.should_stop())
            if looked or stopping or state.step % SAVE_EVERY == 0:
                metrics.write()
                save_state(state, file, distiller.start)
            self.say("outer steps", state.step, outer.steps, note)
            if stopping:
                break
        return state

    def _outer_step(
        self, distiller: Distiller, state: DistillState, metrics: Metrics
    ) -> tuple[DistillState, str]:
        """One outer step and, where it is time, a look; what the look said, or nothing."""
        outer = self.plan.settings.outer
        started = time.perf_counter()
        state, record = distiller.step(state)
        record["wall_s"] = time.perf_counter() - started
        metrics.add(record)
        if state.step % outer.validate_every and state.step != outer.steps:
            return state, ""
        agreement = distiller.alignment(state)
        state, record = distiller.look(state)
        record["agreement"] = agreement
        metrics.add(record)
        cosines = "".join(f", cos {name} {value:.2f}" for name, value in agreement.items())
        return state, f"fresh loss {record['fresh_loss']:.3f} (best {state.best_loss:.3f}){cosines}"


# -------------------------------------------------------------------------------- the result


def conditions(device: torch.device | str = "cpu", num_ranks: int = 1) -> dict[str, Any]:
    """What the bytes of a result depend on besides settings and source, as an artifact records it.

    Args:
        device: where a run computes.
        num_ranks: processes of a run.
    """
    return {
        "device": torch.device(device).type,
        "kernels": "plain torch" if kernels_for(torch.zeros(1)) is None else "compiled",
        "num_threads": torch.get_num_threads(),
        "processes": num_ranks,
        "versions": {"farzi": farzi.__version__, "torch": str(torch.__version__)},
    }


def _settings_on_record(plan: Plan) -> dict[str, Any]:
    """Every setting but what only this machine knows: where code and an earlier artifact lie."""
    settings = plan.settings.as_dict()
    if plan.student.settings()["name"] not in STUDENTS:
        settings["student"] = None
    if isinstance(settings.get("start"), dict):
        settings["start"] = {
            name: value for name, value in settings["start"].items() if name != "run"
        }
    return settings


def make_artifact(plan: Plan, state: DistillState, now: Mapping[str, Any]) -> Artifact:
    """The best sequences of a run as an artifact.

    Args:
        plan: the run.
        state: its end.
        now: its `conditions`.
    """
    data, settings = plan.data, plan.settings
    best = _on(state.best, "cpu")
    inner = settings.inner if state.routine is None else state.routine.inner(settings.inner)
    hyper = inner.optimizer.hyper
    tokens = {} if best.has_hard_tokens else {"latent": best.latent}
    labels = {} if best.label_latent is None else {"label_latent": best.label_latent.contiguous()}
    dtype = settings.dtype
    if dtype == "auto":
        dtype = smallest_dtype({"decoder": best.decoder, **tokens, **labels})
    return Artifact(
        latent=best.latent.contiguous(),
        decoder=best.decoder.contiguous(),
        **labels,  # type: ignore[arg-type]
        lengths=best.lengths,
        temperature=best.temperature,
        recipe={
            "student": plan.student.settings(),
            "optimizer": named(inner.optimizer),
            "lr": number(hyper["lr"]) or TrainSettings().lr,
            "weight_decay": number(hyper.get("weight_decay", 0.0)) or 0.0,
            "dropout": inner.dropout,
            "steps": inner.steps,
            "batch_size": inner.batch_size,
            "start": named(settings.start),
            "objective": named(settings.objective),
            "outer_steps": state.best_step,
            "settings": _settings_on_record(plan),
            **now,
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
            "validation": rounded({"start_loss": state.start_loss, "fresh_loss": state.best_loss}),
        },
        dtype=dtype,
        tokenizer=data.tokenizer,
    )


def _sample(sequences: Sequences, size: int, seed: int) -> Sequences:
    if len(sequences) <= size:
        return sequences
    generator = stream(seed, "validation sample")
    return sequences.take(np.sort(generator.permutation(len(sequences))[:size]))


def _on(synthetic: SyntheticSequences, device: torch.device | str) -> SyntheticSequences:
    factors = {name: factor.to(device) for name, factor in synthetic.factors().items()}
    lengths = None if synthetic.lengths is None else synthetic.lengths.to(device)
    moved = replace(synthetic.with_factors(factors), lengths=lengths)
    return replace(moved, latent=moved.latent.to(device)) if moved.has_hard_tokens else moved
