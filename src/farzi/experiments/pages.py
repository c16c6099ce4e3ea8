"""The page of one experiment, made from its finished cells alone."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from farzi.experiments.collected import Collected, Group, distilled_rows
from farzi.experiments.comparison import Comparison
from farzi.experiments.results import headline_metrics
from farzi.experiments.tables import (
    Grid,
    break_even_grid,
    early_ranking_grid,
    markdown,
    markdown_grid,
    markdown_list,
    notes,
    number,
    ranking_grid,
    seconds,
    settings_of,
    spread,
)

__all__ = ["experiment_page", "students_grid"]


def experiment_page(found: Collected) -> str:
    """Everything about one experiment."""
    parts = [f"# {found.name}", found.about, f"{found.done} of {found.total} cells are there."]
    if (grid := students_grid(found.groups)).rows:
        parts += ["Every distilled row, and what it keeps of its student's own full data:"]
        parts.append(markdown_grid(grid))
    for group in found.groups:
        parts.append(f"## {group.title}")
        if not group.done:
            parts.append("*Not run yet.*")
        if group.comparison is not None:
            parts += [markdown(group.comparison), markdown_list(_reading(group.comparison))]
            of_split = "" if group.tuned_on is None else f" of split {group.tuned_on}, for all"
            parts.append(f"How students were trained, as tuned on validation{of_split}:")
            parts.append(markdown_grid(_choice_grid(group.comparison)))
        for title, grid in (
            ("When making a row pays, in trainings of a student:", break_even_grid([group])),
            ("A search on a row against one on all training data:", ranking_grid([group])),
            (
                "Searches that give each configuration so many seconds of training, against the "
                "whole one on all data (the lines of `full` are its own runs, ended early):",
                early_ranking_grid(group),
            ),
        ):
            if grid.rows:
                parts += [title, markdown_grid(grid)]
    parts.append(f"Made by `farzi experiments run experiments/{found.name}.toml`; [all](index.md).")
    return "\n\n".join(part for part in parts if part) + "\n"


def students_grid(groups: Sequence[Group]) -> Grid:
    """A line for each size, student and distilled row: what it keeps of its own full data."""
    is_ranking = groups[0].task == "recommend"
    shown = ("nDCG@10", "loss") if is_ranking else headline_metrics("language")
    head = (
        "",
        "row",
        "of full",
        *(f"{name}, {row}" for name in shown for row in ("full", "distilled")),
        "validation loss, start",
        "after the outer loop",
        "s to distil",
    )
    rows = []
    for group, comparison, row in distilled_rows(groups):
        full = {each.name: each.metrics for each in comparison.rows}.get("full", {})
        made = group.distilled[row.name]
        begun, best = zip(*made.losses, strict=True)
        rows.append(
            (
                group.title,
                row.name,
                number(comparison.ratio(row.name)) if row.finished else "not finished",
                *(
                    spread(metrics.get(name), name)
                    for name in shown
                    for metrics in (full, row.metrics)
                ),
                f"{statistics.fmean(begun):.3f}",
                f"{statistics.fmean(best):.3f}",
                seconds(statistics.fmean(made.seconds)),
            )
        )
    return Grid(head, tuple(rows))


def _choice_grid(comparison: Comparison) -> Grid:
    fields = ("lr", "batch_size", "weight_decay", "dropout", "smoothing")
    choices = [choice for row in comparison.rows for choice in row.chosen]
    seldom = {
        name: text_of
        for name, text_of in _SELDOM_CHOSEN.items()
        if any(text_of(choice) != text_of({}) for choice in choices)
    }
    names = (*(name.replace("_", " ") for name in fields), *seldom)
    head = ("", "split", "settings tried", *names, "best step")
    rows = [
        (
            row.name,
            str(choice["split_seed"]),
            f"{choice['tries']} of {settings_of(choice)}" if choice.get("tries") else "",
            *(f"{choice[name]:g}" for name in fields),
            *(text_of(choice) for text_of in seldom.values()),
            _best_step(comparison, row.name, choice["split_seed"]),
        )
        for row in comparison.rows
        for choice in row.chosen
    ]
    return Grid(head, tuple(rows))


_SELDOM_CHOSEN: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "schedule": lambda choice: choice.get("schedule", "constant"),
    "shift": lambda choice: str(choice.get("shift", 0)),
    "most steps": lambda choice: f"{steps:,}" if (steps := choice.get("num_steps")) else "",
}
"""Columns that stand where some row has another choice than the usual one, by their heads."""


def _best_step(comparison: Comparison, row: str, split_seed: int) -> str:
    """The best step of a row's students on one split, their mean; empty where none is known."""
    steps = [
        run["training"]["step"]
        for split in comparison.splits
        if split["split_seed"] == split_seed
        for run in split["rows"].get(row, ())
        if run.get("training")
    ]
    return f"{statistics.fmean(steps):,.0f}" if steps else ""


def _reading(comparison: Comparison) -> list[str]:
    return [line for line in notes(comparison) if " less " not in line]
