"""Checks of single values that came from a file or a caller: the fact, on one short line."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from farzi.artifact.layout import MAX_DEPTH, Json
from farzi.errors import ArtifactError

__all__ = ["check_json", "check_keys", "check_text", "check_type", "printable", "short"]


def check_keys(name: str, value: Json, expected: Mapping[str, type | tuple[type, ...]]) -> None:
    """Check that an object has these keys, no others, and these types."""
    check_type(name, value, dict)
    for key in expected:
        if key not in value:
            raise ArtifactError(f"`{key}` is missing in {name}.")
    for key, item in value.items():
        if key not in expected:
            raise ArtifactError(f"`{short(key)}` is not a key of {name}.")
        check_type(key, item, expected[key])


def check_type(name: str, value: Json, expected: type | tuple[type, ...]) -> None:
    """Check a JSON value's type; a bool is no int."""
    kinds = expected if isinstance(expected, tuple) else (expected,)
    if type(value) not in kinds:
        words = " or ".join(kind.__name__ for kind in kinds)
        raise ArtifactError(f"`{short(name)}` must be {words}, got {type(value).__name__}.")


def check_json(name: str, value: Mapping[str, Json]) -> None:
    """Refuse what JSON cannot hold: NaN, infinities, keys that are not strings, objects."""
    if not isinstance(value, Mapping):
        raise ArtifactError(f"`{name}` must be an object, got {type(value).__name__}.")
    for path, leaf in _leaves(name, value, depth=0):
        if isinstance(leaf, str):
            check_text(path, leaf)
        elif isinstance(leaf, float) and not math.isfinite(leaf):
            raise ArtifactError(f"`{short(path)}` is not finite.")
        elif not isinstance(leaf, int | float | None):
            raise ArtifactError(f"`{short(path)}` is a {type(leaf).__name__}, no JSON value.")


def check_text(name: str, text: str) -> None:
    """Refuse text that is not Unicode: a surrogate without its other half."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ArtifactError(f"`{short(name)}` holds half a character.") from None


def _leaves(path: str, value: Json, depth: int) -> Iterator[tuple[str, Json]]:
    if depth > MAX_DEPTH:
        raise ArtifactError(f"`{short(path)}` is nested more than {MAX_DEPTH} deep.")
    if isinstance(value, Mapping):
        for name, item in value.items():
            if not isinstance(name, str):
                raise ArtifactError(f"`{short(path)}` has a key that is not a string.")
            check_text(path, name)
            yield from _leaves(f"{path}.{name}", item, depth + 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _leaves(f"{path}.{index}", item, depth + 1)
    else:
        yield path, value


def printable(text: str) -> str:
    """Return text with control characters escaped: a terminal obeys some of them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def short(text: str) -> str:
    """Return untrusted text on one short line."""
    line = printable(text[:120])
    return line if len(text) <= 120 else line + "..."
