"""From files, flags and mappings to `DistillSettings`: every mistake at once, each with its place.

Layers of values are merged, later ones going before earlier ones; names that nothing knows come
back with the closest that there are. Pydantic checks each value's type; ranges are checked by the
settings themselves, so that a value given in Python is held to the same.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import tomllib
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from farzi.data.prepared import PreparedData
from farzi.distill.kinds import closest
from farzi.distill.presets import OF_A_CHOICE, default_size, many_rows, no_outer_steps, preset
from farzi.distill.ranges import WrongSettingsError
from farzi.distill.settings import (
    CHOICES,
    FROM_DATA,
    DistillSettings,
    InnerSettings,
    OuterSettings,
    RoutineSettings,
    StudentSettings,
    TeacherSettings,
    lowered_window,
)
from farzi.errors import SettingsError
from farzi.models import STUDENTS

__all__ = ["Layer", "check_layers", "layer_of", "read_file", "read_flags", "settings_for", "typed"]

GROUPS: Mapping[str, type] = {
    "": DistillSettings,
    "teachers": TeacherSettings,
    "inner": InnerSettings,
    "routine": RoutineSettings,
    "outer": OuterSettings,
}


@dataclass(frozen=True)
class Layer:
    """Settings from one place, by dotted names.

    Args:
        values: dotted name -> value.
        where: dotted name -> how a person finds it: `run.toml:3`, `--set inner.steps=5`.
    """

    values: Mapping[str, Any]
    where: Callable[[str], str]


def layer_of(values: Mapping[str, Any], where: Callable[[str], str] | None = None) -> Layer:
    """A layer from a nested mapping; `{"inner": {"steps": 5}}` and `{"inner.steps": 5}` are one.

    Args:
        values: nested values. A choice is a name, a mapping with `name`, or the value itself.
        where: dotted name -> place; the name itself by default.
    """
    return Layer(dict(_flat(values)), where or (lambda name: f"`{name}`"))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        dotted = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{dotted}.")
        elif isinstance(value, str) and (dotted in CHOICES or dotted == "student"):
            yield f"{dotted}.name", value
        else:
            yield dotted, value


def read_file(path: Path) -> Layer:
    """Settings from a TOML or JSON file.

    Raises:
        SettingsError: it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise SettingsError(f"--config {path}: {error.strerror}.") from None
    except ValueError as error:
        raise SettingsError(f"--config {path}: {error}.") from None
    if not isinstance(values, dict):
        raise SettingsError(f"--config {path}: must hold names and values.")
    lines = _lines_of(text)

    def where(name: str) -> str:
        line = lines.get(name) or lines.get(name.removesuffix(".name"))
        if line is None:  # in a table on one line, or in JSON
            last = name.rsplit(".", 1)[-1]
            line = next((n for key, n in lines.items() if key.rsplit(".", 1)[-1] == last), None)
        return f"{path}:{line or 1}"

    return layer_of(values, where)


