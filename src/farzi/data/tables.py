"""Reading an event log from a file, with every event's place in it.

DuckDB reads the columns as text and numbers the rows; what follows checks them, names the first
that is wrong, and gives them types. The row number is the tie-break of events at one time.
"""

from __future__ import annotations

import contextlib
import csv
import glob
import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

from farzi.errors import DataError

__all__ = [
    "ROW_ORDER",
    "Columns",
    "Layout",
    "hash_content",
    "join_digests",
    "layout_of",
    "open_binary",
    "read_events",
    "register_events",
    "suffix_of",
]

ROW_ORDER = "row"  # as a time column: the rows are in time order already

_USUAL_NAMES = {
    "user": ("user_id", "user", "userId", "userid", "reviewerID", "customer_id", "session_id"),
    "item": (
        "item_id", "item", "itemId", "itemid", "movieId", "movie_id", "parent_asin", "asin",
        "product_id",
    ),
    "time": ("timestamp", "time", "order", "unixReviewTime", "datetime", "date"),
}  # fmt: skip
_DELIMITERS = {".csv": ",", ".tsv": "\t", ".inter": "\t", ".dat": "::", ".data": "\t"}
_PLAIN_INTEGER = "0|-?[1-9][0-9]*"  # as `str` prints it: the text comes back from the number


@dataclass(frozen=True)
class Layout:
    """How a table lies in its file.

    Args:
        kind: `delimited` text, `parquet`, or `jsonl` (one JSON object a line).
        delimiter: what stands between two fields.
        quote: what fields may be wrapped in, or nothing.
        names: the columns where the file has no header line.
    """

    kind: Literal["delimited", "parquet", "jsonl"]
    delimiter: str = ","
    quote: str = '"'
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Columns:
    """The columns that hold user, item and time; None: the first usual name that is there."""

    user: str | None = None
    item: str | None = None
    time: str | None = None


def layout_of(path: Path, columns: Columns) -> Layout:
    """Guess a table's layout from its name, its first line and the columns asked for.

    Columns that are numbers (`1` is the first) say that the file has no header line.
    """
    suffix = suffix_of(path)
    if suffix in {".parquet", ".pq"}:
        return Layout("parquet")
    if suffix in {".jsonl", ".ndjson", ".json"}:
        return Layout("jsonl")
    first = _first_line(path)
    delimiter = _DELIMITERS.get(suffix, ",")
    if delimiter not in first:
        delimiter = max([delimiter, "\t", ",", ";", "|", " "], key=first.count)
    quote = "" if suffix == ".inter" else '"'
    given = [name for name in (columns.user, columns.item, columns.time) if name is not None]
    if any(map(str.isdecimal, given)) and all(n.isdecimal() or n == ROW_ORDER for n in given):
        width = len(_fields(path, first, delimiter, quote))
        return Layout("delimited", delimiter, quote, tuple(str(i + 1) for i in range(width)))
    return Layout("delimited", delimiter, quote)


def read_events(connection: Any, path: Path, layout: Layout, columns: Columns) -> Columns:
    """Read a log into the table `events` of a DuckDB connection.

    `events` has `user` and `item` (int64 where every one is a plain integer, else text), `time`
    (int64 or double, seconds or whatever the file counts; microseconds where it holds dates)
    and `row` (int64, from 0, the event's place in the file).

    Args:
        connection: an open DuckDB connection.
        path: the file, which may be gzip.
        layout: how the table lies in it.
        columns: which columns to read.

    Returns:
        the columns that were read.

    Raises:
        DataError: one line that names the file and the row, column or flag at fault.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file.")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty.")
    names = _column_names(connection, path, layout)
    chosen = _choose(path, layout, names, columns)
    connection.execute("SET TimeZone = 'UTC'")
    _load_text(connection, path, layout, names, chosen)
    _give_types(connection, path, layout, names, chosen)
    return Columns(**chosen)


def hash_content(paths: Sequence[Path]) -> str:
    """`sha256:...` of what the files hold once unpacked; of their digests where there are many."""
    digests = []
    for path in paths:
        digest = hashlib.sha256()
        with open_binary(path) as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        digests.append(digest.hexdigest())
    return join_digests(digests)


def join_digests(digests: Sequence[str]) -> str:
    """`sha256:...` of several digests, or the only one there is."""
    if len(digests) == 1:
        return f"sha256:{digests[0]}"
    return f"sha256:{hashlib.sha256(chr(10).join(digests).encode()).hexdigest()}"


def suffix_of(path: Path) -> str:
    """The file's suffix in lower case, without `.gz`."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def register_events(connection: Any, pairs: Sequence[tuple[str, str]]) -> None:
    """Make the table `events` of (user, item) pairs that stand in time order already."""
    import pyarrow as pa

    users, items = zip(*pairs, strict=True)
    rows = pa.array(range(len(pairs)), pa.int64())
    table = pa.table({"user": users, "item": items, "time": rows, "row": rows})
    connection.register("events", table)


