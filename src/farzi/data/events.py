"""From a table of events to ordered sequences: Ibis expressions, on any engine.

A table of events has `user`, `item`, `time` and `row`; `row` is the event's place in its source,
so (`time`, `row`) orders a user's events completely and every engine gives the same sequences.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import ibis.expr.types as ir

__all__ = [
    "Repeats",
    "catalogue",
    "core",
    "first_of_pair",
    "number_events",
    "order_events",
    "select_events",
]

Repeats = Literal["keep", "first"]


def select_events(events: ir.Table, *, k_core: int, min_length: int, repeats: Repeats) -> ir.Table:
    """Keep the events that the settings ask for: repeats, then the k-core, then the length.

    Args:
        events: `user`, `item`, `time`, `row`.
        k_core: drop users and items with fewer events, again and again until none is left to
            drop; 0 or 1 keeps all.
        min_length: drop users with fewer events, once.
        repeats: `keep` them, or only the `first` event of a user with an item.
    """
    if repeats == "first":
        events = first_of_pair(events)
    if k_core > 1:
        events = core(events, k_core)
    return events.semi_join(_frequent(events, "user", min_length), "user")


def core(events: ir.Table, k: int) -> ir.Table:
    """Drop users and items with fewer than `k` events until none is left to drop.

    Only the ids that stay leave the engine between two rounds, never the events.
    """
    import ibis

    kept, before = events, -1
    while True:
        users = _frequent(kept, "user", k).to_pyarrow()
        items = _frequent(kept, "item", k).to_pyarrow()
        if len(users) + len(items) == before:
            return kept
        before = len(users) + len(items)
        kept = events.semi_join(ibis.memtable(users), "user")
        kept = kept.semi_join(ibis.memtable(items), "item")


def first_of_pair(events: ir.Table) -> ir.Table:
    """Keep the first event of every user with every item."""
    import ibis

    place = ibis.row_number().over(
        group_by=[events.user, events.item], order_by=[events.time, events.row]
    )
    ranked = events.mutate(place=place)
    return ranked.filter(ranked.place == 0).drop("place")


def catalogue(events: ir.Table) -> ir.Table:
    """Every item once, with its `token`: its place in the order of the original ids."""
    import ibis

    items = events.select("item").distinct()
    return items.mutate(token=ibis.row_number().over(order_by=items.item).cast("int32"))


def number_events(events: ir.Table, items: ir.Table) -> ir.Table:
    """Each event's `user`, `token`, `time` and `row`, in no order."""
    return events.inner_join(items, "item").select("user", "token", "time", "row")


def order_events(events: ir.Table, items: ir.Table) -> ir.Table:
    """Each event's `user`, `token`, `time`: users in the order of their ids, events in time's."""
    ordered = number_events(events, items).order_by("user", "time", "row")
    return ordered.select("user", "token", "time")


def _frequent(events: ir.Table, column: str, count: int) -> ir.Table:
    """The values of `column` that at least `count` events have."""
    groups = events.group_by(column).agg(count=events.count())
    return groups.filter(groups["count"] >= count).select(column)
