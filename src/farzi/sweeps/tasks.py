"""What one trial of a sweep does: train students, or distil."""

from __future__ import annotations

import contextlib
import fcntl
import inspect
import logging
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError

from farzi.api import TrainingPlan, plan_training
from farzi.data.prepared import PreparedData
from farzi.distill.kinds import closest
from farzi.distill.parse import layer_of, settings_for
from farzi.distill.run import Plan, distill, plan_run
from farzi.distill.stopping import ShouldStop, StopRequested, stop_if_asked
from farzi.errors import FarziError, SettingsError
from farzi.experiments.store import key_of
from farzi.sweeps.space import Axis, Value, named_student

__all__ = ["Distillations", "Outcome", "Students", "Task", "check"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What a trial came to: losses of its students, their steps, and its run's folder."""

    losses: tuple[float, ...]
    steps: tuple[int, ...]
    folder: str | None = None


class Task(Protocol):
    """What trials do."""

    def check(self, values: Mapping[str, Value]) -> None:
        """Refuse values that no trial could have.

        Raises:
            FarziError: they are wrong.
            ValueError: likewise.
        """
        ...

    def run(self, values: Mapping[str, Value], say: Say, should_stop: ShouldStop) -> Outcome:
        """Try values.

        Raises:
            StopRequested: a stop was asked for before there was a result.
        """
        ...

    def protocol_line(self) -> str:
        """What losses are of, in one line."""
        ...


def check(task: Task, axes: tuple[Axis, ...], fixed: Mapping[str, Value]) -> None:
    """Refuse what is wrong before the first trial: each axis at its ends, the others at a first.

    Raises:
        SettingsError: a name is unknown or a value wrong; which, in one line.
    """
    first = {axis.name: axis.probes[0] for axis in axes}
    if both := next((name for name in first if name in fixed), None):
        raise SettingsError(f"--set {both}: is varied too.")
    for axis in axes:
        for value in axis.probes:
            try:
                task.check({**fixed, **first, axis.name: value})
            except (FarziError, ValueError) as error:
                raise SettingsError(f"--vary {axis.text}: {error}") from None


# ------------------------------------------------------------------------------------- students


_NOT_SETTINGS = {"source", "on", "seed", "device", "read"}


@dataclass(frozen=True)
class Students:
    """Trials that train fresh students on one split, and stop on its validation part.

    Args:
        source: an artifact's or a run's folder; None: the data themselves.
        data: the split.
        seeds: students a trial, whose mean loss counts.
        seed: of the first.
        device: where to compute.
    """

    source: str | None
    data: PreparedData
    seeds: int = 1
    seed: int = 0
    device: torch.device | str = "cpu"

    def check(self, values: Mapping[str, Value]) -> None:
        """Plan a training with these values."""
        self._plan(values, self.seed)

    def run(self, values: Mapping[str, Value], say: Say, should_stop: ShouldStop) -> Outcome:
        """Train `seeds` students."""
        losses: list[float] = []
        steps: list[int] = []
        for number in range(self.seeds):
            which = f"student {number + 1} of {self.seeds}, " if self.seeds > 1 else ""

            def tell(step: int, cap: int, note: str, which: str = which) -> None:
                stop_if_asked(should_stop)
                say(f"{which}step {step:,}, {note}")

            trained = self._plan(values, self.seed + number).train(tell)
            losses.append(trained.loss)
            steps.append(trained.step)
        return Outcome(tuple(losses), tuple(steps))

    def protocol_line(self) -> str:
        """The data and the split."""
        return self.data.protocol_line()

    def _plan(self, values: Mapping[str, Value], seed: int) -> TrainingPlan:
        hints = self._settings()
        given: dict[str, Any] = {}
        own: list[str] = []
        for name, value in values.items():
            group, dot, size = name.partition(".")
            if dot and group == "student":
                own.append(f"{size}={value}")
                continue
            if name not in hints:
                what = f"unknown setting{closest(name, [*hints, 'student.NAME'])}"
                raise SettingsError(f"{name}: {what}.")
            given[name] = _checked(name, value, hints[name])
        if own:
            if "student" not in given:
                raise SettingsError("student.NAME needs `student` among the settings.")
            given["student"] = named_student(given["student"], own)
        if self.source is not None:
            given["on"] = self.data
        source = self.data if self.source is None else self.source
        return plan_training(source, seed=seed, device=self.device, **given)

    def _settings(self) -> dict[str, Any]:
        """The settings of a training by name, with their types."""
        hints = typing.get_type_hints(plan_training)
        names = set(inspect.signature(plan_training).parameters) - _NOT_SETTINGS
        if self.source is not None:
            names.discard("context_length")  # it is the artifact's
        return {name: str if name == "student" else hints[name] for name in sorted(names)}


def _checked(name: str, value: Value, hint: Any) -> Any:
    """The value in the type of its setting."""
    try:
        return TypeAdapter(hint, config=ConfigDict(strict=True)).validate_python(value)
    except ValidationError as error:
        said = error.errors()[0]["msg"].replace("Input should", "must")
        raise SettingsError(f"`{name}` {said}, got {value!r}.") from None


# -------------------------------------------------------------------------------- distillations


@dataclass(frozen=True)
class Distillations:
    """Trials that distil, each into a folder of its own; fresh students' loss counts.

    Trials whose teachers are the same share them.

    Args:
        data: the split.
        folder: where runs and teachers are kept.
        seed: of everything drawn.
        device: where to compute.
    """

    data: PreparedData
    folder: Path
    seed: int = 0
    device: torch.device | str = "cpu"

    def check(self, values: Mapping[str, Value]) -> None:
        """Plan a run with these values."""
        self._plan(values)

    def run(self, values: Mapping[str, Value], say: Say, should_stop: ShouldStop) -> Outcome:
        """Distil, or go on with a run of the same values that was cut off."""
        plan = self._plan(values)
        place = key_of({"values": dict(values), "threads": torch.get_num_threads()})
        folder = self.folder / "runs" / place

        def report(stage: str, done: int, total: int, note: str) -> None:
            say(f"{stage} {done}/{total}" + (f", {note}" if note else ""))

        teachers = self._teachers(plan, report, should_stop)
        outcome = distill(
            plan.data,
            folder,
            plan.settings,
            resume=(folder / "settings.json").is_file(),
            teachers=teachers,
            device=self.device,
            report=report,
            should_stop=should_stop,
        )
        if outcome.artifact is None:
            raise StopRequested
        own = folder / "teachers"
        if teachers is not None and not own.exists():  # `farzi compare` looks for them there
            own.symlink_to(Path("../..") / teachers.relative_to(self.folder), True)
        return Outcome((outcome.best_loss,), (outcome.best_step,), str(folder))

    def protocol_line(self) -> str:
        """The data and the split."""
        return self.data.protocol_line()

    def _plan(self, values: Mapping[str, Value]) -> Plan:
        settings = settings_for(self.data, layer_of({"seed": self.seed}), layer_of(values))
        return plan_run(self.data, settings)

    def _teachers(
        self, plan: Plan, report: Callable[[str, int, int, str], None], should_stop: ShouldStop
    ) -> Path | None:
        """The folder of the teachers that the run shares with others like it."""
        if not plan.settings.needs_teachers:
            return None
        name = key_of(
            {
                "teachers": plan.settings.as_dict()["teachers"],
                "student": dict(plan.teacher.settings()),
                "seed": plan.settings.seed,
            }
        )
        folder = self.folder / "teachers" / name
        with flock(folder.with_suffix(".lock")):
            plan.train_teachers(folder, device=self.device, report=report, should_stop=should_stop)
        return folder


# --------------------------------------------------------------------------------------- helpers


@contextlib.contextmanager
def flock(file: Path) -> Iterator[None]:
    """Hold a lock on a file, waiting for whoever holds it; the system frees a dead one's."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what the library tells of each training out of the log of many."""
    logger = logging.getLogger("farzi")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
