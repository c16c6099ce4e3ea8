"""From a run to one HTML page that needs nothing else: no network, no other file."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farzi.artifact import locate_artifact, recipe_student
from farzi.data import SOURCES
from farzi.data.files import write_text
from farzi.data.prepared import PreparedData
from farzi.report import svg
from farzi.report.facts import Course, Facts, gather, reached
from farzi.report.inside import Inside, Kind, look_inside
from farzi.report.sweep import sweep_view

if TYPE_CHECKING:
    import jinja2

__all__ = ["MAX_BYTES", "render_report", "write_report"]

MAX_BYTES = 1_000_000
_BLANK = "\N{NO-BREAK SPACE}"

_RATES = ("HR@", "nDCG@", "MRR", "AUC", "accuracy")
_HEADLINE = ("HR@10", "HR@100", "nDCG@10", "nDCG@100", "perplexity", "accuracy", "loss")
_ROWS = {
    "full": "everything there is",
    "random": "real sequences, drawn at random",
    "random-soft": "the same, with the teachers' labels",
    "head": "the longest real sequences",
    "head-soft": "the same, with the teachers' labels",
    "coreset-soft": "real sequences that differ most, with the teachers' labels",
    "full-soft": "everything, with the teachers' labels",
    "teachers": "the teachers themselves, averaged",
    "start": "where the outer loop began",
    "farzi": "the distilled sequences",
    "most-popular": "no model: what is popular",
}


def write_report(
    run: str | os.PathLike[str],
    data: PreparedData,
    *,
    out: str | os.PathLike[str] | None = None,
    titles: Mapping[str, str] | None = None,
    comparison: Mapping[str, Any] | None = None,
    real: bool = True,
) -> Path:
    """Write the report of a run, whole or not at all.

    Args:
        run: a run's folder, or an artifact's.
        data: the source, as the run read it.
        out: the file; None: `report.html` in the run's folder, and beside a lone artifact.
        titles: a title for each original id, as text; ids without one show as they are.
        comparison: JSON values of a comparison; None: what `farzi compare` left in the folder.
        real: whether real sequences are quoted.

    Returns:
        the file.

    Raises:
        ArtifactError: there is no finished artifact.
        DataError: a record of the run cannot be read.
    """
    page = render_report(run, data, titles=titles, comparison=comparison, real=real)
    place = locate_artifact(run)
    target = Path(out) if out is not None else place.parent / "report.html"
    if out is None and place.name != "artifact":
        target = place.parent / f"{place.name}.report.html"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, page)
    return target


def render_report(
    run: str | os.PathLike[str],
    data: PreparedData,
    *,
    titles: Mapping[str, str] | None = None,
    comparison: Mapping[str, Any] | None = None,
    real: bool = True,
) -> str:
    """The page of `write_report` as text; the same run gives the same text."""
    facts = gather(run, data, comparison=comparison)
    names = titles or {}
    inside = look_inside(
        facts.artifact, data, lambda original: names.get(str(original), str(original)), real=real
    )
    return (
        page_environment()
        .get_template("page.html.jinja")
        .render(
            facts=facts,
            inside=inside,
            source=SOURCES.get(data.name),
            unit="item" if data.task == "recommend" else "word",
            people="users" if data.task == "recommend" else "sentences",
            figures=_figures(facts),
            results=_results(facts),
            course=_course_charts(facts.course),
            pictures=_pictures(inside),
            charts_of_kinds=[(kind, _popularity(kind)) for kind in inside.kinds],
            protocol_line=(facts.comparison or {}).get("protocol_line")
            or data.protocol_line(
                int(recipe_student(facts.artifact).get("context_length", 0)) or None
            ),
            settings=_flat(facts.settings),
            provenance=_provenance(facts),
            sweep=None if facts.sweep is None else sweep_view(facts.sweep),
            real=real,
        )
    )


def page_environment() -> jinja2.Environment:
    """The templates and their filters."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("farzi.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "size": _size,
        "seconds": _seconds,
        "percent": _percent,
        "count": lambda number: f"{number:,}",
        "decile": lambda share: min(10, max(1, math.ceil(10 * share))),
        "short": svg.shorten,
    }
    return environment


