"""A sweep on a page: its best settings as a table, and what each setting came to as charts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from farzi.data.files import read_json, write_text
from farzi.errors import DataError
from farzi.report import svg

__all__ = ["read_sweep", "sweep_view", "write_sweep"]

SHOWN = 12  # rows of the table


def read_sweep(file: Path) -> dict[str, Any]:
    """JSON values of a sweep, as `farzi sweep` left them in its folder.

    Raises:
        DataError: it is no such file.
    """
    try:
        values = read_json(file)
    except (OSError, ValueError):
        raise DataError(f"{file}: cannot be read.") from None
    if not (isinstance(values, dict) and {"trials", "best", "vary"} <= values.keys()):
        raise DataError(f"{file}: is no sweep.")
    return values


def sweep_view(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a template shows of a sweep; None where no trial has a result.

    Args:
        values: `SweepResult.to_json()`.
    """
    done = [trial for trial in values["trials"] if trial["loss"] is not None]
    if not done:
        return None
    ranked = sorted(done, key=lambda trial: (trial["loss"], trial["number"]))
    names = list(ranked[0]["values"])
    best = ranked[0]["loss"]
    failed = [trial for trial in values["trials"] if trial["loss"] is None]
    return {
        "names": names,
        "rows": [
            {
                "number": trial["number"] + 1,
                "cells": [_text(trial["values"][name]) for name in names],
                "loss": f"{trial['loss']:.4f}",
                "worse": f"+{trial['loss'] - best:.4f}" if place else "",
                "seconds": trial["seconds"],
            }
            for place, trial in enumerate(ranked[:SHOWN])
        ],
        "done": len(done),
        "failed": len(failed),
        "errors": sorted({trial["error"] for trial in failed})[:3],
        "wanted": values["wanted"],
        "of": values["of"],
        "fixed": ", ".join(f"{name} {_text(value)}" for name, value in values["fixed"].items()),
        "source": values["source"],
        "protocol_line": values["protocol_line"],
        "command": values["command"],
        "charts": [*_course(done), *(_chart(name, values["vary"], done) for name in names)],
    }


def write_sweep(values: Mapping[str, Any], out: Path) -> Path:
    """Write a sweep as one page that needs nothing else, whole or not at all.

    Raises:
        DataError: no trial has a result.
    """
    from farzi.report.page import page_environment

    view = sweep_view(values)
    if view is None:
        raise DataError(f"{out}: there is no result to show yet.")
    page = page_environment().get_template("sweep_page.html.jinja").render(sweep=view)
    write_text(out, page)
    return out


def _course(done: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The lowest loss so far, trial by trial."""
    if len(done) < 2:
        return []
    lowest, so_far = math.inf, []
    for trial in done:
        lowest = min(lowest, trial["loss"])
        so_far.append(lowest)
    chart = svg.lines(
        [svg.Line("best so far", [trial["number"] + 1 for trial in done], so_far, dots=True)],
        title="The lowest validation loss so far",
        description=f"From {so_far[0]:.4f} to {so_far[-1]:.4f}.",
        x="trial",
        y="nats a token",
    )
    return [("Best so far", chart)]


def _chart(name: str, vary: Sequence[str], done: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """What came of each value of one setting."""
    text = next((each for each in vary if each.partition("=")[0].replace("-", "_") == name), "")
    values = [trial["values"][name] for trial in done]
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in values)
    names = [] if numbers else list(dict.fromkeys(_text(value) for value in values))
    points = [
        svg.Point(
            float(value) if numbers else float(names.index(_text(value))),
            trial["loss"],
            f"{name} {_text(value)}: {trial['loss']:.4f}",
        )
        for value, trial in zip(values, done, strict=True)
    ]
    best = min(done, key=lambda trial: trial["loss"])
    chart = svg.tries(
        points,
        title=f"Validation loss by {name}",
        description=f"The lowest is {best['loss']:.4f}, with {name} {_text(best['values'][name])}.",
        x=name + (", log scale" if text.endswith(":log") else ""),
        y="nats a token",
        log=text.endswith(":log"),
        names=names,
    )
    return (name, chart)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
