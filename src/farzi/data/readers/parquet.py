"""Parquet: one file, or a folder of parts."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from farzi.data.columns import Chosen, choose_columns
from farzi.data.content import hash_content, open_binary, stem_of
from farzi.data.formats import ReadAs
from farzi.data.readers.base import Kind, Log, kind_of_type, literal, make_events, quoted
from farzi.errors import DataError

__all__ = ["ParquetReader", "expressions", "nested_names", "parts_of"]


def parts_of(folder: Path) -> list[Path]:
    """The Parquet parts in a folder and below it, in the order of their names."""
    found = (path for suffix in ("parquet", "pq") for path in folder.rglob(f"*.{suffix}"))
    return sorted(
        path for path in found if path.is_file() and not _is_hidden(path.relative_to(folder))
    )


@dataclass(frozen=True)
class ParquetReader:
    """Parquet: one file, or parts that lie in a folder, read one after the other.

    Args:
        path: the file or the folder.
        parts: the files, in order.
        read_as: what the caller says of it.
    """

    path: Path
    parts: Sequence[Path]
    read_as: ReadAs = field(default_factory=ReadAs)

    @property
    def name(self) -> str:
        """What results call it."""
        return stem_of(self.path)

    @property
    def label(self) -> str:
        """What errors call it."""
        return str(self.path)

    def read(self, connection: Any) -> Log:
        """Type the chosen columns where they lie; nothing is copied."""
        import duckdb

        schema = self._schema()
        chosen = choose_columns(
            self.label, schema.names, self.read_as.columns, nested=nested_names(schema)
        )
        fields, kinds = expressions(schema, chosen)
        files = ", ".join(literal(glob.escape(str(part))) for part in self.parts)
        try:
            self._number(connection, files)
            connection.execute(
                f"CREATE TEMP VIEW raw AS SELECT first_row + file_row_number AS row, {fields} "
                f"FROM read_parquet([{files}], hive_partitioning=false) "
                "JOIN parts USING (file_index)"
            )
            notes = make_events(connection, chosen, self._place, kinds, view=True)
        except duckdb.Error as error:
            reason = " ".join(str(error).split(": ", 1)[-1].split("\n")[0].split())
            raise DataError(f"{self.path}: cannot be read ({reason}).") from None
        return Log(
            hash_content(self.parts),
            chosen.columns,
            {"format": "parquet"},
            (*chosen.notes, *notes),
        )

    def _schema(self) -> Any:
        """The columns and types, the same in all parts."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        first = None
        for part in self.parts:
            try:
                with open_binary(part) as stream:
                    schema = pq.read_schema(stream).remove_metadata()
            except (pa.ArrowException, OSError) as error:
                if part.stat().st_size == 0:
                    raise DataError(f"{part}: the file is empty.") from None
                del error
                raise DataError(f"{part}: not a Parquet file.") from None
            if first is None:
                first = schema
            elif not schema.equals(first):
                raise DataError(f"{part}: its columns are not those of {self.parts[0].name}.")
        return first

    def _number(self, connection: Any, files: str) -> None:
        """The table `parts`: how many rows stand before each file."""
        connection.execute(
            "CREATE TEMP TABLE parts AS SELECT file_index, "
            "coalesce(sum(rows) OVER (ORDER BY file_index ROWS BETWEEN UNBOUNDED PRECEDING AND "
            "1 PRECEDING), 0)::BIGINT AS first_row FROM (SELECT file_index, count(*) AS rows "
            f"FROM read_parquet([{files}], hive_partitioning=false) GROUP BY file_index)"
        )

    def _place(self, row: int) -> str:
        """`FILE, row N`, counted from 1; `FILE` alone for no row."""
        import pyarrow.parquet as pq

        if row < 0:
            return str(self.path)
        for part in self.parts:
            count = pq.read_metadata(part).num_rows
            if row < count:
                return f"{part}, row {row + 1}"
            row -= count
        return str(self.path)


def nested_names(schema: Any) -> list[str]:
    """What stands inside columns of records, by dotted names."""
    import pyarrow.types as pt

    return [
        f"{column.name}.{inner.name}"
        for column in schema
        if pt.is_struct(column.type)
        for inner in column.type
    ]


def expressions(schema: Any, chosen: Chosen) -> tuple[str, dict[str, Kind | str]]:
    """SQL of the chosen columns, each under its role, and what kind of values they hold."""
    fields, kinds = [], {}
    for role, name in chosen.read.items():
        if name in schema.names:
            type_, column = schema.field(name).type, quoted(name)
        else:
            outer, inner = name.split(".", 1)
            type_ = schema.field(outer).type.field(inner).type
            column = f"struct_extract({quoted(outer)}, {literal(inner)})"
        fields.append(f"{column} AS {role}")
        kinds[role] = kind_of_type(type_)
    return ", ".join(fields), kinds


def _is_hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)
