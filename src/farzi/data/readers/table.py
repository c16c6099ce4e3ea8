"""Tables of delimited text: CSV, TSV, RecBole's `.inter`, and their like."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from farzi.data.columns import Chosen, choose_columns, shorten
from farzi.data.content import RecordCount, hash_lines, is_gzip, open_binary, stem_of
from farzi.data.formats import Layout, QuotedLines, ReadAs, guess_layout, header_of, records
from farzi.data.readers.base import Log, literal, make_events, quoted
from farzi.errors import DataError

__all__ = ["DelimitedReader"]

_REJECTS = 1000  # rows that cannot be read and are kept to be named
_WITHOUT_HEADER = "by number where the file has no header line"
_QUOTE_FLAG = "--quote none takes quotes for text"


@dataclass(frozen=True)
class DelimitedReader:
    """A table of delimited text.

    Args:
        path: the file, which may be gzip.
        read_as: what the caller says of it.
        layout: how it lies; None: as it looks.
        notes: what was decided before.
    """

    path: Path
    read_as: ReadAs = field(default_factory=ReadAs)
    layout: Layout | None = None
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What results call it."""
        return stem_of(self.path)

    @property
    def label(self) -> str:
        """What errors call it."""
        return str(self.path)

    def read(self, connection: Any) -> Log:
        """Read the chosen columns as text, each row with its number, and give them types."""
        quotes, unquoted, counted = QuotedLines(), RecordCount(), RecordCount('"')
        fingerprint = hash_lines(self.path, quotes, unquoted, counted)
        layout = self.layout or guess_layout(self.path, self.read_as, quotes.lines)
        names = layout.names or tuple(header_of(self.path, layout))
        chosen = choose_columns(
            self.label,
            names,
            self.read_as.columns,
            without_header="" if layout.names else _WITHOUT_HEADER,
        )
        _load(connection, self.path, layout, names, chosen, unquoted.line_end)
        count = counted if layout.quote == '"' and quotes.lines else unquoted
        _refuse_lost(connection, self.path, layout, count.total)
        kept: list[str] = []
        if layout.quote_guessed and not layout.quote and quotes.lines:
            _refuse_wrapped(connection, self.path, layout, chosen)
            kept = _quotes_kept(connection, chosen)
        connection.execute("SET TimeZone = 'UTC'")
        notes = make_events(connection, chosen, lambda row: _place(self.path, layout, row))
        settings = {
            "format": "table",
            "delimiter": layout.delimiter,
            "quote": layout.quote or "none",
        }
        return Log(
            fingerprint, chosen.columns, settings, (*self.notes, *chosen.notes, *kept, *notes)
        )


def _load(
    connection: Any,
    path: Path,
    layout: Layout,
    names: Sequence[str],
    chosen: Chosen,
    line_end: str | None,
) -> None:
    """Read the chosen columns as text into the table `raw`, each row with its number."""
    import duckdb

    inside = tuple(f"c{i}" for i in range(len(names)))  # the file's may differ in case only
    outside = dict(zip(inside, names, strict=True))
    numbered = {name: place for place, name in enumerate(names)}
    fields = ", ".join(f"c{numbered[name]} AS {role}" for role, name in chosen.read.items())
    select = f"SELECT row_number() OVER () - 1 AS row, {fields} FROM"
    # The first line end may stand inside quotes and be another.
    end = "" if line_end is None else f", new_line='{line_end.encode('unicode_escape').decode()}'"
    try:
        connection.execute(f"CREATE TEMP TABLE raw AS {select} {_scan(path, layout, inside, end)}")
        rejected = "SELECT count(DISTINCT line) FROM reject_errors"
        if found := connection.execute(rejected).fetchone()[0]:
            table = "reject_errors"
            if found >= _REJECTS:  # the first of them may not be among those that were kept
                table = "all_errors"
                all_of_them = _scan(
                    path,
                    layout,
                    inside,
                    f"{end}, rejects_table='{table}', rejects_scan='all_scans'",
                    limit=0,
                )
                connection.execute(f"CREATE TEMP TABLE again AS SELECT c0 FROM {all_of_them}")
            _raise_rejected(connection, path, outside, table)
    except duckdb.Error as error:
        raise DataError(_explain(path, layout, str(error))) from None


def _scan(
    path: Path, layout: Layout, names: Sequence[str], more: str = "", limit: int = _REJECTS
) -> str:
    columns = "{" + ", ".join(f"{literal(name)}: 'VARCHAR'" for name in names) + "}"
    quote = literal(layout.quote)
    # A name with `*` is a name, not a pattern.
    return (
        f"read_csv({literal(glob.escape(str(path)))}, auto_detect=false, store_rejects=true, "
        f"rejects_limit={limit}, columns={columns}, header={not layout.names}, "
        f"skip={layout.blank_lines}, delim={literal(layout.delimiter)}, quote={quote}, "
        f"escape={quote}, compression='{'gzip' if is_gzip(path) else 'none'}'{more})"
    )


