"""The Ibis expressions against loops over lists, on logs in any physical order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import ibis
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farzi.data import events

Row = tuple[str, int, int, int]  # user, item, time, row

logs = st.lists(
    st.tuples(st.sampled_from("abcde"), st.integers(0, 4), st.integers(0, 3)),
    min_size=1,
    max_size=40,
).map(lambda rows: [(*row, place) for place, row in enumerate(rows)])

# One DuckDB serves all examples, and a log is replaced before it is read again.
on_one_engine = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    """A DuckDB with two threads."""
    connection = ibis.duckdb.connect(threads=2)
    yield connection
    connection.disconnect()


def load(engine: Any, rows: list[Row]) -> ibis.Table:
    columns = dict(zip(("user", "item", "time", "row"), zip(*rows, strict=True), strict=True))
    engine.con.register("log", pa.table(columns))
    return engine.table("log")


def by_loops(rows: list[Row], k: int, min_length: int, first: bool) -> list[tuple[str, int]]:
    rows = sorted(rows, key=lambda row: (row[2], row[3]))
    if first:
        seen: set[tuple[str, int]] = set()
        rows = [row for row in rows if row[:2] not in seen and not seen.add(row[:2])]  # type: ignore[func-returns-value]
    while k > 1:
        users, items = Counter(row[0] for row in rows), Counter(row[1] for row in rows)
        kept = [row for row in rows if users[row[0]] >= k and items[row[1]] >= k]
        if kept == rows:
            break
        rows = kept
    users = Counter(row[0] for row in rows)
    rows = sorted((row for row in rows if users[row[0]] >= min_length), key=lambda row: row[0])
    catalogue = sorted({row[1] for row in rows})
    return [(user, catalogue.index(item)) for user, item, *_ in rows]


@on_one_engine
@given(logs, st.integers(0, 4), st.integers(2, 4), st.booleans(), st.randoms())
def test_agrees_with_loops_whatever_order_the_engine_holds(
    engine: Any, rows: list[Row], k: int, min_length: int, first: bool, random: Random
) -> None:
    shuffled = rows.copy()
    random.shuffle(shuffled)
    selected = events.select_events(
        load(engine, shuffled),
        k_core=k,
        min_length=min_length,
        repeats="first" if first else "keep",
    )
    numbered = events.number_events(selected, events.catalogue(selected))
    found = numbered.order_by("user", *events.order_of(numbered)).to_pyarrow()
    pairs = list(zip(found["user"].to_pylist(), found["token"].to_pylist(), strict=True))
    assert pairs == by_loops(rows, k, min_length, first)