@contextlib.contextmanager
def open_binary(path: Path) -> Iterator[IO[bytes]]:
    """Open a file, unpacked where it is gzip.

    Raises:
        DataError: the file cannot be opened, or its gzip stream is broken.
    """
    try:
        with path.open("rb") as raw:
            yield cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if _is_gzip(path) else raw
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}).") from None


# ------------------------------------------------------------------------------- which columns


def _column_names(connection: Any, path: Path, layout: Layout) -> tuple[str, ...]:
    if layout.names:
        return layout.names
    if layout.kind == "parquet":
        return tuple(_parquet_names(connection, path))
    first = _first_line(path)
    if layout.kind == "delimited":
        return tuple(name.strip() for name in _fields(path, first, layout.delimiter, layout.quote))
    record = _json_object(first)
    if record is None:
        raise DataError(f"{path}, line 1: not a JSON object.")
    return tuple(record)


def _parquet_names(connection: Any, path: Path) -> list[str]:
    import duckdb

    try:
        query = f"DESCRIBE SELECT * FROM read_parquet({_file(path)})"
        return [row[0] for row in connection.execute(query).fetchall()]
    except duckdb.Error:
        raise DataError(f"{path}: not a Parquet file.") from None


def _choose(path: Path, layout: Layout, names: tuple[str, ...], columns: Columns) -> dict[str, str]:
    """Which column of the file is the user, the item and the time."""
    plain = {name.split(":")[0]: name for name in reversed(names)}  # RecBole: `user_id:token`
    plain.update({name: name for name in names})
    chosen = {}
    for role, usual in _USUAL_NAMES.items():
        asked = getattr(columns, role)
        if asked in plain or (asked == ROW_ORDER and role == "time"):
            chosen[role] = plain.get(asked, ROW_ORDER)
        elif asked is None and (found := [plain[name] for name in usual if name in plain]):
            chosen[role] = found[0]
        else:
            missing = f"no column {asked!r}" if asked is not None else f"no {role} column"
            hint = _hint(role, layout, asked)
            raise DataError(f"{path}: {missing} among {_shorten(', '.join(names))}; {hint}.")
        if names.count(chosen[role]) > 1:
            raise DataError(f"{path}: there are several columns {chosen[role]!r}.")
    return chosen


def _hint(role: str, layout: Layout, asked: str | None) -> str:
    """What to do about a column that is not there."""
    hints = []
    if layout.kind == "delimited" and not layout.names:
        hints.append("by number where the file has no header line")
    if role == "time" and asked is None:
        hints.append(f"`{ROW_ORDER}` where the rows are in time order")
    aside = f" ({'; '.join(hints)})" if hints else ""
    return f"name it with --{role}-col{aside}"


# ----------------------------------------------------------------------------------- the reading


