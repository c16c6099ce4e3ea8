"""Titles from the files that people have."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from farzi.errors import DataError
from farzi.report import read_titles


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("films.csv", 'movieId,title,genres\n1,"Amélie, again",Comedy\n2,Ran,Drama\n'),
        ("films.tsv", "title\tid\nAmélie, again\t1\nRan\t2\n"),
        ("plain.csv", '1,"Amélie, again"\n2,Ran\n'),
        ("movies.dat", "1::Amélie, again::Comedy\n2::Ran::Drama\n"),
        ("u.item", "1|Amélie, again|01-Jan-1995||http://x\n2|Ran|01-Jan-1985||http://x\n"),
        ("films.json", '{"1": "Amélie, again", "2": "Ran"}'),
        ("films.jsonl", '{"item": 1, "title": "Amélie, again"}\n{"item": 2, "title": "Ran"}\n'),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_each_form_is_read(name: str, content: str, encoding: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content.encode(encoding))
    assert read_titles(tmp_path / name) == {"1": "Amélie, again", "2": "Ran"}


def test_parquet_is_read(tmp_path: Path) -> None:
    table = pa.table({"asin": ["B1", "B2"], "price": [1, 2], "title": ["One", None]})
    pq.write_table(table, tmp_path / "items.parquet")
    assert read_titles(tmp_path / "items.parquet") == {"B1": "One"}


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", "lonely\n1\n"), ("a.json", "[1"), ("a.csv", ""), ("a.json", json.dumps([1, 2]))],
)
def test_what_holds_no_titles_is_one_error(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match="--titles"):
        read_titles(tmp_path / name)
    with pytest.raises(DataError, match="No such file"):
        read_titles(tmp_path / "nowhere.csv")
