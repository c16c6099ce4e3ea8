"""One split, size and student of an experiment: what can be made of it, and from what.

Planning needs the source alone; teachers and distilled sequences are read when a cell needs them.
Both stand under names that say what they depend on, so that rows and variants share them.
"""

from __future__ import annotations

import functools
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from farzi.artifact import read_artifact
from farzi.data import PreparedData, prepare
from farzi.data.files import read_json, write_text
from farzi.distill import DistillSettings, distill
from farzi.distill.run import Plan, plan_run
from farzi.distill.teachers import Omega
from farzi.errors import DataError, NonFiniteError, SettingsError
from farzi.evaluation import evaluate
from farzi.experiments.cells import Cells
from farzi.experiments.ranking import Configuration, Ranked, configurations
from farzi.experiments.rows import ROWS, load_row
from farzi.experiments.rows.base import Row, Sample
from farzi.experiments.rows.farzi import distilled as distilled_row
from farzi.experiments.specification import Experiment
from farzi.experiments.splits import Split
from farzi.experiments.store import RESULT_FORMAT, Store, key_of, named_by
from farzi.experiments.students import train_student
from farzi.experiments.workers import Tell
from farzi.models import STUDENTS, build_student

__all__ = ["Workbench"]


@functools.lru_cache(maxsize=2)
def _prepared(source: str, read: tuple[tuple[str, Any], ...], split_seed: int) -> PreparedData:
    return prepare(source, split_seed=split_seed, **dict(read))


class _Meter:
    """Processor seconds of what several processes may work at, each going on where one was cut off.

    Args:
        file: where the seconds so far are kept, a few seconds old at most.
        goes_on: whether another process began; its seconds count too.

    Raises:
        DataError: it did, and nothing says how long it took.
    """

    def __init__(self, file: Path, *, goes_on: bool) -> None:
        self.file = file
        self.started = self.kept = time.process_time()
        self.before = 0.0
        if goes_on:
            try:
                self.before = float(read_json(file)["seconds"])
            except (OSError, ValueError, KeyError, TypeError):
                raise DataError(
                    f"{file}: does not say how long the run beside it took; remove that run."
                ) from None
        file.parent.mkdir(parents=True, exist_ok=True)
        self._write()

    @property
    def seconds(self) -> float:
        """Of all processes until now."""
        return self.before + time.process_time() - self.started

    def keep(self) -> None:
        """Keep the seconds, where a few more have passed."""
        if time.process_time() - self.kept > 2:
            self._write()

    def _write(self) -> None:
        self.kept = time.process_time()
        write_text(self.file, json.dumps({"seconds": round(self.seconds, 2)}) + "\n")


