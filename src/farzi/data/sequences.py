"""Token sequences of different lengths in two flat arrays, memory-mapped when loaded."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from farzi.data.columns import shorten
from farzi.data.files import check_regular, replacing
from farzi.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["Sequences"]

_CHUNK = 1 << 22  # tokens handled together where every one takes an index of its own


@dataclass(frozen=True, eq=False)
class Sequences:
    """An immutable list of token sequences: a ragged int32 array.

    Sequence `i` is `tokens[offsets[i]:offsets[i + 1]]`. Nothing is copied by looking at one, and
    a loaded value stays on disk until it is read.

    Args:
        tokens: int32 (num_tokens,), every sequence after the other.
        offsets: int64 (num_sequences + 1,), from 0 to num_tokens, never falling.

    Raises:
        ValueError: the arrays do not describe sequences.

    Example:
        >>> from farzi.data.sequences import Sequences
        >>> events = Sequences.from_lists([[3, 1, 2], [5]])
        >>> len(events), events.num_tokens, events[0].tolist(), events.lengths.tolist()
        (2, 4, [3, 1, 2], [3, 1])
        >>> tokens, mask = events.padded([0, 1], length=2)
        >>> tokens.tolist(), mask.tolist()
        ([[1, 2], [5, 0]], [[True, True], [True, False]])
    """

    tokens: NDArray[np.int32]
    offsets: NDArray[np.int64]

    def __post_init__(self) -> None:
        problem = _problem(self.tokens, self.offsets)
        if problem:
            raise ValueError(problem)
        for name in ("tokens", "offsets"):
            view = getattr(self, name).view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)

    @classmethod
    def from_lists(cls, lists: Iterable[Sequence[int] | NDArray[np.int32]]) -> Sequences:
        """Make sequences from lists of token ids."""
        rows = [np.asarray(row, dtype=np.int32).reshape(-1) for row in lists]
        return cls(
            np.concatenate([np.zeros(0, np.int32), *rows]), _offsets([len(row) for row in rows])
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> NDArray[np.int32]:
        """Sequence `index` as a read-only view."""
        index = range(len(self))[index]
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]

    def __iter__(self) -> Iterator[NDArray[np.int32]]:
        return (self[index] for index in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequences):
            return NotImplemented
        return np.array_equal(self.offsets, other.offsets) and np.array_equal(
            self.tokens, other.tokens
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Sequences({len(self):,} sequences, {self.num_tokens:,} tokens)"

    @property
    def num_tokens(self) -> int:
        """Tokens of all sequences together."""
        return len(self.tokens)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens in each sequence, int64 (num_sequences,)."""
        return np.diff(self.offsets)

    def token_counts(self, size: int) -> NDArray[np.int64]:
        """How often each of `size` tokens stands in the sequences, int64 (size,)."""
        counts = np.zeros(size, np.int64)
        for start in range(0, self.num_tokens, _CHUNK):
            counts += np.bincount(self.tokens[start : start + _CHUNK], minlength=size)
        return counts

    def take(self, indices: ArrayLike) -> Sequences:
        """The sequences at `indices`, in that order, copied."""
        chosen = self._indices(indices)
        return self._cut(self.offsets[chosen], self.offsets[chosen + 1])

    def last(self, length: int) -> Sequences:
        """Each sequence cut to its last `length` tokens."""
        _check_length(length)
        ends = self.offsets[1:]
        return self._cut(np.maximum(self.offsets[:-1], ends - length), ends)

    def without_last(self, count: int) -> Sequences:
        """Each sequence without its last `count` tokens."""
        starts = self.offsets[:-1]
        return self._cut(starts, np.maximum(starts, self.offsets[1:] - count))

    def padded(
        self, indices: ArrayLike, length: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """A batch of rows of one length: each sequence's last `length` tokens, then padding.

        Args:
            indices: which sequences, (B,).
            length: row length L, at least 1.

        Returns:
            tokens, int64 (B, L), 0 where padded; mask, bool (B, L), False where padded.
        """
        _check_length(length)
        chosen = self._indices(indices)
        ends = self.offsets[chosen + 1]
        starts = np.maximum(self.offsets[chosen], ends - length)
        positions = starts[:, None] + np.arange(length)
        mask = positions < ends[:, None]
        tokens = np.zeros((len(chosen), length), np.int64)
        tokens[mask] = self.tokens[positions[mask]]
        return tokens, mask

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `PATH.tokens.npy` and `PATH.offsets.npy`, each under another name first."""
        tokens_file, offsets_file = _files(path)
        _write(tokens_file, self.tokens)
        _write(offsets_file, self.offsets)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Sequences:
        """Map the two files that `save` wrote; nothing but the offsets is read.

        Raises:
            DataError: a file is missing or is not what `save` writes.
        """
        arrays = []
        for file in _files(path):
            try:
                check_regular(Path(file))
                arrays.append(np.load(file, mmap_mode="r", allow_pickle=False))
            except Exception as error:  # numpy reads the header as Python, and fails as Python does
                raise DataError(f"{file}: cannot be read ({_one_line(error)}).") from None
        tokens, offsets = arrays
        problem = _problem(tokens, offsets)
        if problem:
            raise DataError(f"{os.fspath(path)}: {problem}")
        return cls(tokens, offsets)

    def _cut(self, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Sequences:
        offsets = _offsets(ends - starts)
        tokens = np.empty(offsets[-1], np.int32)
        for rows in _chunks(offsets):
            first, last = offsets[rows.start], offsets[rows.stop]
            shift = np.repeat(
                starts[rows] - offsets[rows], np.diff(offsets[rows.start : rows.stop + 1])
            )
            tokens[first:last] = self.tokens[np.arange(first, last) + shift]
        return Sequences(tokens, offsets)

    def _indices(self, indices: ArrayLike) -> NDArray[np.int64]:
        chosen = np.asarray(indices)
        if chosen.size == 0:
            return np.zeros(0, np.int64)
        if chosen.ndim != 1 or chosen.dtype.kind not in "iu":
            raise ValueError("`indices` must be a list of int.")
        if chosen.min() < 0 or chosen.max() >= len(self):
            raise IndexError(f"`indices` must be from 0 to {len(self) - 1}.")
        return chosen.astype(np.int64)


def _chunks(offsets: NDArray[np.int64]) -> Iterator[slice]:
    """Rows that hold a few million tokens together, or one that holds more: bounds the memory."""
    start, count = 0, len(offsets) - 1
    while start < count:
        limit = offsets[start] + _CHUNK
        stop = max(start + 1, int(np.searchsorted(offsets, limit, side="right")) - 1)
        yield slice(start, stop)
        start = stop


def _offsets(lengths: ArrayLike) -> NDArray[np.int64]:
    lengths = np.asarray(lengths, np.int64)
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _problem(tokens: NDArray[Any], offsets: NDArray[Any]) -> str | None:
    if tokens.ndim != 1 or tokens.dtype != np.dtype(np.int32):
        return f"`tokens` must be int32 of one dimension, got {tokens.dtype} {tokens.shape}."
    if offsets.ndim != 1 or offsets.dtype != np.dtype(np.int64) or len(offsets) == 0:
        return f"`offsets` must be int64 of one dimension, got {offsets.dtype} {offsets.shape}."
    if offsets[0] != 0 or offsets[-1] != len(tokens) or _falls(offsets):
        return f"`offsets` must rise from 0 to the number of tokens, {len(tokens)}."
    return None


def _falls(offsets: NDArray[Any]) -> bool:
    """Whether an offset is below the one before, a few million at a time."""
    starts = range(0, len(offsets), _CHUNK)
    return any((np.diff(offsets[start : start + _CHUNK + 1]) < 0).any() for start in starts)


def _check_length(length: int) -> None:
    if length < 1:
        raise ValueError(f"`length` must be an int >= 1, got {length}.")


def _files(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    stem = os.fspath(path)
    return Path(f"{stem}.tokens.npy"), Path(f"{stem}.offsets.npy")


def _write(file: Path, array: NDArray[Any]) -> None:
    with replacing(file) as draft, draft.open("wb") as stream:
        np.save(stream, array, allow_pickle=False)


def _one_line(error: BaseException) -> str:
    return shorten(str(error)) or type(error).__name__
