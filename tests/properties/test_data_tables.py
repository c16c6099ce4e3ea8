"""Whatever the ids look like: what a writer wrote is read back exactly, or refused."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import ibis
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from farzi.data.columns import Columns
from farzi.data.formats import ReadAs
from farzi.data.sources import open_source
from farzi.errors import DataError

IDS = st.one_of(
    st.text(
        st.characters(codec="utf-8", exclude_characters="\r\0", exclude_categories=("Cs",)),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from(["1", "01", "1.0", "-0", "nan", "NULL", "1e3", '"', '""', "a,b", "a;b", " a "]),
    st.text(alphabet="\"', ;\t\n:ab", min_size=1, max_size=5),
)
ROWS = st.lists(st.tuples(IDS, IDS, st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=12)


def read(
    name: str, content: str, delimiter: str | None = None, **columns: str
) -> list[tuple[Any, ...]]:
    """The events of a file in the order of their rows, ids as text."""
    connection = ibis.duckdb.connect()
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, name)
            file.write_bytes(content.encode())
            opened = open_source(file, ReadAs(None, Columns(**columns), delimiter), None, None)
            assert opened.log is not None
            opened.log.read(connection.con)
            rows = connection.con.execute("SELECT user, item, time FROM events ORDER BY row")
            return [(str(user), str(item), time) for user, item, time in rows.fetchall()]
    finally:
        connection.disconnect()


def read_or_refuse(content: str, **columns: str) -> list[tuple[Any, ...]] | None:
    """The events; None where the file could be read in two ways, and that is said."""
    try:
        return read("log.csv", content, **columns)
    except DataError as error:
        if "quote" not in str(error) and "name it with" not in str(error):
            raise
        return None


@given(
    rows=ROWS,
    delimiter=st.sampled_from([",", ";", "\t", "|"]),
    end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    header=st.booleans(),
)
def test_what_csv_writes(
    rows: list[tuple[str, str, int]], delimiter: str, end: str, quoting: Any, header: bool
) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=delimiter, lineterminator=end, quoting=quoting)
    if header:
        writer.writerow(["user", "item", "time"])
    writer.writerows(rows)
    columns = {"user": "1", "item": "2", "time": "3", "delimiter": delimiter}
    found = read_or_refuse(buffer.getvalue(), **({} if header else columns))
    if found is None:
        return
    assert found == [(whole(0, row, rows), whole(1, row, rows), row[2]) for row in rows]


def whole(place: int, row: tuple[str, str, int], rows: list[tuple[str, str, int]]) -> str:
    """An id as text; whole numbers that are all written as fractions are whole numbers."""
    value = row[place]
    if all(other[place] == "1.0" for other in rows):
        return "1"
    return value


@given(rows=ROWS, indent=st.booleans())
def test_what_json_writes(rows: list[tuple[str, str, int]], indent: bool) -> None:
    separators = (", ", " : ") if indent else (",", ":")
    content = "".join(
        json.dumps({"user": u, "item": i, "time": t}, separators=separators) + "\n"
        for u, i, t in rows
    )
    found = read("log.jsonl", content)
    assert found == [(whole(0, row, rows), whole(1, row, rows), row[2]) for row in rows]


@given(rows=ROWS, separator=st.sampled_from([",", "\t"]))
def test_what_pandas_writes(rows: list[tuple[str, str, int]], separator: str) -> None:
    frame = pd.DataFrame(rows, columns=["user", "item", "time"])
    content = frame.to_csv(index=False, sep=separator)
    found = read_or_refuse(content)
    if found is None:
        return
    assert found == [(whole(0, row, rows), whole(1, row, rows), row[2]) for row in rows]
