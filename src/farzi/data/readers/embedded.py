"""Events that are in memory as pairs already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from farzi.data.readers.base import Log
from farzi.data.stdlib import hash_records

__all__ = ["PairsReader"]


@dataclass(frozen=True)
class PairsReader:
    """(user, item) pairs that stand in time order already.

    Args:
        name: what results and errors call them.
        pairs: gives them, when they are needed.
    """

    name: str
    pairs: Callable[[], Sequence[tuple[str, str]]]

    @property
    def label(self) -> str:
        """What errors call it."""
        return self.name

    def read(self, connection: Any) -> Log:
        """Make `events` of the pairs, whose place is their time."""
        import pyarrow as pa

        pairs = self.pairs()
        users, items = zip(*pairs, strict=True)
        rows = pa.array(range(len(pairs)), pa.int64())
        table = pa.table({"user": users, "item": items, "time": rows, "row": rows})
        connection.register("events", table)
        return Log(hash_records(pairs))
