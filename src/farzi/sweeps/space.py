"""What a sweep varies: each setting with its range or its values, as a person writes it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from farzi.distill.parse import typed
from farzi.errors import SettingsError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

__all__ = ["Axis", "Value", "named_student", "parse_axes", "parse_axis", "parse_fixed"]

Value: TypeAlias = bool | int | float | str

_HOW = "NAME=LOW..HIGH, NAME=LOW..HIGH:log or NAME=VALUE,VALUE,..."


@dataclass(frozen=True)
class Axis:
    """One setting that is varied.

    Attributes:
        name: of the setting.
        values: what is tried, where it is one of several.
        low: the lower end of a range, else None.
        high: the upper end.
        log: whether the range is searched by factors rather than by differences.
        text: how it was written.
    """

    name: str
    values: tuple[Value, ...] = ()
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    text: str = ""

    @property
    def probes(self) -> tuple[Value, ...]:
        """Values by which a mistake in the axis shows before any trial."""
        if self.low is None or self.high is None:
            return self.values
        return (self.low, self.high)

    def distribution(self) -> BaseDistribution:
        """What Optuna calls it."""
        from optuna import distributions

        if self.low is None or self.high is None:
            return distributions.CategoricalDistribution(self.values)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return distributions.IntDistribution(self.low, self.high, log=self.log)
        return distributions.FloatDistribution(self.low, self.high, log=self.log)


def parse_axis(text: str) -> Axis:
    """Read one axis.

    Two whole numbers make a range of whole numbers.

    Args:
        text: `NAME=LOW..HIGH`, `NAME=LOW..HIGH:log` or `NAME=VALUE,VALUE,...`.

    Raises:
        SettingsError: it is none of these.

    Example:
        >>> from farzi.sweeps.space import parse_axis
        >>> parse_axis("lr=0.001..0.1:log").probes, parse_axis("student=sasrec,gru4rec").probes
        ((0.001, 0.1), ('sasrec', 'gru4rec'))
    """
    name, values = _split(text, "--vary", _HOW)
    if ".." not in values:
        several = tuple(scalar(value) for value in re.split(r",(?![^:]*=)", values))
        if len(set(map(repr, several))) != len(several) or "" in several:
            raise SettingsError(f"--vary {text}: its values must differ, and none be empty.")
        return Axis(name, several, text=text)
    bounds, _, how = values.partition(":")
    if how not in ("", "log"):
        raise SettingsError(f"--vary {text}: after the range only :log can follow, got :{how}.")
    low, _, high = (scalar(bound) for bound in bounds.partition(".."))
    if not (_is_number(low) and _is_number(high)):
        raise SettingsError(f"--vary {text}: both ends of a range must be numbers.")
    assert not isinstance(low, str)
    assert not isinstance(high, str)
    if not low < high:
        raise SettingsError(f"--vary {text}: the lower end must be below the upper one.")
    if how == "log" and not low > 0:
        raise SettingsError(f"--vary {text}: a range by factors must begin above 0, got {low}.")
    return Axis(name, (), low, high, how == "log", text)


def parse_axes(texts: Iterable[str]) -> tuple[Axis, ...]:
    """Read the axes of a sweep; a name stands once.

    Raises:
        SettingsError: one is wrong, or there is none.
    """
    axes = tuple(parse_axis(text) for text in texts)
    if not axes:
        raise SettingsError(f"--vary must say what to try, as {_HOW}.")
    names = [axis.name for axis in axes]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise SettingsError(f"--vary must name {twice} once.")
    return axes


def parse_fixed(texts: Iterable[str]) -> dict[str, Value]:
    """Read settings that are the same in every trial, each `NAME=VALUE`.

    Raises:
        SettingsError: one is of another form.
    """
    pairs = (_split(text, "--set", "NAME=VALUE") for text in texts)
    return {name: scalar(value) for name, value in pairs}


def scalar(text: str) -> Value:
    """A value as written: a number, true or false, else text."""
    text = text.strip()
    value = typed(text)
    return value if isinstance(value, bool | int | float) else text


def named_student(student: str, own: Iterable[str]) -> str:
    """A student's name with settings of its own, each `NAME=VALUE`.

    Example:
        >>> from farzi.sweeps.space import named_student
        >>> named_student("rnn", ["cell=gru"]), named_student("rnn:cell=gru", ["width=8"])
        ('rnn:cell=gru', 'rnn:cell=gru,width=8')
    """
    more = ",".join(own)
    return f"{student}{',' if ':' in student else ':'}{more}" if more else student


def _split(text: str, flag: str, how: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    name = name.strip().replace("-", "_")
    if not equals or not name or not value.strip():
        raise SettingsError(f"{flag} must be {how}, got {text!r}.")
    return name, value.strip()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
