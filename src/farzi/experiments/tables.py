"""A comparison as a table: one renderer for the terminal and for Markdown.

Every rate (HR, nDCG, MRR, AUC, accuracy) is shown in percent; JSON has fractions.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from farzi.experiments.collected import Group, break_even
from farzi.experiments.comparison import Comparison, Difference, Reached, RowResult, Spread
from farzi.experiments.ranking import Ranking

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "Grid",
    "break_even_grid",
    "early_ranking_grid",
    "full_grids",
    "markdown",
    "markdown_grid",
    "markdown_list",
    "notes",
    "ranking_grid",
    "ratio_interval",
    "ratio_lines",
    "reached_lines",
    "rich_table",
    "settings_of",
    "summary_grid",
    "terminal",
]

RATES = ("HR@", "nDCG@", "MRR", "AUC", "accuracy")
HEADLINE = ("HR@10", "HR@100", "nDCG@10", "nDCG@100", "perplexity", "accuracy", "loss")
PACES_ALIKE = 1.25
"""How much slower a machine may be at one run than at another before a reader is told."""
WORTH_BEATING = ("full", "-soft", "start")
"""How the names of the rows end whose difference a summary shows."""


@dataclass(frozen=True)
class Grid:
    """A table as strings: the first column on the left, the others on the right."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def summary_grid(comparison: Comparison) -> Grid:
    """The headline: size, scores, ratio to full data, and what training cost."""
    shown = {metric for row in comparison.rows for metric in row.metrics}
    metrics = [name for name in HEADLINE if name in shown]
    costs = any(row.seconds is not None for row in comparison.rows)
    head = ["", "sequences", "kB", *metrics, "of full", *(["s to train", "faster"] * costs)]
    rows = []
    for row in comparison.rows:
        cells = [row.name, f"{row.sequences:,}", f"{row.bytes / 1e3:,.0f}"]
        cells += [_score(row, metric) for metric in metrics]
        cells += [_of_full(comparison, row)]
        cells += [seconds(row.seconds), times(row.faster)] if costs else []
        rows.append(tuple(cells))
    return Grid(tuple(head), tuple(rows))


def full_grids(comparison: Comparison) -> list[Grid]:
    """Every metric of every row, every cost, every difference, every ratio."""
    metrics = list(dict.fromkeys(name for row in comparison.rows for name in row.metrics))
    grids = [
        Grid(
            ("", "sequences", "tokens", "bytes", *metrics, "runs"),
            tuple(
                (
                    row.name,
                    *(f"{size:,}" for size in (row.sequences, row.tokens, row.bytes)),
                    *(_score(row, metric) for metric in metrics),
                    str(row.num_runs),
                )
                for row in comparison.rows
            ),
        )
    ]
    trained = [row for row in comparison.rows if row.seconds is not None]
    if trained:
        shares = [reached.share for reached in trained[0].reached]
        grids.append(
            Grid(
                (
                    "to train",
                    "best step",
                    "events read",
                    "seconds",
                    "faster",
                    *(f"s to {share:.0%} of full" for share in shares),
                ),
                tuple(_cost_cells(row) for row in trained),
            )
        )
    differences: dict[str, dict[str, str]] = {}
    for pair in comparison.paired:
        differences.setdefault(pair.b, {})[pair.metric] = interval(pair)
    ratios = {
        name: {metric: number(value) for metric, value in values.items()}
        for name, values in comparison.ratios.items()
    }
    for name in comparison.ratio_intervals:
        ratios[name]["95 % interval"] = ratio_interval(comparison, name)
    lead = comparison.paired[0].a if comparison.paired else ""
    for title, cells in ((f"{lead} less", differences), ("of full", ratios)):
        if cells:
            columns = list(dict.fromkeys(name for row in cells.values() for name in row))
            grids.append(
                Grid(
                    (title, *columns),
                    tuple(
                        (name, *(row.get(column, "") for column in columns))
                        for name, row in cells.items()
                    ),
                )
            )
    return grids


