"""The Parquet files are what other tools read, and are read as they were written."""

from __future__ import annotations

import io
from typing import Any

import duckdb
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farzi.artifact.parquet import parse_column, render_parquet

ints = st.integers(-(1 << 63), (1 << 63) - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def lists(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(values, min_size=1, max_size=20)


@given(lists(ints) | lists(texts) | lists(lists(ints)) | lists(lists(texts)))
def test_pyarrow_reads_what_is_written(column: list[Any]) -> None:
    content = render_parquet({"row": list(range(len(column))), "column": column})
    table = parquet.read_table(io.BytesIO(content))
    assert table["row"].to_pylist() == list(range(len(column)))
    assert table["column"].to_pylist() == column


@pytest.mark.parametrize("leaf", [int, str])
def test_duckdb_reads_what_is_written(leaf: type, tmp_path) -> None:
    columns = {
        "sequence_id": list(range(300)),
        "items": [[leaf(row * place % 97) for place in range(1, 200)] for row in range(300)],
    }
    path = tmp_path / "train.parquet"
    path.write_bytes(render_parquet(columns))
    rows = duckdb.execute("select * from read_parquet(?) order by sequence_id", [str(path)])
    assert rows.fetchall() == list(zip(*columns.values(), strict=True))


@given(lists(ints) | lists(texts))
def test_a_column_is_read_as_it_was_written(column: list[Any]) -> None:
    content = render_parquet({"item_id": column})
    assert parse_column(content, "item_id", len(column)) == column


@given(lists(texts), st.data())
def test_only_the_bytes_of_the_writer_are_read(column: list[str], data: st.DataObject) -> None:
    content = bytearray(render_parquet({"item_id": column}))
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    try:
        found = parse_column(bytes(content), "item_id", len(column))
    except ValueError:
        return
    assert render_parquet({"item_id": found}) == bytes(content)


def test_ids_beyond_one_page_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farzi.artifact.parquet._MAX_PAGE_BYTES", 100)
    with pytest.raises(ValueError, match="item_id"):
        render_parquet({"item_id": ["x" * 200]})
