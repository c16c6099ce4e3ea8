"""A log prepared by Spark: the same bytes as by DuckDB, nothing of the log's size in between."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from farzi.cli import main
from farzi.data import PreparedData, prepare
from farzi.data.preparation import prepare_parts
from farzi.errors import DataError, SettingsError

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of pyspark, about its own


QUICK = {  # for logs so small that compiling costs more than running
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xshare:auto",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.shuffle.partitions": "2",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
}


@pytest.fixture(scope="module", autouse=True)
def spark() -> Iterator[Any]:
    """Spark in this process' own Java, small and quiet."""
    pytest.importorskip("pyspark", reason="the `spark` extra is not installed")
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else shutil.which("java")
    if java is None or subprocess.run([java, "-version"], capture_output=True).returncode:
        pytest.skip("Spark needs Java 17 or later, and there is none")
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = "/no/python"  # executors need none
    builder = SparkSession.builder.master("local[1]")
    for name, value in QUICK.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()
    del os.environ["PYSPARK_PYTHON"]


def events(seed: int = 0, count: int = 600) -> dict[str, Any]:
    """Events with ties, repeats, exact duplicates, rare items and users of one event."""
    rng = np.random.default_rng(seed)
    users = np.concatenate([rng.integers(0, 40, count - 3) ** 2 // 40, [98, 99, 97]])
    items = rng.zipf(1.6, count) % 60
    items[50:60], users[50:60] = items[40:50], users[40:50]
    return {"user": users, "item": items, "time": rng.integers(0, 25, count)}


def write_log(folder: Path, columns: dict[str, Any], parts: int = 3) -> Path:
    """Parts whose names do not sort as they were written, one of them in a folder below, and what
    is no part beside them."""
    table = pa.table(columns)
    folder.mkdir()
    (folder / "day=1").mkdir()
    names = ["b 10.parquet", "day=1/a.parquet", "b 9.parquet", "c.pq"]
    cuts = np.linspace(0, len(table), parts + 1).astype(int)
    for name, first, last in zip(names, cuts[:-1], cuts[1:], strict=False):
        pq.write_table(table.slice(first, last - first), folder / name, row_group_size=64)
    (folder / "_SUCCESS").touch()
    (folder / ".hidden.parquet").write_bytes(b"no Parquet")
    (folder / "notes.txt").write_text("no log")
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


TEXT = {"user": lambda v: [f"u{n:03d}é" for n in v], "item": lambda v: [f"{n}.0" for n in v]}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "core": ({}, {"k_core": 4, "min_length": 6, "split_seed": 3}),
    "first": ({}, {"repeats": "first", "split": "leave-last-out"}),
    "text": (TEXT, {"seen_items": "leave-out", "k_core": 3}),
    "dates": ({"time": lambda v: v.astype("datetime64[s]").astype("datetime64[us]")}, {}),
    "days": ({"time": lambda v: v.astype("datetime64[D]")}, {"split": "leave-last-out"}),
    "floats": ({"user": lambda v: v.astype(float), "time": lambda v: v / 2}, {}),
    "unsigned": (
        {"user": lambda v: v.astype("u8") + (1 << 63), "item": lambda v: v.astype("u8")},
        {},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_folder_is_the_same_to_the_byte(case: str, tmp_path: Path) -> None:
    changes, settings = CASES[case]
    columns = {name: changes.get(name, lambda v: v)(v) for name, v in events().items()}
    log = write_log(tmp_path / "log", columns)
    by_duckdb, by_spark = prepare(log, **settings), prepare(log, engine="spark", **settings)
    assert by_spark.train == by_duckdb.train
    assert by_spark == by_duckdb
    by_duckdb.save(tmp_path / "duckdb")
    by_spark.save(tmp_path / "spark")
    assert files(tmp_path / "spark") == files(tmp_path / "duckdb")
    assert by_duckdb.protocol["tied_events"]
    assert settings.get("repeats") == "first" or by_duckdb.protocol["repeated_events"]


def test_a_column_decides_between_events_of_one_time(tmp_path: Path) -> None:
    columns = events()
    columns["seq"] = np.random.default_rng(1).permutation(len(columns["user"]))
    log = write_log(tmp_path / "log", columns)
    by_duckdb = prepare(log, tie_col="seq", repeats="first")
    assert prepare(log, engine="spark", tie_col="seq", repeats="first") == by_duckdb
    assert by_duckdb != prepare(log, repeats="first")
    assert "ties in time by 'seq'" in by_duckdb.protocol_line()
    # The order of the rows no longer matters.
    order = np.random.default_rng(2).permutation(len(columns["user"]))
    other = write_log(tmp_path / "other", {name: v[order] for name, v in columns.items()})
    assert prepare(other, engine="spark", tie_col="seq").train == prepare(log, tie_col="seq").train


def test_parts_at_an_address_are_a_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("farzi.data.cluster._EVENTS_A_PART", 100)
    log, out = write_log(tmp_path / "log", events()), f"file://{tmp_path}/parts"
    command = ["prepare", f"file://{log}", "--engine", "spark", "--out", out, "-q"]
    assert main([*command, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert len(list((tmp_path / "parts" / "train").glob("*.parquet"))) > 2
    expected = prepare(log)
    assert prepare(tmp_path / "parts") == expected
    assert record["counts"]["train"] == [len(expected.train), expected.train.num_tokens]
    folder = tmp_path / "prepared"
    assert main(["prepare", str(tmp_path / "parts"), "--out", str(folder), "-q"]) == 0
    assert PreparedData.load(folder) == expected
    capsys.readouterr()
    assert main(command) == 1
    assert "exists already; remove it, or name another address" in capsys.readouterr().err
    next((tmp_path / "parts" / "test").glob("*.parquet")).unlink()
    with pytest.raises(DataError, match="were written; a part is missing"):
        prepare(tmp_path / "parts")


def test_one_file_is_a_log_too_by_any_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    pq.write_table(pa.table(events()), tmp_path / "a %41 log [1].parquet")
    monkeypatch.chdir(tmp_path / "here")
    log = "../here/../a %41 log [1].parquet"
    assert prepare(log, engine="spark") == prepare(log)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": [1, None, 3]}, "log/b 10.parquet, row 2, column 'user': the value is missing."),
        ({"item": [1.0, 2.5, 3.0]}, "row 2, column 'item': '2.5' is not a whole number, so no id."),
        ({"item": [[1], [2], [3]]}, "log, column 'item': it holds lists, where whole numbers"),
        ({"time": ["a", "b", "c"]}, "column 'time': it holds text, where --engine spark reads"),
        ({"time": [1.0, float("nan"), 2.0]}, "column 'time': 'NaN' is neither a number nor a date"),
    ],
)
def test_what_is_no_log_is_refused_in_one_line(
    columns: dict[str, Any], message: str, tmp_path: Path
) -> None:
    good = {"user": [1, 2, 3], "item": [1, 2, 3], "time": [1, 2, 3]}
    log = write_log(tmp_path / "log", good | columns, parts=1)
    with pytest.raises(DataError) as caught:
        prepare(log, engine="spark")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: there is no such file"):
        prepare_parts(f"file://{tmp_path}/nowhere", f"file://{tmp_path}/out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="it holds no Parquet parts"):
        prepare_parts(f"file://{tmp_path}/empty", f"file://{tmp_path}/out")
    log = write_log(tmp_path / "log", events())
    (log / "z.parquet").write_bytes(b"no Parquet at all")
    with pytest.raises(DataError, match=r"log: Spark failed \(.*z.parquet is not a Parquet file"):
        prepare(log, engine="spark")
    (log / "z.parquet").unlink()
    pq.write_table(pa.table({"user": [1], "item": ["1"], "time": [1]}), log / "z.parquet")
    with pytest.raises(DataError, match="Spark failed") as caught:
        prepare(log, engine="spark")
    assert "\n" not in str(caught.value)
    pq.write_table(pa.table({"user": [1], "item": [1]}), log / "z.parquet")
    with pytest.raises(DataError, match=r"z.parquet, row 1, column 'time': the value is missing"):
        prepare(log, engine="spark")
    (tmp_path / "log.csv").write_text("user,item,time\n1,1,1\n")
    with pytest.raises(SettingsError, match="reads Parquet by its path or address"):
        prepare(tmp_path / "log.csv", engine="spark")
