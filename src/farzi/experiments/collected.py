"""An experiment's finished cells, put together: comparisons, what distilling cost, rankings.

Reads `plan.json` and the cells alone, not the source.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from farzi.errors import DataError
from farzi.experiments.comparison import Comparison, RowResult, compare_runs, validation_rank
from farzi.experiments.ranking import Ranked, Ranking, rank_early, rank_rows
from farzi.experiments.results import Run, headline_metrics
from farzi.experiments.store import read_result
from farzi.experiments.tuning import Search

__all__ = [
    "BreakEven",
    "Collected",
    "Distillations",
    "Group",
    "break_even",
    "collect",
    "distilled_rows",
]

CLOCK = "processor time on one thread, looks at validation not counted"


@dataclass(frozen=True)
class BreakEven:
    """After how many trainings distilling was worth its time.

    Args:
        row: the row.
        making_s: seconds to make its data: teachers, and the outer loop where there is one.
        training_s: seconds to train on it, to the best step.
        full_s: the same on full data.
        trainings: making over what one training saves; None where it saves nothing.
        of_full: mean ratio to full data.
        equal_s: seconds of training until the validation loss is full data's best; None where a run
            never came there.
        equal_trainings: as `trainings`, where training ends there.
    """

    row: str
    making_s: float
    training_s: float
    full_s: float
    trainings: float | None
    of_full: float | None
    equal_s: float | None
    equal_trainings: float | None

    @property
    def earliest(self) -> float | None:
        """The fewer of `trainings` and `equal_trainings`; None where neither pays."""
        known = [each for each in (self.trainings, self.equal_trainings) if each is not None]
        return min(known, default=None)


@dataclass(frozen=True)
class Distillations:
    """The distillations of one row, a value a split.

    Args:
        seconds: what each took.
        losses: fresh students' validation loss before the first outer step, and at the best one.
        own_teachers: the share of them whose seconds hold those of teachers of their own.
    """

    seconds: tuple[float, ...]
    losses: tuple[tuple[float, float], ...] = ()
    own_teachers: float = 0.0


@dataclass(frozen=True)
class Group:
    """One size and student of an experiment.

    Args:
        source: name of the source.
        size: size of the artifacts.
        student: settings of the students.
        task: of the source.
        events: events of the training users, on one split.
        done: cells there.
        total: cells in all.
        comparison: rows side by side; None where no student is scored yet.
        teachers_s: seconds that teachers took, by split.
        distilled: the distilled rows, and what their distillations took.
        rankings: searches on rows against one on full data.
        early_rankings: searches that give each configuration few seconds, against that one.
        searched_s: seconds of the search on full data, where there is one.
        paper: the ratio to full data that the paper reports for this size.
        label: the student as the experiment names it; empty where it leaves the choice to the
            source.
        tuned_on: the split whose validation chose for all; None: each split has its own.
    """

    source: str
    size: str
    student: Mapping[str, Any]
    task: str
    events: int
    done: int
    total: int
    comparison: Comparison | None
    teachers_s: tuple[float, ...] = ()
    distilled: Mapping[str, Distillations] = field(default_factory=dict)
    rankings: tuple[Ranking, ...] = ()
    early_rankings: tuple[Ranking, ...] = ()
    searched_s: float | None = None
    paper: float | None = None
    label: str = ""
    tuned_on: int | None = None

    @property
    def title(self) -> str:
        """Its size, and its student where the experiment names one."""
        return f"{self.size}, {self.label}" if self.label else self.size


@dataclass(frozen=True)
class Collected:
    """What is there of an experiment."""

    name: str
    about: str
    groups: tuple[Group, ...]
    overview: bool = True

    @property
    def done(self) -> int:
        """Cells there."""
        return sum(group.done for group in self.groups)

    @property
    def total(self) -> int:
        """Cells in all; one that two sizes share counts for each."""
        return sum(group.total for group in self.groups)


def collect(folder: Path) -> Collected | None:
    """The finished cells of the experiment whose results are in `folder`; None where none was run.

    Raises:
        DataError: a file cannot be read.
    """
    path = folder / "plan.json"
    if not path.is_file():
        return None
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        groups = plan["groups"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: cannot be read ({' '.join(str(error).split())}).") from None
    return Collected(
        plan["name"],
        plan["about"],
        tuple(_group(group, folder / "cells") for group in groups),
        plan.get("overview", True),
    )


def _group(values: Mapping[str, Any], kept: Path) -> Group:
    found = {
        cell["file"]: result
        for cell in values["cells"]
        if (result := read_result(kept / cell["file"])) is not None
    }

    def of(kind: str) -> list[tuple[Mapping[str, Any], Any]]:
        return [
            (cell, found[cell["file"]])
            for cell in values["cells"]
            if cell["kind"] == kind and cell["file"] in found
        ]

    # A row that two sizes share has its own name for the run.
    runs = [Run.from_json({**result, "row": cell["row"]}) for cell, result in of("score")]
    searches = {
        (cell["row"], cell["split_seed"]): Search.from_json(result) for cell, result in of("tune")
    }
    distilled: dict[str, list[Mapping[str, Any]]] = {}
    for cell, result in of("distill"):
        distilled.setdefault(cell["row"], []).append(result)
    ranked: dict[str, list[Ranked]] = {}
    for cell, result in of("rank"):
        ranked.setdefault(cell["row"], []).append(Ranked.from_json(result))
    metric = headline_metrics(values["task"])[-2 if values["task"] == "recommend" else 0]
    higher = metric != "perplexity"
    has_ranks = "full" in ranked and len(ranked) > 1
    return Group(
        source=values["source"],
        size=values["size"],
        student=values["student"],
        task=values["task"],
        events=values["events"],
        done=len(found),
        total=len(values["cells"]),
        comparison=_comparison(values, runs, searches) if runs else None,
        teachers_s=tuple(result["seconds"] for _, result in of("teachers")),
        distilled={row: _distillations(results) for row, results in distilled.items()},
        rankings=tuple(rank_rows(ranked, metric, higher_is_better=higher)) if has_ranks else (),
        early_rankings=(
            tuple(rank_early(ranked, metric, higher_is_better=higher)) if has_ranks else ()
        ),
        searched_s=sum(run.seconds for run in ranked["full"]) if has_ranks else None,
        paper=values.get("paper"),
        label=values.get("label", ""),
        tuned_on=values.get("tuned_on"),
    )


def _distillations(results: Sequence[Mapping[str, Any]]) -> Distillations:
    return Distillations(
        seconds=tuple(each["seconds"] for each in results),
        losses=tuple((each["start_loss"], each["best_loss"]) for each in results),
        own_teachers=statistics.fmean(each.get("own_teachers", False) for each in results),
    )


def _comparison(
    values: Mapping[str, Any], runs: list[Run], searches: Mapping[tuple[str, int], Search]
) -> Comparison:
    done = {run.split_seed for run in runs}
    tests = {int(seed): number for seed, number in values["test_sequences"].items()}
    return compare_runs(
        runs,
        task=values["task"],
        protocol_line=values["protocol_line"],
        order=values["rows"],
        test_sequences={seed: number for seed, number in tests.items() if seed in done},
        clock=CLOCK,
        searches=searches,
        tuned_on=values.get("tuned_on"),
        test_tokens={int(seed): each for seed, each in values.get("test_tokens", {}).items()},
        lead=_lead(runs, [cell["row"] for cell in values["cells"] if cell["kind"] == "distill"]),
    )


def _lead(runs: Sequence[Run], distilled: Sequence[str]) -> str:
    """The row that others are held against: `farzi`, or of the distilled ones the best."""
    losses: dict[str, dict[int, list[float]]] = {}
    for run in runs:
        if run.row in distilled and run.training is not None:
            losses.setdefault(run.row, {}).setdefault(run.split_seed, []).append(run.training.loss)
    if "farzi" in losses or not losses:
        return "farzi"
    return min(
        losses,
        key=lambda row: validation_rank([statistics.fmean(each) for each in losses[row].values()]),
    )


def distilled_rows(groups: Sequence[Group]) -> Iterator[tuple[Group, Comparison, RowResult]]:
    """The rows of groups that were distilled, each with its group and comparison."""
    for group in groups:
        if group.comparison is not None:
            for row in group.comparison.rows:
                if row.name in group.distilled:
                    yield group, group.comparison, row


def break_even(group: Group) -> list[BreakEven]:
    """For each row with labels or distilled: after how many trainings it was worth making."""
    if group.comparison is None:
        return []
    rows = {row.name: row for row in group.comparison.rows}
    full = rows.get("full")
    if full is None or full.seconds is None:
        return []
    teachers_s = statistics.fmean(group.teachers_s) if group.teachers_s else 0.0
    table = []
    for name, row in rows.items():
        distilled = group.distilled.get(name)
        if row.seconds is None or not (distilled or name.endswith("-soft")):
            continue
        making_s = teachers_s
        if distilled is not None:
            making_s *= 1 - distilled.own_teachers
            making_s += statistics.fmean(distilled.seconds)
        came = [each for each in row.reached if each.share == 1 and each.runs == row.num_runs]
        equal_s = came[0].seconds if came else None
        table.append(
            BreakEven(
                row=name,
                making_s=making_s,
                training_s=row.seconds,
                full_s=full.seconds,
                trainings=_trainings(making_s, full.seconds, row.seconds),
                of_full=group.comparison.ratio(name),
                equal_s=equal_s,
                equal_trainings=_trainings(making_s, full.seconds, equal_s),
            )
        )
    return table


def _trainings(making_s: float, full_s: float, training_s: float | None) -> float | None:
    """After how many trainings of `training_s` in place of `full_s` the making is earned back."""
    if training_s is None or training_s >= full_s:
        return None
    return making_s / (full_s - training_s)
