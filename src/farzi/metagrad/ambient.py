"""What the engine tells the functions that a loss calls: all of it, in one object.

A loss is called as (params, meta, step), and autograd calls what it recorded with cotangents
alone. What such functions may know besides of the evaluation that is going on stands here; nothing
else of the engine's state is ambient.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from farzi.metagrad.deferred import ThinProducts
    from farzi.metagrad.memo import Memo

__all__ = ["Ambient", "now", "within"]


@dataclass(frozen=True)
class Ambient:
    """The evaluation of a loss that is going on.

    Attributes:
        memo: where to note what is computed, or to take it from; None for neither.
        sinks: by identity the tensors that `readout` may read, each with where it sends the
            gradient; None where it is not wanted.
        gradient_is_known: whether a parameter's gradient is built for its graph only, since its
            value is there already.
    """

    memo: Memo | None = None
    sinks: Mapping[int, ThinProducts | None] = field(default_factory=dict)
    gradient_is_known: bool = False


_NOTHING = Ambient()
_NOW: ContextVar[Ambient] = ContextVar("farzi.metagrad", default=_NOTHING)


def now() -> Ambient:
    """What is going on."""
    return _NOW.get()


@contextlib.contextmanager
def within(**changes: Any) -> Iterator[None]:
    """In here `changes` hold, fields of `Ambient` by name."""
    token = _NOW.set(replace(_NOW.get(), **changes))
    try:
        yield
    finally:
        _NOW.reset(token)
