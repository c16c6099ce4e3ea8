"""Runs an experiment cell by cell: what is there is not run again, and what is cut off loses one.

A cell is one piece with a result of its own: the teachers of a split, one distillation, one row
tuned, one student scored. A cell begins when those that it needs are there, so several processes
can work, one thread each.

    results/NAME/plan.json       the cells of the experiment, and what is read with them
    results/NAME/cells/*.json    a finished cell each
    runs/NAME/                   teachers, artifacts and half-done searches: large, not kept
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import logging
import math
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from farzi.data.files import write_text
from farzi.errors import RunLockedError
from farzi.experiments.specification import Experiment
from farzi.experiments.store import wall_seconds
from farzi.experiments.workbench import Workbench
from farzi.experiments.workers import Here, Worker, ready

__all__ = ["Cell", "Outcome", "Places", "duration", "plan_cells", "run_experiment"]

_log = logging.getLogger("farzi")

PLAN_FORMAT = 1


@dataclass(frozen=True)
class Places:
    """Where results and runs of an experiment are kept.

    Args:
        results: folder of all results; an experiment has one of its name in it.
        runs: likewise for what is large.
    """

    results: Path
    runs: Path


@dataclass(frozen=True)
class Cell:
    """One piece of an experiment.

    Args:
        kind: `teachers`, `distill`, `tune`, `score` or `rank`.
        split_seed: the split.
        size: size of the artifacts.
        student: name of the student; None: what suits the source.
        row: the row; empty for teachers.
        seed: which student, or which configuration of a search.
        file: name of the file that its result is kept in.
        needs: files of the cells that must be done before.
    """

    kind: str
    split_seed: int
    size: str
    student: str | None
    row: str
    seed: int
    file: str
    needs: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"split {self.split_seed}", self.size, self.student or "", self.kind, self.row]
        if self.kind in ("score", "rank"):
            parts.append(str(self.seed))
        return " ".join(part for part in parts if part)


@dataclass
class Outcome:
    """What a run of an experiment did.

    Args:
        done: cells made.
        there: cells that were there already.
        left: cells still to do.
        failed: cells that failed, with the reason.
        left_s: seconds that the cells left are expected to take, those whose like was done before;
            None where nothing tells.
        stopped: why it stopped.
        left_known: whether that is all of the cells left.
    """

    done: int = 0
    there: int = 0
    left: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    left_s: float | None = None
    stopped: str = "all cells are there"
    left_known: bool = True

    @property
    def eta(self) -> str:
        """How long the cells left will take, in words; empty where nothing tells."""
        if self.left_s is None:
            return ""
        return f"{'about' if self.left_known else 'at least'} {duration(self.left_s)}"


def workbenches(experiment: Experiment, places: Places) -> Iterator[Workbench]:
    """Every split, size and student of an experiment, split by split."""
    for split_seed in experiment.splits:
        for size in experiment.sizes:
            for student in experiment.students or (None,):
                yield Workbench(
                    experiment,
                    split_seed,
                    size,
                    student,
                    places.results / experiment.name,
                    places.runs / experiment.name,
                )


def plan_cells(experiment: Experiment, places: Places) -> tuple[list[Cell], dict[str, Any]]:
    """Every cell of an experiment, needed ones first, and the plan as JSON.

    A cell that two sizes share is in it once.

    Raises:
        DataError: the source cannot be read.
        SettingsError: a setting or a row does not fit the source.
    """
    cells: dict[str, Cell] = {}
    groups: dict[tuple[str, str | None], dict[str, Any]] = {}
    for bench in workbenches(experiment, places):
        own = list(_cells_of(bench))
        for cell in own:
            cells.setdefault(cell.file, cell)
        group = groups.setdefault(
            (bench.size, bench.student),
            {
                "size": bench.size,
                "student": dict(bench.cells().split.student),
                "label": bench.student or "",
                "task": bench.data.task,
                "source": bench.data.name,
                "context_length": bench.settings.context_length,
                "protocol_line": bench.data.protocol_line(
                    bench.settings.context_length, list(experiment.splits)
                ),
                "events": bench.data.train.num_tokens,
                "rows": list(experiment.rows),
                "paper": experiment.paper.get(bench.size),
                "tuned_on": experiment.tuned_on,
                "test_sequences": {},
                "test_tokens": {},
                "cells": [],
            },
        )
        group["test_sequences"][str(bench.split_seed)] = len(bench.data.test)
        if bench.data.task == "language":
            group["test_tokens"][str(bench.split_seed)] = bench.data.test.lengths.tolist()
        group["cells"] += [
            {name: value for name, value in asdict(cell).items() if name != "needs"} for cell in own
        ]
    plan = {
        "format": PLAN_FORMAT,
        "name": experiment.name,
        "about": experiment.about,
        "overview": experiment.overview,
        "search": None if experiment.search is None else asdict(experiment.search),
        "groups": list(groups.values()),
    }
    return list(cells.values()), plan


def _cells_of(bench: Workbench) -> Iterator[Cell]:
    """The cells of one split, size and student, each after those that it needs."""
    store = bench.store

    def cell(kind: str, row: str, seed: int, identity: Any, *needs: Cell | None) -> Cell:
        path = store.path(identity)
        if path is None:
            raise TypeError("the results of an experiment are kept in a folder.")
        files = tuple(need.file for need in needs if need is not None)
        place = (bench.split_seed, bench.size, bench.student)
        return Cell(kind, *place, row, seed, path.name, files)

    rows = bench.rows()
    teachers: Cell | None = None
    for name, row in rows.items():  # what is large is made when a row needs it, not before
        cells = bench.cells(name)
        before = []
        is_distilled = "distilled" in row.needs
        if "teachers" in row.needs or (is_distilled and bench.plans[name].settings.needs_teachers):
            if teachers is None:
                teachers = cell("teachers", "", 0, bench.teachers_identity())
                yield teachers
            before.append(teachers)
        if is_distilled:
            before = [cell("distill", name, 0, bench.distill_identity(name), *before)]
            yield before[0]
        if bench.experiment.search is not None:
            if row.trained:
                for number in range(bench.experiment.search.configurations):
                    identity = bench.rank_identity(name, row, number)
                    yield cell("rank", name, number, identity, *before)
            continue
        if row.trained:
            tuned = cell("tune", name, 0, cells.tune_identity(name, row), *before)
            if cells.tuned_by is None:
                yield tuned
            before = [*before, tuned]
        for seed in range(bench.experiment.seeds if row.trained else 1):
            yield cell("score", name, seed, cells.score_identity(name, row, seed), *before)


# ------------------------------------------------------------------------------------- running


def run_experiment(
    experiment: Experiment,
    places: Places,
    *,
    jobs: int = 1,
    budget_s: float | None = None,
    report: Callable[[int, int, str], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Make every cell of an experiment that is not there.

    Args:
        experiment: what to run.
        places: where results and runs are kept.
        jobs: processes, of one thread each; 0 works in this one.
        budget_s: seconds after which no further cell is begun.
        report: called with (cells done, cells in all, what is done now and how long it will take).
        should_stop: asked a few times a second; True ends the cells that are being made, which are
            made again the next time.

    Raises:
        RunLockedError: another process runs this experiment.
        DataError: the source cannot be read.
    """
    folder = places.runs / experiment.name
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder, experiment.name):
        cells, plan = plan_cells(experiment, places)
        results = places.results / experiment.name
        _write_json(results / "plan.json", plan)
        state = _State(cells, results / "cells", folder)
        started = time.monotonic()
        outcome = Outcome(there=len(state.there))
        make = functools.partial(make_cell, experiment, places)
        workers: list[Worker[Cell] | Here[Cell]] = [
            Worker(make) for _ in range(min(jobs, len(state.left())))
        ]
        if not jobs:
            workers = [Here(make)]
        try:
            while True:
                late = budget_s is not None and time.monotonic() - started >= budget_s
                if not late:
                    for worker in workers:
                        if worker.piece is None and (cell := state.next_cell()) is not None:
                            state.begin(cell)
                            worker.begin(cell)
                busy = [worker for worker in workers if worker.piece is not None]
                if report is not None:
                    notes = "; ".join(worker.note for worker in busy)
                    state.expect(outcome, jobs)
                    left = f"{outcome.eta} left; " if outcome.eta else ""
                    report(len(state.there), len(cells), f"{left}{notes}")
                if not busy:
                    outcome.stopped = (
                        "the time budget" if late and state.left() else outcome.stopped
                    )
                    break
                if should_stop():
                    outcome.stopped = "a signal"
                    break
                for worker in ready(busy):
                    cell = worker.piece
                    reason = worker.hear()
                    if worker.piece is None and cell is not None:
                        state.finish(cell, reason)
                        if reason is not None:  # at once: hours of other cells may follow
                            _log.warning("%s failed: %s", cell, reason)
                        outcome.done += reason is None
        finally:
            for worker in workers:
                worker.end()
        outcome.left = len(state.left())
        outcome.failed = {str(cell): reason for cell, reason in state.failed.items()}
        state.expect(outcome, jobs)
        if outcome.left and outcome.stopped == "all cells are there":
            outcome.stopped = "cells failed"
        return outcome


