"""A comparison as one value: what each row scored, what it cost, and how rows differ."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from farzi.experiments.ratios import ratio_intervals, ratios_to_full
from farzi.experiments.results import Look, Run, headline_metrics
from farzi.experiments.tuning import Search

__all__ = ["Comparison", "Difference", "RowResult", "Spread", "compare_runs", "validation_rank"]

SHARES = (0.95, 1.0)
"""Shares of full data's quality whose seconds are told."""


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over runs."""

    mean: float | None
    std: float | None = None

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """The spread of some values; a single one has none."""
        every = list(values)
        return cls(statistics.fmean(every), statistics.stdev(every) if len(every) > 1 else 0.0)


@dataclass(frozen=True)
class Difference:
    """The mean of a - b over users, with the bounds of its 95 % bootstrap interval."""

    a: str
    b: str
    metric: str
    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Reached:
    """Seconds of training until a share of full data's quality.

    Args:
        share: the validation perplexity of full data over that of the run.
        seconds: mean over the runs that came there; None where none did.
        runs: how many did.
    """

    share: float
    seconds: float | None
    runs: int


@dataclass(frozen=True)
class RowResult:
    """One row of a comparison.

    Args:
        name: the row.
        sequences: sequences it holds, the mean over its draws.
        tokens: tokens, likewise.
        bytes: bytes to ship, likewise.
        metrics: test scores; rates are fractions.
        num_runs: students scored.
        chosen: how they were trained, by split; where the search is known, `tries` settings were
            tried to choose it, and its seconds left no time for `left_out` more.
        stopped: what ended the runs: `validation`, `schedule`, `cap`.
        finished: False where a limit ended a run before it had the seconds that full data took:
            then its scores are no result.
        still_falling: whether a run was best at the last step of a schedule that gave it fewer
            seconds than full data took: a longer one may do better.
        step: the best step.
        events: tokens read until the best step, repeats counted.
        seconds: seconds of training until the best step.
        faster: seconds of full data over seconds of this row.
        reached: seconds until shares of full data's quality.
    """

    name: str
    sequences: int
    tokens: int
    bytes: int
    metrics: Mapping[str, Spread]
    num_runs: int
    chosen: tuple[Mapping[str, Any], ...] = ()
    stopped: tuple[str, ...] = ()
    finished: bool = True
    still_falling: bool = False
    step: float | None = None
    events: float | None = None
    seconds: float | None = None
    faster: float | None = None
    reached: tuple[Reached, ...] = ()


@dataclass(frozen=True, repr=False)
class Comparison:
    """Rows side by side; `farzi.experiments.tables` prints it.

    Args:
        protocol_line: how the scores came about.
        task: `recommend` or `language`; empty in results that do not say.
        split_seeds: the splits.
        test_sequences: test users, or sentences, of each.
        rows: what each row scored and cost.
        ratios: by row, its headline metrics over full data's, perplexity the other way round, and
            the `mean` of these.
        ratio_intervals: by row, the bounds of the 95 % bootstrap interval of that mean: test users
            are drawn anew on every split, the same for both rows, and so are the students of each.
            It says nothing of other splits, and of students no more than two or three of them tell.
        paired: differences over the same users.
        splits: the same ratios by split, and every run.
        clock: what the seconds are.
        counts: what was scored on each split, as in `farzi.evaluation.Scores`; empty where results
            do not say.
    """

    protocol_line: str
    rows: tuple[RowResult, ...]
    ratios: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    ratio_intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    paired: tuple[Difference, ...] = ()
    task: str = ""
    split_seeds: tuple[int, ...] = ()
    test_sequences: tuple[int, ...] = ()
    splits: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    clock: str = ""
    counts: tuple[Mapping[str, int], ...] = field(default=(), repr=False)

    def __repr__(self) -> str:
        from farzi.experiments.tables import markdown

        return markdown(self, summary=True)

    def row(self, name: str) -> RowResult:
        """The row of this name.

        Raises:
            KeyError: there is none.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def ratio(self, row: str, metric: str = "mean") -> float | None:
        """A row's ratio to full data; None where it has none."""
        return self.ratios.get(row, {}).get(metric)

    def curves(self, name: str) -> list[list[Look]]:
        """Every look of every run of a row, split by split."""
        return [
            [Look(*look) for look in run["training"]["curve"]]
            for split in self.splits
            for run in split["rows"].get(name, ())
            if run.get("training")
        ]

    def validation(self, name: str) -> list[float]:
        """The validation loss of a row, the mean of its runs, for each split that it has."""
        trained = [
            [run["training"]["loss"] for run in split["rows"].get(name, ()) if run.get("training")]
            for split in self.splits
        ]
        return [statistics.fmean(losses) for losses in trained if losses]

    def validation_rank(self, name: str) -> tuple[int, float]:
        """What the rows of a comparison are sorted by, the best first: see `validation_rank`."""
        return validation_rank(self.validation(name))

    def to_json(self) -> dict[str, Any]:
        """JSON values: `from_json` gives the same comparison back."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Comparison:
        """The comparison that `to_json` was called on; reads results of earlier versions too."""
        return cls(
            protocol_line=values["protocol_line"],
            rows=tuple(_row_from_json(row) for row in values["rows"]),
            ratios=values.get("ratios", {}),
            ratio_intervals={
                row: (low, high) for row, (low, high) in values.get("ratio_intervals", {}).items()
            },
            paired=tuple(Difference(**pair) for pair in values.get("paired", ())),
            task=values.get("task", ""),
            split_seeds=tuple(values.get("split_seeds", ())),
            test_sequences=tuple(values.get("test_sequences", ())),
            splits=tuple(values.get("splits", ())),
            clock=values.get("clock", ""),
            counts=tuple(values.get("counts", ())),
        )


def validation_rank(losses: Sequence[float]) -> tuple[int, float]:
    """What rows are sorted by, the best first: more splits, then the lower mean of their losses.

    A row with fewer splits than another is not compared with it: losses of other users differ.

    Args:
        losses: of one row on validation, one for each split that it has.
    """
    return -len(losses), statistics.fmean(losses)


def _row_from_json(values: Mapping[str, Any]) -> RowResult:
    known = {name: values[name] for name in RowResult.__dataclass_fields__ if name in values}
    known["metrics"] = {name: Spread(**value) for name, value in values["metrics"].items()}
    known["chosen"] = tuple(values.get("chosen", ()))
    known["stopped"] = tuple(values.get("stopped", ()))
    known["reached"] = tuple(Reached(**value) for value in values.get("reached", ()))
    return RowResult(**known)


def compare_runs(
    runs: Sequence[Run],
    *,
    task: str,
    protocol_line: str,
    order: Sequence[str],
    test_sequences: Mapping[int, int],
    clock: str = "",
    searches: Mapping[tuple[str, int], Search] | None = None,
    tuned_on: int | None = None,
    lead: str = "farzi",
    test_tokens: Mapping[int, Sequence[int]] | None = None,
) -> Comparison:
    """Put finished runs side by side.

    Args:
        runs: of one protocol; rows may have runs on some of the splits only, and are then compared
            with others on those.
        task: of the source.
        protocol_line: how the scores came about.
        order: names of the rows, in the table's order.
        test_sequences: test users or sentences by split.
        clock: what the seconds are.
        searches: how the settings of rows were chosen, by row and split, where that is known.
        tuned_on: the split whose search chose for all; None: each split has its own.
        lead: the row whose differences from the others are told.
        test_tokens: of a text, the tokens of each test sentence by split, where they are known.
    """
    names = [name for name in order if any(run.row == name for run in runs)]
    of_row = {name: [run for run in runs if run.row == name] for name in names}
    headline = headline_metrics(task)
    rows = tuple(_row_result(name, of_row, searches or {}, tuned_on) for name in names)
    results = {row.name: of_row[row.name] for row in rows if row.finished}
    return Comparison(
        protocol_line=protocol_line,
        task=task,
        split_seeds=tuple(test_sequences),
        test_sequences=tuple(test_sequences.values()),
        rows=rows,
        ratios=ratios_to_full(results, headline),
        ratio_intervals=ratio_intervals(results, headline, test_tokens),
        paired=tuple(_differences(results, (*headline, "loss"), lead, test_tokens or {})),
        splits=tuple(_by_split(of_row, headline, seed) for seed in test_sequences),
        clock=clock,
        counts=tuple(_counts(runs, seed) for seed in test_sequences),
    )


def _counts(runs: Sequence[Run], split_seed: int) -> Mapping[str, int]:
    """What was scored on a split; the same for every row, since it hangs on the data alone."""
    known = (dict(run.counts) for run in runs if run.split_seed == split_seed and run.counts)
    return next(known, {})


def _row_result(
    name: str,
    of_row: Mapping[str, list[Run]],
    searches: Mapping[tuple[str, int], Search],
    tuned_on: int | None,
) -> RowResult:
    runs = of_row[name]
    trained = [run.training for run in runs if run.training is not None]
    seconds = statistics.fmean(each.seconds for each in trained) if trained else None
    full = [run.training for run in of_row.get("full", ()) if run.training is not None]
    faster = None
    if full and seconds and name != "full":
        faster = statistics.fmean(each.seconds for each in full) / seconds
    chosen = {run.split_seed: run.choice for run in runs if run.choice is not None}
    return RowResult(
        name=name,
        sequences=round(statistics.fmean(run.sequences for run in runs)),
        tokens=round(statistics.fmean(run.tokens for run in runs)),
        bytes=round(statistics.fmean(run.num_bytes for run in runs)),
        metrics={
            metric: Spread.of(run.metrics[metric] for run in runs)
            for metric in runs[0].metrics
            if all(metric in run.metrics for run in runs)
        },
        num_runs=len(runs),
        chosen=tuple(
            {"split_seed": seed, **asdict(choice), **_effort(searches.get((name, seed)))}
            for seed, choice in chosen.items()
            if tuned_on is None or seed == tuned_on
        ),
        stopped=tuple(sorted({each.stopped for each in trained})),
        finished=all(_is_finished(run, of_row) for run in runs),
        still_falling=any(_is_still_falling(run, of_row) for run in runs),
        step=statistics.fmean(each.step for each in trained) if trained else None,
        events=statistics.fmean(each.events for each in trained) if trained else None,
        seconds=seconds,
        faster=faster,
        reached=tuple(_reached(runs, of_row, share) for share in SHARES) if full else (),
    )


def _effort(found: Search | None) -> dict[str, int]:
    """How many settings a search tried, and how many it had no time for."""
    return {} if found is None else {"tries": len(found.tries), "left_out": found.left_out}


def _is_finished(run: Run, of_row: Mapping[str, list[Run]]) -> bool:
    """Whether a run stopped by itself, or had at least the seconds that full data took."""
    if run.training is None or run.training.stopped in ("validation", "schedule"):
        return True
    full = _seconds_of_full(run, of_row)
    return run.row != "full" and full is not None and run.training.total_seconds >= full


def _is_still_falling(run: Run, of_row: Mapping[str, list[Run]]) -> bool:
    """Whether a schedule ended at a run's best step, before the seconds that full data took."""
    full = _seconds_of_full(run, of_row)
    if run.row == "full" or full is None or run.training is None:
        return False
    training = run.training
    best_at_the_end = training.stopped == "schedule" and training.step == training.curve[-1].step
    return best_at_the_end and training.total_seconds < full


