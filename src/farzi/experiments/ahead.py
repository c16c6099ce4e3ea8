"""Runs of a comparison that several processes make ahead, so that it finds them finished."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from farzi.experiments.cells import Cells, CompareSettings
from farzi.experiments.opened import Opener
from farzi.experiments.rows import ROWS, load_row
from farzi.experiments.rows.base import Row
from farzi.experiments.rows.farzi import distilled
from farzi.experiments.store import Store
from farzi.experiments.workers import Here, Tell, Worker, ready

__all__ = ["Elsewhere", "Piece", "next_piece"]


@dataclass(frozen=True)
class Elsewhere:
    """That runs are made by several processes, of one thread each.

    Args:
        opener: opens the splits there.
        jobs: processes.
    """

    opener: Opener
    jobs: int

    def can_make(self, row: Row, place: int) -> bool:
        """Whether a row's runs can be made there: teachers are trained once, or read."""
        return row.trained and ("teachers" not in row.needs or self.opener.has_teachers(place))

    def make(
        self,
        pieces: Sequence[Piece],
        settings: CompareSettings,
        folders: Sequence[Path],
        code: str,
        device: str,
        report: Callable[[int, str], None],
    ) -> None:
        """Make pieces, so that a comparison finds them in its stores.

        Args:
            pieces: what to make, each after the one that it needs.
            settings: how rows are tuned and scored.
            folders: of the stores, one for each split.
            code: what of the code results depend on.
            device: where to compute.
            report: called with (runs done, what runs now).

        Raises:
            FarziError: a piece cannot be made.
        """
        _make_ahead(pieces, _Maker(self.opener, settings, folders, code, device), self.jobs, report)


@dataclass(frozen=True)
class Piece:
    """A row's search, or one student of it, on one split.

    Args:
        place: of the split among all.
        split_seed: the split's seed.
        row: the row.
        seed: which student; None: the search.
        runs: how many runs it counts for.
        needs: the search that chooses the student's settings.
    """

    place: int
    split_seed: int
    row: str
    seed: int | None
    runs: int = 1
    needs: Piece | None = None

    def __str__(self) -> str:
        return f"split {self.split_seed}, {self.row}"


@dataclass
class _Maker:
    """Makes a piece in whatever process it is called, and keeps it in the store of its split.

    Args:
        opener: opens the splits.
        settings: how rows are tuned and scored.
        folders: of the stores, one for each split.
        code: what of the code results depend on.
        device: where to compute.
    """

    opener: Opener
    settings: CompareSettings
    folders: Sequence[Path]
    code: str
    device: str
    _cells: dict[int, Cells] = field(default_factory=dict, repr=False)

    def __call__(self, piece: Piece, tell: Tell) -> None:
        """Make a piece.

        Raises:
            FarziError: it cannot be made.
        """
        row = load_row(piece.row) if piece.row in ROWS else distilled(piece.row)
        cells = self._opened(piece.place)
        if piece.needs is not None and piece.needs.place != piece.place:
            cells = replace(cells, tuned_by=self._opened(piece.needs.place))
        if piece.seed is None:
            cells.tuned(piece.row, row, tell)
        else:
            cells.scored(piece.row, row, piece.seed, tell)

    def _opened(self, place: int) -> Cells:
        """The cells of a split, with its teachers where they were kept."""
        if place not in self._cells:
            split = self.opener.open(place, teachers=self.opener.has_teachers(place))
            store = Store(self.folders[place])
            self._cells[place] = Cells(split, self.settings, store, store, self.code, self.device)
        return self._cells[place]


def _make_ahead(
    pieces: Sequence[Piece],
    make: _Maker,
    jobs: int,
    report: Callable[[int, str], None],
) -> None:
    """Make pieces with several processes of one thread each.

    A piece that a process could not make is made once more in this one, so that its error arises
    where the caller sees it.

    Args:
        pieces: what to make, each after the one that it needs.
        make: makes one.
        jobs: processes.
        report: called with (runs done, what runs now).

    Raises:
        FarziError: a piece cannot be made.
    """
    left = list(pieces)
    done: set[Piece] = set()
    workers: list[Worker[Piece] | Here[Piece]] = [Worker(make) for _ in range(min(jobs, len(left)))]
    try:
        while len(done) < len(pieces):
            for worker in workers:
                if worker.piece is None and (piece := next_piece(left, done)) is not None:
                    left.remove(piece)
                    worker.begin(piece)
            busy = [worker for worker in workers if worker.piece is not None]
            report(sum(piece.runs for piece in done), "; ".join(worker.note for worker in busy))
            for worker in ready(busy):
                piece, reason = worker.piece, worker.hear()
                if worker.piece is None and piece is not None:
                    if reason is not None:
                        make(piece, lambda note: None)
                    done.add(piece)
    finally:
        for worker in workers:
            worker.end()


def next_piece(left: Sequence[Piece], done: Container[Piece]) -> Piece | None:
    """The first piece that nothing stands before: a search, which students wait for, goes first."""
    able = (piece for piece in left if piece.needs is None or piece.needs in done)
    return min(able, key=lambda piece: piece.seed is not None, default=None)
