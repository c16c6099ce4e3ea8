"""Broken logs and texts: one line that names the file, the row and the column or flag."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from farzi.data import prepare
from farzi.errors import DataError

HEADER = "user,item,time\n"
GOOD = "".join(f"{user},{item},{user + item}\n" for user in range(10) for item in range(4))
LOG = HEADER + GOOD  # 41 lines


def packed(text: str) -> bytes:
    return gzip.compress(text.encode(), mtime=0)


def parquet(**columns: list[object]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


BROKEN: dict[str, tuple[str, str | bytes, dict[str, object], str]] = {
    # What is there to read.
    "empty": ("log.csv", "", {}, "{file}: the file is empty."),
    "empty gzip": ("log.csv.gz", packed(""), {}, "{file}: the file is empty."),
    "blank lines only": ("log.csv", "\n\n\n", {}, "{file}: the file is empty."),
    "header only": ("log.csv", HEADER, {}, "{file}: the file holds no events."),
    "empty Parquet": (
        "log.parquet",
        parquet(user=[], item=[], time=[]),
        {},
        "{file}: the file holds no events.",
    ),
    "cut gzip": ("log.csv.gz", packed(LOG)[:60], {}, "{file}: cannot be read ("),
    "damaged gzip": ("log.csv.gz", packed(LOG)[:-9] + b"x" * 9, {}, "{file}: cannot be read ("),
    "no Parquet": ("log.parquet", "hello", {}, "{file}: not a Parquet file."),
    "binary": ("log.bin", bytes(range(255, -1, -1)), {}, "{file}, line 1: not UTF-8 text."),
    "escape codes": (
        "log.csv",
        "user\x1b[2J,item\n1,2\n",
        {},
        "{file}: no user column among user\\x1b[2J, item; name it with --user-col",
    ),
    "UTF-16": ("log.csv", LOG.encode("utf-16"), {}, "{file}, line 1: not UTF-8 text."),
    "Latin-1": (
        "log.csv",
        LOG.encode() + "1,é,3\n".encode("latin-1"),
        {},
        "{file}, line 42, column 'item': not UTF-8 text.",
    ),
    # Columns.
    "no time column": (
        "log.tsv",
        "user\titem\n1\t2\n",
        {},
        "{file}: no time column among user, item; name it with --time-col (by number where the "
        "file has no header line; `row` where the rows are in time order).",
    ),
    "wrong flag": (
        "log.csv",
        LOG,
        {"user_col": "visitor"},
        "{file}: no column 'visitor' among user, item, time; name it with --user-col (by number "
        "where the file has no header line).",
    ),
    "no header": (
        "log.csv",
        GOOD,
        {},
        "{file}: no user column among 0, 0, 0; name it with --user-col (by number where the file "
        "has no header line).",
    ),
    "number too high": (
        "log.csv",
        GOOD,
        {"user_col": "1", "item_col": "2", "time_col": "4"},
        "{file}: no column '4' among 1, 2, 3; name it with --time-col.",
    ),
    "column twice": (
        "log.csv",
        "user,item,time,item\n1,2,3,4\n",
        {},
        "{file}: there are several columns 'item'.",
    ),
    "missing in Parquet": (
        "log.parquet",
        parquet(user=[1], item=[1]),
        {},
        "{file}: no time column among user, item; name it with --time-col (`row` where the rows "
        "are in time order).",
    ),
    # Rows.
    "short row": ("log.csv", LOG + "1,2\n", {}, "{file}, line 42: 2 fields where 3 are expected."),
    "long row": (
        "log.csv",
        LOG + "1,2,3,4\n" + GOOD,
        {},
        "{file}, line 42: 4 fields where 3 are expected.",
    ),
    "open quote": ("log.csv", LOG + '1,"a,3\n' + GOOD, {}, "{file}, line 42, column 'item': "),
    "mixed line ends": (
        "log.csv",
        HEADER.replace("\n", "\r\n") + GOOD,
        {},
        "{file}: cannot be read (mixed line ends, or a quote that is not closed).",
    ),
    "endless line": ("log.csv", LOG + "1," + "x" * 3_000_000 + ",3\n", {}, "{file}, line 42: "),
    "no user": (
        "log.csv",
        LOG + ",2,3\n",
        {},
        "{file}, line 42, column 'user': the value is missing.",
    ),
    "no item": (
        "log.csv.gz",
        packed(LOG + '1,"",3\n'),
        {},
        "{file}, line 42, column 'item': the value is missing.",
    ),
    "no time": (
        "log.csv",
        LOG + "1,2,\n",
        {},
        "{file}, line 42, column 'time': the value is missing.",
    ),
    "null in Parquet": (
        "log.parquet",
        parquet(user=[1, None], item=[1, 2], time=[1, 2]),
        {},
        "{file}, row 2, column 'user': the value is missing.",
    ),
    # Times.
    "word for a time": (
        "log.csv",
        LOG + "1,2,yesterday\n" + GOOD,
        {},
        "{file}, line 42, column 'time': 'yesterday' is neither a number nor a date.",
    ),
    "word for the first time": (
        "log.csv",
        HEADER + "1,2,now\n" + GOOD,
        {},
        "{file}, line 2, column 'time': 'now' is neither a number nor a date.",
    ),
    "after a blank line": (
        "log.csv",
        LOG + "\n1,2,nan\n",
        {},
        "{file}, line 43, column 'time': 'nan' is neither a number nor a date.",
    ),
    "no such day": (
        "log.csv",
        HEADER + "1,2,2024-02-28\n1,2,2024-02-30\n",
        {},
        "{file}, line 3, column 'time': '2024-02-30' is not a date.",
    ),
    "infinite time": (
        "log.parquet",
        parquet(user=[1, 1], item=[1, 2], time=[1.0, float("inf")]),
        {},
        "{file}, row 2, column 'time': 'inf' is neither a number nor a date.",
    ),
    # JSON lines.
    "no object": ("log.jsonl", "[1, 2]\n", {}, "{file}, line 1: not a JSON object."),
    "open object": (
        "log.jsonl",
        '{"user": 1, "item": 2, "time": 3}\n{"user": 1, "item": 2\n',
        {},
        "{file}, line 2: not a JSON object.",
    ),
    "a number among objects": (
        "log.jsonl",
        '{"user": 1, "item": 2, "time": 3}\n5\n',
        {},
        "{file}, line 2: not a JSON object.",
    ),
    "object without a time": (
        "log.jsonl",
        '{"user": 1, "item": 2, "time": 3}\n\n{"user": 1, "item": 2}\n',
        {},
        "{file}, line 3, column 'time': the value is missing.",
    ),
    "deep JSON": ("log.jsonl", "[" * 100_000 + "\n", {}, "{file}, line 1: not a JSON object."),
    # Users.
    "one user": (
        "log.csv",
        HEADER + "1,1,1\n1,2,2\n1,3,3\n",
        {},
        "{file}: a split into three needs at least 3 users, got 1 with 2 or more events.",
    ),
    "one event each": (
        "log.csv",
        HEADER + "1,1,1\n2,1,1\n3,1,1\n4,1,1\n",
        {},
        "{file}: a split into three needs at least 3 users, got 0 with 2 or more events.",
    ),
    "an empty core": (
        "log.csv",
        LOG,
        {"k_core": 50},
        "{file}: a split into three needs at least 3 users, got 0 with 50 or more events.",
    ),
    "too short to leave two out": (
        "log.csv",
        HEADER + "".join(f"{user},{item},1\n" for user in range(9) for item in range(3)),
        {"split": "leave-last-out"},
        "{file}: no user has enough events for the train part.",
    ),
    # Texts.
    "empty text": ("notes.txt", "", {}, "{file}: the file is empty."),
    "one line": (
        "notes.txt",
        "a b\n",
        {},
        "{file}: a split into three needs at least 3 lines, got 1.",
    ),
    "Latin-1 text": ("notes.txt", b"a\n\xe9\n", {}, "{file}, line 2: not UTF-8 text."),
}


@pytest.mark.parametrize("case", BROKEN)
def test_says_in_one_line_what_is_wrong_and_where(case: str, tmp_path: Path) -> None:
    name, content, settings, message = BROKEN[case]
    file = tmp_path / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError) as caught:
        prepare(file, **settings)  # type: ignore[arg-type]
    said = str(caught.value)
    assert said.startswith(message.format(file=file))
    assert "\n" not in said
    assert len(said) < 400 + len(str(file))


def test_the_first_of_many_wrong_rows_is_named(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    file.write_text(LOG + "1,2,first\n" + GOOD * 50 + "1,2,second\n")
    with pytest.raises(DataError, match="line 42, column 'time': 'first'"):
        prepare(file)


def test_odd_ids_are_ids(tmp_path: Path) -> None:
    odd = ["<script>", "'; DROP TABLE raw; --", "ünï", "a\0b", "nan", "None", " ", "💿"]
    file = tmp_path / "log.csv"
    rows = [f'{user},"{item}",{time}\n' for user in range(4) for time, item in enumerate(odd)]
    file.write_text(HEADER + "".join(rows))
    data = prepare(file)
    assert data.vocabulary.ids == tuple(sorted(odd))
    assert data.vocabulary.decode(data.test[0]) == odd


def test_odd_column_names_are_names(tmp_path: Path) -> None:
    file = tmp_path / 'it\'s a "log".csv'
    file.write_text("a\"b,it's,x;y,X;Y\n" + "".join(f"{row.strip()},0\n" for row in GOOD.split()))
    data = prepare(file, user_col='a"b', item_col="it's", time_col="x;y")
    assert data.protocol["users"] == 10