# ----------------------------------------------------------------------------------------- words


def _figures(facts: Facts) -> list[tuple[str, str]]:
    """The few numbers on top: value and words."""
    artifact, comparison = facts.artifact, facts.comparison or {}
    figures = [
        (
            f"{artifact.num_sequences:,} × {artifact.length:,}",
            f"synthetic sequences × their length, for {len(facts.data.train):,} real ones",
        )
    ]
    ratio = comparison.get("ratios", {}).get("farzi", {}).get("mean")
    if ratio is not None:
        runs = max((row.get("num_runs") or 1 for row in comparison["rows"]), default=1)
        words = f"of what full data gives, the mean over metrics: the last comparison, {runs} runs"
        figures.append((f"{100 * ratio:.1f}{_BLANK}%", words if runs > 1 else words[:-1]))
    else:
        best = facts.course.best
        if best is not None:
            figures.append((f"{best[1]:.3f}", "validation loss of fresh students, nats a token"))
    cost = facts.cost
    taken_s, where = cost.distilled_s, "to train"
    if cost.full_s and cost.equal_s and cost.equal_s < cost.full_s:
        taken_s, where = cost.equal_s, "to the validation loss of full data"
    if cost.full_s and taken_s:
        words = f"as fast {where}: {_seconds(taken_s)} instead of {_seconds(cost.full_s)}"
        figures.append((f"{cost.full_s / taken_s:.1f}{_BLANK}×", words))
    elif cost.distil_s is not None:
        without = "" if cost.before_s is not None else ", its teachers not counted"
        figures.append((_seconds(cost.distil_s), f"for the distillation{without}"))
    share = cost.artifact_bytes / max(1, cost.source_bytes)
    figures.append((_size(cost.artifact_bytes), f"{_times(share)} the real training tokens"))
    return figures


def _results(facts: Facts) -> dict[str, Any] | None:
    """The table of a comparison and its differences, as words."""
    comparison = facts.comparison
    if not comparison or not comparison.get("rows"):
        return None
    rows = comparison["rows"]
    shown = {name for row in rows for name in row["metrics"]}
    metrics = [name for name in _HEADLINE if name in shown]
    taken = {row["name"]: row.get("seconds", row.get("train_wall_s")) for row in rows}
    best = {
        metric: _best(
            [row["metrics"][metric]["mean"] for row in rows if metric in row["metrics"]], metric
        )
        for metric in metrics
    }
    table = []
    came = {row["name"]: reached(row) for row in rows}
    shares = sorted({share for of_row in came.values() for share in of_row})
    for row in rows:
        seconds = taken[row["name"]]
        full = taken.get("full")
        cells = []
        for metric in metrics:
            value = row["metrics"].get(metric)
            text = "" if value is None else _spread(value, metric)
            cells.append((text, value is not None and value["mean"] == best[metric]))
        table.append(
            {
                "name": row["name"],
                "words": _ROWS.get(row["name"], ""),
                "sequences": f"{row['sequences']:,}" if row["sequences"] else "",
                "bytes": _size(row["bytes"]),
                "cells": cells,
                "ratio": _number(comparison.get("ratios", {}).get(row["name"], {}).get("mean")),
                "seconds": _seconds(seconds) if seconds else "",
                "faster": f"{full / seconds:.1f} ×"
                if full and seconds and row["name"] != "full"
                else "",
                "reached": [
                    _reached(came[row["name"]].get(share), row.get("num_runs")) if seconds else ""
                    for share in shares
                ],
            }
        )
    return {
        "metrics": metrics,
        "shares": [_percent(share) for share in shares],
        "rows": table,
        "runs": rows[0].get("num_runs"),
        "splits": comparison.get("split_seeds", []),
        "clock": comparison.get("clock", ""),
        "differences": _difference_charts(comparison),
    }


def _reached(came: tuple[float, int] | None, num_runs: int | None) -> str:
    if came is None:
        return "never"
    seconds, runs = came
    return _seconds(seconds) if runs == num_runs else f"{_seconds(seconds)} ({runs} of {num_runs})"