def _load_text(
    connection: Any,
    path: Path,
    layout: Layout,
    names: tuple[str, ...],
    chosen: Mapping[str, str],
) -> None:
    """Read the chosen columns as text into the table `raw`, each row with its number."""
    import duckdb

    inside = names if layout.kind != "delimited" else _numbered(names)
    outside = dict(zip(names, inside, strict=True))
    columns = {role: _quoted(outside.get(name, name)) for role, name in chosen.items()}
    if _in_row_order(chosen, names):
        columns["time"] = "NULL"
    fields = ", ".join(f"CAST({column} AS VARCHAR) AS {role}" for role, column in columns.items())
    select = f"SELECT row_number() OVER () - 1 AS row, {fields} FROM {_scan(path, layout, inside)}"
    try:
        connection.execute(f"CREATE TEMP TABLE raw AS {select}")
    except duckdb.Error as error:
        raise DataError(_explain(path, layout, str(error))) from None
    if layout.kind == "delimited":
        _raise_rejected(connection, path, dict(zip(inside, names, strict=True)))
    if connection.execute("SELECT count(*) FROM raw").fetchone()[0] == 0:
        raise DataError(f"{path}: the file holds no events.")


def _scan(path: Path, layout: Layout, names: tuple[str, ...]) -> str:
    file = _file(path)
    if layout.kind == "parquet":
        return f"read_parquet({file})"
    columns = "{" + ", ".join(f"{_literal(name)}: 'VARCHAR'" for name in names) + "}"
    packing = "gzip" if _is_gzip(path) else "none"
    if layout.kind == "jsonl":
        return (
            f"read_json({file}, format='newline_delimited', columns={columns}, "
            f"compression='{packing}')"
        )
    quote = _literal(layout.quote)
    return (
        f"read_csv({file}, auto_detect=false, store_rejects=true, rejects_limit=1000, "
        f"columns={columns}, "
        f"header={not layout.names}, delim={_literal(layout.delimiter)}, quote={quote}, "
        f"escape={quote}, compression='{packing}')"
    )


def _raise_rejected(connection: Any, path: Path, outside: Mapping[str, str]) -> None:
    first = connection.execute(
        "SELECT line, column_name, error_type, error_message FROM reject_errors ORDER BY line"
    ).fetchone()
    if first is None:
        return
    line, column, kind, message = first
    if kind in {"MISSING COLUMNS", "TOO MANY COLUMNS"}:
        expected, found = re.findall(r"\d+", message)
        raise DataError(f"{path}, line {line}: {found} fields where {expected} are expected.")
    where = f", column {outside[column]!r}" if column else ""
    problem = "not UTF-8 text." if kind == "INVALID ENCODING" else _shorten(message)
    raise DataError(f"{path}, line {line}{where}: {problem}")


def _explain(path: Path, layout: Layout, message: str) -> str:
    """One line that says what DuckDB could not read."""
    if layout.kind == "jsonl" and (number := _broken_object(path)):
        return f"{path}, line {number}: not a JSON object."
    if "state machine" in message:
        return f"{path}: cannot be read (mixed line ends, or a quote that is not closed)."
    reason = message.split(": ", 1)[-1].split("\n")[0]
    return f"{path}: cannot be read ({_shorten(reason)})."


# ------------------------------------------------------------------------------ checks and types


def _give_types(
    connection: Any,
    path: Path,
    layout: Layout,
    names: tuple[str, ...],
    chosen: Mapping[str, str],
) -> None:
    """Check every value of `raw` and make it `events`, the same rows with types."""

    def refuse(role: str, condition: str, problem: str) -> None:
        bad = connection.execute(
            f'SELECT row, "{role}" FROM raw WHERE {condition} ORDER BY row LIMIT 1'
        ).fetchone()
        if bad is not None:
            place = _place(path, layout, bad[0])
            value = problem.format(_shorten(repr(bad[1])))
            raise DataError(f"{place}, column {chosen[role]!r}: {value}.")

    in_rows = _in_row_order(chosen, names)
    for role in ("user", "item") if in_rows else ("user", "item", "time"):
        refuse(role, f'"{role}" IS NULL OR "{role}" = \'\'', "the value is missing")
    if in_rows:
        time = "row"
    else:
        time, condition, problem = _time_type(connection)
        refuse("time", condition, problem)
    ids = ", ".join(f"{_id_type(connection, role)} AS {role}" for role in ("user", "item"))
    connection.execute(f"CREATE TEMP TABLE events AS SELECT {ids}, {time} AS time, row FROM raw")
    connection.execute("DROP TABLE raw")