def _lines_of(text: str) -> dict[str, int]:
    """The line of each key of a TOML or JSON text, by dotted name as far as tables tell."""
    found: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[+\s*([\w.\-\"' ]+?)\s*\]+", line):
            table = re.sub(r"[\"' ]", "", header[1]) + "."
            continue
        for key in re.findall(r"(?:^\s*|[{,]\s*)[\"']?([\w.\-]+)[\"']?\s*[=:]", line):
            found.setdefault(f"{table}{key}", number)
    return found


def read_flags(texts: Iterable[str], flags: Mapping[str, tuple[str, Any]]) -> Layer:
    """Settings from `--set NAME=VALUE` and from flags of their own.

    Args:
        texts: of every `--set`.
        flags: dotted name -> (flag, value) of those that were given.

    Raises:
        SettingsError: a text is not NAME=VALUE.
    """
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    for name, (flag, value) in flags.items():
        values[name], places[name] = value, f"{flag} {value}"
    for text in texts:
        name, found, value = text.partition("=")
        name = name.strip()
        if not found or not name:
            raise SettingsError(f"--set must be NAME=VALUE, got {text!r}.")
        if name in CHOICES or name == "student":
            name = f"{name}.name"
        values[name], places[name] = typed(value.strip()), f"--set {text}"
    return Layer(values, lambda name: places.get(name) or f"`{name}`")


def typed(text: str) -> Any:
    """A value as a flag has it: JSON, a number or truth value as Python writes it, else text.

    Example:
        >>> from farzi.distill.parse import typed
        >>> typed("0.9"), typed(".9"), typed("1."), typed("True"), typed("adam")
        (0.9, 0.9, 1.0, True, 'adam')
    """
    try:
        return json.loads(text.lower() if text in ("True", "False") else text)
    except ValueError:
        return float(text) if re.fullmatch(r"[+-]?(\d+\.|\.\d+)", text) else text


def settings_for(data: PreparedData, *layers: Layer | Mapping[str, Any]) -> DistillSettings:
    """Settings for prepared data: presets, then each layer, the last one first in rank.

    Raises:
        SettingsError: something in the layers is wrong; all that is, is named with its place.

    Example:
        >>> from farzi.data import prepare
        >>> from farzi.distill.parse import settings_for
        >>> data = prepare("stdlib-docs")
        >>> settings_for(data, {"inner": {"optimizer": "sgd"}}).inner.optimizer.momentum
        0.9
    """
    given = [layer if isinstance(layer, Layer) else layer_of(layer) for layer in layers]
    asked = {name: value for layer in given for name, value in layer.values.items()}
    labels = asked.get("labels") is not False
    presets = preset(data.name, data.task, labels=labels)
    below = [Layer(presets, lambda name: f"preset of `{name}`")]
    settings = _Reader([*below, *given]).settings()
    if suggested := settings.start.suggests:
        below.append(layer_of(suggested, lambda name: f"what --start needs (`{name}`)"))
        settings = _Reader([*below, *given]).settings()
    known = {name for layer in (*below, *given) for name in layer.values}
    if not {"num_sequences", "length"} <= known:
        size = default_size(
            data,
            num_sequences=settings.num_sequences if "num_sequences" in known else None,
            length=settings.length if "length" in known else None,
            labels=settings.labels,
            rows=getattr(settings.start, "rows", "auto"),
        )
        settings = settings.with_values(size)
    if fits := {**many_rows(data, settings), **no_outer_steps(data, settings, asked)}:
        below.append(layer_of(fits, lambda name: f"what suits this source and size (`{name}`)"))
        size = {"num_sequences": settings.num_sequences, "length": settings.length}
        settings = _Reader([*below, *given]).settings().with_values(size)
    return settings


def check_layers(layers: Iterable[Layer]) -> None:
    """Refuse what is wrong whatever the data are, before they are read.

    Raises:
        SettingsError: as `settings_for`.
    """
    reader = _Reader(list(layers))
    if "student.name" not in reader.values and "student" not in reader.values:
        # Which student there is, and so which sizes it has, depends on the data.
        reader.drop("student")
    reader.settings()


class _Reader:
    """Merges layers and builds the settings, noting every mistake on the way."""

    def __init__(self, layers: list[Layer]) -> None:
        self.values: dict[str, Any] = {}
        self.places: dict[str, Callable[[str], str]] = {}
        for layer in layers:
            for name, value in layer.values.items():
                for choice in (*CHOICES, "student"):
                    if name == choice:  # a value replaces what was said of another kind
                        self.drop(choice)
                self.values[name] = value
                self.places[name] = layer.where
        self.mistakes: list[str] = []
        self.known: list[str] = []

    def drop(self, choice: str) -> None:
        """Forget what was said of a choice."""
        for name in [name for name in self.values if name.startswith(f"{choice}.")]:
            del self.values[name]

    def settings(self) -> DistillSettings:
        """The settings, or a SettingsError that names every mistake."""
        parts: dict[str, Any] = {"student": self._student()}
        for choice in CHOICES:
            parts[choice] = self._choice(choice)
        for group in GROUPS:
            self.known += [
                name
                for item in dataclasses.fields(GROUPS[group])
                if (name := f"{group}.{item.name}".lstrip(".")) not in (*GROUPS, *parts)
            ]
        self._refuse_unknown()
        for group in filter(None, GROUPS):
            inside = {
                choice.partition(".")[2]: value
                for choice, value in parts.items()
                if choice.startswith(f"{group}.")
            }
            parts[group] = self._group(group, inside)
        whole = self._group("", {name: x for name, x in parts.items() if "." not in name})
        if self.mistakes:
            text = "; ".join(self.mistakes)
            raise SettingsError(text if text.endswith("?") else f"{text}.")
        assert isinstance(whole, DistillSettings)
        return whole

    def _note(self, name: str, value: Any, what: str) -> None:
        place = self.places[name](name) if name in self.places else f"`{name}`"
        if place.startswith("--") and what.startswith("must"):
            flag = place.partition("=" if place.startswith("--set ") else " ")[0]
            self.mistakes.append(f"{flag} {what}, got {value!r}")
        elif place == f"`{name}`" and what.startswith("must"):
            self.mistakes.append(f"{place} {what}, got {value!r}")
        else:
            said = "" if place.endswith(str(value)) else f", got {value!r}"
            named = "" if name in place else f" `{name}`"
            self.mistakes.append(f"{place}:{named} {what}{said}")

    def _refuse_unknown(self) -> None:
        for name in self.values:
            if name not in self.known:
                self._note(name, self.values[name], f"unknown setting{suggest(name, self.known)}")

    def _student(self) -> StudentSettings | None:
        given = self._under("student")
        if isinstance(given, StudentSettings):
            self.known.append("student")
            return given
        name = given.pop("name", "sasrec")
        self.known.append("student.name")
        base = str(name).partition(":")[0]
        if base == "hf" or str(name).rpartition(":")[0].endswith(".py"):
            self.known += [f"student.{size}" for size in given]
            return StudentSettings(str(name), given)  # what it takes is seen when it is built
        if base not in STUDENTS:
            self._note("student.name", name, f"unknown student{closest(base, STUDENTS)}")
            self.known += [f"student.{size}" for size in given]
            return None
        hints = _hints(STUDENTS[base], without=FROM_DATA)
        self.known += [f"student.{size}" for size in hints]
        student = StudentSettings(name, self._checked("student", given, hints))
        try:
            student.build(num_tokens=2, context_length=2)
        except SettingsError as error:
            self._note("student.name", name, str(error).rstrip("."))
        return student

    def _choice(self, choice: str) -> Any:
        kinds = CHOICES[choice]
        group, _, last = choice.rpartition(".")
        default = getattr(GROUPS[group](), last)
        given = self._under(choice)
        if not isinstance(given, dict):
            self.known.append(choice)
            return given
        self.known.append(f"{choice}.name")
        names = {kinds[name]: name for name in kinds}
        name = given.pop("name", names[type(default)])
        if name not in kinds.places:
            what = f"unknown {kinds.what}{closest(str(name), kinds.places)}"
            self._note(f"{choice}.name", name, what)
            self.known += [f"{choice}.{item}" for item in given]
            return default
        hints = _hints(kinds[name])
        self.known += [f"{choice}.{item}" for item in hints]
        values = dict(OF_A_CHOICE.get(f"{choice}={name}", {}))
        return self._built(
            choice, kinds[name], values | self._checked(choice, given, hints), default
        )

    def _group(self, group: str, parts: dict[str, Any]) -> Any:
        kind = GROUPS[group]
        given = {name: x for name, x in self._under(group).items() if name not in parts}
        hints = _hints(kind)
        parts = {name: part for name, part in parts.items() if part is not None}
        checked = self._checked(group, given, hints)
        if kind is InnerSettings:
            checked |= lowered_window(checked, InnerSettings.window)
        return self._built(group, kind, parts | checked, kind())

    def _under(self, group: str) -> Any:
        """What was given for a group: its values by name, or the whole of it as a value."""
        if group in self.values:
            return self.values[group]
        if not group:
            return {name: value for name, value in self.values.items() if "." not in name}
        prefix = f"{group}."
        return {
            name.removeprefix(prefix): value
            for name, value in self.values.items()
            if name.startswith(prefix) and "." not in name.removeprefix(prefix)
        }

    def _checked(
        self, group: str, given: Mapping[str, Any], hints: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The values whose names are known, of the type that is declared."""
        checked = {}
        for name, value in given.items():
            if name not in hints:
                continue  # noted by `_refuse_unknown`
            taken = value
            if typing.get_origin(hints[name]) is tuple and not isinstance(value, tuple):
                # as JSON, TOML and flags have it; one value needs no brackets
                taken = tuple(value) if isinstance(value, list) else (value,)
            try:
                checked[name] = _adapter(hints[name]).validate_python(taken)
            except ValidationError as error:
                said = error.errors()[0]["msg"]
                what = said[0].lower() + said[1:].replace("Input should", "should")
                self._note(
                    f"{group}.{name}".lstrip("."), value, what.replace("input should", "must")
                )
        return checked

    def _built(self, group: str, kind: Any, values: Mapping[str, Any], default: Any) -> Any:
        """The dataclass of a group; mistakes of range are noted, and the default goes on."""
        prefix = f"{group}." if group else ""
        try:
            return kind(**values)
        except WrongSettingsError as error:
            for mistake in error.mistakes:
                self._note(f"{prefix}{mistake.name}", mistake.value, mistake.what)
        except ValueError as error:
            name = re.match(r"`(\w+)`", str(error))
            dotted = f"{prefix}{name[1]}" if name else group
            what = re.sub(r"^`\w+` |, got .*$|\.$", "", str(error))
            self._note(dotted, values.get(name[1] if name else "", ""), what)
        return default


def suggest(name: str, known: Iterable[str]) -> str:
    """`: did you mean ...?` for a name that is not known; nothing where none is close.

    Example:
        >>> from farzi.distill.parse import suggest
        >>> suggest("lr", ["inner.optimizer.lr", "inner.steps", "outer.lr_latent"])
        ': did you mean inner.optimizer.lr or outer.lr_latent?'
    """

    def likeness(candidate: str) -> float:
        last = candidate.rpartition(".")[2]
        forms = (candidate, candidate.replace(".", "_"), last)
        asked = name.rpartition(".")[2]
        ratios = [difflib.SequenceMatcher(None, name, form).ratio() for form in forms]
        same_end = last == asked or last.startswith(f"{asked}_") or asked.endswith(f"_{last}")
        return max([*ratios, 0.9 if same_end else 0.0])

    close = sorted(known, key=lambda candidate: (-likeness(candidate), candidate))[:3]
    close = [candidate for candidate in close if likeness(candidate) >= 0.7]
    return f": did you mean {' or '.join(close)}?" if close else ""


def _hints(kind: type, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """The declared types of the settings of a dataclass."""
    hints = typing.get_type_hints(kind)
    names = [item.name for item in dataclasses.fields(kind) if item.init]
    return {name: hints[name] for name in names if name not in without}


def _adapter(hint: Any) -> TypeAdapter[Any]:
    if dataclasses.is_dataclass(hint) or getattr(hint, "_is_protocol", False):
        return TypeAdapter(Any)
    return TypeAdapter(hint, config=ConfigDict(strict=True, arbitrary_types_allowed=True))
