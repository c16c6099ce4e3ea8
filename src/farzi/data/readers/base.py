"""What every reader of an event log gives, and the checks and types that all of them share.

A reader leaves a relation `raw` in DuckDB with `row` (int64, from 0: the event's place in the
source), `user`, `item`, unless the rows are in time order `time`, and where a column of the source
decides between events of one time `tie`. `make_events` checks every value, names the first that is
wrong, and makes `events` of it: the same rows with types.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from farzi.data.columns import Chosen, Columns, shorten
from farzi.errors import DataError

__all__ = [
    "Kind",
    "Log",
    "LogReader",
    "check_events",
    "kind_of_type",
    "literal",
    "make_events",
    "quoted",
]

Kind = Literal["text", "integer", "float", "decimal", "date", "nanoseconds"]
Place = Callable[[int], str]  # row to `FILE, line N` or the like

_PLAIN_INTEGER = "0|-?[1-9][0-9]*"  # as `str` prints it: the text comes back from the number
_WHOLE_NUMBER = r"(0|-?[1-9][0-9]*)\.0+"  # as a column of floats is written
_EXACT = 1 << 53  # above it, neighbouring whole numbers are one float


@dataclass(frozen=True)
class Log:
    """An event log that has been read: `events` is in DuckDB.

    Args:
        fingerprint: `sha256:...` of the source's content.
        columns: as `prepare` takes them, to read it so again; none where they are known.
        settings: what else it was read with, by the names that `prepare` has for it.
        notes: what the reader had to decide.
        as_published: whether the content is the known one; None: not known.
    """

    fingerprint: str
    columns: Columns = field(default_factory=Columns)
    settings: Mapping[str, str | None] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    as_published: bool | None = None


class LogReader(Protocol):
    """An event log, wherever it is."""

    @property
    def name(self) -> str:
        """What results call it."""

    @property
    def label(self) -> str:
        """What errors call it."""

    def read(self, connection: Any) -> Log:
        """Make the relation `events` in DuckDB.

        `events` has `user` and `item` (int64 where every one is a plain integer, else text),
        `time` (int64 or double: seconds or whatever the source counts; micro- or nanoseconds where
        it holds dates), `row` (int64, from 0, the event's place in the source) and, where it was
        asked for, `tie` (as `time`), which orders events of one time before `row` does.

        Raises:
            DataError: one line that names the source and the row, column or flag at fault.
        """


def kind_of_type(type_: Any) -> Kind | str:
    """The kind of an Arrow type, or in a phrase what it holds where it is neither id nor time."""
    import pyarrow.types as pt

    if pt.is_dictionary(type_):
        return kind_of_type(type_.value_type)
    kinds: list[tuple[str, Callable[[Any], bool]]] = [
        ("integer", pt.is_integer),
        ("float", pt.is_floating),
        ("text", lambda t: pt.is_string(t) or pt.is_large_string(t) or pt.is_string_view(t)),
        ("decimal", pt.is_decimal),
        ("date", pt.is_date),
        ("nanoseconds", lambda t: pt.is_timestamp(t) and t.unit == "ns" and t.tz is None),
        ("date", pt.is_timestamp),
        ("durations", pt.is_duration),
        ("times of the day", pt.is_time),
        ("truth values", pt.is_boolean),
        ("records", pt.is_struct),
        ("maps", pt.is_map),
        ("nothing", pt.is_null),
        ("lists", pt.is_nested),
    ]
    return next((kind for kind, holds in kinds if holds(type_)), f"values of type {type_}")


def make_events(
    connection: Any,
    chosen: Chosen,
    place: Place,
    kinds: Mapping[str, Kind | str] | None = None,
    *,
    view: bool = False,
) -> tuple[str, ...]:
    """Check every value of `raw` and make it `events`, the same rows with types.

    Args:
        connection: an open DuckDB connection that holds `raw`.
        chosen: which columns of the source are read.
        place: what an error calls a row.
        kinds: what each column holds; None: text.
        view: leave `raw` where it is, typed as it is read; else copy it, and drop it.

    Returns:
        what had to be decided.

    Raises:
        DataError: a value is missing or is neither an id nor a time.
    """
    select, notes = check_events(connection, chosen, place, kinds)
    if view:
        connection.execute(f"CREATE TEMP VIEW events AS {select}")
    else:
        connection.execute(f"CREATE TEMP TABLE events AS {select}")
        connection.execute("DROP TABLE raw")
    return notes


def check_events(
    connection: Any,
    chosen: Chosen,
    place: Place,
    kinds: Mapping[str, Kind | str] | None = None,
) -> tuple[str, tuple[str, ...]]:
    """Check every value of `raw`.

    Args:
        connection: what holds `raw` and takes DuckDB's SQL.
        chosen: which columns of the source are read.
        place: what an error calls a row.
        kinds: what each column holds; None: text.

    Returns:
        the query that makes `events` of `raw`; what had to be decided.

    Raises:
        DataError: a value is missing or is neither an id nor a time.
    """
    kinds = kinds or {}
    checks = _Checks(connection, chosen, place)
    for role in chosen.read:
        checks.kind(role, kinds.get(role, "text"))
    if connection.execute("SELECT count(*) FROM raw").fetchone()[0] == 0:
        raise DataError(f"{place(-1)}: the file holds no events.")
    for role in chosen.read:
        checks.missing(role, kinds.get(role, "text"))
    time = "row" if chosen.in_row_order else checks.time("time", kinds.get("time", "text"))
    if chosen.tie is not None:
        time += f" AS time, {checks.time('tie', kinds.get('tie', 'text'))} AS tie"
    else:
        time += " AS time"
    user, item = (checks.id(role, kinds.get(role, "text")) for role in ("user", "item"))
    select = f"SELECT {user} AS user, {item} AS item, {time}, row FROM raw"
    return select, tuple(checks.notes)


@dataclass
class _Checks:
    """The checks of one log, in the order in which they make sense."""

    connection: Any
    chosen: Chosen
    place: Place
    notes: list[str] = field(default_factory=list)

    def kind(self, role: str, kind: Kind | str) -> None:
        """Refuse a column whose type is neither that of an id nor that of a time."""
        allowed = {"text", "integer", "float", "decimal"}
        allowed |= {"date", "nanoseconds"} if role in _ORDERS else set()
        if kind not in allowed:
            holds = "dates" if kind in {"date", "nanoseconds"} else kind
            wanted = "numbers or dates" if role in _ORDERS else "whole numbers or text"
            raise DataError(
                f"{self.place(-1)}, column {self.chosen.read[role]!r}: it holds {holds}, where "
                f"{wanted} are needed; --{role}-col names another."
            )

    def missing(self, role: str, kind: Kind | str) -> None:
        """Refuse a row without a value."""
        empty = {"text": f" OR \"{role}\" = ''", "float": f' OR isnan("{role}")'}.get(kind, "")
        if not (kind == "float" and role in _ORDERS):
            self.refuse(role, f'"{role}" IS NULL{empty}', "the value is missing")
        else:
            self.refuse(role, f'"{role}" IS NULL', "the value is missing")

    def id(self, role: str, kind: Kind | str) -> str:
        """The expression of an id: int64 where every one is a whole number, else text."""
        if kind in {"float", "decimal"}:
            return self._whole(role, kind)
        if kind == "integer":
            fits = self.all(f'TRY_CAST("{role}" AS BIGINT) IS NOT NULL')
            return f'CAST("{role}" AS {"BIGINT" if fits else "VARCHAR"})'
        number = f'TRY_CAST("{role}" AS BIGINT)'
        if self.all(f"{number} IS NOT NULL AND regexp_full_match(\"{role}\", '{_PLAIN_INTEGER}')"):
            return number
        if not self.all(f"regexp_full_match(\"{role}\", '{_WHOLE_NUMBER}')"):
            return f'"{role}"'
        whole = f"TRY_CAST(split_part(\"{role}\", '.', 1) AS BIGINT)"
        self.refuse(role, f"{whole} IS NULL OR abs({whole}) > {_EXACT}", _TOO_LARGE)
        self._note_whole(role)
        return whole

    def time(self, role: str, kind: Kind | str) -> str:
        """The expression of a time, after every value was found to be one."""
        if kind == "date":
            self.refuse(role, f"NOT isfinite({role})", _NO_DATE)
            return f"epoch_us({role})"
        if kind == "nanoseconds":
            self.refuse(role, f"NOT isfinite({role})", _NO_DATE)
            return f"epoch_ns({role})"
        if kind == "integer" and self.all(f"TRY_CAST({role} AS BIGINT) IS NOT NULL"):
            return f"CAST({role} AS BIGINT)"
        if kind in {"integer", "float", "decimal"}:
            self.refuse(role, f"NOT isfinite(CAST({role} AS DOUBLE))", _NO_TIME)
            return f"CAST({role} AS DOUBLE)"
        expression, wrong, problem = self._text_time(role)
        self.refuse(role, wrong, problem)
        return expression

    def _text_time(self, role: str) -> tuple[str, str, str]:
        """The expression for a time written as text, what is wrong, and what to say of it.

        The first row says whether the column holds numbers or dates.
        """
        number = f"TRY_CAST({role} AS DOUBLE)"
        integer = f"TRY_CAST({role} AS BIGINT)"
        date = f"TRY_CAST({role} AS TIMESTAMPTZ)"
        is_number, is_date, all_integer = self.connection.execute(
            f"SELECT arg_min({number} IS NOT NULL, row), arg_min({date} IS NOT NULL, row), "
            f"bool_and({integer} IS NOT NULL AND regexp_full_match({role}, '[+-]?[0-9]+')) FROM raw"
        ).fetchone()
        if is_date and not is_number:
            return (
                f"epoch_us({date})",
                f"{date} IS NULL OR NOT isfinite({date})",
                "{} is not a date",
            )
        wrong = f"{number} IS NULL OR NOT isfinite({number})"
        return integer if all_integer else number, wrong, _NO_TIME

    def _whole(self, role: str, kind: Kind | str) -> str:
        """The expression of an id that is stored as a fraction: exactly a whole number, or none."""
        value = f'"{role}"'
        if kind == "float":
            self.refuse(role, f"NOT isfinite({value})", "{} is no id")
            self.refuse(role, f"{value} <> round({value})", "{} is not a whole number, so no id")
            self.refuse(role, f"abs({value}) > {_EXACT}", _TOO_LARGE)
        else:
            self.refuse(role, f"{value} <> round({value})", "{} is not a whole number, so no id")
            self.refuse(role, f"TRY_CAST({value} AS BIGINT) IS NULL", _TOO_LARGE)
        self._note_whole(role)
        return f"CAST({value} AS BIGINT)"

    def _note_whole(self, role: str) -> None:
        name = shorten(self.chosen.read[role])
        self.notes.append(f"column {name!r}: whole numbers written as fractions, read as whole")

    def refuse(self, role: str, condition: str, problem: str) -> None:
        """Name the first row for which the condition holds, if there is one.

        The condition is computed, not filtered by: DuckDB skips parts of a Parquet file by their
        least and largest values, and NaN is neither.
        """
        (row,) = self.connection.execute(
            f"SELECT min(CASE WHEN {condition} THEN row END) FROM raw"
        ).fetchone()
        if row is not None:
            (value,) = self.connection.execute(
                f'SELECT CAST("{role}" AS VARCHAR) FROM raw WHERE row = {row}'
            ).fetchone()
            said = problem.format(shorten(repr(value)))
            raise DataError(f"{self.place(row)}, column {self.chosen.read[role]!r}: {said}.")

    def all(self, condition: str) -> bool:
        """Whether the condition holds for every row."""
        return bool(self.connection.execute(f"SELECT bool_and({condition}) FROM raw").fetchone()[0])


_ORDERS = {"time", "tie"}  # the roles that order events
_NO_DATE = "{} is not a date"
_NO_TIME = "{} is neither a number nor a date"
_TOO_LARGE = "{} is too large a fraction to be a whole number exactly"


def literal(text: str) -> str:
    """A string as SQL has it."""
    return "'" + text.replace("'", "''") + "'"


def quoted(name: str) -> str:
    """A column's name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'
