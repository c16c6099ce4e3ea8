"""Which columns of a table are the user, the item and the time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from farzi.errors import DataError

__all__ = ["ROLES", "ROW_ORDER", "Columns", "choose_columns", "shorten", "usual_roles"]

ROW_ORDER = "row"  # as a time column: the rows are in time order already
ROLES = ("user", "item", "time")

# As `_plain` leaves them: `User ID`, `userId` and `user_id` are all `userid`. Earlier names win.
_USUAL_NAMES = {
    "user": (
        "userid", "user", "uid", "reviewerid", "customerid", "customer", "visitorid", "visitor",
        "memberid", "member", "accountid", "account", "clientid", "client", "sessionid", "session",
    ),
    "item": (
        "itemid", "item", "iid", "movieid", "movie", "parentasin", "asin", "productid", "product",
        "articleid", "article", "trackid", "track", "songid", "song", "videoid", "video", "bookid",
        "book", "isbn", "sku",
    ),
    "time": (
        "timestamp", "time", "ts", "order", "unixreviewtime", "datetime", "date", "eventtime",
        "createdat",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """The columns that hold user, item and time; None: the first usual name that is there.

    `tie` is the column that decides between events of one time; None: their place in the source.
    """

    user: str | None = None
    item: str | None = None
    time: str | None = None
    tie: str | None = None

    @property
    def given(self) -> dict[str, str]:
        """Role to column, of those that are given."""
        named = {"user": self.user, "item": self.item, "time": self.time, "tie": self.tie}
        return {role: name for role, name in named.items() if name is not None}

    @property
    def by_number(self) -> bool:
        """Whether all that are given are numbers, as in a file without a header line."""
        given = list(self.given.values())
        return any(map(str.isdecimal, given)) and all(
            name.isdecimal() or name == ROW_ORDER for name in given
        )


@dataclass(frozen=True)
class Chosen:
    """The columns that are read.

    Args:
        user: name of the column, as in the table.
        item: likewise.
        time: likewise, or `row`.
        tie: name of the column that decides between events of one time, or none.
        in_row_order: whether the place of a row is its time.
        notes: which other columns could have been meant.
    """

    user: str
    item: str
    time: str
    in_row_order: bool
    notes: tuple[str, ...] = ()
    tie: str | None = None

    @property
    def columns(self) -> Columns:
        """As `prepare` takes them."""
        return Columns(self.user, self.item, self.time, self.tie)

    @property
    def read(self) -> dict[str, str]:
        """Role to column, of those that are columns."""
        roles = {"user": self.user, "item": self.item}
        if not self.in_row_order:
            roles["time"] = self.time
        if self.tie is not None:
            roles["tie"] = self.tie
        return roles


def choose_columns(
    label: str,
    names: Sequence[str],
    columns: Columns,
    *,
    nested: Sequence[str] = (),
    without_header: str = "",
) -> Chosen:
    """Which column is the user, the item and the time.

    Args:
        label: what an error calls the source.
        names: the table's columns.
        columns: what was asked for.
        nested: dotted names of what stands inside a column; taken only when asked for.
        without_header: what to do in a file without a header line, for the error.

    Raises:
        DataError: a column is not there, or there are several of its name.
    """
    bare = {name.split(":")[0]: name for name in reversed(names)}  # RecBole: `user_id:token`
    exact = {**{name: name for name in nested}, **bare, **{name: name for name in names}}
    chosen, notes = {}, []
    for role in ROLES if columns.tie is None else (*ROLES, "tie"):
        asked = getattr(columns, role)
        usual = _usual_columns(names, role) if role in ROLES else []
        if asked in exact or (asked == ROW_ORDER and role == "time"):
            chosen[role] = exact.get(asked, ROW_ORDER)
        elif asked is None and usual:
            chosen[role] = usual[0]
            if others := usual[1:]:
                listed = ", ".join(repr(shorten(name)) for name in others[:5])
                also = "is" if len(others) == 1 else "are"
                notes.append(
                    f"{role} column {shorten(usual[0])!r}; there {also} also {listed} "
                    f"(--{role}-col)"
                )
        else:
            missing = f"no column {shorten(asked)!r}" if asked is not None else f"no {role} column"
            hint = _hint(role, asked, nested, without_header)
            raise DataError(f"{label}: {missing} among {shorten(', '.join(names))}; {hint}.")
        if names.count(chosen[role]) > 1:
            raise DataError(f"{label}: there are several columns {chosen[role]!r}.")
    in_row_order = chosen["time"] == ROW_ORDER and ROW_ORDER not in exact
    if in_row_order and columns.tie is not None:
        raise DataError(f"{label}: --tie-col: rows in time order have no ties.")
    return Chosen(**chosen, in_row_order=in_row_order, notes=tuple(notes))


def usual_roles(names: Sequence[str]) -> set[str]:
    """The roles that a usual name stands for."""
    return {role for role in ROLES if _usual_columns(names, role)}


def shorten(text: str, length: int = 120) -> str:
    """One line of what may be anything, safe to print to a terminal."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))
    return line if len(line) <= length else line[: length - 1] + "…"


def _usual_columns(names: Sequence[str], role: str) -> list[str]:
    """Columns with a usual name, the most usual first, in no other way ordered by the table's."""
    usual = _USUAL_NAMES[role]
    found = {name: usual.index(_plain(name)) for name in names if _plain(name) in usual}
    return sorted(found, key=lambda name: (found[name], "_" not in name, name))


def _plain(name: str) -> str:
    """`User ID`, `userId`, `user_id` and `user_id:token` without what tells them apart."""
    return re.sub(r"[\s_.-]", "", name.split(":")[0]).lower()


def _hint(role: str, asked: str | None, nested: Sequence[str], without_header: str) -> str:
    """What to do about a column that is not there."""
    hints = [without_header] if without_header else []
    if role == "time" and asked is None:
        hints.append(f"`{ROW_ORDER}` where the rows are in time order")
    if nested:
        hints.append(
            f"what stands inside a column by a dotted name: {shorten(', '.join(nested), 60)}"
        )
    aside = f" ({'; '.join(hints)})" if hints else ""
    return f"name it with --{role}-col{aside}"