def _id_type(connection: Any, role: str) -> str:
    number = f'TRY_CAST("{role}" AS BIGINT)'
    plain = f"{number} IS NOT NULL AND regexp_full_match(\"{role}\", '{_PLAIN_INTEGER}')"
    all_plain = connection.execute(f"SELECT bool_and({plain}) FROM raw").fetchone()[0]
    return number if all_plain else f'"{role}"'


def _time_type(connection: Any) -> tuple[str, str, str]:
    """The expression for the time, the condition of a wrong one, and what to say of it.

    The first row says whether the column holds numbers or dates.
    """
    number = "TRY_CAST(time AS DOUBLE)"
    integer = "TRY_CAST(time AS BIGINT)"
    date = "TRY_CAST(time AS TIMESTAMPTZ)"
    is_number, is_date, all_integer = connection.execute(
        f"SELECT first({number} IS NOT NULL ORDER BY row), first({date} IS NOT NULL ORDER BY row), "
        f"bool_and({integer} IS NOT NULL AND regexp_full_match(time, '[+-]?[0-9]+')) FROM raw"
    ).fetchone()
    if is_date and not is_number:
        return f"epoch_us({date})", f"{date} IS NULL OR NOT isfinite({date})", "{} is not a date"
    expression = integer if all_integer else number
    wrong = f"{number} IS NULL OR NOT isfinite({number})"
    return expression, wrong, "{} is neither a number nor a date"


# ----------------------------------------------------------------------------------------- places


def _place(path: Path, layout: Layout, row: int) -> str:
    """`FILE, line N` for text, `FILE, row N` for Parquet, both counted from 1."""
    if layout.kind == "parquet":
        return f"{path}, row {row + 1}"
    before = 0 if layout.names or layout.kind == "jsonl" else 1
    with open_binary(path) as stream:
        filled = (number for number, line in enumerate(stream, 1) if line.strip())
        for _ in range(before + row):
            next(filled)
        return f"{path}, line {next(filled)}"


def _broken_object(path: Path) -> int | None:
    """The first line that holds anything but a JSON object; DuckDB counts some wrongly."""
    with open_binary(path) as stream:
        for number, line in enumerate(stream, 1):
            if line.strip() and _json_object(line) is None:
                return number
    return None


def _json_object(line: str | bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _first_line(path: Path) -> str:
    with open_binary(path) as stream:
        for line in stream:
            if line.strip():
                try:
                    return line.decode("utf-8-sig").rstrip("\r\n")
                except UnicodeDecodeError:
                    raise DataError(f"{path}, line 1: not UTF-8 text.") from None
    raise DataError(f"{path}: the file is empty.")


def _fields(path: Path, line: str, delimiter: str, quote: str) -> list[str]:
    if len(delimiter) > 1 or not quote:
        return line.split(delimiter)
    try:
        return next(csv.reader([line], delimiter=delimiter, quotechar=quote))
    except csv.Error:
        raise DataError(f"{path}, line 1: not a line of a table.") from None


def _numbered(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names that DuckDB takes as they are, where the file's are empty or differ in case only."""
    return tuple(f"c{i}" for i in range(len(names)))


def _in_row_order(chosen: Mapping[str, str], names: tuple[str, ...]) -> bool:
    return chosen["time"] == ROW_ORDER and ROW_ORDER not in names


def _is_gzip(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(2) == b"\x1f\x8b"
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file.") from None


def _file(path: Path) -> str:
    """The path as DuckDB must be told it: a name with `*` is a name, not a pattern."""
    return _literal(glob.escape(str(path)))


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _shorten(text: str, length: int = 120) -> str:
    """One line of what may be anything, safe to print to a terminal."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))
    return line if len(line) <= length else line[: length - 1] + "…"
