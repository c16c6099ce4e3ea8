"""Tables that are in memory: pandas, polars, pyarrow, `datasets`, and what else speaks Arrow."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from farzi.data.columns import choose_columns
from farzi.data.formats import ReadAs
from farzi.data.readers.base import Log, make_events
from farzi.data.readers.parquet import expressions, nested_names
from farzi.errors import DataError, SettingsError

__all__ = ["TableReader", "column_names", "is_table", "to_arrow"]


def is_table(source: object) -> bool:
    """Whether this is a table in memory, of whatever library."""
    return hasattr(source, "__arrow_c_stream__") or hasattr(source, "with_format")


def column_names(source: Any) -> list[str]:
    """The table's columns.

    Raises:
        SettingsError: it has none, as a stream or a dictionary of tables.
    """
    for attribute in ("column_names", "columns"):
        names = getattr(source, attribute, None)
        if names is not None and not isinstance(names, dict):
            return [str(name) for name in names]
    raise SettingsError(
        f"a {type(source).__name__} is no table with columns; give prepare() one table."
    )


def to_arrow(source: Any, names: list[str]) -> Any:
    """Some columns of a table as a pyarrow table, copied only where it must be.

    Raises:
        DataError: a column holds values of several kinds.
    """
    import pyarrow as pa

    if hasattr(source, "with_format"):  # datasets.Dataset
        return source.select_columns(names).with_format("arrow")[:]
    chosen = source.select(names) if hasattr(source, "select") else source[names]
    columns = {}
    for name in names:
        one = chosen[[name]] if _is_pandas(chosen) else chosen.select([name])
        try:
            columns[name] = pa.table(one)[name]
        except (pa.ArrowException, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:160]
            raise DataError(
                f"{_label(source)}, column {name!r}: its values are of several kinds ({reason})."
            ) from None
    return pa.table(columns)


@dataclass(frozen=True)
class TableReader:
    """A table in memory.

    Args:
        source: a pandas or polars DataFrame, a pyarrow Table, a `datasets.Dataset`, or any other
            table with the Arrow stream interface.
        read_as: which columns hold what.
    """

    source: Any
    read_as: ReadAs = field(default_factory=ReadAs)

    @property
    def name(self) -> str:
        """What results call it."""
        return "table"

    @property
    def label(self) -> str:
        """What errors call it."""
        return _label(self.source)

    def read(self, connection: Any) -> Log:
        """Type the chosen columns where they lie; nothing is copied."""
        import pyarrow as pa

        if self.read_as.format not in {None, "table"}:
            raise SettingsError(f"--format {self.read_as.format}: {self.label} is a table.")
        names = column_names(self.source)
        chosen = choose_columns(self.label, names, self.read_as.columns, nested=self._nested(names))
        outer = [name if name in names else name.split(".")[0] for name in chosen.read.values()]
        table = to_arrow(self.source, list(dict.fromkeys(outer)))
        table = table.append_column("row number", pa.array(np.arange(len(table))))
        connection.register("source_table", table)
        fields, kinds = expressions(table.schema, chosen)
        connection.execute(
            f'CREATE TEMP VIEW raw AS SELECT "row number" AS row, {fields} FROM source_table'
        )
        notes = make_events(connection, chosen, self._place, kinds, view=True)
        return Log(
            hash_events(connection), chosen.columns, {"format": None}, (*chosen.notes, *notes)
        )

    def _nested(self, names: list[str]) -> list[str]:
        """Dotted names inside columns, where one was asked for: the table may need converting."""
        outer = [
            name.split(".")[0] for name in self.read_as.columns.given.values() if name not in names
        ]
        inside = [name for name in dict.fromkeys(outer) if name in names]
        return nested_names(to_arrow(self.source, inside).schema) if inside else []

    def _place(self, row: int) -> str:
        """`a DataFrame, row N`, counted from 1."""
        return self.label if row < 0 else f"{self.label}, row {row + 1}"


def hash_events(connection: Any) -> str:
    """`sha256:...` of users, items and times in the order of the rows, however they are chunked."""
    columns = [name for name in connection.table("events").columns if name != "row"]
    parts = [(name, f"{name} length") if name in {"user", "item"} else (name,) for name in columns]
    digests = {part: hashlib.sha256() for part in itertools.chain(*parts)}
    events = connection.sql(f"SELECT {', '.join(columns)} FROM events ORDER BY row")
    for batch in events.to_arrow_reader(1 << 20):
        for name in columns:
            values = batch.column(name).to_pylist()
            if values and isinstance(values[0], str):
                encoded = [value.encode() for value in values]
                digests[name].update(b"".join(encoded))
                lengths = np.array([len(value) for value in encoded], "<i8")
                digests[f"{name} length"].update(lengths.tobytes())
            else:
                kind = "<f8" if values and isinstance(values[0], float) else "<i8"
                digests[name].update(np.array(values, kind).tobytes())
    joined = "\n".join(f"{part} {digest.hexdigest()}" for part, digest in digests.items())
    return f"sha256:{hashlib.sha256(joined.encode()).hexdigest()}"


def _label(source: object) -> str:
    return f"the {type(source).__name__}"


def _is_pandas(source: Any) -> bool:
    return type(source).__module__.split(".")[0] == "pandas"
