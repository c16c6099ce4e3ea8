"""A prepared log in parts, joined without Spark."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from farzi.cli import main
from farzi.data import PreparedData, prepare
from farzi.data.parts import is_cut_short, load_parts
from farzi.data.preparation import prepare_parts
from farzi.errors import DataError, SettingsError


def write_log(path: Path) -> Path:
    rng = np.random.default_rng(0)
    rows = rng.integers([30, 12, 9], size=(400, 3))
    path.write_text("user,item,time\n" + "".join(f"u{u:02d},i{i},{t}\n" for u, i, t in rows))
    return path


@pytest.fixture
def prepared(tmp_path: Path) -> PreparedData:
    """A log that DuckDB prepared."""
    return prepare(write_log(tmp_path / "log.csv"))


@pytest.fixture
def parts(prepared: PreparedData, tmp_path: Path) -> Path:
    """The same as a cluster leaves it, cut in the midst of users."""
    prepared.save(tmp_path / "folder")
    record = json.loads((tmp_path / "folder" / "prepared.json").read_text())
    record["counts"] = {"items": prepared.vocabulary.size}
    folder = tmp_path / "parts"
    for name, sequences in prepared.parts.items():
        record["counts"][name] = [len(sequences), sequences.num_tokens]
        places = np.repeat(np.arange(len(sequences)) * 3, sequences.lengths)  # with gaps
        table = pa.table({"place": places, "token": sequences.tokens})
        (folder / name).mkdir(parents=True)
        for number, first in enumerate(range(0, len(table), 50)):
            file = folder / name / f"part-{number:05d}-x.parquet"
            pq.write_table(table.slice(first, 50), file, row_group_size=20)
        pq.write_table(table.slice(0, 0), folder / name / "part-99999-x.parquet")
        (folder / name / "_SUCCESS").touch()
    ids = pa.table(
        {
            "token": np.arange(prepared.vocabulary.size, dtype=np.int32)[::-1],
            "item": list(prepared.vocabulary.ids)[::-1],
        }
    )
    (folder / "items").mkdir()
    pq.write_table(ids, folder / "items" / "part-00000-x.parquet")
    (folder / "farzi-parts").mkdir()
    line = json.dumps(record | {"format": "farzi parts 1"})
    (folder / "farzi-parts" / "part-00000-x.txt").write_text(line + "\n")
    return folder


def test_the_parts_are_the_whole(parts: Path, prepared: PreparedData, tmp_path: Path) -> None:
    assert load_parts(parts) == prepared
    assert prepare(parts) == prepared
    out = tmp_path / "joined"
    assert main(["prepare", str(parts), "--out", str(out), "-q"]) == 0
    folder = tmp_path / "folder"
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {
        p.name: p.read_bytes() for p in folder.iterdir()
    }


def test_nothing_is_left_of_the_joined_files(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    data = load_parts(parts)
    assert list(scratch.iterdir()) == []
    assert data.train.tokens.sum() > 0  # mapped still


def lose(folder: Path) -> None:
    (folder / "test" / "part-00000-x.parquet").unlink()


def lose_the_last(folder: Path) -> None:
    sorted((folder / "train").glob("*.parquet"))[-2].unlink()


def swap(folder: Path) -> None:
    first, second = sorted((folder / "train").glob("*.parquet"))[:2]
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)


def double(folder: Path) -> None:
    last = sorted((folder / "train").glob("*.parquet"))[-2]
    (last.parent / "part-77777-x.parquet").write_bytes(last.read_bytes())


def cut(folder: Path) -> None:
    file = folder / "train" / "part-00000-x.parquet"
    file.write_bytes(file.read_bytes()[:-20])


def rewrite(name: str, **columns: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = folder / name / "part-00000-x.parquet"
        table = pq.read_table(file)
        for column, value in columns.items():
            index = table.column_names.index(column)
            values = [value, *table.column(column).to_pylist()[1:]]
            type_ = table.schema.field(column).type if not isinstance(value, str) else pa.string()
            table = table.set_column(index, column, pa.array(values, type_))
        pq.write_table(table, file)

    return damage


def record(text: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / "farzi-parts" / "part-00000-x.txt").write_text(text)

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lose,
            "test: 1 sequences|test: 2 sequences|test: its parts are not those|a part is missing",
        ),
        (lose_the_last, "train: .* were written; a part is missing"),
        (swap, "train: its parts are not those that were written"),
        (double, "train: its parts are not those that were written"),
        (cut, r"part-00000-x.parquet: cannot be read \("),
        (rewrite("train", token=999), "train: a token is outside the vocabulary of 12"),
        (rewrite("train", token=None), "part-00000-x.parquet: a value is missing"),
        (rewrite("items", token=0), "items: 12 items, where 12 were written"),
        (record("{"), r"farzi-parts: cannot be read \("),
        (record('{"format": "farzi parts 2"}'), "farzi-parts: not of format 'farzi parts 1'"),
        (record('{"format": "farzi parts 1", "counts": {}}'), "the value of 'counts' is wrong"),
    ],
)
def test_damaged_parts_are_refused_in_one_line(
    damage: Callable[[Path], None], message: str, parts: Path
) -> None:
    damage(parts)
    with pytest.raises(DataError, match=message) as caught:
        prepare(parts)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("written", [(), ("train",), ("train", "items"), ("items",)])
def test_parts_that_were_not_finished_say_so(written: tuple[str, ...], parts: Path) -> None:
    """The record is written last; Spark writes each folder's parts below `_temporary` first."""
    for folder in parts.iterdir():
        if folder.name not in written:
            shutil.rmtree(folder)
    if not written:
        (parts / "train" / "_temporary" / "0").mkdir(parents=True)
    with pytest.raises(DataError, match=r"parts and did not finish; remove the folder") as caught:
        prepare(parts)
    assert "\n" not in str(caught.value)


