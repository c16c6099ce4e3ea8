"""Full data, samples of it, and distilled data side by side, over splits and seeds.

Every row is tuned the same way: one seed over the same axes (step size, weight decay, dropout,
label smoothing; rows of all training data their batch size too), one after another, each run
stopped on validation, the best setting kept; then fresh students from other seeds, whose test
scores are taken once. Whoever gets soft labels gets them from the same teachers. Finished runs are
kept, and a comparison that was cut off goes on with them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from farzi.devices import threads
from farzi.errors import SettingsError
from farzi.experiments.ahead import Elsewhere, Piece
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
    elsewhere: Elsewhere | None = None,
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
        elsewhere: the processes that make the runs; None: this one makes them, one by one.

    Raises:
        SettingsError: splits do not belong in one table, or cannot have a row that was asked for.
    """
    check_one_protocol(splits)
    names = rows_of(splits, settings)
    code = source_hash() if stores else ""
    pieces = _pieces(names, splits, settings, tune_once)
    report = _Report(progress, sum(piece.runs for piece in pieces))
    runs: list[Run] = []
    searches: dict[tuple[str, int], Search] = {}
    kept = stores or [Store() for _ in splits]
    with ExitStack() as held:
        ahead: list[Piece] = []
        if elsewhere is not None:
            held.enter_context(threads(1))
            scratch = Path(held.enter_context(tempfile.TemporaryDirectory()))
            kept = [
                store if store.folder is not None else Store(scratch / str(place))
                for place, store in enumerate(kept)
            ]
            ahead = [each for each in pieces if elsewhere.can_make(names[each.row], each.place)]
            elsewhere.make(
                ahead,
                settings,
                [store.folder for store in kept if store.folder is not None],
                code,
                str(device),
                report.tell,
            )
        every = [
            Cells(split, settings, store, store, code, device)
            for split, store in zip(splits, kept, strict=True)
        ]
        if tune_once:
            every[1:] = [replace(cells, tuned_by=every[0]) for cells in every[1:]]
        report.begin(ahead)
        for piece in pieces:
            name, row, cells = piece.row, names[piece.row], every[piece.place]
            tell = report.told(f"split {cells.split.seed}, {name}")
            if piece.seed is None:
                searches[name, cells.split.seed], _ = cells.tuned(name, row, tell)
            else:
                runs.append(cells.scored(name, row, piece.seed, tell)[0])
            report.finish(piece)
        clock = clock_name(device)
    return compare_runs(
        runs,
        task=splits[0].data.task,
        protocol_line=splits[0].data.protocol_line(
            splits[0].context_length, [split.seed for split in splits]
        ),
        order=list(names),
        test_sequences={split.seed: len(split.data.test) for split in splits},
        clock=clock,
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


def _pieces(
    rows: Mapping[str, Row], splits: Sequence[Split], settings: CompareSettings, tune_once: bool
) -> list[Piece]:
    """Every search and every student, each after the search that chooses its settings."""
    pieces: list[Piece] = []
    searches: dict[tuple[int, str], Piece] = {}
    for place, split in enumerate(splits):
        for name, row in rows.items():
            tuned = 0 if tune_once else place
            if row.trained and tuned == place:
                tries = most_tries(settings.axes(row, split), settings.tune_sweeps)
                searches[place, name] = Piece(place, split.seed, name, None, tries)
                pieces.append(searches[place, name])
            pieces += [
                Piece(place, split.seed, name, seed, needs=searches.get((tuned, name)))
                for seed in range(settings.seeds if row.trained else 1)
            ]
    return pieces


class _Report:
    """Runs done of all there can be; a search that ends early counts whole."""

    def __init__(self, progress: Callable[[int, int, str], None] | None, total: int) -> None:
        self.progress = progress
        self.total = total
        self.counted: set[Piece] = set()

    def begin(self, ahead: Iterable[Piece]) -> None:
        """Count pieces that were made ahead."""
        self.counted.update(ahead)

    def told(self, what: str) -> Callable[[str], None]:
        """A function that says what runs now."""
        return lambda note: self._say(f"{what}, {note}")

    def finish(self, piece: Piece) -> None:
        """Count a piece as done."""
        self.counted.add(piece)
        if self.finished == self.total:
            self._say("")

    @property
    def finished(self) -> int:
        return sum(piece.runs for piece in self.counted)

    def tell(self, finished: int, note: str) -> None:
        """Say what other processes have done and do now."""
        if self.progress is not None:
            self.progress(finished, self.total, note)

    def _say(self, note: str) -> None:
        self.tell(self.finished, note)
