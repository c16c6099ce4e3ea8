"""How like a real sequence is to a synthetic one: by what it holds, and by order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from farzi.artifact import Artifact
from farzi.data.sequences import Sequences

__all__ = ["hard_rows", "likeliest_cosines", "longest_runs", "nearest_real", "soft_counts"]

Floats = NDArray[np.float64]


def soft_counts(artifact: Artifact) -> NDArray[np.float32]:
    """Return (S, V): how often each synthetic sequence is expected to hold each token.

    Cost:
        One decoded sequence (L, V) at a time.
    """
    counts = np.zeros((artifact.num_sequences, artifact.vocabulary_size), np.float32)
    for index, tokens in enumerate(_decoded(artifact)):
        if tokens.dim() == 1:
            counts[index] = np.bincount(tokens.numpy(), minlength=artifact.vocabulary_size)
        else:
            counts[index] = tokens.sum(0).numpy()
    return counts


def hard_rows(artifact: Artifact) -> list[NDArray[np.int64]]:
    """Return the likeliest token at every real place of each synthetic sequence."""
    return [
        (tokens if tokens.dim() == 1 else tokens.argmax(-1)).numpy()
        for tokens in _decoded(artifact)
    ]


def _decoded(artifact: Artifact) -> Iterator[torch.Tensor]:
    lengths = artifact.lengths
    for index in range(artifact.num_sequences):
        length = artifact.length if lengths is None else int(lengths[index])
        yield artifact.synthetic.tokens(torch.tensor([index]))[0, :length]


def nearest_real(
    sequences: Sequences, counts: NDArray[np.float32], most: int = 20_000
) -> tuple[NDArray[np.int64], Floats]:
    """Return for each bag of expected counts the real sequence of highest cosine, and that cosine.

    Items count by log(1 + N / number of sequences that have them), so that what everybody has does
    not decide.

    Args:
        sequences: the real ones.
        counts: (S, V).
        most: real sequences looked at, the first.
    """
    bags = _Bags(sequences, counts.shape[1], most)
    found = [bags.cosines(row) for row in counts]
    best = np.array([cosines.argmax() for cosines in found], np.int64)
    return best, np.array([cosines.max() for cosines in found])


def likeliest_cosines(sequences: Sequences, counts: NDArray[np.float32]) -> Floats:
    """Return for each real sequence the cosine of the synthetic one that is most like it."""
    bags = _Bags(sequences, counts.shape[1], len(sequences))
    best = np.zeros(len(sequences))
    for row in counts:
        np.maximum(best, bags.cosines(row), out=best)
    return best


class _Bags:
    """Weighted counts of real sequences, sparse."""

    def __init__(self, sequences: Sequences, size: int, most: int) -> None:
        self.num = min(len(sequences), most)
        tokens = np.asarray(sequences.tokens[: sequences.offsets[self.num]], dtype=np.int64)
        owners = np.repeat(np.arange(self.num), np.asarray(sequences.lengths[: self.num]))
        keys, counts = np.unique(owners * size + tokens, return_counts=True)
        self.owner, self.token = np.divmod(keys, size)
        having = np.bincount(self.token, minlength=size)
        self.weight = np.log1p(self.num / np.maximum(having, 1))
        self.values = counts * self.weight[self.token]
        self.norms = np.sqrt(np.bincount(self.owner, self.values**2, minlength=self.num))

    def cosines(self, row: NDArray[np.float32]) -> Floats:
        weighted = row * self.weight
        dots = np.bincount(self.owner, self.values * weighted[self.token], minlength=self.num)
        cosines: Floats = dots / np.maximum(self.norms * np.linalg.norm(weighted), 1e-12)
        return cosines


def longest_runs(sequences: Sequences, rows: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return for each real sequence the most consecutive tokens that one synthetic row repeats.

    Example:
        >>> import numpy as np
        >>> from farzi.data.sequences import Sequences
        >>> from farzi.privacy.likeness import longest_runs
        >>> real = Sequences.from_lists([[1, 2, 3, 4], [9, 8]])
        >>> longest_runs(real, [np.array([7, 2, 3, 4, 7]), np.array([8])]).tolist()
        [3, 1]
    """
    width = 1 + max(len(row) for row in rows)
    table = np.full((len(rows), width), -1, np.int64)  # a last column ends every row
    for number, row in enumerate(rows):
        table[number, : len(row)] = row
    flat = table.ravel()
    places = {int(token): np.flatnonzero(flat == token) for token in np.unique(flat) if token >= 0}
    longest = np.zeros(len(sequences), np.int64)
    for number, sequence in enumerate(sequences):
        before = np.zeros(len(flat) + 1, np.int64)  # [place + 1]: run that ends at the place
        touched = np.zeros(0, np.int64)
        for token in sequence.tolist():
            now = places.get(token)
            if now is None:
                before[touched + 1] = 0
                touched = np.zeros(0, np.int64)
                continue
            runs = before[now] + 1
            before[touched + 1] = 0
            before[now + 1] = runs
            touched = now
            longest[number] = max(longest[number], int(runs.max()))
    return longest
