"""Students that a function in a Python file makes."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from farzi.errors import SettingsError
from farzi.models.base import Student
from farzi.models.module import from_module

__all__ = ["from_file"]

_PARTS = ("init", "embedding", "hidden", "head", "settings")


def from_file(
    place: str, num_tokens: int, context_length: int, dropout: float | None = None
) -> Student:
    """The student that `FILE.py:FUNCTION` makes.

    The function is called as `FUNCTION(num_tokens, context_length)`, and again for fresh weights.
    It returns a `torch.nn.Module` (see `from_module`) or a `Student`. The file is run: it is the
    user's own code, named on their command line, never by an artifact.

    Raises:
        SettingsError: the file or the function is missing or fails, or the module is refused.
    """
    file, _, name = place.rpartition(":")
    function = _load(Path(file), name)

    def make() -> Any:
        try:
            return function(num_tokens, context_length)
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            call = f"{name}({num_tokens}, {context_length})"
            raise SettingsError(f"student: {call} fails: {reason}") from error

    made = make()
    if isinstance(made, nn.Module):
        student: Student = from_module(make, context_length, dropout=dropout)
    elif all(hasattr(made, part) for part in _PARTS):
        student = made
    else:
        kind = type(made).__name__
        raise SettingsError(
            f"student: {name} must return a torch.nn.Module or a farzi Student, got {kind}."
        )
    if student.num_tokens != num_tokens:
        raise SettingsError(
            f"student: {name} made a model of {student.num_tokens:,} tokens where "
            f"{num_tokens:,} were asked for; its first argument is their number."
        )
    return student


def _load(file: Path, name: str) -> Callable[..., Any]:
    spec = importlib.util.spec_from_file_location(f"farzi_student_{file.stem}", file)
    if spec is None or spec.loader is None or not file.is_file():
        raise SettingsError(f"student: there is no file {file}.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise SettingsError(f"student: {file} cannot be run: {reason}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise SettingsError(f"student: {file} has no function {name!r}.")
    made: Callable[..., Any] = function
    return made