def notes(comparison: Comparison) -> list[str]:
    """What must be read with the table, a line each."""
    lines = []
    if comparison.rows:
        lines.append(
            "rates in percent; mean ± standard deviation over "
            f"{comparison.rows[0].num_runs} runs, splits "
            f"{', '.join(map(str, comparison.split_seeds))}; of full: mean ratio to full data"
        )
    if partial := _on_some_splits(comparison):
        lines.append(
            "not run on every split, so that scores of these are of other test users than those "
            "of other rows (ratios and differences are of the same ones), splits in brackets: "
            f"{', '.join(partial)}"
        )
    if comparison.ratio_intervals:
        lines.append(
            "intervals: test users drawn anew on each split, the same for both rows; those of "
            "ratios draw each row's students anew as well"
        )
    if comparison.clock:
        lines.append(f"seconds: {comparison.clock}")
    lines += _uneven_machines(comparison)
    if capped := [row.name for row in comparison.rows if "cap" in row.stopped and row.finished]:
        lines.append(f"stopped by a limit at least once: {', '.join(capped)}")
    if falling := [row.name for row in comparison.rows if row.still_falling]:
        lines.append(
            "best at the last step of a schedule shorter than full data's training, a longer one "
            f"may do better: {', '.join(falling)}"
        )
    if unequal := _searches_cut_short(comparison):
        lines.append(
            "tuning ended before all settings were tried, more time may do better: "
            f"{', '.join(unequal)}"
        )
    if cut := [row.name for row in comparison.rows if not row.finished]:
        lines.append(
            "not finished, so no result (a limit stopped a run before validation did, and before "
            f"it had the seconds that full data took): {', '.join(cut)}"
        )
    return [*lines, *_not_ranked(comparison), *differences_worth_reading(comparison)]


def _on_some_splits(comparison: Comparison) -> list[str]:
    """Rows that lack a split, with those that they have."""
    told = []
    for row in comparison.rows:
        has = [split["split_seed"] for split in comparison.splits if split["rows"].get(row.name)]
        if 0 < len(has) < len(comparison.splits):
            told.append(f"{row.name} ({', '.join(map(str, has))})")
    return told


def _uneven_machines(comparison: Comparison) -> list[str]:
    """What makes seconds of one row uncertain against those of another."""
    paces: dict[str, list[float | None]] = {}
    for split in comparison.splits:
        for row, runs in split["rows"].items():
            trained = [run["training"] for run in runs if run.get("training")]
            paces.setdefault(row, []).extend(training.get("pace_s") for training in trained)
    known = [pace for taken in paces.values() for pace in taken if pace]
    if not known:
        return []
    lines = []
    if (apart := max(known) / min(known)) > PACES_ALIKE:
        lines.append(
            f"the machine was up to {apart:.1f} times slower at some runs than at others (a fixed "
            "piece of training beside each): seconds of a row against another's are that uncertain"
        )
    if unknown := [row for row, taken in paces.items() if not all(taken)]:
        lines.append(
            f"how fast the machine was is not known of some runs of {', '.join(unknown)}: their "
            "seconds may be those of another machine"
        )
    return lines


def _searches_cut_short(comparison: Comparison) -> list[str]:
    """Rows that had no time for all settings, with how many were tried where it was fewest."""
    told = []
    for row in comparison.rows:
        cut = [choice for choice in row.chosen if choice.get("left_out")]
        if cut:
            least = min(cut, key=lambda choice: choice["tries"] / settings_of(choice))
            told.append(f"{row.name} ({least['tries']} of {settings_of(least)})")
    return told


def settings_of(choice: Mapping[str, Any]) -> int:
    """All settings that the search of a choice would have tried."""
    return int(choice["tries"]) + int(choice["left_out"])


