"""Ratings in blocks of one item each, as the Netflix Prize was published.

    1:
    1488844,3,2005-09-06
    822109,5,2005-05-13

A line `N:` begins the block of film N; below it stand a user, a rating and a date each.
"""

from __future__ import annotations

import glob
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farzi.data.columns import Chosen
from farzi.data.content import hash_lines, iterate_lines
from farzi.data.readers.base import Log, literal, make_events
from farzi.errors import DataError

__all__ = ["ItemBlocksReader"]

_HEAD = "^[0-9]+:$"
_EVENT = "^[0-9]+,[0-9]+,[0-9]{4}-[0-9]{2}-[0-9]{2}$"


@dataclass(frozen=True)
class ItemBlocksReader:
    """Files of item blocks, read one after the other.

    Args:
        name: what results call the log.
        paths: the files; a block does not go on in the next.
    """

    name: str
    paths: Sequence[Path]

    @property
    def label(self) -> str:
        """What errors call it."""
        return str(self.paths[0].parent)

    def read(self, connection: Any) -> Log:
        """Make an event of every line below a head."""
        import duckdb

        digests = [hash_lines(path) for path in self.paths]
        try:
            self._load(connection)
        except duckdb.Error as error:
            reason = " ".join(str(error).split(": ", 1)[-1].split("\n")[0].split())
            raise DataError(f"{self.label}: cannot be read ({reason}).") from None
        wrong = connection.execute(
            "SELECT min(line) FROM lines WHERE NOT regexp_matches(text, "
            f"'{_HEAD}') AND NOT regexp_matches(text, '{_EVENT}')"
        ).fetchone()[0]
        if wrong is not None:
            raise DataError(
                f"{self._place(connection, wrong)}: neither `ITEM:` nor `USER,RATING,YYYY-MM-DD`."
            )
        connection.execute(
            "CREATE TEMP TABLE raw AS SELECT row_number() OVER (ORDER BY events.line) - 1 AS row, "
            "events.line, split_part(events.text, ',', 1) AS user, "
            "rtrim(heads.text, ':') AS item, split_part(events.text, ',', 3) AS time, "
            "heads.filename IS NOT DISTINCT FROM events.filename AS own "
            f"FROM (SELECT * FROM lines WHERE regexp_matches(text, '{_EVENT}')) events "
            f"ASOF LEFT JOIN (SELECT * FROM lines WHERE regexp_matches(text, '{_HEAD}')) heads "
            "ON events.line >= heads.line"
        )
        orphan = connection.execute("SELECT min(line) FROM raw WHERE NOT own").fetchone()[0]
        if orphan is not None:
            raise DataError(f"{self._place(connection, orphan)}: no line `ITEM:` stands above it.")

        def place(row: int) -> str:
            if row < 0:
                return self.label
            found = connection.execute("SELECT line FROM raw WHERE row = ?", [row]).fetchone()
            return self._place(connection, found[0])

        notes = make_events(connection, Chosen("user", "item", "time", in_row_order=False), place)
        connection.execute("DROP TABLE lines")
        whole = hashlib.sha256("".join(digests).encode()).hexdigest()
        fingerprint = digests[0] if len(digests) == 1 else f"sha256:{whole}"
        return Log(fingerprint, notes=notes)

    def _load(self, connection: Any) -> None:
        """Make the table `lines`: of each that holds anything its place, its file and its text."""
        files = ", ".join(literal(glob.escape(str(path))) for path in self.paths)
        # One field a line: a delimiter and no quote that a line of text can hold.
        connection.execute(
            "CREATE TEMP TABLE lines AS SELECT row_number() OVER () AS line, filename, "
            r"trim(text, E' \t\r') AS text "
            f"FROM read_csv([{files}], auto_detect=false, columns={{'text': 'VARCHAR'}}, "
            "header=false, delim=E'\\x01', quote='', escape='', filename=true) "
            r"WHERE trim(text, E' \t\r') <> ''"
        )

    def _place(self, connection: Any, line: int) -> str:
        """`FILE, line N`, of a place among the lines that hold anything."""
        name, wanted = connection.execute(
            "SELECT any_value(filename), count(*) FROM lines WHERE line <= ? AND filename = "
            "(SELECT filename FROM lines WHERE line = ?)",
            [line, line],
        ).fetchone()
        lines = itertools.islice(iterate_lines(Path(name)), wanted - 1, None)
        return f"{name}, line {next(lines)[0]}"
