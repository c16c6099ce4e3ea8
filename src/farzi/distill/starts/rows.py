"""The real rows that a start is built from."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from farzi.data.sequences import Sequences
from farzi.errors import DataError

__all__ = ["RowChoice", "Rows", "choose_rows", "most_rows"]

MOST_CUT = 20_000
"""Sequences that are cut into pieces at most, for up to a tenth as many rows."""

RowChoice: TypeAlias = Literal["ends", "joined", "pieces"]


@dataclass(frozen=True)
class Rows:
    """Real sequences that a start is built from.

    Attributes:
        tokens: int64 (S, L), right padded with 0.
        following: int64 (S, L), the token after each position.
        lengths: int64 (S,), positions that are real.
    """

    tokens: Tensor
    following: Tensor
    lengths: Tensor

    @property
    def mask(self) -> Tensor:
        """Real positions, bool (S, L)."""
        return torch.arange(self.tokens.shape[1]) < self.lengths[:, None]


def choose_rows(
    sequences: Sequences,
    num: int,
    length: int,
    generator: np.random.Generator,
    *,
    how: RowChoice,
) -> Rows:
    """Draw `num` rows of up to `length` positions from training sequences.

    Args:
        sequences: training sequences only.
        num: rows S.
        length: positions L.
        generator: draws them.
        how: `ends`: a row is the end of one sequence, drawn among those that fill a row, or the
            longest where too few do. `joined`: whole sequences joined until a row is full
            (sentences). `pieces`: stretches of L/5 to L/2 events of many sequences, joined, chosen
            one after the other for tokens that are frequent and not yet in many rows; where there
            are more than 20,000 such sequences, of as many drawn ones (ten for each row, if more).

    Raises:
        DataError: there are fewer than `num` sequences, or pieces of them.
    """
    if how == "joined":
        rows = _joined(sequences, num, length + 1, generator)
    elif how == "pieces":
        rows = _joined_pieces(sequences, num, length + 1, generator)
    else:
        _refuse_fewer(num, len(sequences), "training sequences")
        by_length = np.argsort(-sequences.lengths, kind="stable")
        num_full = int((sequences.lengths > length).sum())
        among = by_length[: max(num, num_full)]
        chosen = generator.permutation(among)[:num]
        rows = [sequences[int(index)][-(length + 1) :] for index in chosen]
    tokens, mask = Sequences.from_lists(rows).padded(np.arange(num), length + 1)
    both = torch.from_numpy(tokens)
    return Rows(both[:, :-1], both[:, 1:], torch.from_numpy(mask.sum(1) - 1))


def most_rows(lengths: np.ndarray, length: int, *, how: RowChoice) -> int:
    """How many rows of `length` positions `choose_rows` can certainly draw.

    Args:
        lengths: of the training sequences, in tokens.
        length: positions L.
        how: see `choose_rows`; any number can be joined from whole sequences.

    Example:
        >>> import numpy as np
        >>> from farzi.distill.starts.rows import most_rows
        >>> most_rows(np.array([40, 3, 9]), 19, how="pieces")
        5
    """
    if how == "joined":
        return int(lengths.sum())
    if how == "ends":
        return len(lengths)
    shortest, longest = _piece_sizes(length + 1)
    whole = lengths[lengths >= shortest]
    return int(((whole - shortest) // longest + 1).sum())


def _piece_sizes(size: int) -> tuple[int, int]:
    """The fewest and the most events of a piece, for rows of `size` tokens."""
    return max(2, size // 5), max(2, size // 2)


def _refuse_fewer(num: int, available: int, what: str) -> None:
    if available < num:
        raise DataError(
            f"{num} synthetic sequences start from as many real ones, and there are "
            f"{available} {what}; make fewer."
        )


def _joined(
    sequences: Sequences, num: int, size: int, generator: np.random.Generator
) -> list[np.ndarray]:
    """Whole sequences joined until each row is full; they begin with the same mark."""
    order = generator.permutation(len(sequences))
    rows, position = [], 0
    for _ in range(num):
        parts: list[np.ndarray] = []
        while sum(map(len, parts)) < size:
            sentence = sequences[int(order[position % len(order)])]
            parts.append(sentence if not parts else sentence[1:])
            position += 1
        rows.append(np.concatenate(parts)[:size])
    return rows


def _joined_pieces(
    sequences: Sequences, num: int, size: int, generator: np.random.Generator
) -> list[np.ndarray]:
    """Rows joined from pieces of many sequences, chosen to hold many different tokens.

    A token is worth the root of its frequency, divided by one more than the number of chosen pieces
    that hold it; a piece, the sum over its distinct tokens divided by its length. What a piece is
    worth only falls, so a heap whose top is weighed anew gives the best one.
    """
    shortest, longest = _piece_sizes(size)
    frequency = sequences.token_counts(1 + int(sequences.tokens.max(initial=0)))
    long_enough = np.flatnonzero(sequences.lengths >= shortest)
    most = max(MOST_CUT, 10 * num)
    if len(long_enough) > most:
        sequences = sequences.take(np.sort(generator.choice(long_enough, most, replace=False)))
    pieces = []
    for index in range(len(sequences)):
        sequence = sequences[index]
        end = len(sequence)
        while end >= shortest:
            begin = max(0, end - int(generator.integers(shortest, longest + 1)))
            pieces.append(sequence[begin:end])
            end = begin
    _refuse_fewer(num, len(pieces), f"pieces of {shortest} events or more")
    distinct = [np.unique(piece) for piece in pieces]
    chosen_with = np.zeros(len(frequency))
    root = np.sqrt(frequency)
    value = root.copy()  # of each token, less the more chosen pieces hold it

    def worth(index: int) -> float:
        return float(value[distinct[index]].sum()) / len(pieces[index])

    heap = [(-worth(index), index) for index in range(len(pieces))]
    heapq.heapify(heap)
    chosen: list[np.ndarray] = []
    total = 0
    while heap and (total < num * size or len(chosen) < num):
        _, index = heapq.heappop(heap)
        now = -worth(index)
        if heap and now > heap[0][0]:
            heapq.heappush(heap, (now, index))
            continue
        chosen.append(pieces[index])
        total += len(pieces[index])
        held = distinct[index]
        chosen_with[held] += 1
        value[held] = root[held] / (1 + chosen_with[held])
    order = generator.permutation(len(chosen))
    tokens = np.concatenate([chosen[int(index)] for index in order])[: num * size]
    return np.array_split(tokens, num)
