"""Students: small models, pure in their parameters, twice differentiable."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping
from typing import Any

from farzi.errors import SettingsError
from farzi.models.base import Head, Params, Student
from farzi.models.files import from_file

# A student is one line here: what is imported under its own name is in `STUDENTS`.
from farzi.models.fmlp import FMLP as FMLP
from farzi.models.gru4rec import GRU4Rec as GRU4Rec
from farzi.models.huggingface import from_huggingface
from farzi.models.losses import embedded_loss, hidden_states, logits, sequence_loss
from farzi.models.module import from_module
from farzi.models.rnn import RNN as RNN
from farzi.models.sasrec import SASRec as SASRec
from farzi.models.transformer import Transformer as Transformer

__all__ = [
    "STUDENTS",
    "Head",
    "Params",
    "Student",
    "build_student",
    "embedded_loss",
    "from_file",
    "from_huggingface",
    "from_module",
    "hidden_states",
    "logits",
    "same_student",
    "sequence_loss",
    "student_from",
    "with_dropout",
]

STUDENTS: dict[str, Any] = {
    vars(value)["name"]: value
    for value in list(globals().values())
    if isinstance(value, type) and isinstance(vars(value).get("name"), str)
}
"""The built-in students by name: frozen dataclasses of sizes that fulfil `Student`."""


OWN = {"module": "a module of the user's own", "huggingface": "a model of transformers"}
"""What the settings of students say that cannot be built from settings."""


def build_student(settings: Mapping[str, Any]) -> Student:
    """Build a student from its name and sizes, as `Student.settings` gives them.

    Raises:
        SettingsError: the name or a size is unknown, or a size is out of range.

    Example:
        >>> from farzi.models import build_student
        >>> build_student({"name": "sasrec", "num_tokens": 9, "context_length": 5}).width
        16
    """
    sizes = dict(settings)
    name = sizes.pop("name", None)
    if isinstance(name, str) and name in OWN:
        raise SettingsError(
            f"the student was {OWN[name]}, and no file names its code: say which it is, with "
            "--student on the command line."
        )
    if not isinstance(name, str) or name not in STUDENTS:
        close = difflib.get_close_matches(str(name), STUDENTS) or sorted(STUDENTS)
        raise SettingsError(f"unknown student {name!r}: did you mean {' or '.join(close)}?")
    fields = dataclasses.fields(STUDENTS[name])
    known = {field.name for field in fields}
    if unknown := sorted(set(sizes) - known):
        raise SettingsError(f"student {name!r} has no setting {unknown[0]!r}.")
    for field in fields:
        if field.type in (int, "int") and type(sizes.get(field.name, 0)) is not int:
            value = sizes[field.name]
            raise SettingsError(f"student {name!r}: `{field.name}` must be an int, got {value!r}.")
    for size in ("num_tokens", "context_length"):
        if size in sizes and sizes[size] < 1:
            raise SettingsError(
                f"student {name!r}: `{size}` must be an int >= 1, got {sizes[size]}."
            )
    try:
        student: Student = STUDENTS[name](**sizes)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"student {name!r}: {error}") from error
    return student


def student_from(
    text: str, defaults: Mapping[str, Any], settings: Mapping[str, Any] | None = None
) -> Student:
    """The student that a command line names.

    Args:
        text: a name, with settings of its own where there are any: `sasrec`, `rnn:cell=gru`; a
            causal language model of transformers by its configuration: `hf:config.json`,
            `hf:FOLDER`; or a function in a Python file: `my_models.py:make`, which is called as
            `make(num_tokens, context_length)` and returns a `torch.nn.Module` or a `Student`.
        defaults: sizes it takes where it has such a size and nothing else says so; `num_tokens`
            and `context_length` are always among them.
        settings: sizes that were asked for, which it must have; `text` goes before them.

    Raises:
        SettingsError: there is no such student, or it has no such setting, or it cannot be
            distilled for (see `from_module`).

    Example:
        >>> from farzi.models import student_from
        >>> sizes = {"num_tokens": 9, "context_length": 5, "width": 32, "num_trees": 3}
        >>> student_from("transformer:width=8,num_heads=2", sizes)
        Transformer(num_tokens=9, context_length=5, width=8, num_layers=1, num_heads=2, ...)
    """
    name, _, rest = text.partition(":")
    if name == "hf" or text.rpartition(":")[0].endswith(".py"):
        known = {"num_tokens", "context_length", "dropout"}
        for asked in settings or {}:
            if asked not in known:
                raise SettingsError(f"student {text!r} has no setting {asked!r}: it is in its own.")
        sizes = {key: value for key, value in defaults.items() if key in known}
        sizes |= settings or {}
        make = from_huggingface if name == "hf" else from_file
        try:
            return make(rest if name == "hf" else text, **sizes)
        except SettingsError as error:
            reason = str(error).removeprefix("student: ")
            raise SettingsError(f"student {text!r}: {reason}") from error
    asked_for = {**(settings or {}), **_settings_in(rest, text)}
    fields = dataclasses.fields(STUDENTS[name]) if name in STUDENTS else ()
    has = {field.name for field in fields}
    taken = {key: value for key, value in defaults.items() if key in has}
    return build_student({**taken, **asked_for, "name": name})


def same_student(settings: Mapping[str, Any], text: str | None = None) -> Student:
    """The student of an artifact or of a weights file.

    Args:
        settings: what the file says of it.
        text: what the command line says of it, as `student_from` reads it; needed where it is a
            model of the user's own.

    Raises:
        SettingsError: it is needed and not given, or it is another student than the file's.
    """
    if text is None:
        return build_student(settings)
    student = student_from(text, settings)
    now = student.settings()
    for name in ("name", "width", "fingerprint"):
        if now.get(name) != settings.get(name):
            raise SettingsError(
                f"--student {text} is not the student that was distilled for: its {name} is "
                f"{now.get(name)!r}, and that one's {settings.get(name)!r}."
            )
    return student


def with_dropout(student: Student, rate: float) -> Student:
    """The same student with another dropout rate; as it is where it knows of none.

    Example:
        >>> from farzi.models import SASRec, with_dropout
        >>> with_dropout(SASRec(num_tokens=9, context_length=5), 0.2).dropout
        0.2
    """
    value: Any = student
    fields = dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()
    if "dropout" not in {field.name for field in fields}:
        return student
    other: Student = dataclasses.replace(value, dropout=rate)
    return other


def _settings_in(own: str, text: str) -> dict[str, Any]:
    """`a=1,b=lstm` as names and values."""
    values: dict[str, Any] = {}
    for part in own.split(",") if own else ():
        name, found, value = part.partition("=")
        if not found:
            raise SettingsError(f"student {text!r}: {part!r} must be NAME=VALUE.")
        try:
            values[name.strip()] = json.loads(value)
        except ValueError:
            values[name.strip()] = value.strip()
    return values