def _seconds_of_full(run: Run, of_row: Mapping[str, list[Run]]) -> float | None:
    """Seconds that full data took on the run's split, until they stopped."""
    full = [
        other.training.total_seconds
        for other in of_row.get("full", ())
        if other.split_seed == run.split_seed and other.training is not None
    ]
    return statistics.fmean(full) if full else None


def _reached(runs: list[Run], of_row: Mapping[str, list[Run]], share: float) -> Reached:
    """Seconds until the validation perplexity of full data is `share` of the run's own."""
    times = []
    for run in runs:
        full = [
            other.training.loss
            for other in of_row["full"]
            if other.split_seed == run.split_seed and other.training is not None
        ]
        if run.training is None or not full:
            continue
        enough = statistics.fmean(full) - float(np.log(share))
        seconds = [look.seconds for look in run.training.curve if look.loss <= enough]
        if seconds:
            times.append(seconds[0])
    return Reached(share, statistics.fmean(times) if times else None, len(times))


def _differences(
    of_row: Mapping[str, list[Run]],
    metrics: tuple[str, ...],
    lead: str,
    tokens: Mapping[int, Sequence[int]],
) -> Iterable[Difference]:
    """A row less each other one: users' means over seeds, users of all splits together.

    Sentences count by their `tokens`, where these are known.
    """
    from farzi.metrics import paired_bootstrap

    for name, metric in itertools.product(of_row, metrics):
        if name == lead or lead not in of_row:
            continue
        first, second = _of_users(of_row[lead], metric), _of_users(of_row[name], metric)
        both = [seed for seed in first if seed in second]
        if not both:
            continue
        interval = paired_bootstrap(
            np.concatenate([first[seed] for seed in both]),
            np.concatenate([second[seed] for seed in both]),
            weights=(
                np.concatenate([tokens[seed] for seed in both])
                if all(seed in tokens for seed in both)
                else None
            ),
        )
        yield Difference(lead, name, metric, interval.difference, interval.low, interval.high)


def _of_users(runs: list[Run], metric: str) -> dict[int, npt.NDArray[np.float64]]:
    """By split, each test user's mean over the row's students."""
    values: dict[int, list[tuple[float, ...]]] = {}
    for run in runs:
        if metric in run.per_user:
            values.setdefault(run.split_seed, []).append(run.per_user[metric])
    return {seed: np.mean(np.array(each), axis=0) for seed, each in values.items()}


def _by_split(
    of_row: Mapping[str, list[Run]], headline: tuple[str, ...], seed: int
) -> dict[str, Any]:
    here = {
        name: kept
        for name, runs in of_row.items()
        if (kept := [run for run in runs if run.split_seed == seed])
    }
    return {
        "split_seed": seed,
        "ratios": ratios_to_full(here, headline),
        "rows": {
            name: [
                {
                    "seed": run.seed,
                    "metrics": dict(run.metrics),
                    "training": None if run.training is None else run.training.to_json(),
                }
                for run in runs
            ]
            for name, runs in here.items()
        },
    }
