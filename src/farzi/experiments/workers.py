"""Processes that make one piece of work after another, on one thread each.

A piece is a value that says what to make, and `make(piece, tell)` makes it and keeps the result
where others find it: nothing but notes and the reason of a failure comes back.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Generic, TypeAlias, TypeVar

from farzi.errors import FarziError

__all__ = ["Here", "Make", "Tell", "Worker", "ready"]

Piece = TypeVar("Piece")
Tell: TypeAlias = Callable[[str], None]
Make: TypeAlias = Callable[[Piece, Tell], None]


class Worker(Generic[Piece]):
    """A process that makes one piece after another, and ends when nobody listens any more.

    Args:
        make: makes a piece; it is sent to the process, so it is a function of a module, or a
            `functools.partial` of one with arguments that can be sent.
    """

    def __init__(self, make: Make[Piece]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, make), daemon=True)
        self.process.start()
        theirs.close()
        self.piece: Piece | None = None
        self.note = ""

    def begin(self, piece: Piece) -> None:
        """Send a piece; `hear` tells when it is made."""
        self.piece, self.note = piece, str(piece)
        self.connection.send(piece)

    def hear(self) -> str | None:
        """Take one message: afterwards `piece` is None where it is done, or failed for a reason."""
        try:
            kind, text = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            self.piece = None
            return f"its process ended with {self.process.exitcode}"
        if kind == "told":
            self.note = f"{self.piece}: {text}"
            return None
        self.piece = None
        return None if kind == "done" else str(text)

    def end(self) -> None:
        """End the process; a piece that is being made is lost."""
        self.connection.close()
        if self.piece is not None:
            self.process.terminate()
        self.process.join()


class Here(Generic[Piece]):
    """The same in this process: a piece is done when `begin` returns."""

    def __init__(self, make: Make[Piece]) -> None:
        self.make = make
        self.piece: Piece | None = None
        self.note = ""
        self.failed: str | None = None

    def begin(self, piece: Piece) -> None:
        """Make a piece."""
        self.piece, self.note = piece, str(piece)
        self.failed = _failure(self.make, piece, lambda note: None)

    def hear(self) -> str | None:
        """Say why it failed, or None."""
        self.piece = None
        return self.failed

    def end(self) -> None:
        """Nothing is left to end."""
        self.piece = None


def ready(workers: Sequence[Worker[Piece] | Here[Piece]]) -> list[Worker[Piece] | Here[Piece]]:
    """The workers that have something to say, within half a second."""
    away = [worker for worker in workers if isinstance(worker, Worker)]
    if not away:
        return list(workers)
    heard = wait([worker.connection for worker in away], timeout=0.5)
    return [worker for worker in away if worker.connection in heard]


def _work(connection: Connection, make: Make[Piece]) -> None:
    """What a worker does: one thread, one piece at a time."""
    import signal

    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    told_s = 0.0

    def tell(note: str) -> None:
        nonlocal told_s
        if time.monotonic() - told_s > 0.5:
            told_s = time.monotonic()
            with contextlib.suppress(OSError):  # nobody listens: the piece is finished, and kept
                connection.send(("told", note))

    while True:
        try:
            piece = connection.recv()
        except (EOFError, OSError):
            return
        reason = _failure(make, piece, tell)
        try:
            connection.send(("done", "") if reason is None else ("failed", reason))
        except OSError:
            return


def _leave_with_parent() -> None:
    """End this process when its parent is killed, so that the next run finds no one at its pieces.

    What is written of a piece is complete at every moment, and it is made again.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _failure(make: Make[Piece], piece: Piece, tell: Tell) -> str | None:
    """Make a piece; why it failed, or None."""
    try:
        make(piece, tell)
    except FarziError as error:
        return " ".join(str(error).split())
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return None