class _State:
    """Which cells are there, being made, and next."""

    def __init__(self, cells: Sequence[Cell], kept: Path, runs: Path) -> None:
        self.cells = {cell.file: cell for cell in cells}
        self.kept = kept
        self.failed: dict[Cell, str] = {}
        self.busy: set[str] = set()
        self.seconds: dict[str, float | None] = {}
        there = {file for file in self.cells if (kept / file).is_file()}
        # Teachers and artifacts are large and may have been removed: they are made again where a
        # cell that needs them is missing, teachers before the artifacts that are missing with them.
        # They are not made for themselves.
        for file, cell in reversed(self.cells.items()):  # those that need others come after them
            if cell.kind in ("teachers", "distill"):
                users = [other.file for other in self.cells.values() if file in other.needs]
                if any(user not in there for user in users):
                    if not _on_disk(cell, runs):
                        there.discard(file)
                elif users:
                    there.add(file)
        self.there = there

    def left(self) -> list[Cell]:
        return [cell for file, cell in self.cells.items() if file not in self.there]

    def next_cell(self) -> Cell | None:
        """The first cell that nothing stands before."""
        for file, cell in self.cells.items():
            if file in self.there or file in self.busy or cell in self.failed:
                continue
            if all(need in self.there for need in cell.needs):
                return cell
        return None

    def begin(self, cell: Cell) -> None:
        self.busy.add(cell.file)

    def finish(self, cell: Cell, reason: str | None) -> None:
        self.busy.discard(cell.file)
        if reason is None:
            self.there.add(cell.file)
        else:
            self.failed[cell] = reason

    def expect(self, outcome: Outcome, jobs: int) -> None:
        """Say how long the cells left will take, from those of their kind that are done.

        Those of the same row go first. A model that is scored as it is, such as the teachers, tells
        nothing of one that has to be trained.
        """
        known: dict[tuple[str, str, bool], list[float]] = {}
        for file in self.there:
            if file not in self.seconds:
                self.seconds[file] = wall_seconds(self.kept / file)
            cell, seconds = self.cells[file], self.seconds[file]
            if seconds is not None:
                for place in self._likes(cell):
                    known.setdefault(place, []).append(seconds)
        found = []
        for cell in (left := self.left()):
            likes = (known[place] for place in self._likes(cell) if place in known)
            if like := next(likes, None):
                found.append(statistics.fmean(like))
        outcome.left_s = math.fsum(found) / max(1, jobs) if found else None
        outcome.left_known = len(found) == len(left)

    def _likes(self, cell: Cell) -> tuple[tuple[str, str, bool], ...]:
        """What cells have in common that take about as long, the closest first."""
        is_trained = any(self.cells[need].kind == "tune" for need in cell.needs)
        return (cell.kind, cell.row, is_trained), (cell.kind, "", is_trained)


