"""What SIGINT and SIGTERM do to a command whose work can be taken up again."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from farzi.cli._common import EXIT_INTERRUPTED, EXIT_STOPPED

__all__ = ["Stop", "stop_on_signal"]


@dataclass
class Stop:
    """Whether SIGINT or SIGTERM came, and whether anybody asks.

    Attributes:
        got: the signal, or None.
        is_polled: whether a run asks between its steps; else the command ends where it is, since
            there is nothing to save.
    """

    got: int | None = None
    is_polled: bool = False

    def asked(self) -> bool:
        """Whether a stop was asked for."""
        return self.got is not None

    @property
    def code(self) -> int:
        """The exit code of a command that was stopped and can be taken up again."""
        return EXIT_INTERRUPTED if self.got == signal.SIGINT else EXIT_STOPPED

    @contextmanager
    def polled(self) -> Iterator[None]:
        """While the block runs, it asks."""
        self.is_polled = True
        try:
            yield
        finally:
            self.is_polled = False


@contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Note the first SIGINT or SIGTERM, so that the run saves and stops; a second one ends it."""
    stop = Stop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: Any) -> None:
        stop.got = number
        outer = before[signal.Signals(number)]
        if not stop.is_polled and callable(outer):
            outer(number, frame)  # it says what came and leaves, or sends it again after an import
            return
        for restored, handler in before.items():
            signal.signal(restored, handler)
        if not stop.is_polled:
            raise SystemExit(EXIT_STOPPED)

    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
