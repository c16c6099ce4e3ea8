"""An event log that is known by name: its columns are, and so may be its content."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from farzi.data.readers.base import Log, LogReader

__all__ = ["Known"]


@dataclass(frozen=True)
class Known:
    """A reader under the name of the dataset.

    Args:
        name: of the dataset.
        reader: what reads the copy that is at hand.
        sha256: of the unpacked file as published; none: not known.
    """

    name: str
    reader: LogReader
    sha256: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """What errors call it."""
        return self.name

    def read(self, connection: Any) -> Log:
        """Read it; its columns and layout are no settings of the caller's."""
        log = self.reader.read(connection)
        published = log.fingerprint == f"sha256:{self.sha256[0]}" if self.sha256 else None
        return Log(log.fingerprint, as_published=published)