def _not_ranked(comparison: Comparison) -> list[str]:
    """Test users that some number leaves out, and targets that nothing could have learnt."""
    known = [counts for counts in comparison.counts if counts.get("users")]
    users = sum(counts["users"] for counts in known)
    lines = []
    if number := sum(counts.get("nothing_to_rank", 0) for counts in known):
        lines.append(
            f"{number:,} of {users:,} test users had every item but the target, so that nothing is "
            "left to rank: AUC leaves them out"
        )
    if number := sum(counts.get("targets_without_training", 0) for counts in known):
        lines.append(
            f"{number:,} of {users:,} test targets are items that no training user had: no row can "
            "have learnt them"
        )
    return lines


def differences_worth_reading(comparison: Comparison) -> list[str]:
    """The differences from the rows that are hard to beat, a line a row."""
    beaten: dict[str, list[str]] = {}
    for pair in comparison.paired:
        if pair.b.endswith(WORTH_BEATING):
            beaten.setdefault(f"{pair.a} less {pair.b}", []).append(
                f"{pair.metric} {interval(pair)}"
            )
    return [f"{pair}: {', '.join(values)}" for pair, values in beaten.items()]


def markdown(comparison: Comparison, *, summary: bool = False) -> str:
    """The comparison for a document: the headline, or all of it, and the protocol."""
    if not summary:
        tables = [markdown_grid(grid) for grid in full_grids(comparison)]
        return "\n\n".join([*tables, comparison.protocol_line])
    table = markdown_grid(summary_grid(comparison))
    lines = markdown_list(differences_worth_reading(comparison))
    return "\n".join([table, "", *([lines, ""] if lines else []), comparison.protocol_line])


def terminal(comparison: Comparison, *, summary: bool = True) -> list[Table]:
    """The comparison as tables of `rich`."""
    grids = [summary_grid(comparison)] if summary else full_grids(comparison)
    return [rich_table(grid) for grid in grids]


def rich_table(grid: Grid) -> Table:
    """A grid as a table of `rich`."""
    from rich.table import Table

    table = Table()
    for place, title in enumerate(grid.head):
        table.add_column(title, justify="right" if place else "left")
    for row in grid.rows:
        table.add_row(*row)
    return table


def break_even_grid(groups: Sequence[Group], only: Collection[str] = ()) -> Grid:
    """After how many trainings each row was worth making, by source and size.

    Args:
        groups: the groups.
        only: names of the rows that are shown; empty: all.
    """
    head = (
        "",
        "s to make",
        "s on full data",
        "s to train",
        "of full",
        "trainings to break even",
        "s to full data's loss",
        "to break even there",
    )
    rows = [
        (
            f"{group.source} {group.title}: {each.row}",
            seconds(each.making_s),
            seconds(each.full_s),
            seconds(each.training_s),
            number(each.of_full),
            trainings(each.trainings),
            seconds(each.equal_s) or "never",
            trainings(each.equal_trainings),
        )
        for group in groups
        for each in break_even(group)
        if not only or each.row in only
    ]
    return Grid(head, tuple(rows))


def trainings(count: float | None) -> str:
    """Trainings to break even, the last one whole; `never` for None."""
    return "never" if count is None else f"{math.ceil(count):,}"


def ranking_grid(groups: Sequence[Group]) -> Grid:
    """How a search on each row compares with one on full data."""
    rows = [
        (
            f"{group.source} {group.title}: {each.row}",
            str(each.configurations),
            *_ranking_cells(each),
        )
        for group in groups
        for each in group.rankings
    ]
    return Grid(("", "configurations", *_RANKING_HEAD), tuple(rows))


def early_ranking_grid(group: Group) -> Grid:
    """How searches of few seconds a configuration compare with the whole one on full data."""
    rows = [
        (each.row, seconds(each.seconds_each), *_ranking_cells(each))
        for each in group.early_rankings
    ]
    return Grid(("", "s a configuration", *_RANKING_HEAD), tuple(rows))


_RANKING_HEAD = ("Kendall tau", "regret, nats", "regret, score", "s", "faster")


def _ranking_cells(ranking: Ranking) -> tuple[str, ...]:
    """What stands below `_RANKING_HEAD`."""
    return (
        f"{ranking.tau:.2f} [{ranking.low:.2f}, {ranking.high:.2f}]",
        number(ranking.regret),
        number(ranking.metric_regret),
        seconds(ranking.seconds),
        times(ranking.faster),
    )