def test_folders_of_the_same_names_may_be_a_log(tmp_path: Path) -> None:
    (tmp_path / "log" / "train").mkdir(parents=True)
    table = pa.table({"user": ["u"], "item": ["i"], "time": [1]})
    pq.write_table(table, tmp_path / "log" / "train" / "part-0.parquet")
    assert not is_cut_short(tmp_path / "log")


def test_what_needs_spark_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = write_log(tmp_path / "log.csv")
    with pytest.raises(DataError, match="hdfs://a/b: an address is read with --engine spark"):
        prepare("hdfs://a/b")
    with pytest.raises(SettingsError, match=r"reads Parquet by its path .*log\.csv"):
        prepare(log, engine="spark")
    with pytest.raises(SettingsError, match="--out s3a://b/o: stdlib-docs is no event log"):
        prepare_parts("stdlib-docs", "s3a://b/o")
    with pytest.raises(SettingsError, match="and not for --task language"):
        prepare("hdfs://a/b", engine="spark", task="language")
    with pytest.raises(TypeError, match="takes no argument 'ties'"):
        prepare_parts("hdfs://a/b", "hdfs://a/c", ties="x")  # type: ignore[call-arg]
    assert main(["prepare", str(log), "--out", "s3a://b/o"]) != 0
    assert "only --engine spark writes to an address" in capsys.readouterr().err
    command = ["prepare", "s3a://b/i", "--engine", "spark", "--out", "s3a://b/o"]
    assert main([*command, "--force"]) != 0
    assert "what is at an address is not replaced" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    assert main(command) != 0
    assert "--engine spark needs an extra: pip install 'farzi[spark]'" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "table"])
def test_a_column_orders_events_of_one_time(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    users, items = np.repeat(np.arange(10), 6), np.tile(np.arange(6), 10)
    table = pa.table(
        {"user": users, "item": items, "time": np.zeros(60, int), "seq": 5 - items}
    ).take(rng.permutation(60))
    path = tmp_path / f"log.{kind}"
    source: object = path
    if kind == "parquet":
        pq.write_table(table, path)
    elif kind == "csv":
        rows = ["user,item,time,seq", *(",".join(map(str, r.values())) for r in table.to_pylist())]
        path.write_text("\n".join(rows) + "\n")
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    else:
        source = table
    data = prepare(source, tie_col="seq")
    assert {tuple(sequence.tolist()) for sequence in data.train} == {(5, 4, 3, 2, 1, 0)}
    assert (data.protocol["ties"], data.protocol["tie_col"]) == ("column", "seq")
    assert "ties in time by 'seq'" in data.protocol_line()
    other = table.set_column(3, "seq", pa.array(items))
    if kind == "table":
        assert prepare(other, tie_col="seq").fingerprint != data.fingerprint
    assert "tie_col" not in prepare(source).protocol
