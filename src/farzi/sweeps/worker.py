"""One of several processes of a sweep: `python -m farzi.sweeps.worker FOLDER TRIALS DEVICE`.

`farzi.sweep(..., processes=N)` starts it.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from farzi.sweeps.run import work

__all__ = ["main"]


def main(arguments: list[str]) -> None:
    """Work until the sweep is done, a signal comes, or whoever started this is gone."""
    folder, wanted, device = arguments
    parent = os.getppid()
    asked: list[int] = []

    def note(number: int, frame: Any) -> None:
        asked.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, note)
    work(Path(folder), int(wanted), device, lambda: bool(asked) or os.getppid() != parent)


if __name__ == "__main__":
    main(sys.argv[1:])
