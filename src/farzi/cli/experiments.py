"""`farzi experiments`: run the experiments of a folder, and show what is there."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from farzi.cli._common import DEFAULT_OUTPUT, EXIT_STOPPED, Output
from farzi.errors import FarziError, SettingsError

if TYPE_CHECKING:
    from farzi.experiments.collected import Collected
    from farzi.experiments.runner import Outcome, Places

__all__ = ["experiments"]


def experiments(
    action: Literal["run", "list", "show"],
    file: Path | None = None,
    /,
    *,
    jobs: int = 1,
    time_budget: str | None = None,
    results: Path = Path("experiments/results"),
    runs: Path = Path("runs/experiments"),
    output: Output = DEFAULT_OUTPUT,
) -> int | None:
    """Run an experiment cell by cell, or show what is there of it.

    An experiment is a TOML file: source, splits, seeds, sizes, students, rows. Each of its pieces
    (teachers, a distillation, a row tuned, a student scored) is a cell, kept in a small file when
    it is done. What is there is not run again; a run that is cut off loses the cells it was at.

    Args:
        action: run it; list the experiments beside it; or show its tables.
        file: the TOML file; a folder, for list: experiments/ without it.
        jobs: processes, of one thread each.
        time_budget: begin no further cell after so long, as 90s, 150m or 2h.
        results: folder of finished cells.
        runs: folder of teachers, artifacts and half-done searches.

    Example:
        farzi experiments list
        farzi experiments run experiments/magazine-25x20.toml --jobs 2 --time-budget 150m
        farzi experiments show experiments/magazine-25x20.toml
    """
    from farzi.experiments.runner import Places

    places = Places(results, runs)
    budget_s = _seconds(time_budget)
    if jobs < 1:
        raise SettingsError(f"--jobs must be at least 1, got {jobs}.")
    if action == "list":
        _list(file or Path("experiments"), places, output)
        return None
    if file is None:
        raise SettingsError(f"farzi experiments {action} needs a TOML file.")
    if action == "show":
        _show(file, places, output)
        return None
    return _run(file, places, jobs, budget_s, output)


def _run(
    file: Path, places: Places, jobs: int, budget_s: float | None, output: Output
) -> int | None:
    from farzi.experiments.runner import run_experiment
    from farzi.experiments.specification import read_experiment

    experiment = read_experiment(file)
    with _signals() as got, output.progress(experiment.name, unit="cells", time_left=False) as bar:
        outcome = run_experiment(
            experiment,
            places,
            jobs=jobs,
            budget_s=budget_s,
            report=bar,
            should_stop=lambda: bool(got),
        )
    failed = [f"{cell}: {reason}" for cell, reason in outcome.failed.items()]
    text = [_outcome_line(outcome), *(f"failed: {each}" for each in failed[1:])]
    payload = {
        "name": experiment.name,
        "done": outcome.done,
        "there_before": outcome.there,
        "left": outcome.left,
        "left_seconds": outcome.left_s,
        "left_seconds_of_all": outcome.left_known,
        "stopped": outcome.stopped,
        "failed": outcome.failed,
    }
    output.result(payload, text="\n".join(text))
    if failed:  # the first as the command's own error line; the others stand above
        raise FarziError(failed[0])
    if got and got[0] == signal.SIGINT:
        return 130
    return EXIT_STOPPED if outcome.left else None


def _outcome_line(outcome: Outcome) -> str:
    line = f"{outcome.done} cells done, {outcome.there} there before"
    if not outcome.left:
        return f"{line}; nothing is left"
    eta = f", {outcome.eta}" if outcome.eta else ""
    return f"{line}; {outcome.left} left{eta} (stopped by {outcome.stopped})"


def _list(folder: Path, places: Places, output: Output) -> None:
    from rich.table import Table

    from farzi.experiments.collected import collect
    from farzi.experiments.specification import find_experiments

    if not folder.is_dir():
        raise SettingsError(f"{folder}: is no folder of experiments.")
    table = Table("experiment", "source", "sizes", "splits x seeds", "cells", "about")
    listed: list[dict[str, Any]] = []
    for each in find_experiments(folder):
        found = collect(places.results / each.name)
        cells = "not run yet" if found is None else f"{found.done} of {found.total}"
        listed.append(
            {
                "name": each.name,
                "source": each.source,
                "sizes": list(each.sizes),
                "splits": list(each.splits),
                "seeds": each.seeds,
                "rows": list(each.rows),
                "cells_done": None if found is None else found.done,
                "cells": None if found is None else found.total,
                "about": each.about,
            }
        )
        grid = f"{len(each.splits)} x {each.seeds}"
        table.add_row(each.name, each.source, " ".join(each.sizes), grid, cells, each.about)
    output.result({"experiments": listed}, text=table)


def _show(file: Path, places: Places, output: Output) -> None:
    from rich.console import Group

    from farzi.experiments.collected import collect
    from farzi.experiments.tables import (
        break_even_grid,
        early_ranking_grid,
        notes,
        ranking_grid,
        rich_table,
        terminal,
    )

    found = collect(places.results / file.stem)
    if found is None:
        raise SettingsError(
            f"{file.stem}: was not run yet; `farzi experiments run {file}` runs it."
        )
    parts: list[Any] = []
    for group in found.groups:
        parts.append(f"{group.source} {group.title}: {group.done} of {group.total} cells")
        if group.comparison is not None:
            parts += [*terminal(group.comparison, summary=False), *notes(group.comparison)]
            parts.append(group.comparison.protocol_line)
        grids = (break_even_grid([group]), ranking_grid([group]), early_ranking_grid(group))
        for grid in grids:
            if grid.rows:
                parts.append(rich_table(grid))
    output.result(_payload(found), text=Group(*parts))


def _payload(found: Collected) -> dict[str, Any]:
    from dataclasses import asdict

    from farzi.experiments.collected import break_even

    return {
        "name": found.name,
        "done": found.done,
        "cells": found.total,
        "groups": [
            {
                "source": group.source,
                "size": group.size,
                "label": group.label,
                "student": dict(group.student),
                "comparison": None if group.comparison is None else group.comparison.to_json(),
                "break_even": [asdict(each) for each in break_even(group)],
                "rankings": [asdict(each) for each in group.rankings],
                "early_rankings": [asdict(each) for each in group.early_rankings],
            }
            for group in found.groups
        ],
    }


def _seconds(text: str | None) -> float | None:
    """A duration in seconds.

    Example:
        >>> from farzi.cli.experiments import _seconds
        >>> _seconds("150m"), _seconds("1.5h"), _seconds("30")
        (9000.0, 5400.0, 30.0)
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if match is None:
        raise SettingsError(f"--time-budget must be as 90s, 150m or 2h, got {text!r}.")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals SIGINT and SIGTERM that came, so that a run ends well at the first."""
    got: list[int] = []
    before = {
        number: signal.signal(number, lambda number, frame: got.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield got
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
