"""A trained model on disk: a safetensors file that carries its own settings."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from farzi.data.columns import shorten
from farzi.data.files import check_regular, replacing
from farzi.errors import ArtifactError, SettingsError
from farzi.models.base import Student

__all__ = ["load_weights", "save_weights", "shapes_from_file"]


def save_weights(
    path: str | os.PathLike[str],
    student: Student,
    params: Mapping[str, Tensor],
    provenance: Mapping[str, Any],
) -> None:
    """Write weights, complete or not at all.

    Args:
        path: the file.
        student: the model.
        params: its weights.
        provenance: what it was trained on, JSON values.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    record = {"student": student.settings(), "provenance": dict(provenance)}
    # One field: safetensors writes several in an order of its own, another each time.
    metadata = {"farzi": json.dumps(record, sort_keys=True)}
    tensors = {name: value.detach().cpu().contiguous() for name, value in params.items()}
    with replacing(target) as draft:
        save_file(tensors, draft, metadata=metadata)


_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def shapes_from_file(
    target: Path, student: Student, params: Mapping[str, Tensor], *, absurd: bool
) -> dict[str, torch.Size]:
    """The shapes that a student's weights have.

    Args:
        target: the weights file.
        student: the model.
        params: the tensors of the file.
        absurd: whether its sizes come from the file: they are held against its tensors before
            anything of those sizes is made.
    """
    generator = torch.Generator().manual_seed(0)
    if not absurd:
        return {name: value.shape for name, value in student.init(generator).items()}
    if (layers := getattr(student, "num_layers", 0)) > len(params):
        raise ArtifactError(f"{target}: `num_layers` is {layers:,}; it has {len(params)} tensors.")
    try:
        with torch.device("meta"):  # sizes without content
            return {name: value.shape for name, value in student.init(generator).items()}
    except (RuntimeError, TypeError, OverflowError) as error:
        raise ArtifactError(
            f"{target}: a size of its student is absurd ({shorten(str(error), 200)})."
        ) from None


def _earlier(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The record of a file of farzi 0.1, which has a field for each part."""
    return {name: json.loads(metadata[name]) for name in ("student", "provenance")}


def load_weights(
    path: str | os.PathLike[str], student: Student | str | None = None
) -> tuple[Student, dict[str, Tensor], dict[str, Any]]:
    """Read what `save_weights` wrote: student, weights, provenance.

    Args:
        path: the file.
        student: the model, or what `farzi.models.student_from` reads as one, where it is one of the
            user's own: no file names its code.

    Raises:
        SettingsError: the weights are of a model of the user's own, and it is not given.
        ArtifactError: the file is missing, broken, or its tensors do not fit its settings.
    """
    from farzi.models import STUDENTS, build_student, student_from

    target = Path(path)
    try:
        check_regular(target, links=True)
        with safe_open(target, framework="pt") as file:
            metadata = file.metadata() or {}
            record = json.loads(metadata["farzi"]) if "farzi" in metadata else _earlier(metadata)
            settings, provenance = dict(record["student"]), dict(record["provenance"])
            params = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except RecursionError:
        raise ArtifactError(f"{target}: its record is nested too deep.") from None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ArtifactError(
            f"{target}: not a weights file of farzi ({shorten(str(error), 200)})."
        ) from None
    if not isinstance(provenance.get("protocol") or {}, dict):
        raise ArtifactError(f"{target}: `provenance.protocol` is no object.")
    if isinstance(student, str):
        student = student_from(student, settings)
    elif student is None:
        try:
            student = build_student(settings)
        except SettingsError as error:
            raise SettingsError(f"{target}: {shorten(str(error), 200)}") from None
    own = type(student) in STUDENTS.values()
    if shapes_from_file(target, student, params, absurd=own) != {
        name: value.shape for name, value in params.items()
    }:
        raise ArtifactError(f"{target}: its tensors do not fit its settings.")
    for name, value in params.items():
        if value.dtype not in _FLOATS:
            raise ArtifactError(f"{target}: the weight `{name}` is {value.dtype}, no float.")
    if own and len({value.dtype for value in params.values()}) != 1:
        raise ArtifactError(f"{target}: its weights are of several types.")
    if not all(bool(torch.isfinite(value).all()) for value in params.values()):
        raise ArtifactError(f"{target}: a weight is not finite.")
    return student, params, provenance
