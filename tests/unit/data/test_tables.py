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

from farzi.data.columns import Columns
from farzi.data.content import hash_content
from farzi.data.formats import ReadAs
from farzi.data.sources import open_source
from farzi.errors import DataError

NAMES = ("user_id", "item_id", "timestamp")
EVENTS = [("u2", 10, 30), ("u1", 20, 10), ("u2", 10, 30), ("u1", 30, 10)]

Reader = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def read() -> Iterator[Reader]:
    """Reads a file and returns its events in the order of their rows."""
    connection = ibis.duckdb.connect()

    def rows(source: Any, **columns: str) -> list[tuple[Any, ...]]:
        opened = open_source(source, ReadAs(columns=Columns(**columns)), None, None)
        assert opened.log is not None
        opened.log.read(connection.con)
        found = connection.con.execute(
            "SELECT user, item, time FROM events ORDER BY row"
        ).fetchall()
        for kind in ("VIEW", "TABLE"):
            for name in connection.con.execute(
                f"SELECT {kind.lower()}_name FROM duckdb_{kind.lower()}s() "
                "WHERE NOT internal AND database_name = 'temp'"
            ).fetchall():
                connection.con.execute(f"DROP {kind} IF EXISTS {name[0]}")
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
        (["1.0", "2.0", "30.00"], [1, 2, 30]),
        (["1.0", "2.5", "3.0"], ["1.0", "2.5", "3.0"]),
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


DECIMAL = pa.decimal128(30, 2)


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        (pa.array([2.0, 3.0]), [2, 3]),
        (pa.array([2**53, -3], pa.float64()), [2**53, -3]),
        (pa.array(["2.00", "1717000000000000001.00"]).cast(DECIMAL), [2, 1717000000000000001]),
        (pa.array([2**64 - 1, 1], pa.uint64()), [str(2**64 - 1), "1"]),
        (pa.array([7, 1], pa.uint64()), [7, 1]),
        (pa.array(["b", "a"]).dictionary_encode(), ["b", "a"]),
        (pa.array(["07", "8"], pa.large_string()), ["07", "8"]),
        (pa.array([1.5, 2.0], pa.float32()), "row 1, column 'item': '1.5' is not a whole number"),
        (pa.array([2.0, float("inf")]), "row 2, column 'item': 'inf' is no id"),
        (pa.array([2.0**53 + 2, 1]), "row 1, column 'item': '9007199254740994.0' is too large"),
        (pa.array(["1.25", "2"]).cast(DECIMAL), "row 1, column 'item': '1.25' is not a whole"),
        (pa.array([b"x", b"y"]), "column 'item': it holds values of type binary"),
    ],
)
@pytest.mark.parametrize("in_memory", [False, True])
def test_ids_of_every_type_are_exact_or_refused(
    items: pa.Array, expected: list[Any] | str, in_memory: bool, read: Reader, tmp_path: Path
) -> None:
    table = pa.table({"user": ["a", "b"], "item": items, "time": [1, 2]})
    pq.write_table(table, tmp_path / "log.parquet")
    source = table if in_memory else tmp_path / "log.parquet"
    if isinstance(expected, str):
        with pytest.raises(DataError, match=expected.replace(".", r"\.")):
            read(source)
    else:
        found = [item for _, item, _ in read(source)]
        assert found == expected
        assert [type(item) for item in found] == [type(item) for item in expected]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (pa.array([2, 1], pa.timestamp("ns")), [2, 1]),
        (pa.array([2, 1], pa.timestamp("s")), [2_000_000, 1_000_000]),
        (pa.array([2, 1], pa.date32()), [2 * 86_400_000_000, 86_400_000_000]),
        (pa.array([0.5, -1.0]), [0.5, -1.0]),
        (pa.array(["2020-01-01", "2020-01-02"]), [1577836800000000, 1577923200000000]),
        (pa.array([1, 2], pa.time32("s")), "it holds times of the day"),
        (pa.array([True, False]), "it holds truth values"),
        (pa.array([0.5, float("nan")]), "row 2, column 'time': 'nan' is neither"),
        (pa.array([{"a": 1}, {"a": 2}]), "it holds records"),
    ],
)
def test_times_of_every_type_are_exact_or_refused(
    times: pa.Array, expected: list[Any] | str, read: Reader, tmp_path: Path
) -> None:
    table = pa.table({"user": ["a", "b"], "item": ["x", "y"], "time": times})
    pq.write_table(table, tmp_path / "log.parquet")
    if isinstance(expected, str):
        with pytest.raises(DataError, match=expected):
            read(tmp_path / "log.parquet")
    else:
        assert [time for *_, time in read(tmp_path / "log.parquet")] == expected


def test_parts_are_read_in_the_order_of_their_names(read: Reader, tmp_path: Path) -> None:
    folder = tmp_path / "parts[1]"
    for name, users in {"b": ["c", "d"], "a": ["a", "b"], "c/_x": ["no"], "c/d": ["e"]}.items():
        path = folder / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = {"user": users, "item": [1] * len(users), "time": [1] * len(users)}
        pq.write_table(pa.table(rows), path, row_group_size=1)
    assert [user for user, *_ in read(folder)] == ["a", "b", "c", "d", "e"]
    bad = pa.table({"user": ["f", None], "item": [1, 1], "time": [1, 1]})
    pq.write_table(bad, folder / "d.parquet")
    with pytest.raises(DataError, match=r"d\.parquet, row 2, column 'user': the value is missing"):
        read(folder)


def test_parquet_dates(read: Reader, tmp_path: Path) -> None:
    times = pa.array([1577836801000000, 1577836800000000], pa.timestamp("us", tz="UTC"))
    table = pa.table({"user": ["a", "b"], "item": ["x", "y"], "time": times})
    pq.write_table(table, tmp_path / "log.parquet")
    rows = read(tmp_path / "log.parquet")
    assert [time for *_, time in rows] == [1577836801000000, 1577836800000000]


@pytest.mark.parametrize(("name", "row"), [("a.csv", "{},{},{}\n"), ("a.jsonl", None)])
def test_of_many_wrong_rows_the_first_is_named(
    name: str, row: str | None, read: Reader, tmp_path: Path
) -> None:
    file = tmp_path / name
    wrong = {"a.csv": "1,2\n", "a.jsonl": '{"user": 1, "item": [1], "time": 1}\n'}[name]
    good = row.format(1, 2, 3) if row else '{"user": 1, "item": 1, "time": 1}\n'
    header = "user,item,time\n" if row else ""
    file.write_text(header + good * 70_000 + wrong + good * 70_000 + wrong * 3_000)
    with pytest.raises(DataError, match=f"line {70_001 + bool(row)}"):
        read(file)


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
