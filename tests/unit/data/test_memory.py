"""Tables in memory, of whatever library: the same data as from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from farzi.data import PreparedData, prepare
from farzi.errors import DataError, SettingsError

ROWS = {
    "user": [f"u{n % 12}" for n in range(72)],
    "item": [n * 5 % 11 for n in range(72)],
    "when": [n // 12 for n in range(72)],
    "title": ["x"] * 72,
}
NAMED = {"user_col": "user", "item_col": "item", "time_col": "when"}


def dataset(columns: dict[str, Any]) -> Any:
    datasets = pytest.importorskip("datasets", reason="the `hf` extra is not installed")
    return datasets.Dataset.from_dict(columns)


MAKERS = {
    "pandas": pd.DataFrame,
    "polars": pl.DataFrame,
    "pyarrow": pa.table,
    "pyarrow, in chunks": lambda rows: pa.concat_tables(
        [pa.table(rows).slice(0, 30), pa.table(rows).slice(30)]
    ),
    "datasets": dataset,
}


def content(data: PreparedData) -> tuple[Any, ...]:
    return data.parts, data.vocabulary, data.train_users_hash, data.seen_items


@pytest.mark.parametrize("library", MAKERS)
def test_a_table_gives_what_its_file_gives(library: str, tmp_path: Path) -> None:
    pq.write_table(pa.table(ROWS), tmp_path / "log.parquet")
    data = prepare(MAKERS[library](ROWS), **NAMED)  # type: ignore[arg-type]
    assert content(data) == content(prepare(tmp_path / "log.parquet", **NAMED))  # type: ignore[arg-type]
    assert (data.name, data.origin) == ("table", None)
    same = prepare(pa.table(ROWS), **NAMED)  # type: ignore[arg-type]
    assert data.fingerprint == same.fingerprint
    moved = prepare(MAKERS[library](ROWS | {"when": [1] * 72}), **NAMED)  # type: ignore[arg-type]
    assert moved.fingerprint != same.fingerprint


def test_the_order_of_a_table_decides_between_ties() -> None:
    tied = {**ROWS, "when": [0] * 72}
    data = prepare(pd.DataFrame(tied), **NAMED)  # type: ignore[arg-type]
    first = data.vocabulary.decode(data.train[0])
    assert first == [ROWS["item"][n] for n in range(0, 72, 12)]


def test_rows_that_were_chosen_and_shuffled_count() -> None:
    whole = dataset(ROWS)
    data = prepare(whole.shuffle(seed=1).select(range(60)), **NAMED)  # type: ignore[arg-type]
    assert data.protocol["events"] == 60


def test_nested_ids_by_a_dotted_name() -> None:
    table = pa.table(
        {
            "who": [{"id": user} for user in ROWS["user"]],
            "item": ROWS["item"],
            "time": ROWS["when"],
        }
    )
    assert content(prepare(table, user_col="who.id")) == content(
        prepare(pa.table(ROWS), **NAMED)  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"user": ["a", 1, None], "item": [1, 2, 3], "time": [1, 2, 3]},
            "the DataFrame, column 'user': its values are of several kinds",
        ),
        (
            {"user": ["a", None, "b"], "item": [1, 2, 3], "time": [1, 2, 3]},
            "the DataFrame, row 2, column 'user': the value is missing.",
        ),
        (
            {"user": ["a", "b", "c"], "item": [1, 2, None], "time": [1, 2, 3]},
            "the DataFrame, row 3, column 'item': the value is missing.",
        ),
        (
            {"user": ["a"], "thing": [1]},
            "the DataFrame: no item column among user, thing; name it with --item-col.",
        ),
        (
            {"user": ["a", "b", "c"], "item": [1, 2, 3], "time": pd.to_timedelta([1, 2, 3])},
            "the DataFrame, column 'time': it holds durations",
        ),
    ],
)
def test_what_is_wrong_in_a_table_is_said_in_one_line(
    columns: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError) as caught:
        prepare(pd.DataFrame(columns))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_only_the_columns_that_are_read_can_be_at_fault() -> None:
    frame = pd.DataFrame(ROWS | {"title": [1, "x"] * 36})
    assert prepare(frame, **NAMED).protocol["events"] == 72  # type: ignore[arg-type]


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(SettingsError, match="--format jsonl: the DataFrame is a table"):
        prepare(pd.DataFrame(ROWS), format="jsonl", **NAMED)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        prepare(42)
    datasets = pytest.importorskip("datasets", reason="the `hf` extra is not installed")
    with pytest.raises(SettingsError, match="a DatasetDict is no table with columns"):
        prepare(datasets.DatasetDict({"train": dataset(ROWS)}))


@pytest.mark.parametrize("make", [dataset, pd.DataFrame])
def test_a_table_of_lines_is_a_text(make: Any, tmp_path: Path) -> None:
    lines = [f"line {n} of {n % 5}" for n in range(40)]
    data = prepare(make({"text": lines, "label": [0] * 40}))
    (tmp_path / "notes.txt").write_text("\n".join(lines))
    from_file = prepare(tmp_path / "notes.txt")
    assert data.parts == from_file.parts
    assert data.vocabulary == from_file.vocabulary
    with pytest.raises(DataError, match="row 2, column 'text': it is no text"):
        prepare(make({"text": ["a", None, "c"]}))
