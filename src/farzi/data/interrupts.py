"""A long query is left at SIGINT and SIGTERM, however busy the machine is.

Python runs a signal's handler between two of its own instructions, and a query is one. DuckDB asks
now and then whether a signal came, but only where its main thread is not at work itself, which
on few cores it may be for minutes. Python also writes the number of each signal to a file
descriptor at once, which a thread here reads.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

__all__ = ["interrupted_by_signals"]

_SIGNALS = frozenset((signal.SIGINT, signal.SIGTERM))


@contextlib.contextmanager
def interrupted_by_signals(interrupt: Callable[[], object]) -> Iterator[None]:
    """Call `interrupt` when SIGINT or SIGTERM comes, from another thread and at once.

    Nothing is done outside the main thread, and where somebody else reads the signals already, as
    an event loop does.

    Args:
        interrupt: of what is at work, such as `duckdb.DuckDBPyConnection.interrupt`; the handler of
            the signal runs after it.

    Example:
        >>> from farzi.data.interrupts import interrupted_by_signals
        >>> import duckdb
        >>> with duckdb.connect() as connection, interrupted_by_signals(connection.interrupt):
        ...     connection.execute("SELECT 6 * 7").fetchall()
        [(42,)]
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard, told = os.pipe()
    os.set_blocking(told, False)
    before = signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    if before != -1:
        signal.set_wakeup_fd(before)
        os.close(told)
        os.close(heard)
        yield
        return

    def listen() -> None:
        while numbers := os.read(heard, 64):
            if _SIGNALS.intersection(numbers):
                interrupt()

    listener = threading.Thread(target=listen, name="farzi-signals", daemon=True)
    listener.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        os.close(told)
        listener.join()
        os.close(heard)
