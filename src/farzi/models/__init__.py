"""Students: small models, pure in its parameters, twice differentiable."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from farzi.errors import SettingsError
from farzi.models.base import Params, Student
from farzi.models.causal import CausalTransformer
from farzi.models.losses import embedded_loss, sequence_loss
from farzi.models.sasrec import SASRec
from farzi.models.transformer import Transformer

__all__ = [
    "STUDENTS",
    "Params",
    "SASRec",
    "Student",
    "Transformer",
    "build_student",
    "embedded_loss",
    "sequence_loss",
]

STUDENTS: dict[str, type[CausalTransformer]] = {
    student.name: student for student in (SASRec, Transformer)
}


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
    if name not in STUDENTS:
        close = difflib.get_close_matches(str(name), STUDENTS) or sorted(STUDENTS)
        raise SettingsError(f"unknown student {name!r}: did you mean {' or '.join(close)}?")
    known = {field.name for field in dataclasses.fields(STUDENTS[name])}
    if unknown := sorted(set(sizes) - known):
        raise SettingsError(f"student {name!r} has no setting {unknown[0]!r}.")
    try:
        return STUDENTS[name](**sizes)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"student {name!r}: {error}") from error
