"""`farzi report`: one page to look at and to send to others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from farzi.cli._common import DEFAULT_OUTPUT, Output
from farzi.cli._source import DEFAULT_READING, On, Reading

if TYPE_CHECKING:
    from farzi.data import PreparedData

__all__ = ["report", "report_at_the_end"]


def report(
    run: Path,
    /,
    *,
    out: Path | None = None,
    titles: Path | None = None,
    comparison: Path | None = None,
    real: Annotated[bool, Parameter(negative="--no-real")] = True,
    on: On = None,
    reading: Reading = DEFAULT_READING,
    output: Output = DEFAULT_OUTPUT,
) -> None:
    """Write one HTML page that shows a run: result, course, contents, cost.

    The page is one file that loads nothing from anywhere. `farzi distill` and `farzi compare` write
    it at their end.

    Args:
        run: a run or an artifact; OUT of `farzi distill --split-seed 0 1 2` shows its first split
            and the comparison of all.
        out: the file; RUN/report.html without it.
        titles: a file of titles by original id: CSV, TSV, MovieLens' u.item, JSON or Parquet.
        comparison: what `farzi compare --json FILE` wrote; the last comparison of the run without
            it.
        real: quote the nearest real sequences; --no-real leaves them out.

    Example:
        farzi report runs/calls
        farzi report runs/ml-100k --titles ml-100k/u.item --out ml-100k.html
    """
    from farzi.provenance import read_again, remembered_by, split_folders
    from farzi.report import read_comparison, read_titles, write_report

    first = split_folders(run)[0]
    names = read_titles(titles) if titles is not None else None
    compared = read_comparison(comparison) if comparison is not None else None
    data = read_again(remembered_by(first), on, **reading.asked)
    several = run / "report.html" if first != run else None
    written = write_report(
        first, data, out=out or several, titles=names, comparison=compared, real=real
    )
    size = written.stat().st_size
    output.result({"report": str(written), "bytes": size}, text=str(written))


def report_at_the_end(
    run: Path,
    data: PreparedData,
    output: Output,
    *,
    comparison: Mapping[str, Any] | None = None,
) -> None:
    """Write a run's report after its result, which a fault here must not take with it."""
    from farzi.errors import FarziError
    from farzi.provenance import split_folders
    from farzi.report import keep_comparison, write_report

    first = split_folders(run)[0]
    try:
        if comparison is not None:
            keep_comparison(run, comparison)
        written = write_report(first, data, out=run / "report.html")
    except (FarziError, OSError) as error:
        output.say(f"no report: {error}")
    else:
        output.say(f"report: {written}")
