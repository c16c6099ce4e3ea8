"""Named values: each kind in a file of its own, listed in one line, loaded when asked for."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from farzi.errors import SettingsError

__all__ = ["Kinds", "closest"]

Value = TypeVar("Value")


@dataclass(frozen=True)
class Kinds(Generic[Value]):
    """The classes of one sort of value by name.

    Args:
        what: the sort, for errors: "objective".
        places: name -> "module:class". A new one is one line.

    Example:
        >>> from farzi.distill.starts import STARTS
        >>> sorted(STARTS)
        ['artifact', 'random', 'real', 'teacher']
        >>> STARTS["real"]().rows
        'auto'
    """

    what: str
    places: Mapping[str, str]

    def __getitem__(self, name: str) -> type[Value]:
        """The class called `name`.

        Raises:
            SettingsError: there is none; the closest names are listed.
        """
        if name not in self.places:
            raise SettingsError(f"unknown {self.what} {name!r}{closest(name, self.places)}")
        module, _, attribute = self.places[name].partition(":")
        return cast("type[Value]", getattr(importlib.import_module(module), attribute))

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)


def closest(name: str, known: Mapping[str, object] | list[str]) -> str:
    """`: did you mean ...?` with the closest of the known names, or all where none is close.

    Example:
        >>> from farzi.distill.kinds import closest
        >>> closest("tacher", ["teacher", "real"])
        ': did you mean teacher?'
    """
    names = list(known)
    found = difflib.get_close_matches(str(name), names, n=3) or sorted(names)
    return f": did you mean {' or '.join(found)}?"
