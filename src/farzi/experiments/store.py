"""Finished results in a folder: a small JSON file each, named by what it depends on.

A result is found again by its identity: every value that it depends on, the format of results among
them. It is written under another name and put in place, so that a file is complete or not there.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from farzi.data.files import write_text
from farzi.distill.settings import YOUNGER
from farzi.errors import DataError

__all__ = [
    "RESULT_FORMAT",
    "Store",
    "key_of",
    "named_by",
    "read_result",
    "source_hash",
    "wall_seconds",
]

RESULT_FORMAT = 1
"""Raised when the code changes what a run scores: no earlier result is then taken for a new one."""


def key_of(identity: Mapping[str, Any]) -> str:
    """A short name of an identity: 16 hexadecimal digits.

    Example:
        >>> from farzi.experiments.store import key_of
        >>> key_of({"row": "full", "seed": 0}) == key_of({"seed": 0, "row": "full"})
        True
    """
    text = json.dumps(identity, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def source_hash() -> str:
    """A hash of farzi's own code: `compare` takes up no result of other code."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")) + sorted(root.rglob("*.c")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


_LATER: Mapping[str, Mapping[str, Any]] = {
    **YOUNGER,
    "": {**YOUNGER[""], "schedule": "constant", "shift": 0, "num_steps": 0},  # of a `Choice`
}


def named_by(settings: Mapping[str, Any], group: str = "") -> dict[str, Any]:
    """What of settings, and of the groups in them, is part of an identity.

    Settings younger than some kept results are, where they differ from what was then.

    Example:
        >>> from farzi.experiments.store import named_by
        >>> named_by({"lr": 0.01, "schedule": "constant"})
        {'lr': 0.01}
    """
    later = _LATER[group]
    return {
        name: named_by(value, name) if name in _LATER and isinstance(value, Mapping) else value
        for name, value in settings.items()
        if name not in later or value != later[name]
    }


@dataclass(frozen=True)
class Store:
    """A folder of finished results.

    Args:
        folder: where; None keeps them in memory.
    """

    folder: Path | None = None
    _held: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)

    def path(self, identity: Mapping[str, Any]) -> Path | None:
        """The file of a result, there or not."""
        if self.folder is None:
            return None
        names = [str(identity[name]) for name in ("kind", "row") if name in identity]
        numbered = [name for name in ("split_seed", "seed", "config") if name in identity]
        names += [f"{name.removesuffix('_seed')}-{identity[name]}" for name in numbered]
        label = re.sub(r"[^\w.-]+", "-", ".".join(names))
        return self.folder / f"{label}.{key_of(identity)}.json"

    def get(self, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        """The result with this identity, or None where there is none.

        Raises:
            DataError: its file cannot be read, or holds another.
        """
        path = self.path(identity)
        if path is None:
            return self._held.get(key_of(identity))
        return read_result(path, identity)

    def put(
        self,
        identity: Mapping[str, Any],
        result: Mapping[str, Any],
        wall_s: float | None = None,
    ) -> None:
        """Write a result, complete or not at all.

        Args:
            identity: what it depends on.
            result: JSON values.
            wall_s: seconds that it took to make, where that is known.
        """
        path = self.path(identity)
        if path is None:
            self._held[key_of(identity)] = json.loads(json.dumps(result))
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        spent = None if wall_s is None else round(wall_s, 2)
        text = json.dumps({"identity": identity, "wall_s": spent, "result": result})
        write_text(path, text + "\n")

    def clear(self) -> None:
        """Remove every result."""
        self._held.clear()
        for path in [] if self.folder is None else self.folder.glob("*.json"):
            path.unlink()

    def take(
        self, identity: Mapping[str, Any], make: Callable[[], Mapping[str, Any]]
    ) -> tuple[dict[str, Any], bool]:
        """The result, made and kept where there is none; and whether it was there."""
        if (found := self.get(identity)) is not None:
            return found, True
        started = time.perf_counter()
        made = dict(make())
        self.put(identity, made, time.perf_counter() - started)
        return made, False


def wall_seconds(path: Path) -> float | None:
    """Seconds that the result in a file took to make; None where that is not known."""
    try:
        seconds = json.loads(path.read_text(encoding="utf-8")).get("wall_s")
    except (OSError, ValueError, AttributeError):
        return None
    return None if seconds is None else float(seconds)


def read_result(path: Path, identity: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """The result in a file; None where there is no such file.

    Args:
        path: the file.
        identity: what it must depend on; None takes any.

    Raises:
        DataError: the file cannot be read, or holds another result.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        found, result = values["identity"], values["result"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: is no result ({reason}); remove it to have it again.") from None
    if identity is not None and found != json.loads(json.dumps(identity)):
        raise DataError(f"{path}: is the result of something else; remove it to have it again.")
    return dict(result)
