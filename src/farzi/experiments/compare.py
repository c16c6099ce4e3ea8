"""Full data, samples of it, and distilled data side by side, over splits and seeds.

Every row is tuned the same way: one seed over the same axes (step size, weight decay, dropout,
label smoothing; rows of all training data their batch size too), one after another, each run
stopped on validation, the best setting kept; then fresh students from other seeds, whose test
scores are taken once. Whoever gets soft labels gets them from the same teachers. Finished runs are
kept, and a comparison that was cut off goes on with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from farzi.errors import SettingsError
from farzi.experiments.cells import Cells, CompareSettings
from farzi.experiments.comparison import Comparison, compare_runs
from farzi.experiments.results import Run
from farzi.experiments.rows import ROWS, load_row
from farzi.experiments.rows.base import Row
from farzi.experiments.rows.farzi import distilled
from farzi.experiments.splits import Split, check_one_protocol
from farzi.experiments.store import Store, source_hash
from farzi.experiments.students import clock_name
from farzi.experiments.tuning import Search, most_tries

__all__ = ["CompareSettings", "Split", "compare", "rows_of"]


def compare(
    splits: Sequence[Split],
    settings: CompareSettings,
    *,
    tune_once: bool = False,
    device: torch.device | str = "cpu",
    stores: Sequence[Store] = (),
    progress: Callable[[int, int, str], None] | None = None,
) -> Comparison:
    """Train and score every row on every split.

    Args:
        splits: the splits, one artifact each.
        settings: how.
        tune_once: let validation of the first split choose the settings of every row for all.
        device: where to compute.
        stores: where the runs of each split are kept and taken up again; without it they are not. A
            run of other code is made again.
        progress: called with (runs done, runs in all, what runs now).

    Raises:
        SettingsError: splits do not belong in one table, or cannot have a row that was asked for.
    """
    check_one_protocol(splits)
    names = rows_of(splits, settings)
    code = source_hash() if stores else ""
    tuned = splits[:1] if tune_once else splits
    report = _Report(
        progress, sum(_parts(names, split, settings, split in tuned) for split in splits)
    )
    runs: list[Run] = []
    searches: dict[tuple[str, int], Search] = {}
    kept = stores or [Store() for _ in splits]
    first: Cells | None = None
    for split, store in zip(splits, kept, strict=True):
        cells = Cells(split, settings, store, store, code, device, first if tune_once else None)
        first = first or cells
        for name, row in names.items():
            tell = report.told(f"split {split.seed}, {name}")
            if row.trained and cells.tuned_by is None:
                searches[name, split.seed], _ = cells.tuned(name, row, tell)
                report.finish(most_tries(settings.axes(row, split)))
            for seed in range(settings.seeds if row.trained else 1):
                runs.append(cells.scored(name, row, seed, tell)[0])
                report.finish(1)
    return compare_runs(
        runs,
        task=splits[0].data.task,
        protocol_line=splits[0].data.protocol_line(
            splits[0].context_length, [split.seed for split in splits]
        ),
        order=list(names),
        test_sequences={split.seed: len(split.data.test) for split in splits},
        clock=clock_name(device),
        test_tokens={
            split.seed: split.data.test.lengths.tolist()
            for split in splits
            if split.data.task == "language"
        },
        searches=searches,
        tuned_on=splits[0].seed if tune_once else None,
    )


def rows_of(splits: Sequence[Split], settings: CompareSettings) -> dict[str, Row]:
    """The rows of a comparison by name; further distilled sequences stand before `farzi`.

    Raises:
        SettingsError: a row was asked for that a split cannot have.
    """
    rows: dict[str, Row] = {}
    for name in settings.rows or ROWS:
        row = load_row(name)
        reasons = [row.missing(split) for split in splits]
        if reason := next(filter(None, reasons), None):
            if name in settings.rows:
                raise SettingsError(f"`rows`: {name} {reason}.")
            continue
        if name == "farzi":
            rows |= {also: distilled(also) for also in splits[0].distilled if also != name}
        rows[name] = row
    return rows


def _parts(rows: Mapping[str, Row], split: Split, settings: CompareSettings, is_tuned: bool) -> int:
    """Runs of all rows on a split, at most."""
    trained = [row for row in rows.values() if row.trained]
    tries = sum(most_tries(settings.axes(row, split)) for row in trained) if is_tuned else 0
    return tries + len(trained) * settings.seeds + len(rows) - len(trained)


class _Report:
    """Runs done of all there can be; a search that ends early counts whole."""

    def __init__(self, progress: Callable[[int, int, str], None] | None, total: int) -> None:
        self.progress = progress
        self.total = total
        self.finished = 0

    def told(self, what: str) -> Callable[[str], None]:
        """A function that says what runs now."""
        return lambda note: self._say(f"{what}, {note}")

    def finish(self, runs: int) -> None:
        """Count runs as done."""
        self.finished += runs
        if self.finished == self.total:
            self._say("")

    def _say(self, note: str) -> None:
        if self.progress is not None:
            self.progress(self.finished, self.total, note)
