"""What a step computes on the way forward and would compute again on the way back.

An adjoint that keeps something of every step may keep a `Memo` of each as well. While one is open,
`recall` notes what the loss computes, or gives it back. The values are the same either way, so a
loss can use it wherever it saves more time than the values take memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

from torch import Tensor

__all__ = ["Memo", "gradient_is_known", "knowing_gradient", "recall"]


class Memo:
    """What one evaluation of the loss asked to have kept, in the order in which it did."""

    def __init__(self) -> None:
        self._kept: list[tuple[Tensor, ...]] = []
        self._next: int | None = None

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Keep what `recall` is given in here."""
        self._kept, self._next = [], None
        with self._open():
            yield

    @contextlib.contextmanager
    def replaying(self) -> Iterator[None]:
        """Give back in here what was kept."""
        self._next = 0
        with self._open():
            yield

    @contextlib.contextmanager
    def _open(self) -> Iterator[None]:
        token = _MEMO.set(self)
        try:
            yield
        finally:
            _MEMO.reset(token)

    def recall(self, compute: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """What was kept at this point of the evaluation, or `compute()` from now on."""
        if self._next is None:
            self._kept.append(compute())
            return self._kept[-1]
        self._next += 1
        return self._kept[self._next - 1]

    @property
    def num_bytes(self) -> int:
        """Bytes kept."""
        return sum(t.numel() * t.element_size() for kept in self._kept for t in kept)


_MEMO: ContextVar[Memo | None] = ContextVar("memo", default=None)
_KNOWN: ContextVar[bool] = ContextVar("known", default=False)


def recall(compute: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """`compute()`, or what it gave when this step was first evaluated."""
    memo = _MEMO.get()
    return compute() if memo is None else memo.recall(compute)


@contextlib.contextmanager
def knowing_gradient() -> Iterator[None]:
    """In here the parameters' gradients are built for their graph only: their values are known."""
    token = _KNOWN.set(True)
    try:
        yield
    finally:
        _KNOWN.reset(token)


def gradient_is_known() -> bool:
    """Whether a parameter's gradient may be left uncomputed, as zeros of the right shape."""
    return _KNOWN.get()