def _difference_charts(comparison: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A chart of farzi less every other row for the metrics that say most."""
    charts = []
    pairs = comparison.get("paired", [])
    for metric in ("nDCG@10", "accuracy", "loss"):
        bands = []
        for pair in pairs:
            if pair["metric"] != metric or pair["b"] == "most-popular":
                continue
            lower = metric == "loss"
            scale = -1 if lower else 100
            digits = 3 if lower else 1
            low, middle, high = (scale * pair[key] for key in ("low", "difference", "high"))
            low, high = sorted((low, high))
            text = f"{middle:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
            bands.append(svg.Band(pair["b"], low, middle, high, text.replace("-", "−")))
        if bands:
            better = (
                "lower loss, in nats" if metric == "loss" else f"{metric}, in percentage points"
            )
            chart = svg.intervals(
                bands,
                title=f"farzi against each row: {better}",
                description="; ".join(f"{band.name} {band.text}" for band in bands),
            )
            charts.append((better, chart))
    return charts


def _course_charts(course: Course) -> list[tuple[str, str, list[str]]]:
    """Heading, chart and legend of what the outer loop recorded."""
    charts: list[tuple[str, str, list[str]]] = []
    if len(course.fresh) > 1 and course.best is not None:
        (start, before), (at, best) = course.fresh[0], course.best
        chart = svg.lines(
            [svg.Line("fresh students", *_xy(course.fresh), dots=True)],
            title="Validation loss of fresh students",
            description=f"From {before:.3f} at step {start:.0f} to {best:.3f} at step {at:.0f}.",
            x="outer step",
            y="nats a token",
            mark=(at, best, f"kept: {best:.3f}"),
        )
        charts.append(("Validation loss of fresh students", chart, []))
    if len(course.outer) > 1:
        ys = [value for _, value in course.outer]
        chart = svg.lines(
            [svg.Line("outer loss", *_xy(course.outer))],
            title="Outer loss",
            description=f"On real training batches, from {ys[0]:.3f} to {ys[-1]:.3f}.",
            x="outer step",
            y="nats a token",
        )
        charts.append(("Outer loss on real batches", chart, []))
    gradients = {
        name: positive
        for name, points in course.gradients.items()
        if len(positive := tuple(p for p in points if p[1] > 0)) > 1
    }
    if gradients:
        chart = svg.lines(
            [svg.Line(name, *_xy(points)) for name, points in list(gradients.items())[:3]],
            title="Norm of the meta-gradient",
            description="By block: " + ", ".join(gradients) + ".",
            x="outer step",
            y="norm, log scale",
            log=True,
        )
        charts.append(("Norm of the meta-gradient", chart, list(gradients)[:3]))
    agreement = {name: points for name, points in course.agreement.items() if len(points) > 1}
    if agreement:
        chart = svg.lines(
            [svg.Line(name, *_xy(points)) for name, points in list(agreement.items())[:3]],
            title="Agreement between students",
            description="Mean cosine between the meta-gradients of students, by block.",
            x="outer step",
            y="mean cosine",
        )
        charts.append(("Agreement between students", chart, list(agreement)[:3]))
    return charts


def _xy(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _pictures(inside: Inside) -> dict[str, str]:
    """Entropy, and what follows what."""
    entropy = svg.histogram(
        [(kind.name, kind.entropy) for kind in inside.kinds],
        title="Entropy of the soft tokens",
        description=", ".join(f"{k.name}: {k.mean_bits:.1f} bits on average" for k in inside.kinds),
        x="bits",
        low=0.0,
        high=inside.max_bits,
    )
    flat = sorted(
        (share for row in (*inside.follows_real, *inside.follows_synthetic) for share in row),
        reverse=True,
    )
    highest = flat[len(flat) // 25] if flat else 1.0
    return {
        "entropy": entropy,
        "real": svg.heatmap(
            inside.follows_real,
            inside.names,
            title="What follows what in the real sequences",
            description="Rows: an item. Columns: the next one, in the same order.",
            highest=highest,
        ),
        "synthetic": svg.heatmap(
            inside.follows_synthetic,
            inside.names,
            title="What follows what in the synthetic sequences",
            description="Rows: an item. Columns: the next one, in the same order.",
            highest=highest,
        ),
    }


def _popularity(kind: Kind) -> str:
    values = [share for x, y, _ in kind.points for share in (x, y) if share > 0]
    low, high = min(x for x, _, _ in kind.points) / 3, max(values) * 1.5
    return svg.scatter(
        [svg.Point(x, y, name) for x, y, name in kind.points],
        title=f"Popularity, real against synthetic {kind.name}",
        description=f"Rank correlation over the catalogue {kind.rank_correlation:.2f}.",
        x="share of real events",
        y="share of synthetic",
        low=low,
        high=high,
    )


def _provenance(facts: Facts) -> list[tuple[str, str]]:
    source, record = facts.artifact.source, facts.record
    known = SOURCES.get(facts.data.name)
    rows = [
        ("source", facts.data.name),
        ("content", str(source["fingerprint"])),
        ("split", f"{source['split_kind']}, seed {source['split_seed']}"),
        (
            "training users" if facts.data.task == "recommend" else "training texts",
            str(source["train_users_hash"]),
        ),
        ("recipe", ", ".join(f"{name} {value}" for name, value in _flat(facts.artifact.recipe))),
        ("versions", ", ".join(f"{k} {v}" for k, v in record.get("versions", {}).items())),
        ("threads", str(record.get("threads", ""))),
    ]
    if known is not None:
        rows += [("licence", known.licence), ("to cite", known.citation)]
    return [(name, value) for name, value in rows if value]


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{name}.")
        elif value is not None:
            rows.append((f"{prefix}{name}", str(value)))
    return rows


# --------------------------------------------------------------------------------------- numbers


def _is_rate(metric: str) -> bool:
    return metric.startswith(_RATES)


def _best(values: Sequence[float], metric: str) -> float | None:
    if not values:
        return None
    return max(values) if _is_rate(metric) else min(values)


def _spread(value: Mapping[str, float | None], metric: str) -> str:
    mean, std = value["mean"], value.get("std")
    if mean is None:
        return ""
    scale, digits = (100, 1) if _is_rate(metric) else (1, 3 if metric == "loss" else 1)
    around = "" if std is None else f" ± {scale * std:.{digits}f}"
    return f"{scale * mean:.{digits}f}{around}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _size(count: float) -> str:
    """Bytes as people say them.

    Example:
        >>> from farzi.report.page import _size
        >>> [_size(count).replace("\N{NO-BREAK SPACE}", " ") for count in (512, 1_283_000)]
        ['512 B', '1.3 MB']
    """
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            digits = 1 if count < 10 * scale else 0
            return f"{count / scale:.{digits}f}{_BLANK}{unit}"
    return f"{count:.0f}{_BLANK}B"


def _seconds(value: float) -> str:
    """Seconds as people say them.

    Example:
        >>> from farzi.report.page import _seconds
        >>> [_seconds(value).replace("\N{NO-BREAK SPACE}", " ") for value in (0.25, 12, 200, 9000)]
        ['0.25 s', '12 s', '3.3 min', '2.5 h']
    """
    if value < 10:
        return f"{value:.2g}{_BLANK}s"
    if value < 120:
        return f"{value:.0f}{_BLANK}s"
    return f"{value / 60:.2g}{_BLANK}min" if value < 5400 else f"{value / 3600:.2g}{_BLANK}h"


def _percent(share: float) -> str:
    """A share as people read it.

    Example:
        >>> from farzi.report.page import _percent
        >>> [_percent(share).replace("\N{NO-BREAK SPACE}", " ") for share in (0.1234, 0.0012, 1)]
        ['12 %', '0.12 %', '100 %']
    """
    value = 100 * share
    return f"{value:.2g}{_BLANK}%" if 0 < value < 10 else f"{value:.0f}{_BLANK}%"


def _times(share: float) -> str:
    """How many times as large, in words."""
    if share >= 1.5:
        return f"{share:.1f} times"
    return f"{100 * share:.0f} % of" if share >= 0.01 else f"{100 * share:.1g} % of"
