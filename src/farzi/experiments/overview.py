"""The page of all results: the row that validation chooses for each source, and what fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from farzi.experiments.collected import Collected, Group, break_even, distilled_rows
from farzi.experiments.comparison import Comparison, RowResult
from farzi.experiments.tables import (
    Grid,
    break_even_grid,
    interval,
    markdown_grid,
    markdown_list,
    number,
    ranking_grid,
    ratio_interval,
    seconds,
    times,
)

__all__ = [
    "Chosen",
    "chosen_rows",
    "failures",
    "glance_grid",
    "index_parts",
    "of_teachers",
    "overview_grid",
    "overview_groups",
    "seconds_grid",
]


PAPERS_METRIC = {"recommend": "HR@10", "language": "accuracy"}
"""The metric whose ratio to full data the paper reports, by task."""
FIGURES = """The paper's sizes: dots are distilled rows, the square is all data, the dotted line the
bytes of its events.

![quality of every row against its size](quality-size.svg)

![validation loss of every row against seconds of training](quality-seconds.svg)"""


class Chosen(NamedTuple):
    """A distilled row that validation chooses.

    Args:
        experiment: the name of its experiment.
        group: its size and student.
        comparison: the group's, which has full data.
        row: the row.
    """

    experiment: str
    group: Group
    comparison: Comparison
    row: RowResult


def index_parts(all_found: Sequence[Collected]) -> dict[str, str]:
    """The generated parts of the page of all results, by name."""
    groups = overview_groups(all_found)
    chosen = chosen_rows(all_found)
    empty = "*No experiment has run yet.*"
    parts = {
        "overview": glance_grid(chosen),
        "seconds": seconds_grid(chosen),
        "rows": overview_grid(groups),
        "break-even": _pays_grid(chosen),
        "search": ranking_grid(groups),
    }
    made = {name: markdown_grid(grid) if grid.rows else empty for name, grid in parts.items()}
    made["failures"] = markdown_list(failures(groups)) or empty
    shown = any(group.comparison is not None for group in groups)
    made["figures"] = FIGURES if shown else empty
    made["experiments"] = markdown_list(
        [
            f"[{found.name}]({found.name}.md): {found.about}; {found.done} of {found.total} cells"
            for found in all_found
        ]
    )
    return made


def overview_groups(all_found: Sequence[Collected]) -> list[Group]:
    """What stands in the overview of all results: searches, and rows with full data beside them.

    The paper's sizes come first. Where two experiments have the same source, size and student, the
    titles name the experiments.
    """
    shown = [
        (found, group)
        for found in sorted(all_found, key=_is_not_the_papers)
        if found.overview
        for group in found.groups
        if group.comparison is None or any(row.name == "full" for row in group.comparison.rows)
    ]
    times_used = Counter((group.source, group.title) for _, group in shown)
    return [
        replace(group, label=", ".join(filter(None, (group.label, found.name))))
        if times_used[group.source, group.title] > 1
        else group
        for found, group in shown
    ]


def chosen_rows(all_found: Sequence[Collected]) -> list[Chosen]:
    """The distilled row that validation chooses, for each source and size.

    A row counts where full data stand beside it and no limit stopped it. Test scores play no part.

    Returns:
        the rows with the lowest validation loss, the mean of their splits; those at the paper's
        sizes first.
    """
    best: dict[tuple[str, str], tuple[tuple[int, float], Chosen]] = {}
    for found in sorted(all_found, key=_is_not_the_papers):
        for group in found.groups if found.overview else ():
            comparison = group.comparison
            if comparison is None or all(row.name != "full" for row in comparison.rows):
                continue
            for row in comparison.rows:
                if row.name not in group.distilled or not row.finished:
                    continue
                rank = comparison.validation_rank(row.name)
                key = (group.source, group.size)
                if key not in best or rank < best[key][0]:
                    best[key] = (rank, Chosen(found.name, group, comparison, row))
    return [chosen for _, chosen in best.values()]


def _is_not_the_papers(found: Collected) -> bool:
    return all(group.paper is None for group in found.groups)


def glance_grid(chosen: Sequence[Chosen]) -> Grid:
    """The quality of each row that validation chooses, a line for each source and size."""
    head = (
        "",
        "of full",
        "95 % interval",
        "HR@10 or accuracy of full",
        "the paper's",
        "teachers",
        "random-soft",
        "splits",
        "students",
    )
    rows = [
        (
            f"[{group.source} {group.title}]({name}.md): {row.name}",
            number(comparison.ratio(row.name)),
            ratio_interval(comparison, row.name),
            number(comparison.ratio(row.name, PAPERS_METRIC[group.task])),
            number(group.paper),
            number(of_teachers(group, row)),
            number(comparison.ratio("random-soft")),
            str(len(comparison.validation(row.name))),
            str(row.num_runs),
        )
        for name, group, comparison, row in chosen
    ]
    return Grid(head, tuple(rows))


def of_teachers(group: Group, row: RowResult) -> float | None:
    """The teachers' mean ratio to full data; None where the row was made by others than these."""
    made = group.distilled.get(row.name)
    if group.comparison is None or (made is not None and made.own_teachers == 1):
        return None
    return group.comparison.ratio("teachers")


