"""From a table of events to ordered sequences: Ibis expressions, on any engine.

A table of events has `user`, `item`, `time` and `row`; `row` is the event's place in its source,
so (`time`, `row`) orders a user's events completely and every engine gives the same sequences.
Where a column of the source decides between events of one time, it is `tie`, between the two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import ibis.expr.types as ir

__all__ = [
    "Repeats",
    "catalogue",
    "core",
    "count",
    "first_of_pair",
    "number_events",
    "number_users",
    "order_of",
    "place_events",
    "select_events",
]

Repeats = Literal["keep", "first"]


def select_events(
    events: ir.Table,
    *,
    k_core: int,
    min_length: int,
    repeats: Repeats,
    keep: Callable[[ir.Table], ir.Table] | None = None,
) -> ir.Table:
    """Keep the events that the settings ask for: repeats, then the k-core, then the length.

    Args:
        events: `user`, `item`, `time`, `row`.
        k_core: drop users and items with fewer events, again and again until none is left to
            drop; 0 or 1 keeps all.
        min_length: drop users with fewer events, once.
        repeats: `keep` them, or only the `first` event of a user with an item.
        keep: as `core` has it.
    """
    if repeats == "first":
        events = first_of_pair(events)
    if k_core > 1:
        events = core(events, k_core, keep)
    return events.semi_join(_frequent(events, "user", min_length), "user")


def core(events: ir.Table, k: int, keep: Callable[[ir.Table], ir.Table] | None = None) -> ir.Table:
    """Drop users and items with fewer than `k` events until none is left to drop.

    Args:
        events: `user`, `item` and what else they have.
        k: the least number of events.
        keep: computes a table and holds it for the next round: the ids that stay, never the events.
            None: in memory.
    """
    keep = keep or _in_memory
    kept, before = events, -1
    while True:
        users = keep(_frequent(kept, "user", k))
        items = keep(_frequent(kept, "item", k))
        left = count(users) + count(items)
        if left == before:
            return kept
        before = left
        # Who stays has stayed in every round before, so the first events are as good as the last.
        kept = events.semi_join(users, "user").semi_join(items, "item")


def first_of_pair(events: ir.Table) -> ir.Table:
    """Keep the first event of every user with every item."""
    import ibis

    place = ibis.row_number().over(group_by=[events.user, events.item], order_by=order_of(events))
    ranked = events.mutate(place=place)
    return ranked.filter(ranked.place == 0).drop("place")


def catalogue(events: ir.Table) -> ir.Table:
    """Every item once, with its `token`: its place in the order of the original ids."""
    import ibis

    items = events.select("item").distinct()
    return items.mutate(token=ibis.row_number().over(order_by=items.item).cast("int32"))


def number_events(events: ir.Table, items: ir.Table) -> ir.Table:
    """Each event's `user`, `token`, and what orders it; in no order."""
    return events.inner_join(items, "item").select("user", "token", *order_of(events))


def order_of(events: ir.Table) -> list[str]:
    """The columns that order a user's events, the first first."""
    return [name for name in ("time", "tie", "row") if name in events.columns]


def number_users(events: ir.Table) -> ir.Table:
    """Every user once: `place` in the order of the original ids, and `length`, their events."""
    import ibis

    users = events.group_by("user").agg(length=events.count())
    return users.mutate(place=ibis.row_number().over(order_by=users.user))


def place_events(events: ir.Table, items: ir.Table, users: ir.Table) -> ir.Table:
    """Each event's `place` and `length` of its user, `token` and `position`, from 0; in no order.

    Args:
        events: what is kept.
        items: the `catalogue` of it.
        users: of it, from `number_users`.
    """
    import ibis

    numbered = number_events(events, items).inner_join(users, "user")
    position = ibis.row_number().over(group_by=numbered.place, order_by=order_of(numbered))
    return numbered.mutate(position=position).select("place", "length", "token", "position")


def count(table: ir.Table) -> int:
    """How many rows a table has.

    A table in memory is not asked of an engine: that would be the one of its own that Ibis begins
    for what belongs to none, and that nobody ends.
    """
    import ibis.expr.operations as ops

    held = table.op()
    if isinstance(held, ops.InMemoryTable):
        return len(held.data.to_pyarrow(held.schema))
    (number,) = table.count().as_table().to_pyarrow().to_pylist()
    return int(next(iter(number.values())))


def _in_memory(table: ir.Table) -> ir.Table:
    import ibis

    return ibis.memtable(table.to_pyarrow())


def _frequent(events: ir.Table, column: str, count: int) -> ir.Table:
    """The values of `column` that at least `count` events have."""
    groups = events.group_by(column).agg(count=events.count())
    return groups.filter(groups["count"] >= count).select(column)
