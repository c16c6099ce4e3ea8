"""The Ibis expressions, on DuckDB and as the SQL of Spark."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import ibis
import pyarrow as pa
import pytest

from farzi.data import events

Row = tuple[str, str, int, int]
Log = Callable[[list[Row]], ibis.Table]


@pytest.fixture
def log() -> Iterator[Log]:
    """A function from rows to a table on a DuckDB of its own."""
    connection = ibis.duckdb.connect()

    def table(rows: list[Row]) -> ibis.Table:
        columns = dict(zip(("user", "item", "time", "row"), zip(*rows, strict=True), strict=True))
        connection.con.register("log", pa.table(columns))
        return connection.table("log")

    yield table
    connection.disconnect()


def order(selected: ibis.Table) -> list[tuple[str, int]]:
    numbered = events.number_events(selected, events.catalogue(selected))
    found = numbered.order_by("user", *events.order_of(numbered)).to_pyarrow()
    return list(zip(found["user"].to_pylist(), found["token"].to_pylist(), strict=True))


ROWS: list[Row] = [
    ("b", "z", 5, 0),
    ("a", "z", 2, 1),
    ("a", "y", 1, 2),
    ("a", "x", 1, 3),
    ("a", "z", 3, 4),
    ("b", "x", 5, 5),
    ("c", "w", 1, 6),
]


def test_time_orders_and_ties_keep_the_order_of_the_source(log: Log) -> None:
    selected = events.select_events(log(ROWS), k_core=0, min_length=2, repeats="keep")
    assert order(selected) == [("a", 1), ("a", 0), ("a", 2), ("a", 2), ("b", 2), ("b", 0)]


def test_the_first_of_repeated_pairs_stays(log: Log) -> None:
    selected = events.select_events(log(ROWS), k_core=0, min_length=1, repeats="first")
    assert order(selected)[:3] == [("a", 2), ("a", 1), ("a", 3)]
    assert len(order(selected)) == 6


def test_the_core_counts_again_after_every_drop(log: Log) -> None:
    # `w` goes first, then `c`, then `y`, which only `c` and `a` had.
    rows = [*ROWS, ("c", "y", 2, 7), ("c", "x", 3, 8)]
    kept = events.core(log([row for row in rows if row[1] != "y"]), 2).to_pyarrow()
    assert sorted(kept["row"].to_pylist()) == [0, 1, 3, 4, 5]
    assert len(events.core(log(rows), 5).to_pyarrow()) == 0


@pytest.mark.parametrize("repeats", ["keep", "first"])
def test_the_expression_has_a_form_on_spark(repeats: events.Repeats) -> None:
    table = ibis.table({"user": "string", "item": "int64", "time": "int64", "row": "int64"}, "log")
    selected = events.select_events(table, k_core=0, min_length=3, repeats=repeats)
    expression = events.place_events(
        selected, events.catalogue(selected), events.number_users(selected)
    )
    assert "ORDER BY" in str(ibis.to_sql(expression, dialect="pyspark"))


def test_a_core_begins_no_engine_of_its_own(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held in memory between rounds belongs to no engine; Ibis would begin one for it."""
    monkeypatch.setattr(ibis.options, "default_backend", None)
    rows = [(user, item, 0, 0) for user in "abc" for item in "xyz"]
    kept = events.core(log([*rows, ("d", "x", 0, 0)]), 2)
    assert events.count(kept) == 9
    assert ibis.options.default_backend is None
