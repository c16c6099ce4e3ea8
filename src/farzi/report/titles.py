"""Titles for original ids, from a file of the user's own."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from farzi.errors import DataError

__all__ = ["read_titles"]

_ID_NAMES = (
    "id",
    "item",
    "item_id",
    "itemid",
    "movie_id",
    "movieid",
    "product_id",
    "asin",
    "token",
)
_TITLE_NAMES = ("title", "name", "item_name", "movie_title", "label", "description")


def read_titles(path: str | os.PathLike[str]) -> dict[str, str]:
    r"""Read which title belongs to which original id.

    Args:
        path: CSV, TSV, or a table separated by `|` or `::` (MovieLens' `u.item` and `movies.dat`),
            with or without a header line; JSON lines; a JSON object of titles by id; Parquet. The
            columns are found by their usual names, else the first is the id and the second the
            title.

    Returns:
        title by id, the id as text.

    Raises:
        DataError: the file cannot be read, or has fewer than two columns.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from farzi.report.titles import read_titles
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "films.csv")
        ...     _ = file.write_text("item_id,title\n50,Star Wars\n")
        ...     read_titles(file)
        {'50': 'Star Wars'}
    """
    file = Path(path)
    try:
        if file.suffix == ".parquet":
            titles = _from_records(_parquet(file))
        elif file.suffix in (".json", ".jsonl", ".ndjson"):
            titles = _from_json(_text(file))
        else:
            titles = _from_rows(_rows(_text(file)))
    except OSError as error:
        raise DataError(f"--titles {file}: {error.strerror}.") from None
    except (ValueError, LookupError) as error:
        raise DataError(f"--titles {file}: {' '.join(str(error).split())}") from None
    if not titles:
        raise DataError(f"--titles {file}: holds no titles.")
    return titles


def _text(file: Path) -> str:
    content = file.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")  # as MovieLens' files are


def _rows(text: str) -> list[list[str]]:
    lines = text.splitlines()
    if not lines:
        return []
    first = lines[0]
    if "::" in first:
        return [line.split("::") for line in lines]
    separator = next((mark for mark in ("\t", "|", ";") if mark in first), ",")
    return list(csv.reader(lines, delimiter=separator))


def _from_rows(rows: list[list[str]]) -> dict[str, str]:
    if not rows:
        return {}
    head = [name.strip().lower() for name in rows[0]]
    if len(head) < 2:
        raise ValueError("needs an id and a title in each line.")
    named = any(name in _TITLE_NAMES for name in head)
    first = next((n for n, name in enumerate(head) if name in _ID_NAMES), 0) if named else 0
    second = next((n for n, name in enumerate(head) if name in _TITLE_NAMES), 1) if named else 1
    wanted = max(first, second)
    return {
        row[first].strip(): row[second].strip()
        for row in rows[1 if named else 0 :]
        if len(row) > wanted and row[second].strip()
    }


def _from_json(text: str) -> dict[str, str]:
    try:
        values = json.loads(text)
    except ValueError:
        values = [json.loads(line) for line in text.splitlines() if line.strip()]
    if isinstance(values, Mapping) and all(isinstance(title, str) for title in values.values()):
        return {str(original): title for original, title in values.items()}
    return _from_records([values] if isinstance(values, Mapping) else values)


def _from_records(records: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    rows = list(records)
    if not rows or not isinstance(rows[0], Mapping):
        return {}
    names = list(rows[0])
    if len(names) < 2:
        raise ValueError("needs an id and a title in each record.")
    lowered = {name.lower(): name for name in names}
    first = next((lowered[name] for name in _ID_NAMES if name in lowered), names[0])
    second = next((lowered[name] for name in _TITLE_NAMES if name in lowered), names[1])
    return {str(row[first]): str(row[second]) for row in rows if row.get(second)}


def _parquet(file: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    records: list[dict[str, Any]] = pq.read_table(file).to_pylist()
    return records
