"""Which users, documents or lines belong to training, validation and test."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from farzi.data.sequences import Sequences
from farzi.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "LEAVE_LAST_OUT_MIN_LENGTH",
    "SplitKind",
    "ThreeWays",
    "check_seed",
    "hash_ids",
    "hash_sorted_ids",
    "leave_last_out",
    "three_ways",
]

LEAVE_LAST_OUT_MIN_LENGTH = 4  # two tokens to train on, two targets

SplitKind = Literal["users", "leave-last-out", "official", "lines", "documents"]


class ThreeWays(NamedTuple):
    """Places (0-based, rising) of the training, validation and test members."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


def three_ways(count: int, seed: int, *, what: str) -> ThreeWays:
    """Split `count` members 80/10/10 by a permutation that depends on `count` and `seed` only.

    Validation and test get `count // 10` members each, at least one; training the rest. The
    permutation comes from numpy's `RandomState`, whose stream is frozen across versions.

    Args:
        count: how many members there are, in their sorted order.
        seed: 0 to 2**32 - 1.
        what: the members' name for the error, such as "users".

    Raises:
        DataError: there are fewer than three.

    Example:
        >>> from farzi.data.splits import three_ways
        >>> [len(part) for part in three_ways(943, seed=0, what="users")]
        [755, 94, 94]
    """
    check_seed(seed)
    if count < 3:
        raise DataError(f"a split into three needs at least 3 {what}, got {count}.")
    order = np.random.RandomState(seed).permutation(count).astype(np.int64)
    held = max(1, count // 10)
    parts = (order[2 * held :], order[:held], order[held : 2 * held])
    return ThreeWays(*(np.sort(part) for part in parts))


def check_seed(seed: int) -> None:
    """Refuse a seed that `RandomState` does not take."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"`split_seed` must be an int from 0 to {2**32 - 1}, got {seed}.")


def leave_last_out(sequences: Sequences) -> tuple[Sequences, Sequences, Sequences]:
    """Hold out every sequence's last token for test and the one before it for validation.

    Training keeps what stands before both. A sequence too short for a context before each
    target stays out of that part: training rows have at least 2 tokens, and so do the others.

    Example:
        >>> from farzi.data.sequences import Sequences
        >>> from farzi.data.splits import leave_last_out
        >>> parts = leave_last_out(Sequences.from_lists([[1, 2, 3, 4], [5, 6]]))
        >>> [[row.tolist() for row in part] for part in parts]
        [[[1, 2]], [[1, 2, 3]], [[1, 2, 3, 4], [5, 6]]]
    """
    train, validation, test = (
        sequences.take(np.flatnonzero(sequences.lengths >= count + 2)).without_last(count)
        for count in (2, 1, 0)
    )
    return train, validation, test


def hash_ids(ids: Iterable[int | str]) -> str:
    """`sha256:...` of ids, one JSON value a line, sorted.

    Example:
        >>> from farzi.data.splits import hash_ids
        >>> hash_ids([2, 1]) == hash_ids([1, 2]) != hash_ids(["1", "2"])
        True
    """
    return hash_sorted_ids(sorted(ids))


def hash_sorted_ids(ids: Iterable[int | str]) -> str:
    """`hash_ids` of ids that come in their order, none of them kept."""
    digest = hashlib.sha256()
    for original in ids:
        digest.update(json.dumps(original).encode() + b"\n")
    return f"sha256:{digest.hexdigest()}"