def _raise_rejected(connection: Any, path: Path, outside: Mapping[str, str], table: str) -> None:
    position, column, kind, message = connection.execute(
        "SELECT line_byte_position, column_name, error_type, error_message FROM "
        f"{table} ORDER BY line LIMIT 1"
    ).fetchone()
    line = _line_at(path, position)
    if kind in {"MISSING COLUMNS", "TOO MANY COLUMNS"}:
        expected, found = re.findall(r"\d+", message)
        raise DataError(f"{path}, line {line}: {found} fields where {expected} are expected.")
    where = f", column {outside[column]!r}" if column in outside else ""
    if kind == "UNQUOTED VALUE":
        problem = f"a quote is not closed; {_QUOTE_FLAG}."
    elif kind == "INVALID ENCODING":
        problem = "not UTF-8 text."
    else:
        problem = shorten(message)
    raise DataError(f"{path}, line {line}{where}: {problem}")


def _line_at(path: Path, position: int) -> int:
    """The number of the line at a place in the unpacked file; DuckDB counts records."""
    number, left = 1, position
    with open_binary(path) as stream:
        while left > 0 and (block := stream.read(min(left, 1 << 20))):
            number += block.count(b"\n")
            left -= len(block)
    return number


def _explain(path: Path, layout: Layout, message: str) -> str:
    """One line that says what DuckDB could not read."""
    if "state machine" in message or "quote" in message:
        oddity = _first_oddity(path, layout) or f"a quote is not closed, it seems; {_QUOTE_FLAG}"
        return f"{path}: {oddity}."
    reason = message.split(": ", 1)[-1].split("\n")[0]
    return f"{path}: cannot be read ({shorten(reason)})."


def _first_oddity(path: Path, layout: Layout) -> str | None:
    """The first line that ends otherwise than the first does, or whose quotes do not pair up."""
    first = None
    with open_binary(path) as stream:
        for number, line in enumerate(stream, 1):
            if b"\r" in line.removesuffix(b"\n").removesuffix(b"\r"):
                return f"line {number} holds a carriage return (\\r) that ends no line"
            ends = line.endswith(b"\r\n")
            first = ends if first is None else first
            if ends is not first and line.endswith(b"\n"):
                ends_so = f"line {number} ends otherwise than those before it (\\r\\n or \\n)"
                return f"{ends_so}; write all line ends alike"
    last = 0
    try:
        for number, _ in records(path, layout, strict=True):
            last = number
    except DataError:
        return f"a quote is not closed, after line {last}, it seems; {_QUOTE_FLAG}"
    return None


def _refuse_lost(connection: Any, path: Path, layout: Layout, records_there: int) -> None:
    """Refuse to go on where fewer rows were read than there are."""
    header = 0 if layout.names else 1
    read = connection.execute("SELECT count(*) FROM raw").fetchone()[0]
    if read == records_there - header:
        return
    there = sum(1 for _ in records(path, layout)) - header  # exact where quotes stand alone
    if read != there:
        oddity = _first_oddity(path, layout) or f"only {read:,} of {there:,} rows can be read"
        raise DataError(f"{path}: {oddity}.")


def _refuse_wrapped(connection: Any, path: Path, layout: Layout, chosen: Chosen) -> None:
    """Quotes were taken for text; then no value that is read may be wrapped in them."""
    for role, name in chosen.read.items():
        found = connection.execute(
            f"SELECT min(row) FROM raw WHERE regexp_full_match({quoted(role)}, '\".*\"')"
        ).fetchone()[0]
        if found is not None:
            raise DataError(
                f"{_place(path, layout, found)}, column {name!r}: a value in quotes, in a file "
                "whose quotes do not pair up; --quote double or --quote none says how to read it."
            )


def _quotes_kept(connection: Any, chosen: Chosen) -> list[str]:
    """Quotes were taken for text: how many values that are read hold one, and the first of them."""
    notes = []
    for role, name in chosen.read.items():
        number, first = connection.execute(
            f"SELECT count(*), min_by({quoted(role)}, row) FROM raw "
            f"WHERE contains({quoted(role)}, '\"')"
        ).fetchone()
        if number:
            values = "a value holds" if number == 1 else f"{number:,} values hold"
            notes.append(
                f"column {name!r}: {values} a double quote, which was taken for text, as in "
                f"{shorten(first, 40)!r} (--quote double takes quotes for quotes)"
            )
    return notes


def _place(path: Path, layout: Layout, row: int) -> str:
    """`FILE, line N`, counted from 1; `FILE` alone for no row."""
    if row < 0:
        return str(path)
    wanted = row + (0 if layout.names else 1)
    for place, (number, _) in enumerate(records(path, layout)):
        if place == wanted:
            return f"{path}, line {number}"
    return f"{path}, row {row + 1}"