def markdown_grid(grid: Grid) -> str:
    """A grid for a document."""
    rule = ["---", *("---:" for _ in grid.head[1:])]
    return "\n".join(_line(cells) for cells in (grid.head, rule, *grid.rows))


def markdown_list(lines: Sequence[str]) -> str:
    """Lines as a list for a document."""
    return "\n".join(f"- {line}" for line in lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _of_full(comparison: Comparison, row: RowResult) -> str:
    if not row.finished:
        return "not finished"
    return number(comparison.ratio(row.name))


def _score(row: RowResult, metric: str) -> str:
    return spread(row.metrics.get(metric), metric) if row.finished else ""


def _cost_cells(row: RowResult) -> tuple[str, ...]:
    step = "" if row.step is None else f"{row.step:,.0f}"
    events = "" if row.events is None else f"{row.events:,.0f}"
    reached = [_reached(row, each) for each in row.reached]
    return (row.name, step, events, seconds(row.seconds), times(row.faster), *reached)


def _reached(row: RowResult, reached: Reached) -> str:
    some = f" ({reached.runs} of {row.num_runs} runs)" if reached.runs < row.num_runs else ""
    return "never" if reached.seconds is None else seconds(reached.seconds) + some


def spread(value: Spread | None, metric: str) -> str:
    """Mean and spread, `18.2 ± 0.4`, or the mean of a single run; rates in percent."""
    if value is None or value.mean is None:
        return ""
    return scaled(value.mean, metric) + (f" ± {scaled(value.std, metric)}" if value.std else "")


def scaled(value: float, metric: str) -> str:
    """One score; rates in percent.

    Example:
        >>> from farzi.experiments.tables import scaled
        >>> scaled(0.287, "MRR"), scaled(4.883, "loss")
        ('28.7', '4.883')
    """
    return f"{100 * value:.1f}" if metric.startswith(RATES) else number(value)


def number(value: float | None) -> str:
    """A number with as many digits as are of use; empty where there is none."""
    if value is None or value != value:
        return ""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"


def seconds(value: float | None) -> str:
    """Seconds, with a digit behind the point where they are few."""
    if value is None:
        return ""
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 10 else f"{value:,.0f}"


def times(value: float | None) -> str:
    """How many times, as `8.1x`; empty where it is not known."""
    return "" if value is None else f"{value:,.1f}x"


def ratio_lines(comparison: Comparison) -> list[str]:
    """A line with each row's mean ratio to full data and its interval, where there are any."""
    told = [
        f"{row} {number(comparison.ratio(row))} {ratio_interval(comparison, row)}"
        for row in comparison.ratio_intervals
    ]
    return [f"of full, with 95 % intervals: {', '.join(told)}"] if told else []


def reached_lines(comparison: Comparison) -> list[str]:
    """A line for each share of full data's quality: the seconds until each row came there."""
    told: dict[float, list[str]] = {}
    for row in comparison.rows:
        for each in row.reached:
            if row.name == "full" or each.seconds is not None:
                told.setdefault(each.share, []).append(f"{row.name} {_reached(row, each)}")
    return [
        f"seconds to {share:.0%} of full: {', '.join(rows)}" for share, rows in sorted(told.items())
    ]


def ratio_interval(comparison: Comparison, row: str) -> str:
    """The interval of a row's mean ratio to full data, `[0.971, 1.058]`; empty where unknown."""
    if row not in comparison.ratio_intervals:
        return ""
    low, high = comparison.ratio_intervals[row]
    return f"[{number(low)}, {number(high)}]"


def interval(pair: Difference) -> str:
    """A difference and its interval, `+2.5 [+0.2, +4.8]`; rates in points of percent."""
    scale, digits = (100, 1) if pair.metric.startswith(RATES) else (1, 3)
    difference, low, high = (
        f"{scale * value:+.{digits}f}" for value in (pair.difference, pair.low, pair.high)
    )
    return f"{difference} [{low}, {high}]"
