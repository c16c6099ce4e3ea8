"""Windows over long sequences in which every token after the first is predicted exactly once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["Windows", "default_stride", "windows_over"]


def default_stride(context_length: int) -> int:
    """Half the context, rounded up: every later target then has half a context or more to read.

    Example:
        >>> from farzi.data.windows import default_stride
        >>> default_stride(50), default_stride(1)
        (25, 1)
    """
    return (context_length + 1) // 2


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows over many sequences, as arrays with one value for each window.

    Window `i` reads the tokens `starts[i]` to `starts[i] + lengths[i] - 1` of sequence
    `sequences[i]`. Its position `p` predicts token `starts[i] + p + 1` of that sequence; the
    positions from `firsts[i]` on are scored, the ones before them are context alone.

    Args:
        sequences: which sequence each window lies in, int64 (N,), never falling.
        starts: the first token that is read, int64 (N,).
        lengths: tokens read, int64 (N,), from 1 to the context length.
        firsts: the first position that is scored, int64 (N,).
    """

    sequences: NDArray[np.int64]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    firsts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts)


def windows_over(lengths: ArrayLike, context_length: int, stride: int | None = None) -> Windows:
    """Cover sequences with windows so that each token after the first is scored exactly once.

    The first window of a sequence starts at its beginning, and all its targets are scored. Each
    later window ends `stride` tokens after the one before it and scores only the targets that are
    new; the last one ends where the sequence ends. So a target past the first window has at least
    `context_length - stride + 1` tokens before it in its window, and every window of a sequence
    that does not fit into one is as long as the context.

    Args:
        lengths: tokens in each sequence, (num_sequences,). A sequence of fewer than two tokens has
            nothing to predict, and no window.
        context_length: tokens that the model reads at most, at least 1.
        stride: targets that each later window adds, from 1 to `context_length`; `default_stride`
            when None.

    Raises:
        ValueError: the context length or the stride is out of range.

    Cost:
        A model reads about `context_length / stride` times as many tokens as there are.

    Example:
        >>> from farzi.data.windows import windows_over
        >>> windows = windows_over([7], context_length=4, stride=2)
        >>> windows.starts.tolist(), windows.lengths.tolist(), windows.firsts.tolist()
        ([0, 2], [4, 4], [0, 2])
    """
    if context_length < 1:
        raise ValueError(f"`context_length` must be an int >= 1, got {context_length}.")
    if stride is None:
        stride = default_stride(context_length)
    if not 1 <= stride <= context_length:
        raise ValueError(
            f"`stride` must be an int from 1 to the context length {context_length}, got {stride}."
        )
    targets = np.maximum(np.asarray(lengths, np.int64) - 1, 0)
    later = -(-np.maximum(targets - context_length, 0) // stride)
    counts = np.where(targets > 0, 1 + later, 0)
    sequences = np.repeat(np.arange(len(targets)), counts)
    within = np.arange(len(sequences)) - np.repeat(np.cumsum(counts) - counts, counts)
    available = targets[sequences]
    starts = np.minimum(within * stride, np.maximum(available - context_length, 0))
    first_target = np.where(within > 0, context_length + (within - 1) * stride, 0)
    return Windows(sequences, starts, np.minimum(available, context_length), first_target - starts)
