"""Figures of docs/results/: quality against size, and against seconds; needs matplotlib.

Written by scripts/render_docs.py from finished cells; the same cells give the same bytes.
"""

from __future__ import annotations

import io
import itertools
import re
import statistics
from collections.abc import Sequence
from typing import Any

from farzi.experiments.collected import Collected, Group
from farzi.experiments.overview import chosen_rows, overview_groups

COLOURS = {"full": "black", "farzi": "tab:red", "start": "tab:orange", "teachers": "darkgreen"}
FIGURE_PANELS = 6
OTHERS = (
    "tab:blue", "tab:green", "tab:purple", "tab:brown", "tab:olive", "tab:cyan", "tab:pink",
    "tab:gray", "navy", "gold",
)  # fmt: skip


def plots(all_found: Sequence[Collected]) -> dict[str, str]:
    """SVG text by file name; none where there is nothing to show.

    Args:
        all_found: every experiment that has run; of those at the paper's sizes, where there are
            any, every row is drawn.
    """
    groups = [
        group
        for group in overview_groups(all_found)
        if group.comparison is not None
        and any(row.name in group.distilled for row in group.comparison.rows)
    ]
    if not groups:
        return {}
    papers = [group for group in groups if group.paper is not None] or groups
    files = {"quality-size.svg": _size(papers), "quality-seconds.svg": _seconds(papers)}
    few = [(each.group, each.row.name) for each in chosen_rows(all_found)][:FIGURE_PANELS]
    if few:
        files["few-seconds.svg"] = _few_seconds(few)
    return files


def _panels(groups: Sequence[Group]) -> tuple[Any, Any]:
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update(
        {"svg.hashsalt": "farzi", "svg.fonttype": "none", "font.size": 8, "legend.fontsize": 6}
    )
    from matplotlib import pyplot as plt

    columns = min(2, len(groups))  # as wide as a page of the documentation, and readable there
    rows = -(-len(groups) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.7 * columns, 2.9 * rows), layout="constrained", squeeze=False
    )
    for unused in axes.flat[len(groups) :]:
        unused.set_axis_off()
    return figure, axes.flat


def _size(groups: Sequence[Group]) -> str:
    """The mean ratio to full data of every row against its bytes; dots are distilled rows."""
    figure, panels = _panels(groups)
    for axis, group in zip(panels, groups, strict=False):
        comparison, colours = group.comparison, _colours(group)
        for row in comparison.rows:
            ratio = 1.0 if row.name == "full" else comparison.ratio(row.name)
            if row.bytes and ratio:
                mark = "o" if row.name in group.distilled else "s" if row.name == "full" else "x"
                axis.plot(row.bytes / 1e3, ratio, mark, color=colours[row.name], label=row.name)
        axis.axhline(1, color="black", lw=0.5)
        axis.axvline(4 * group.events / 1e3, color="black", lw=0.5, ls=":")
        axis.set(
            xscale="log", title=f"{group.source} {group.title}", xlabel="kB", ylabel="of full data"
        )
        axis.grid(alpha=0.3)
        axis.legend()
    return _svg(figure)


def _lowest_so_far(group: Group, row: str) -> tuple[list[float], list[float]]:
    """Seconds, and the lowest validation loss until then: the mean of a row's runs."""
    curves = [curve for curve in group.comparison.curves(row) if curve]
    if not curves:
        return [], []
    times = sorted({round(look.seconds, 2) for curve in curves for look in curve})
    times = [time for time in times if time >= max(curve[0].seconds for curve in curves)]
    losses = [
        statistics.fmean(
            min(look.loss for look in curve if look.seconds <= time + 0.005) for curve in curves
        )
        for time in times
    ]
    return times, losses


def _few_seconds(few: Sequence[tuple[Group, str]]) -> str:
    """The row of each group that README.md shows, and full data: loss against seconds."""
    figure, panels = _panels([group for group, _ in few])
    for axis, (group, row) in zip(panels, few, strict=False):
        lowest = []
        for name, label, colour in (
            ("full", "all data", "black"),
            (row, "distilled", "tab:red"),
        ):
            times, losses = _lowest_so_far(group, name)
            if losses:
                axis.plot(times, losses, color=colour, lw=1.6, label=label)
                lowest.append(losses[-1])
        if lowest:
            axis.set_ylim(min(lowest) - 0.05, max(lowest) + 0.5)
        axis.set(xscale="log", title=f"{group.source} {group.title}", xlabel="seconds of training")
        axis.grid(alpha=0.3)
    panels[0].set_ylabel("validation loss so far")
    panels[0].legend()
    return _svg(figure)


def _seconds(groups: Sequence[Group]) -> str:
    """Validation loss of every row against seconds of training: the mean of its runs."""
    figure, panels = _panels(groups)
    for axis, group in zip(panels, groups, strict=False):
        lowest = []
        colours = _colours(group)
        for row in group.comparison.rows:
            times, losses = _lowest_so_far(group, row.name)
            if losses:
                axis.plot(times, losses, color=colours[row.name], label=row.name)
                lowest.append(losses[-1])
        if lowest:
            axis.set_ylim(min(lowest) - 0.1, min(max(lowest), min(lowest) + 1.5) + 0.3)
        axis.set(xscale="log", title=f"{group.source} {group.title}")
        axis.set(xlabel="seconds of training", ylabel="lowest validation loss so far")
        axis.grid(alpha=0.3)
        axis.legend()
    return _svg(figure)


def _colours(group: Group) -> dict[str, str]:
    """A colour for each row, no two alike while they last."""
    others = itertools.cycle(OTHERS)
    return {row.name: COLOURS.get(row.name) or next(others) for row in group.comparison.rows}


def _svg(figure: Any) -> str:
    from matplotlib import pyplot as plt

    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    plt.close(figure)
    return "\n".join(line.rstrip() for line in _numbered(text.getvalue()).splitlines()) + "\n"


def _numbered(svg: str) -> str:
    """Number the ids that matplotlib makes of hashes: these hold the last bit of coordinates, and
    one processor rounds it as another does not.
    """
    places = {name: n for n, name in enumerate(re.findall(r'id="([mp][0-9a-f]{10})"', svg))}
    return re.sub(
        r'(id="|url\(#|href="#)([mp][0-9a-f]{10})\b',
        lambda found: f"{found[1]}{found[2][0]}{places[found[2]]}",
        svg,
    )
