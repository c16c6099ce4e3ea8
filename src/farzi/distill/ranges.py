"""Settings that are out of range: all of them, each with its name and its value."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from farzi.errors import SettingsError

__all__ = ["Mistake", "WrongSettingsError", "above_zero", "not_below_zero", "refuse", "share"]


class Mistake(NamedTuple):
    """One wrong value: its dotted name, the value, and what is wrong."""

    name: str
    value: Any
    what: str

    def __str__(self) -> str:
        return f"`{self.name}` {self.what}, got {self.value!r}"


class WrongSettingsError(SettingsError):
    """Some settings are out of range.

    Args:
        mistakes: all of them.
    """

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("; ".join(map(str, self.mistakes)) + ".")


def above_zero(group: object, *names: str) -> list[Mistake]:
    """The fields of `group` that are not above 0."""
    values = {name: getattr(group, name) for name in names}
    return [Mistake(name, x, "must be > 0") for name, x in values.items() if not x > 0]


def not_below_zero(group: object, *names: str) -> list[Mistake]:
    """The fields of `group` that are below 0."""
    values = {name: getattr(group, name) for name in names}
    return [Mistake(name, x, "must be >= 0") for name, x in values.items() if not x >= 0]


def refuse(mistakes: list[Mistake]) -> None:
    """Raise where there are mistakes."""
    if mistakes:
        raise WrongSettingsError(mistakes)


def share(group: object, *names: str) -> list[Mistake]:
    """The fields of `group` that are not in [0, 1]."""
    values = {name: getattr(group, name) for name in names}
    return [Mistake(name, x, "must be in [0, 1]") for name, x in values.items() if not 0 <= x <= 1]
