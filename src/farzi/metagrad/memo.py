"""What a step computes on the way forward and would compute again on the way back.

An adjoint that keeps something of every step may keep a `Memo` of each as well. While one is open,
`recall` notes what the loss computes, or gives it back. The values are the same either way, so a
loss can use it wherever it saves more time than the values take memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator
from contextvars import ContextVar

from torch import Tensor

__all__ = ["Memo", "Pages", "gradient_is_known", "knowing_gradient", "recall"]


class Pages:
    """Room for tensors of equal shape from each of `count` evaluations, in one block for each.

    Small blocks kept between larger ones that come and go would split the heap up: a process then
    takes up to twice the memory that it uses.

    Args:
        count: number of evaluations.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._blocks: dict[Hashable, Tensor] = {}

    def keep(self, place: Hashable, index: int, value: Tensor) -> Tensor:
        """`value`, or a copy of it in row `index` of the block for `place`, made when first used.

        What does not have the shape of the block's rows is kept as it is.
        """
        block = self._blocks.get(place)
        if block is None:
            block = self._blocks[place] = value.new_empty((self._count, *value.shape))
        row = block[index]
        if (row.shape, row.dtype, row.device) != (value.shape, value.dtype, value.device):
            return value
        return row.copy_(value.detach())


class Memo:
    """What one evaluation of the loss asked to have kept, in the order in which it did.

    Args:
        pages: where it is kept, together with that of other evaluations.
        index: number of this evaluation among them.
    """

    def __init__(self, pages: Pages | None = None, index: int = 0) -> None:
        self._pages = pages
        self._index = index
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
            computed = compute()
            self._kept.append(tuple(map(self._keep, range(len(computed)), computed)))
            return computed
        self._next += 1
        return self._kept[self._next - 1]

    def _keep(self, place: int, value: Tensor) -> Tensor:
        if self._pages is None:
            return value
        return self._pages.keep((len(self._kept), place), self._index, value)

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
