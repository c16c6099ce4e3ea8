"""JSON lines: one object a line, whose keys are the columns, nested ones by a dotted name."""

from __future__ import annotations

import glob
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from farzi.data.columns import Chosen, choose_columns
from farzi.data.content import (
    RecordCount,
    first_lines,
    hash_lines,
    is_gzip,
    iterate_lines,
    open_binary,
    stem_of,
)
from farzi.data.formats import MAX_COLUMNS, ReadAs
from farzi.data.readers.base import Log, literal, make_events
from farzi.errors import DataError

__all__ = ["JsonLinesReader"]

_HOLDS = {"ARRAY": "a list", "OBJECT": "an object", "BOOLEAN": "a truth value"}


@dataclass(frozen=True)
class JsonLinesReader:
    """A file of JSON objects, one a line.

    The columns are the keys of all records, so that the order of the lines decides nothing.

    Args:
        path: the file, which may be gzip.
        read_as: what the caller says of it.
        notes: what was decided before.
    """

    path: Path
    read_as: ReadAs = field(default_factory=ReadAs)
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
        """Read the chosen keys, each record with its number, and give them types."""
        import duckdb

        count = RecordCount()
        fingerprint = hash_lines(self.path, count)
        first_lines(self.path, 1)
        records = (
            f"read_ndjson_objects({literal(glob.escape(str(self.path)))}, "
            f"compression='{'gzip' if is_gzip(self.path) else 'none'}')"
        )
        try:
            names, nested = _keys(connection, records)
            if len(names) > MAX_COLUMNS:
                raise DataError(
                    f"{self.path}: {len(names):,} keys; at most {MAX_COLUMNS:,} are read."
                )
            if not names:
                self._refuse_broken("it holds no JSON objects")
            chosen = choose_columns(self.label, names, self.read_as.columns, nested=nested)
            _load(connection, records, chosen, names)
        except duckdb.Error as error:
            reason = str(error).split(": ", 1)[-1].split("\n")[0]
            self._refuse_broken(f"cannot be read ({reason})")
        broken = connection.execute(
            "SELECT min(row) FROM raw WHERE record_type <> 'OBJECT' OR record_type IS NULL"
        ).fetchone()[0]
        if broken is not None:
            raise DataError(f"{self._place(broken)}: not a JSON object.")
        read = connection.execute("SELECT count(*) FROM raw").fetchone()[0]
        if read != count.total and read != sum(1 for _ in iterate_lines(self.path)):
            raise DataError(f"{self.path}: only {read:,} of {count.total:,} lines can be read.")
        _refuse_types(connection, chosen, self._place)
        connection.execute("SET TimeZone = 'UTC'")
        notes = make_events(connection, chosen, self._place)
        return Log(
            fingerprint, chosen.columns, {"format": "jsonl"}, (*self.notes, *chosen.notes, *notes)
        )

    def _place(self, row: int) -> str:
        """`FILE, line N`, counted from 1; `FILE` alone for no row."""
        if row < 0:
            return str(self.path)
        with open_binary(self.path) as stream:
            filled = (number for number, line in enumerate(stream, 1) if line.strip())
            for _ in range(row):
                next(filled)
            return f"{self.path}, line {next(filled)}"

    def _refuse_broken(self, reason: str) -> None:
        """Name the first line that is no JSON object; DuckDB counts some wrongly."""
        with open_binary(self.path) as stream:
            for number, line in enumerate(stream, 1):
                if line.strip() and not _is_object(line):
                    raise DataError(f"{self.path}, line {number}: not a JSON object.")
        raise DataError(f"{self.path}: {reason}.")


def _keys(connection: Any, records: str) -> tuple[list[str], list[str]]:
    """Every key of every record, and what stands one level inside, by dotted names."""
    names = connection.execute(
        f"SELECT DISTINCT unnest(json_keys(json)) AS key FROM {records} ORDER BY key"
    ).fetchall()
    tops = [name for (name,) in names]
    nested = []
    for name in tops if len(tops) <= 100 else ():
        inside = connection.execute(
            f"SELECT DISTINCT unnest(json_keys(json, {_path(name)})) AS key FROM {records} "
            f"WHERE json_type(json, {_path(name)}) = 'OBJECT' ORDER BY key LIMIT 50"
        ).fetchall()
        nested += [f"{name}.{key}" for (key,) in inside]
    return tops, nested


def _load(connection: Any, records: str, chosen: Chosen, names: list[str]) -> None:
    """Read what is chosen as text into the table `raw`, each record with its number and types."""
    fields = ["row_number() OVER () - 1 AS row", "json_type(json) AS record_type"]
    for role, name in chosen.read.items():
        path = _path(name) if name in names else _path(*name.split("."))
        fields.append(f"json ->> {path} AS {role}")
        fields.append(f"json_type(json, {path}) AS {role}_type")
    connection.execute(f"CREATE TEMP TABLE raw AS SELECT {', '.join(fields)} FROM {records}")


def _refuse_types(connection: Any, chosen: Chosen, place: Any) -> None:
    """Refuse what JSON knows to be neither an id nor a time."""
    for role, name in chosen.read.items():
        whole = r"-?[0-9]+(\.0+)?"
        fraction = f"{role}_type = 'DOUBLE' AND NOT regexp_full_match(\"{role}\", '{whole}')"
        wrong = f"{role}_type IN ('ARRAY', 'OBJECT', 'BOOLEAN')"
        wrong += f" OR {fraction}" if role in {"user", "item"} else ""
        found = connection.execute(
            f'SELECT row, {role}_type, "{role}" FROM raw WHERE {wrong} ORDER BY row LIMIT 1'
        ).fetchone()
        if found is None:
            continue
        row, kind, value = found
        if kind == "DOUBLE":
            problem = f"{value!r} is not a whole number, so no id"
        else:
            problem = f"it is {_HOLDS[kind]}, no {'id' if role in {'user', 'item'} else 'time'}"
            problem += f"; name what stands inside, such as {name}.id" if kind == "OBJECT" else ""
        raise DataError(f"{place(row)}, column {name!r}: {problem}.")


def _path(*keys: str) -> str:
    """Keys as DuckDB's JSON functions have them."""
    escaped = (key.replace("\\", "\\\\").replace('"', '\\"') for key in keys)
    return literal("$" + "".join(f'."{key}"' for key in escaped))


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
