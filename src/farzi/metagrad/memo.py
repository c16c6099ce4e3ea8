"""What a step computes on the way forward and would compute again on the way back.

An adjoint that keeps something of every step may keep a `Memo` of each as well. While one is open,
`recall` notes what the loss computes, or gives it back. The values are the same either way, so a
loss can use it wherever it saves more time than the values take memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator

from torch import Tensor

from farzi.metagrad.ambient import now, within

__all__ = [
    "Memo",
    "Pages",
    "forgetting",
    "gradient_is_known",
    "linearising",
    "recall",
    "room_for",
]


class Pages:
    """Room for tensors of equal shape from each of `count` evaluations, in one block for each.

    Small blocks kept between larger ones that come and go would split the heap up: a process then
    takes up to twice the memory that it uses.

    Args:
        count: number of evaluations.
        spare_bytes: room for what is worth keeping only while there is little of it.
    """

    def __init__(self, count: int, spare_bytes: int = 0) -> None:
        self._count = count
        self._spare_bytes = spare_bytes
        self._granted: dict[Hashable, bool] = {}
        self._blocks: dict[Hashable, Tensor] = {}

    def grants(self, place: Hashable, num_bytes: int) -> bool:
        """Whether every evaluation may keep `num_bytes` at `place`; the first to ask decides."""
        if place not in self._granted:
            total = num_bytes * self._count
            self._granted[place] = total <= self._spare_bytes
            self._spare_bytes -= total if self._granted[place] else 0
        return self._granted[place]

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
        self._asked = 0

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Keep what `recall` is given in here."""
        self._kept, self._next, self._asked = [], None, 0
        with within(memo=self):
            yield

    @contextlib.contextmanager
    def replaying(self) -> Iterator[None]:
        """Give back in here what was kept."""
        self._next, self._asked = 0, 0
        with within(memo=self):
            yield

    def recall(
        self, compute: Callable[[], tuple[Tensor, ...]], *, in_pages: bool = True
    ) -> tuple[Tensor, ...]:
        """What was kept at this point of the evaluation, or `compute()` from now on."""
        if self._next is None:
            computed = compute()
            kept = map(self._keep, range(len(computed)), computed) if in_pages else _alone(computed)
            self._kept.append(tuple(kept))
            return computed
        self._next += 1
        return self._kept[self._next - 1]

    def room_for(self, num_bytes: int) -> bool:
        """Whether there is room for `num_bytes` of every evaluation at this point of it."""
        self._asked += 1
        return self._pages is not None and self._pages.grants(self._asked, num_bytes)

    def _keep(self, place: int, value: Tensor) -> Tensor:
        if self._pages is None:
            return value
        return self._pages.keep((len(self._kept), place), self._index, value)

    @property
    def num_bytes(self) -> int:
        """Bytes kept."""
        return sum(t.numel() * t.element_size() for kept in self._kept for t in kept)


def _alone(values: tuple[Tensor, ...]) -> Iterator[Tensor]:
    """The values without the graph that they will get."""
    return (value.detach() for value in values)


def recall(
    compute: Callable[[], tuple[Tensor, ...]], *, in_pages: bool = True
) -> tuple[Tensor, ...]:
    """`compute()`, or what it gave when this step was first evaluated.

    Large values are better kept as they are than `in_pages`, which copies them.
    """
    memo = now().memo
    return compute() if memo is None else memo.recall(compute, in_pages=in_pages)


def room_for(num_bytes: int) -> bool:
    """Whether a step may keep what takes more memory than most runs should give for it.

    It may where the steps of the whole window together leave room (`Stored.spare_bytes`). A loss
    asks at the same points of every evaluation.
    """
    memo = now().memo
    return memo is not None and memo.room_for(num_bytes)


def forgetting() -> contextlib.AbstractContextManager[None]:
    """Nothing is kept in here: what is computed comes in parts, and goes as it came."""
    return within(memo=None)


def linearising(*, known: bool) -> contextlib.AbstractContextManager[None]:
    """In here gradients get a graph.

    Args:
        known: whether the parameters' gradients are built for their graph only, since their values
            are there already.
    """
    return within(gradient_is_known=known)


def gradient_is_known() -> bool:
    """Whether a parameter's gradient may be left uncomputed, as zeros of the right shape."""
    return now().gradient_is_known
