"""Every format gives the same events; ids and times get the types they deserve."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from farzi.data.tables import Columns, Layout, hash_content, layout_of, read_events

NAMES = ("user_id", "item_id", "timestamp")
EVENTS = [("u2", 10, 30), ("u1", 20, 10), ("u2", 10, 30), ("u1", 30, 10)]

Reader = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def read() -> Iterator[Reader]:
    """Reads a file and returns its events in the order of their rows."""
    connection = ibis.duckdb.connect()

    def rows(path: Path, *, layout: Layout | None = None, **columns: str) -> list[tuple[Any, ...]]:
        chosen = Columns(**columns)
        read_events(connection.con, path, layout or layout_of(path, chosen), chosen)
        found = connection.con.execute(
            "SELECT user, item, time FROM events ORDER BY row"
        ).fetchall()
        connection.con.execute("DROP TABLE events")
        return list(found)

    yield rows
    connection.disconnect()


def delimited(delimiter: str, header: tuple[str, ...] = NAMES) -> str:
    rows = [header, *EVENTS] if header else EVENTS
    return "".join(delimiter.join(map(str, row)) + "\n" for row in rows)


TYPED = ("user_id:token", "item_id:token", "timestamp:float")
TEXTS = {
    "log.csv": delimited(","),
    "semicolons.csv": delimited(";"),
    "crlf.csv": delimited(",").replace("\n", "\r\n"),
    "blank-lines.csv": delimited(",").replace("\n", "\n\n"),
    "bom.csv": "\ufeff" + delimited(","),
    "quoted.csv": delimited(",").replace("u1", '"u1"'),
    "unnamed-columns.csv": delimited(",").replace("\n", ",,\n"),
    "no-last-newline.csv": delimited(",").rstrip(),
    "log.tsv": delimited("\t"),
    "log.inter": delimited("\t", TYPED),
    "log.jsonl": "".join(
        json.dumps(dict(zip(NAMES, row, strict=True), extra=[1])) + "\n" for row in EVENTS
    ),
    "blank-lines.jsonl": "\n".join(
        json.dumps(dict(zip(NAMES, row, strict=True))) + "\n" for row in EVENTS
    ),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", TEXTS)
def test_text_formats(name: str, packed: bool, read: Reader, tmp_path: Path) -> None:
    file = tmp_path / (f"{name}.gz" if packed else name)
    content = TEXTS[name].encode()
    file.write_bytes(gzip.compress(content) if packed else content)
    assert read(file) == EVENTS


def test_parquet(read: Reader, tmp_path: Path) -> None:
    columns = dict(zip(NAMES, zip(*EVENTS, strict=True), strict=True))
    pq.write_table(pa.table(columns), tmp_path / "log.parquet", row_group_size=1)
    assert read(tmp_path / "log.parquet") == EVENTS


@pytest.mark.parametrize("delimiter", [",", "\t", "::"])
def test_columns_by_number_say_that_there_is_no_header(
    delimiter: str, read: Reader, tmp_path: Path
) -> None:
    file = tmp_path / {",": "log.csv", "\t": "log.data", "::": "log.dat"}[delimiter]
    file.write_text(delimited(delimiter, ()))
    assert read(file, user="1", item="2", time="3") == EVENTS
    assert read(file, user="1", item="2", time="row") == [
        (user, item, row) for row, (user, item, _) in enumerate(EVENTS)
    ]


def test_columns_by_name_and_rows_in_time_order(read: Reader, tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    file.write_text('who,"what, if any",When\na,x,3\nb,y,1\n')
    assert read(file, user="who", item="what, if any", time="When") == [
        ("a", "x", 3),
        ("b", "y", 1),
    ]
    assert read(file, user="who", item="what, if any", time="row") == [("a", "x", 0), ("b", "y", 1)]
    file.write_text("user,item,row\na,x,3\nb,y,1\n")
    assert read(file, time="row") == [("a", "x", 3), ("b", "y", 1)]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["1", "-2", "0"], [1, -2, 0]),
        (["1", "02", "3"], ["1", "02", "3"]),
        (["1", "2.0", "3"], ["1", "2.0", "3"]),
        (["1", "99999999999999999999", "3"], ["1", "99999999999999999999", "3"]),
        (["1", "1717000000000000001", "3"], [1, 1717000000000000001, 3]),
    ],
)
def test_ids_are_numbers_only_where_the_text_comes_back(
    ids: list[str], expected: list[Any], read: Reader, tmp_path: Path
) -> None:
    file = tmp_path / "log.csv"
    file.write_text("user,item,time\n" + "".join(f"a,{item},1\n" for item in ids))
    assert [item for _, item, _ in read(file)] == expected


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (["3", "+1", "-2"], [3, 1, -2]),
        (["3", "1.5", "1e3"], [3.0, 1.5, 1000.0]),
        (
            ["1717000000000000001", "1717000000000000002"],
            [1717000000000000001, 1717000000000000002],
        ),
        (["2020-01-02", "2020-01-01 00:00:01"], [1577923200000000, 1577836801000000]),
        (["2020-01-01T02:00:00+02:00", "2020-01-01T00:00:00Z"], [1577836800000000] * 2),
    ],
)
def test_times_are_numbers_or_dates(
    times: list[str], expected: list[float], read: Reader, tmp_path: Path
) -> None:
    file = tmp_path / "log.csv"
    file.write_text("user,item,time\n" + "".join(f"a,b,{time}\n" for time in times))
    assert [time for *_, time in read(file)] == expected


def test_parquet_dates(read: Reader, tmp_path: Path) -> None:
    times = pa.array([1577836801000000, 1577836800000000], pa.timestamp("us", tz="UTC"))
    table = pa.table({"user": ["a", "b"], "item": ["x", "y"], "time": times})
    pq.write_table(table, tmp_path / "log.parquet")
    rows = read(tmp_path / "log.parquet")
    assert [time for *_, time in rows] == [1577836801000000, 1577836800000000]


def test_a_name_with_wildcards_is_one_file(read: Reader, tmp_path: Path) -> None:
    (tmp_path / "ab1.csv").write_text("user,item,time\nwrong,x,1\n")
    file = tmp_path / "a*b[1]'.csv"
    file.write_text("user,item,time\nright,x,1\n")
    assert read(file) == [("right", "x", 1)]


def test_row_numbers_follow_the_file_when_threads_share_it(read: Reader, tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    count = 300_000
    file.write_text("user,item,time\n" + "".join(f"u{n},i{n % 7},0\n" for n in range(count)))
    assert [user for user, *_ in read(file)] == [f"u{n}" for n in range(count)]


def test_the_fingerprint_is_that_of_the_unpacked_content(tmp_path: Path) -> None:
    plain, packed = tmp_path / "a.csv", tmp_path / "b.csv.gz"
    plain.write_text("x")
    packed.write_bytes(gzip.compress(b"x"))
    assert hash_content([plain]) == hash_content([packed])
    assert hash_content([plain, packed]) != hash_content([plain])
