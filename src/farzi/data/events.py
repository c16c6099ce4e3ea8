"""From a table of events to ordered sequences: one Ibis expression, on any engine.

A table of events has `user`, `item`, `time` and `row`; `row` is the event's place in its source,
so (`time`, `row`) orders a user's events completely and every engine gives the same sequences.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import ibis.expr.types as ir

__all__ = ["Repeats", "catalogue", "core_round", "order_events", "select_events"]

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
        events = _first_of_pair(events)
    if k_core > 1:
        events = _k_core(events, k_core)
    return _frequent(events, "user", min_length)


def catalogue(events: ir.Table) -> ir.Table:
    """Every item once, with its `token`: its place in the order of the original ids."""
    import ibis

    items = events.select("item").distinct()
    return items.mutate(token=ibis.row_number().over(order_by=items.item).cast("int32"))


def order_events(events: ir.Table, items: ir.Table) -> ir.Table:
    """Each event's `user` and `token`, users in the order of their ids, events in time order."""
    return events.inner_join(items, "item").order_by("user", "time", "row").select("user", "token")


def core_round(events: ir.Table, k: int) -> ir.Table:
    """Drop every user and every item with fewer than `k` events, both counted before."""
    kept = _frequent(events, "user", k)
    items = events.group_by("item").agg(count=events.count())
    return kept.semi_join(items.filter(items["count"] >= k), "item")


def _k_core(events: ir.Table, k: int) -> ir.Table:
    """Repeat `core_round` until nothing falls out; each round is stored by the engine."""
    before = int(events.count().execute())
    while True:
        events = core_round(events, k).cache()
        after = int(events.count().execute())
        if after == before:
            return events
        before = after


def _frequent(events: ir.Table, column: str, least: int) -> ir.Table:
    """Keep the events whose value of `column` has at least `least` of them."""
    if least <= 1:
        return events
    groups = events.group_by(column).agg(count=events.count())
    return events.semi_join(groups.filter(groups["count"] >= least), column)


def _first_of_pair(events: ir.Table) -> ir.Table:
    import ibis

    place = ibis.row_number().over(
        group_by=[events.user, events.item], order_by=[events.time, events.row]
    )
    ranked = events.mutate(place=place)
    return ranked.filter(ranked.place == 0).drop("place")
