"""`farzi.audit(...)`: the audit of a run, with plain arguments, kept where reports look for it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Unpack

from farzi.artifact import locate_artifact, read_artifact, recipe_student
from farzi.data.arguments import HowRead
from farzi.data.files import read_json, write_text
from farzi.data.prepared import PreparedData
from farzi.devices import Device, choose_device
from farzi.errors import DataError
from farzi.models import Student, same_student
from farzi.privacy.auditing import Audit, AuditSettings, Progress, audit_artifact
from farzi.provenance import is_home, read_again, remembered_by

__all__ = ["AUDIT", "audit", "read_audit"]

AUDIT = "audit.json"  # in a run's folder


def audit(
    run: str | os.PathLike[str],
    *,
    on: str | os.PathLike[str] | PreparedData | None = None,
    student: Student | str | None = None,
    students: int = 3,
    references: int = 8,
    candidates: int = 1000,
    seed: int = 0,
    device: Device = "auto",
    progress: Progress | None = None,
    **read: Unpack[HowRead],
) -> Audit:
    """Attack a distilled dataset as somebody would who holds it: synthetic is not anonymous.

    The result is kept as `audit.json` in a run's folder, where `farzi report` finds it.

    Args:
        run: a run or an artifact.
        on: where its source is now, or that source prepared; None: where it was.
        student: what was distilled for, where it is a model of the user's own.
        students: models trained on the artifact.
        references: models trained on real users, each on half of those guessed at.
        candidates: most training users, and most held-out ones, that are guessed at.
        seed: of everything drawn.
        device: `auto`, `cpu`, `cuda` or a torch device.
        progress: called with (models trained, models in all, what is done now).
        read: how the source is read, where that is not remembered: arguments of `farzi.prepare`.

    Raises:
        ArtifactError: the artifact is broken, or belongs to another split.
        SettingsError: the split holds no user out, or nothing says where the source is.
        DataError: the source cannot be read, or too few users are held out.
    """
    settings = AuditSettings(students, references, candidates, seed=seed)
    artifact = read_artifact(locate_artifact(run))
    data = on if isinstance(on, PreparedData) else read_again(remembered_by(run), on, **read)
    chosen, _ = choose_device(device)
    own = same_student(recipe_student(artifact), student) if isinstance(student, str) else student
    found = audit_artifact(artifact, data, settings, student=own, device=chosen, progress=progress)
    if is_home(run):
        write_text(Path(run) / AUDIT, json.dumps(found.to_json(), indent=1) + "\n")
    return found


def read_audit(file: Path) -> dict[str, Any]:
    """JSON values of an audit, as `audit` kept them.

    Raises:
        DataError: it is no such file.
    """
    try:
        values = read_json(file)
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({error}).") from None
    names = {"attacks", "members", "others", "neighbours", "read_back", "start"}
    if not isinstance(values, dict) or not names <= values.keys():
        raise DataError(f"{file}: is no audit; `farzi audit RUN` writes one.")
    return values
