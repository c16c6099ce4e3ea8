"""The smallest Parquet: one row group, a page a column, plain encoding, no compression, no nulls.

Any tool reads it, and the same values are the same bytes under every version of every library.
Reading is the inverse of writing and accepts nothing else, so that an untrusted file meets no
parser that could be led astray: values are taken from where the writer would have put them, and
must then give the file back, byte for byte. docs/decisions/parquet.md says why this is not
left to a library.

References:
    Apache Parquet format 2.10 (parquet.thrift, Encodings.md); Thrift compact protocol.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

__all__ = ["Column", "parse_column", "render_parquet"]

Column: TypeAlias = Sequence[Any]  # of int, of str, or of sequences of either

_MAGIC = b"PAR1"
_INT64, _BYTE_ARRAY = 2, 6  # Type
_REQUIRED, _REPEATED = 0, 2  # FieldRepetitionType
_UTF8, _LIST = 0, 3  # ConvertedType
_PLAIN, _RLE = 0, 3  # Encoding
_MAX_PAGE_BYTES = (1 << 31) - 1


def render_parquet(columns: Mapping[str, Column]) -> bytes:
    """Return a Parquet file.

    Args:
        columns: by name, as many values each: int (64 bits), str, or non-empty lists of either.

    Raises:
        ValueError: a column is beyond the 2 GiB of a page.

    Example:
        >>> from farzi.artifact.parquet import parse_column, render_parquet
        >>> parse_column(render_parquet({"item_id": ["a", "b"]}), "item_id", num_rows=2)
        ['a', 'b']
    """
    num_rows = len(next(iter(columns.values())))
    content = _MAGIC
    schema = [_struct({4: _text("schema"), 5: _i32(len(columns))})]
    chunks = []
    for name, column in columns.items():
        values, levels = _flatten(column)
        kind = _INT64 if isinstance(values[0], int) else _BYTE_ARRAY
        data = levels + _plain(values)
        if len(data) > _MAX_PAGE_BYTES:
            raise ValueError(f"column {name} takes {len(data):,} bytes, a page holds 2 GiB")
        path, elements = _schema(name, kind, nested=bool(levels))
        page = _page_header(len(values), len(data)) + data
        chunks.append(_column_chunk(kind, path, len(values), len(content), len(page)))
        schema.extend(elements)
        content += page
    row_group = _struct(
        {1: _list(_STRUCT, chunks), 2: _i64(len(content) - len(_MAGIC)), 3: _i64(num_rows)}
    )
    footer = _struct(
        {
            1: _i32(1),
            2: _list(_STRUCT, schema),
            3: _i64(num_rows),
            4: _list(_STRUCT, [row_group]),
            6: _text("farzi"),
        }
    )[1]
    return content + footer + struct.pack("<I", len(footer)) + _MAGIC


def parse_column(content: bytes, name: str, num_rows: int) -> list[int] | list[str]:
    """Return the values of a file that `render_parquet` wrote with this one flat column.

    Args:
        content: the file.
        name: the column's name.
        num_rows: how many values it must hold, >= 1.

    Raises:
        ValueError: the file is not the bytes that `render_parquet` would have written.
    """
    if len(content) < 12:
        raise ValueError("too short")
    (footer_size,) = struct.unpack("<I", content[-8:-4])
    body = content[4 : max(4, len(content) - 8 - footer_size)]
    for header_size in range(min(64, len(body))):
        header = _page_header(num_rows, len(body) - header_size)
        if len(header) == header_size and body.startswith(header):
            data = body[header_size:]
            break
    else:
        raise ValueError(f"no page of {num_rows:,} values")
    for decode in (_parse_ints, _parse_texts):
        values = decode(data, num_rows)
        if values is not None and render_parquet({name: values}) == content:
            return values
    raise ValueError(f"not one column {name} in plain encoding")


def _parse_ints(data: bytes, num_values: int) -> list[int] | None:
    if len(data) != 8 * num_values:
        return None
    values: list[int] = np.frombuffer(data, dtype="<i8").tolist()
    return values


def _parse_texts(data: bytes, num_values: int) -> list[str] | None:
    values: list[str] = []
    start = 0
    while start + 4 <= len(data) and len(values) < num_values:
        end = start + 4 + int.from_bytes(data[start : start + 4], "little")
        values.append(data[start + 4 : end].decode("utf-8"))
        start = end
    return values if len(values) == num_values else None


def _flatten(column: Column) -> tuple[Column, bytes]:
    """Return the leaves of a column and their levels, which are empty for a flat one."""
    if isinstance(column[0], int | str):
        return column, b""
    leaves = [leaf for row in column for leaf in row]
    repetition = b"".join(_run(1, 0) + _run(len(row) - 1, 1) for row in column)
    definition = _run(len(leaves), 1)
    return leaves, _sized(repetition) + _sized(definition)


def _run(length: int, level: int) -> bytes:
    """Return a run of one level in the RLE/bit-packing hybrid of width 1."""
    return _varint(length << 1) + bytes([level]) if length else b""


def _sized(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def _plain(values: Column) -> bytes:
    if isinstance(values[0], int):
        return np.asarray(values, dtype="<i8").tobytes()
    return b"".join(_sized(value.encode("utf-8")) for value in values)


# ------------------------------------------------------------------------- the format's structs


def _schema(name: str, kind: int, *, nested: bool) -> tuple[list[str], list[_Typed]]:
    leaf_name = "element" if nested else name
    leaf = {1: _i32(kind), 3: _i32(_REQUIRED), 4: _text(leaf_name)}
    if kind == _BYTE_ARRAY:
        leaf[6] = _i32(_UTF8)
    if not nested:
        return [name], [_struct(leaf)]
    outer = {3: _i32(_REQUIRED), 4: _text(name), 5: _i32(1), 6: _i32(_LIST)}
    middle = {3: _i32(_REPEATED), 4: _text("list"), 5: _i32(1)}
    return [name, "list", "element"], [_struct(outer), _struct(middle), _struct(leaf)]


def _page_header(num_values: int, num_bytes: int) -> bytes:
    data_page = _struct({1: _i32(num_values), 2: _i32(_PLAIN), 3: _i32(_RLE), 4: _i32(_RLE)})
    return _struct({1: _i32(0), 2: _i32(num_bytes), 3: _i32(num_bytes), 5: data_page})[1]


def _column_chunk(
    kind: int, path: list[str], num_values: int, offset: int, num_bytes: int
) -> _Typed:
    metadata = _struct(
        {
            1: _i32(kind),
            2: _list(_I32, [_i32(_PLAIN), _i32(_RLE)]),
            3: _list(_BINARY, [_text(part) for part in path]),
            4: _i32(0),  # uncompressed
            5: _i64(num_values),
            6: _i64(num_bytes),
            7: _i64(num_bytes),
            9: _i64(offset),
        }
    )
    return _struct({2: _i64(offset), 3: metadata})


# ----------------------------------------------------------------------- Thrift compact protocol

_I32, _I64, _BINARY, _LIST_OF, _STRUCT = 5, 6, 8, 9, 12
_Typed: TypeAlias = tuple[int, bytes]  # the type of a field and its value


def _varint(value: int) -> bytes:
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def _i32(value: int) -> _Typed:
    return _I32, _varint(value << 1)  # zigzag of a value that is never negative


def _i64(value: int) -> _Typed:
    return _I64, _varint(value << 1)


def _text(value: str) -> _Typed:
    data = value.encode("utf-8")
    return _BINARY, _varint(len(data)) + data


def _list(kind: int, items: Sequence[_Typed]) -> _Typed:
    size = len(items)
    header = bytes([size << 4 | kind]) if size < 15 else bytes([0xF0 | kind]) + _varint(size)
    return _LIST_OF, header + b"".join(data for _, data in items)


def _struct(fields: Mapping[int, _Typed]) -> _Typed:
    """Return a struct of fields by number, ascending, less than 16 apart."""
    content, previous = b"", 0
    for number, (kind, data) in fields.items():
        content += bytes([(number - previous) << 4 | kind]) + data
        previous = number
    return _STRUCT, content + b"\x00"