def _on_disk(cell: Cell, runs: Path) -> bool:
    """Whether what a cell made is still there; the last part of its file's name is its key."""
    key = cell.file.split(".")[-2]
    if cell.kind == "teachers":
        return (runs / f"teachers-{key}" / "omega.json").is_file()
    return (runs / f"{cell.row}-{key}" / "artifact" / "farzi.json").is_file()


# --------------------------------------------------------------------------------------- making


_benches: dict[tuple[int, str, str | None], Workbench] = {}


def make_cell(
    experiment: Experiment, places: Places, cell: Cell, tell: Callable[[str], None]
) -> None:
    """Make one cell; its result is kept when this returns."""
    place = (cell.split_seed, cell.size, cell.student)
    bench = _benches.get(place)
    if bench is None or bench.experiment != experiment:
        _benches.clear()
        bench = next(
            each
            for each in workbenches(experiment, places)
            if (each.split_seed, each.size, each.student) == place
        )
        _benches[place] = bench
    if cell.kind == "teachers":
        bench.train_teachers(tell)
    elif cell.kind == "distill":
        bench.distil(cell.row, tell)
    else:
        row = bench.row(cell.row)
        cells = bench.cells(cell.row, row.needs)
        if cell.kind == "tune":
            cells.tuned(cell.row, row, tell)
        elif cell.kind == "score":
            cells.scored(cell.row, row, cell.seed, tell)
        else:
            bench.rank(cells, cell.row, row, cell.seed, tell)


# --------------------------------------------------------------------------------------- helpers


@contextlib.contextmanager
def _locked(folder: Path, name: str) -> Iterator[None]:
    with (folder / "experiment.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunLockedError(f"{name}: another process runs this experiment.") from None
        yield


def _write_json(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(values, indent=1)
    # The tokens of thousands of sentences stand on a line.
    lists = r"\[\s*-?\d+(?:,\s+-?\d+)+\s*\]"
    text = re.sub(lists, lambda found: json.dumps(json.loads(found[0])), text)
    write_text(path, text + "\n")


def duration(seconds: float) -> str:
    """Seconds as people say them.

    Example:
        >>> from farzi.experiments.runner import duration
        >>> duration(42), duration(150), duration(9000)
        ('42 s', '2 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
