"""One user a line: the user, then the items in time order, as many repositories of the field."""

from __future__ import annotations

import glob
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from farzi.data.columns import ROW_ORDER, Chosen
from farzi.data.content import hash_lines, is_gzip, iterate_lines, stem_of
from farzi.data.formats import ReadAs
from farzi.data.readers.base import Log, literal, make_events
from farzi.errors import DataError, SettingsError

__all__ = ["UserLinesReader"]


@dataclass(frozen=True)
class UserLinesReader:
    """A file with one user a line.

    Args:
        path: the file, which may be gzip.
        read_as: what the caller says of it.
        notes: what was decided before.
    """

    path: Path
    read_as: ReadAs = field(default_factory=ReadAs)
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What results call it."""
        return stem_of(self.path)

    @property
    def label(self) -> str:
        """What errors call it."""
        return str(self.path)

    def read(self, connection: Any) -> Log:
        """Make an event of every item, in the order of the lines and of the items in them."""
        import duckdb

        if given := [
            flag for flag in self.read_as.flags if flag not in {"--format", "--delimiter"}
        ]:
            raise SettingsError(f"{given[0]}: {self.path} has one user a line, and no columns.")
        fingerprint = hash_lines(self.path)
        for _ in iterate_lines(self.path):  # every line is text
            pass
        try:
            self._load(connection)
        except duckdb.Error as error:
            reason = " ".join(str(error).split(": ", 1)[-1].split("\n")[0].split())
            raise DataError(f"{self.path}: cannot be read ({reason}).") from None
        short = connection.execute("SELECT min(line) FROM lines WHERE len(words) < 2").fetchone()[0]
        if short is not None:
            raise DataError(f"{self._line(short)}: a user without an item.")
        twice = connection.execute(
            "SELECT count(*) FROM "
            "(SELECT words[1] FROM lines GROUP BY words[1] HAVING count(*) > 1)"
        ).fetchone()[0]
        connection.execute(
            "CREATE TEMP TABLE raw AS SELECT row_number() OVER (ORDER BY line, place) - 1 AS row, "
            "line, words[1] AS user, words[place] AS item FROM "
            "(SELECT line, words, unnest(range(2, len(words) + 1)) AS place FROM lines)"
        )
        connection.execute("DROP TABLE lines")
        chosen = Chosen("user", "item", ROW_ORDER, in_row_order=True)

        def place(row: int) -> str:
            if row < 0:
                return str(self.path)
            found = connection.execute("SELECT line FROM raw WHERE row = ?", [row]).fetchone()
            return self._line(found[0])

        notes = list(make_events(connection, chosen, place))
        if twice:
            notes.append(
                f"{twice:,} users stand on several lines, joined in the order of the lines"
            )
        settings = {"format": "user-lines", "delimiter": self.read_as.delimiter}
        return Log(fingerprint, settings=settings, notes=(*self.notes, *notes))

    def _load(self, connection: Any) -> None:
        """Make the table `lines`: its place among the lines that hold anything, and its words."""
        given = self.read_as.delimiter
        between = "[ \t]+" if given in {None, " "} else f"[ \t]*{re.escape(str(given))}[ \t]*"
        words = rf"string_split_regex(trim(text, E' \t\r'), {literal(between)})"
        # One field a line: a delimiter and no quote that a line of text can hold.
        connection.execute(
            "CREATE TEMP TABLE lines AS SELECT row_number() OVER () - 1 AS line, "
            f"{words} AS words FROM read_csv({literal(glob.escape(str(self.path)))}, "
            "auto_detect=false, columns={'text': 'VARCHAR'}, header=false, delim=E'\\x01', "
            "quote='', escape='', "
            f"compression='{'gzip' if is_gzip(self.path) else 'none'}') "
            "WHERE trim(text, E' \\t\\r') <> ''"
        )

    def _line(self, place: int) -> str:
        """`FILE, line N`, of a place among the lines that hold anything."""
        for found, (number, _) in enumerate(iterate_lines(self.path)):
            if found == place:
                return f"{self.path}, line {number}"
        return str(self.path)
