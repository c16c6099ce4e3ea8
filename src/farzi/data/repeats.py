"""Events that repeat: how many a log has, and what they say about ranking seen items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from farzi.data.sequences import Sequences
    from farzi.data.sources import SeenItems

__all__ = ["KEEP_ABOVE", "Repetition", "count_repetition", "decide_seen_items"]

KEEP_ABOVE = 0.05  # share of repeated events above which seen items stay in the ranking
_CHUNK = 1 << 22  # events looked at together: bounds the memory, not the result


@dataclass(frozen=True)
class Repetition:
    """How often a log's users come back to an item.

    Args:
        events: all of them.
        repeats: events of an item that the same user had at an earlier time.
        duplicates: events that say what another says: same user, item and time.
    """

    events: int
    repeats: int
    duplicates: int

    @property
    def share(self) -> float:
        """Repeats among the events that are no exact duplicates, from 0 to 1."""
        return self.repeats / max(1, self.events - self.duplicates)


def count_repetition(sequences: Sequences, tied: NDArray[np.bool_]) -> Repetition:
    """Count repeats and exact duplicates in a log.

    Args:
        sequences: each user's items in time order.
        tied: bool (num_tokens,), whether an event has the time of the one before it.

    Example:
        >>> import numpy as np
        >>> from farzi.data.repeats import count_repetition
        >>> from farzi.data.sequences import Sequences
        >>> log = Sequences.from_lists([[4, 4, 4], [4, 5]])
        >>> tied = np.array([False, True, False, False, False])
        >>> count_repetition(log, tied)
        Repetition(events=5, repeats=1, duplicates=1)
    """
    repeats = duplicates = start = 0
    while start < len(sequences):
        limit = sequences.offsets[start] + _CHUNK
        stop = max(start + 1, int(np.searchsorted(sequences.offsets, limit, side="right")) - 1)
        first, last = sequences.offsets[start], sequences.offsets[stop]
        tokens = sequences.tokens[first:last].astype(np.int64)
        owners = np.repeat(np.arange(stop - start), sequences.lengths[start:stop])
        moments = np.cumsum(~tied[first:last])  # events of one user at one time share theirs
        events, at_once = len(tokens), _count_distinct(moments << 32 | tokens)
        duplicates += events - at_once
        repeats += at_once - _count_distinct(owners << 32 | tokens)
        start = stop
    return Repetition(sequences.num_tokens, repeats, duplicates)


def decide_seen_items(repetition: Repetition) -> SeenItems:
    """Keep seen items in the ranking where more than 5 % of a log's events repeat one.

    One row too many must not change the protocol, so exact duplicates do not count.
    """
    return "keep" if repetition.share > KEEP_ABOVE else "leave-out"


def _count_distinct(keys: NDArray[np.int64]) -> int:
    keys.sort()
    return int(np.count_nonzero(keys[1:] != keys[:-1])) + bool(len(keys))
