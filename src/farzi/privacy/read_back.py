"""Events of real users that synthetic sequences repeat in order, and the nearest real sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farzi.data.sequences import Sequences
from farzi.privacy.likeness import longest_runs, nearest_real

__all__ = ["RUNS", "Neighbour", "ReadBack", "neighbours", "read_back"]

RUNS = (3, 5, 10)
"""How many events in a row must be the same to count as read back."""

_PRIME = np.uint64(1_000_003)


@dataclass(frozen=True)
class ReadBack:
    """How many places of the synthetic sequences lie in a run of real events.

    Args:
        run: how many events in a row must be the same.
        places: places of the synthetic sequences.
        train: places in such a run of a training user.
        of_one: places in such a run that one training user alone has.
        held_out: places in such a run of a user who was held out: what chance gives, though of
            fewer users.
    """

    run: int
    places: int
    train: int
    of_one: int
    held_out: int


@dataclass(frozen=True)
class Neighbour:
    """The real sequence that is most like a synthetic one.

    Args:
        sequence: which synthetic one, from 0.
        real: which training sequence, from 0, in the order of the prepared source.
        cosine: of what the two hold, rare items counting more, from 0 to 1.
        held_out_cosine: of the most like among the users who were held out.
        run: consecutive events that the two have in common, the most.
        length: of the synthetic one.
    """

    sequence: int
    real: int
    cosine: float
    held_out_cosine: float
    run: int
    length: int


def read_back(
    rows: Sequence[NDArray[np.int64]], train: Sequences, held_out: Sequences
) -> tuple[ReadBack, ...]:
    """Count the places of synthetic rows that repeat real events in order, for each of `RUNS`.

    Example:
        >>> import numpy as np
        >>> from farzi.data.sequences import Sequences
        >>> from farzi.privacy.read_back import read_back
        >>> train = Sequences.from_lists([[1, 2, 3, 4, 5], [1, 2, 3, 9]])
        >>> read_back([np.array([7, 1, 2, 3, 4])], train, Sequences.from_lists([[4, 7]]))[0]
        ReadBack(run=3, places=5, train=4, of_one=3, held_out=0)
    """
    places = sum(len(row) for row in rows)
    found = []
    for run in RUNS:
        known, owners = _owned(train, run)
        other, _ = _owned(held_out, run)
        counts = {"train": 0, "of_one": 0, "held_out": 0}
        for row in rows:
            keys = _keys(np.asarray(row, np.int64), run)
            there, single = _look_up(keys, known, owners)
            counts["train"] += _covered(there, run, len(row))
            counts["of_one"] += _covered(single, run, len(row))
            counts["held_out"] += _covered(np.isin(keys, other), run, len(row))
        found.append(ReadBack(run, places, **counts))
    return tuple(found)


def neighbours(
    rows: Sequence[NDArray[np.int64]],
    counts: NDArray[np.float32],
    train: Sequences,
    held_out: Sequences,
) -> tuple[Neighbour, ...]:
    """Find the nearest real sequence of every synthetic one, and how near a held-out one is."""
    nearest, cosines = nearest_real(train, counts)
    _, others = nearest_real(held_out, counts)
    return tuple(
        Neighbour(
            index,
            int(real),
            float(cosine),
            float(other),
            int(longest_runs(train.take([int(real)]), [row])[0]),
            len(row),
        )
        for index, (row, real, cosine, other) in enumerate(
            zip(rows, nearest, cosines, others, strict=True)
        )
    )


def _keys(tokens: NDArray[np.int64], run: int) -> NDArray[np.uint64]:
    """A 64-bit key of every `run` consecutive tokens; equal runs have equal keys."""
    if len(tokens) < run:
        return np.zeros(0, np.uint64)
    shifted = tokens.astype(np.uint64) + np.uint64(1)
    keys = np.zeros(len(tokens) - run + 1, np.uint64)
    with np.errstate(over="ignore"):
        for offset in range(run):
            part = shifted[offset : offset + len(keys)]
            keys = (keys ^ (part * np.uint64(0x9E3779B97F4A7C15))) * _PRIME
            keys ^= keys >> np.uint64(29)
    return keys


def _owned(sequences: Sequences, run: int) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """The different runs of real sequences, sorted, and whether one sequence alone has each."""
    tokens = np.asarray(sequences.tokens, np.int64)
    lengths = np.asarray(sequences.lengths)
    keys = _keys(tokens, run)
    owners = np.repeat(np.arange(len(sequences)), lengths)
    inside = owners[: len(keys)] == owners[run - 1 : run - 1 + len(keys)]
    keys, owners = keys[inside], owners[: len(keys)][inside]
    order = np.lexsort((owners, keys))
    keys, owners = keys[order], owners[order]
    first = np.ones(len(keys), np.bool_)
    first[1:] = keys[1:] != keys[:-1]
    starts = np.flatnonzero(first)
    ends = np.append(starts[1:], len(keys)) - 1
    return keys[starts], owners[starts] == owners[ends] if len(keys) else np.zeros(0, np.bool_)


def _look_up(
    keys: NDArray[np.uint64], known: NDArray[np.uint64], single: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    if not len(known):
        return np.zeros(len(keys), np.bool_), np.zeros(len(keys), np.bool_)
    place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    there = known[place] == keys
    return there, there & single[place]


def _covered(begins: NDArray[np.bool_], run: int, length: int) -> int:
    """Places that lie in a run which begins where `begins` says."""
    steps = np.zeros(length + 1, np.int64)
    starts = np.flatnonzero(begins)
    np.add.at(steps, starts, 1)
    np.add.at(steps, starts + run, -1)
    return int((np.cumsum(steps)[:length] > 0).sum())
