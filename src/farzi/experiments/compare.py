"""Full data, samples of it, and distilled data side by side, over splits and seeds.

Every row is tuned the same way: one seed over the same grid of step sizes and dropout rates, then
over label smoothing, each run stopped on validation, the best setting kept; then fresh students
from other seeds, whose test scores are taken once. Whoever gets soft labels gets them from the same
teachers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from farzi.errors import SettingsError
from farzi.experiments.comparison import Comparison, compare_runs
from farzi.experiments.results import Choice, Run
from farzi.experiments.rows import ROWS, load_row
from farzi.experiments.rows.base import Fixed, Row, Sample
from farzi.experiments.rows.farzi import distilled
from farzi.experiments.splits import Split, check_one_protocol
from farzi.experiments.students import Limits, clock_name, fixed_run, scored_run, train_student

__all__ = ["ROWS", "CompareSettings", "Split", "compare", "rows_of", "tune"]


@dataclass(frozen=True)
class CompareSettings:
    """How rows are tuned and scored.

    Args:
        rows: which rows, of `ROWS`; all that the splits can have when it is empty.
        seeds: fresh students a row and split; where a row is drawn at random, each from its own
            draw.
        lrs: step sizes of the grid.
        dropouts: dropout rates of the grid.
        smoothings: label smoothing: the grid has the first, and its best setting tries the others.
        full_batch: sequences a step of the full row; the others have the artifact's.
        max_steps: cap of a small row, in steps.
        max_epochs: cap of the full row, in epochs.
        patience: looks without improvement after which a run stops; a look is an epoch on full
            data and 10 steps elsewhere.
        validation_size: validation sequences that a look reads, at most.
        seed: of everything drawn.
    """

    rows: tuple[str, ...] = ()
    seeds: int = 3
    lrs: tuple[float, ...] = (0.01, 0.02)
    dropouts: tuple[float, ...] = (0.0, 0.2)
    smoothings: tuple[float, ...] = (0.1, 0.0)
    full_batch: int = 64
    max_steps: int = 1000
    max_epochs: int = 80
    patience: int = 6
    validation_size: int = 2048
    seed: int = 0

    def __post_init__(self) -> None:
        if unknown := [row for row in self.rows if row not in ROWS]:
            raise SettingsError(f"--rows: unknown row {unknown[0]!r}; known: {', '.join(ROWS)}.")
        for flag, count in (("--seeds", self.seeds), ("--full-batch", self.full_batch)):
            if count < 1:
                raise SettingsError(f"{flag} must be at least 1, got {count}.")

    @property
    def limits(self) -> Limits:
        """When a run is looked at, and when it stops."""
        return Limits(
            max_steps=self.max_steps,
            max_epochs=self.max_epochs,
            patience=self.patience,
            validation_size=self.validation_size,
        )


def compare(
    splits: Sequence[Split],
    settings: CompareSettings,
    *,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int, str], None] | None = None,
) -> Comparison:
    """Train and score every row on every split.

    Args:
        splits: the splits, one artifact each.
        settings: how.
        device: where to compute.
        progress: called with (runs done, runs in all, what runs now).

    Raises:
        SettingsError: splits do not belong in one table, or cannot have a row that was asked for.
    """
    check_one_protocol(splits)
    names = rows_of(splits, settings)
    tries = len(settings.lrs) * len(settings.dropouts) + len(settings.smoothings) - 1
    trained = [name for name, row in names.items() if row.trained]
    total = len(splits) * len(trained) * (tries + settings.seeds)
    done = 0

    def tick(note: str) -> None:
        nonlocal done
        if progress is not None:
            progress(done, total, note)
        done += 1

    runs: list[Run] = []
    for split, (name, row) in itertools.product(splits, names.items()):
        runs += _runs(split, name, row, settings, device, tick)
    if progress is not None:
        progress(total, total, "")
    return compare_runs(
        runs,
        task=splits[0].data.task,
        protocol_line=splits[0].data.protocol_line(
            splits[0].context_length, [split.seed for split in splits]
        ),
        order=list(names),
        test_sequences={split.seed: len(split.data.test) for split in splits},
        clock=clock_name(device),
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
                raise SettingsError(f"--rows: {name} {reason}.")
            continue
        if name == "farzi":
            rows |= {also: distilled(also) for also in splits[0].distilled if also != name}
        rows[name] = row
    return rows


def _runs(
    split: Split,
    name: str,
    row: Row,
    settings: CompareSettings,
    device: torch.device | str,
    tick: Callable[[str], None],
) -> Iterable[Run]:
    """One row on one split: tuned, then scored."""
    first = row.build(split, 0, settings.seed)
    if isinstance(first, Fixed):
        yield fixed_run(name, split, first)
        return

    def note(text: str) -> None:
        tick(f"split {split.seed}, {name}, {text}")

    batch_size = settings.full_batch if first.whole else split.batch_size
    best = tune(split, first, batch_size, settings, device=device, tick=note)
    for seed in range(settings.seeds):
        note(f"seed {seed}")
        sample = row.build(split, seed, settings.seed) if row.drawn and seed else first
        if not isinstance(sample, Sample):
            raise TypeError(f"row {name!r} has no data of draw {seed}.")
        yield scored_run(name, split, sample, best, seed, settings.limits, device)


def tune(
    split: Split,
    sample: Sample,
    batch_size: int,
    settings: CompareSettings,
    *,
    device: torch.device | str = "cpu",
    tick: Callable[[str], None] = lambda note: None,
) -> Choice:
    """The choice with the lowest validation loss."""
    losses: dict[Choice, float] = {}

    def best_of(choices: Iterable[Choice]) -> Choice:
        for choice in choices:
            tick(str(choice))
            losses[choice] = train_student(split, sample, choice, 0, settings.limits, device)[
                1
            ].loss
        return min(losses, key=losses.__getitem__)

    first, *others = settings.smoothings
    best = best_of(
        Choice(lr, batch_size, dropout=dropout, smoothing=first)
        for lr, dropout in itertools.product(settings.lrs, settings.dropouts)
    )
    return best_of([replace(best, smoothing=smoothing) for smoothing in others])