def seconds_grid(chosen: Sequence[Chosen]) -> Grid:
    """What training on each chosen row and on full data takes, and the bytes of both."""
    head = (
        "",
        "s on full data",
        "s to train",
        "s to 95 % on full data",
        "s to 95 %",
        "s to 100 %",
        "kB of the events",
        "kB",
    )
    rows = []
    for _, group, comparison, row in chosen:
        full = comparison.row("full")
        rows.append(
            (
                f"{group.source} {group.title}: {row.name}",
                seconds(full.seconds),
                seconds(row.seconds),
                seconds(_seconds_to(full, 0.95)),
                seconds(_seconds_to(row, 0.95)) or "never",
                seconds(_seconds_to(row, 1.0)) or "never",
                f"{4 * group.events / 1e3:,.0f}",
                f"{row.bytes / 1e3:,.0f}",
            )
        )
    return Grid(head, tuple(rows))


def _pays_grid(chosen: Sequence[Chosen]) -> Grid:
    """When the chosen rows pay, and real rows with the same labels beside them."""
    grids = [break_even_grid([each.group], (each.row.name, "random-soft")) for each in chosen]
    return Grid(break_even_grid([]).head, tuple(line for grid in grids for line in grid.rows))


def overview_grid(groups: Sequence[Group]) -> Grid:
    """A line for each distilled row: quality, size and time against full data."""
    head = (
        "",
        "of full",
        "HR@10 or accuracy of full",
        "the paper's",
        "full-soft",
        "random-soft",
        "kB",
        "kB of the events",
        "s to train",
        "faster",
        "s to 95 %",
        "s to 100 %",
        "runs",
    )
    rows = []
    for group, comparison, row in distilled_rows(groups):
        rows.append(
            (
                f"{group.source} {group.title}: {row.name}",
                number(comparison.ratio(row.name)) if row.finished else "not finished",
                number(comparison.ratio(row.name, PAPERS_METRIC[group.task])),
                number(group.paper),
                number(comparison.ratio("full-soft")),
                number(comparison.ratio("random-soft")),
                f"{row.bytes / 1e3:,.0f}",
                f"{4 * group.events / 1e3:,.0f}",
                seconds(row.seconds),
                times(row.faster),
                seconds(_seconds_to(row, 0.95)) or "never",
                seconds(_seconds_to(row, 1.0)) or "never",
                str(row.num_runs),
            )
        )
    return Grid(head, tuple(rows))


def failures(groups: Sequence[Group]) -> list[str]:
    """What does not work, as the numbers say: a line for each source, size and student."""
    lines = []
    for group in groups:
        found = _shortfalls(group) + _slow_or_misleading(group)
        if found:
            lines.append(f"{group.source} {group.title}: {'; '.join(found)}.")
    return lines


def _shortfalls(group: Group) -> list[str]:
    """Distilled rows that are unfinished, worse than full data, or larger."""
    cut = [row.name for _, _, row in distilled_rows([group]) if not row.finished]
    below, papers, large = [], [], []
    for _, comparison, row in distilled_rows([group]):
        if not row.finished:
            continue
        ratio = comparison.ratio(row.name)
        if ratio is not None and round(ratio, 3) < 1:
            below.append(f"{row.name} {ratio:.3f}")
        ratio = comparison.ratio(row.name, PAPERS_METRIC[group.task])
        if ratio is not None and group.paper is not None and ratio < group.paper:
            papers.append(f"{row.name} {ratio:.3f}")
        if row.bytes > 4 * group.events:
            large.append(f"{row.name} {row.bytes / (4 * group.events):.1f} times")
    return [
        f"{what}{', '.join(names)}"
        for what, names in (
            ("not finished, so no result: ", cut),
            ("below full data on the mean of the headline metrics: ", below),
            (
                f"below the paper's {PAPERS_METRIC[group.task]} ratio of {number(group.paper)}: ",
                papers,
            ),
            ("more bytes than the events: ", large),
        )
        if names
    ]


def _slow_or_misleading(group: Group) -> list[str]:
    """Rows that save nothing, that beat the distilled ones, or whose ranking says nothing."""
    never = [each.row for each in break_even(group) if each.earliest is None]
    found = [f"never pays, since full data train as fast: {', '.join(never)}"] if never else []
    for pair in () if group.comparison is None else group.comparison.paired:
        worse = pair.low > 0 if pair.metric == "loss" else pair.high < 0
        if worse and pair.b.endswith(("-soft", "start")):
            found.append(f"{pair.a} is behind {pair.b} in {pair.metric}, {interval(pair)}")
    chance = [
        f"{each.row} {each.tau:.2f} [{each.low:.2f}, {each.high:.2f}]"
        for each in group.rankings
        if each.low <= 0
    ]
    if chance:
        found.append(f"rankings not told from chance, by Kendall's tau: {', '.join(chance)}")
    return found


def _seconds_to(row: RowResult, share: float) -> float | None:
    """Seconds until a share of full data's quality; None where no run came there."""
    return {each.share: each.seconds for each in row.reached}.get(share)