@dataclass(frozen=True)
class Workbench:
    """One split, size and student of an experiment.

    Args:
        experiment: what is done.
        split_seed: the split.
        size: size of the artifacts.
        student: name of the student; None: what suits the source.
        results: where finished cells are kept, small JSON files.
        runs: where teachers and distilled sequences are kept, which are large.
    """

    experiment: Experiment
    split_seed: int
    size: str
    student: str | None
    results: Path
    runs: Path

    @property
    def data(self) -> PreparedData:
        """The prepared split."""
        read = tuple(sorted(self.experiment.read.items()))
        return _prepared(self.experiment.source, read, self.split_seed)

    @functools.cached_property
    def plans(self) -> dict[str, Plan]:
        """What is distilled for each distilled row; `farzi` for its student where there is none."""
        variants = self.experiment.distilled or {"farzi": {}}
        return {name: self._plan(changes) for name, changes in variants.items()}

    def _plan(self, changes: Mapping[str, Any]) -> Plan:
        from farzi.distill.parse import settings_for
        from farzi.distill.presets import parse_size

        chosen: list[Mapping[str, Any]] = [parse_size(self.size), self.experiment.distill]
        if self.student is not None:
            chosen.append({"student.name": self.student})
        settings = settings_for(self.data, *chosen, changes)
        return plan_run(self.data, settings)

    @property
    def settings(self) -> DistillSettings:
        """The settings that the rows share: of `farzi`, or of the first distilled row."""
        return self._main.settings

    @functools.cached_property
    def _main(self) -> Plan:
        """That of `farzi`, or of the first distilled row that is for the student in hand."""
        own = [name for name in self.plans if not self._is_for_another(name)]
        first = "farzi" if "farzi" in own else own[0] if own else None
        return self._plan({}) if first is None else self.plans[first]

    def _is_for_another(self, name: str) -> bool:
        """Whether the row is distilled for another student than the one that is scored."""
        changes = self.experiment.distilled.get(name, {})
        return any(setting.partition(".")[0] == "student" for setting in changes)

    # --------------------------------------------------------------------------- identities

    def teachers_identity(self, plan: Plan | None = None) -> dict[str, Any]:
        """All that teachers depend on."""
        plan = plan or self._main
        values = plan.settings.as_dict()
        return {
            "kind": "teachers",
            "code": f"format {RESULT_FORMAT}",
            **self._source(),
            "student": dict(plan.teacher.settings()),
            "teachers": named_by(values["teachers"], "teachers"),
            "validation_size": values["outer"]["validation_size"],
            "seed": values["seed"],
        }

    def distill_identity(self, name: str) -> dict[str, Any]:
        """All that distilled sequences depend on."""
        plan = self.plans[name]
        return {
            "kind": "distill",
            "row": name,
            "code": f"format {RESULT_FORMAT}",
            **self._source(),
            "settings": named_by(plan.settings.as_dict()),
        }

    def _source(self) -> dict[str, Any]:
        data = self.data
        return {
            "source": data.name,
            "fingerprint": data.fingerprint,
            "split_kind": data.split_kind,
            "split_seed": data.split_seed,
            "train_users_hash": data.train_users_hash,
        }

    @functools.cached_property
    def keys(self) -> dict[str, str]:
        """Keys of the teachers and of the distilled sequences of each row."""
        keys = {name: key_of(self.distill_identity(name)) for name in self.experiment.distilled}
        return {**keys, "teachers": key_of(self.teachers_identity())}

    # --------------------------------------------------------------------------- rows, cells

    def row(self, name: str) -> Row:
        """The row of this name, or of a variant."""
        return load_row(name) if name in ROWS else distilled_row(name)

    def rows(self) -> dict[str, Row]:
        """The rows of the experiment by name, in its order.

        Raises:
            SettingsError: a row is not for the task of the source.
        """
        rows = {name: self.row(name) for name in self.experiment.rows}
        for name, row in rows.items():
            if self.data.task not in row.tasks:
                raise SettingsError(
                    f"{self.experiment.name}: row {name} is for {' and '.join(row.tasks)} sources, "
                    f"and {self.data.name} is for {self.data.task}."
                )
        return rows

    def cells(self, name: str = "", needs: frozenset[str] = frozenset()) -> Cells:
        """The cells of a row on the split, with what they need read from disk.

        Args:
            name: the row. Tokens that are labels as well train a position less, and so does their
                student. One that was distilled for another student is read by the one in hand.
            needs: `teachers`, `distilled`; without them cells can be looked up, not made.
        """
        few, num_bytes = {}, {}
        if "distilled" in needs:
            artifact = read_artifact(self.run_folder(name) / "artifact")
            few, num_bytes = {name: artifact.synthetic}, {name: artifact.num_bytes}
        student = self.plans.get(name, self._main).student
        if self._is_for_another(name):
            length = student.context_length
            student = build_student({**self._main.student.settings(), "context_length": length})
        omega = self._omega() if "teachers" in needs else None
        settings = dict(student.settings())
        split = Split(
            self.data,
            settings,
            self.settings.num_sequences,
            self.settings.inner.batch_size,
            few,
            () if omega is None else omega.teachers(),
            self.keys,
            own=None if settings["name"] in STUDENTS else student,
            teacher=None if omega is None else omega.student(student),
            num_bytes=num_bytes,
        )
        tries = Store(self.runs / "tries")
        tuned_by = None if self._tuner is None else self._tuner.cells(name)
        return Cells(split, self.experiment.compare, self.store, tries, tuned_by=tuned_by)

    @functools.cached_property
    def _tuner(self) -> Workbench | None:
        """That of the split that rows are tuned on; None where it is this one."""
        split_seed = self.experiment.tuned_on
        if split_seed is None or split_seed == self.split_seed:
            return None
        return replace(self, split_seed=split_seed)

    @property
    def store(self) -> Store:
        """Where finished cells are kept."""
        return Store(self.results / "cells")

    # ----------------------------------------------------------------- teachers, distillation

    def teachers_folder(self) -> Path:
        """Where the teachers are."""
        return self.runs / f"teachers-{self.keys['teachers']}"

    def run_folder(self, name: str) -> Path:
        """Where the distillation of a row is."""
        return self.runs / f"{name}-{self.keys[name]}"

    def has_teachers(self) -> bool:
        """Whether the teachers are there, trained to their end."""
        return Omega.load(self.teachers_folder()) is not None

    def has_distilled(self, name: str) -> bool:
        """Whether the distilled sequences of a row are there."""
        return (self.run_folder(name) / "artifact" / "farzi.json").is_file()

    def _omega(self) -> Omega:
        omega = Omega.load(self.teachers_folder())
        if omega is None:
            raise SettingsError(f"{self.teachers_folder()}: there are no teachers yet.")
        return omega

    def train_teachers(self, tell: Tell) -> None:
        """Train the teachers, and keep what they cost.

        Those that are there, or were begun, have no result, and what they cost is not known: they
        are trained anew.
        """
        shutil.rmtree(self.teachers_folder(), ignore_errors=True)
        started = time.process_time()
        omega = self._main.train_teachers(
            self.teachers_folder(), report=lambda stage, done, total, note: tell(note)
        )
        seconds = time.process_time() - started
        self.store.put(
            self.teachers_identity(),
            {"seconds": round(seconds, 2), "losses": [min(losses) for losses in omega.losses]},
        )

    def distil(self, name: str, tell: Tell) -> None:
        """Distil for one row, going on with a run that is there, and keep what it cost."""
        plan, folder = self.plans[name], self.run_folder(name)
        resume = (folder / "settings.json").is_file()
        meter = _Meter(folder.with_name(f"seconds-{folder.name}.json"), goes_on=resume)

        def report(stage: str, done: int, total: int, note: str) -> None:
            meter.keep()
            tell(f"{stage} {done} of {total}, {note}")

        own = self.teachers_identity(plan) != self.teachers_identity()
        outcome = distill(
            self.data,
            folder,
            plan.settings,
            resume=resume,
            teachers=None if own else self.teachers_folder(),
            report=report,
        )
        artifact = read_artifact(folder / "artifact")
        self.store.put(
            self.distill_identity(name),
            {
                "seconds": round(meter.seconds, 2),
                "went_on": resume,
                "own_teachers": own,
                "start_loss": outcome.start_loss,
                "best_loss": outcome.best_loss,
                "best_step": outcome.best_step,
                "outer_steps": outcome.outer_steps,
                "stopped": outcome.stopped,
                "bytes": artifact.num_bytes,
                "sequences": artifact.num_sequences,
            },
        )

    # ---------------------------------------------------------------------------- a search

    def configuration(self, name: str, row: Row, number: int) -> Configuration:
        """Configuration `number` of the search, with the row's batch size."""
        if self.experiment.search is None:
            raise SettingsError(f"{self.experiment.name}: has no `search`.")
        if self._main.student.settings()["name"] not in STUDENTS:
            raise SettingsError(
                f"{self.experiment.name}: a search changes the student's sizes, and those of "
                f"{self.student!r} are in its own file."
            )
        cells = self.cells(name)
        batch = self.settings.inner.batch_size if row.sized else cells.settings.batches[0]
        return configurations(self.experiment.search, cells.split.student, batch)[number]

    def rank_identity(self, name: str, row: Row, number: int) -> dict[str, Any]:
        """All that one configuration trained on one row depends on."""
        chosen = self.configuration(name, row, number)
        return {
            **self.cells(name).identity("rank", name, row),
            "config": number,
            "choice": named_by(asdict(chosen.choice)),
            "sizes": dict(chosen.sizes),
        }

    def rank(self, cells: Cells, name: str, row: Row, number: int, tell: Tell) -> None:
        """Train one configuration on one row, and keep how it did."""
        chosen = self.configuration(name, row, number)

        def make() -> Mapping[str, Any]:
            sample = row.build(cells.split, 0, cells.settings.seed)
            if not isinstance(sample, Sample):
                raise SettingsError(f"row {name} has nothing to train on.")
            split = replace(cells.split, student={**cells.split.student, **chosen.sizes})
            try:
                student, trained, training = train_student(
                    split, sample, chosen.choice, 0, cells.settings.limits, tell=tell
                )
            except NonFiniteError:
                return Ranked(number, None, 0.0, {}).to_json()
            scores = evaluate(student, trained.params, split.data, "test")
            metrics = {metric: float(value) for metric, value in scores.metrics.items()}
            return Ranked(
                number, training.loss, training.total_seconds, metrics, training.curve
            ).to_json()

        cells.store.take(self.rank_identity(name, row, number), make)
