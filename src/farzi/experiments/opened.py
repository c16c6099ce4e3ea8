"""From runs on disk to the splits of a comparison."""

from __future__ import annotations

import functools
import logging
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from farzi.artifact import (
    Artifact,
    check_split,
    locate_artifact,
    read_artifact,
    recipe_number,
    recipe_student,
)
from farzi.data.prepared import PreparedData
from farzi.distill.settings import TeacherSettings
from farzi.distill.teachers import Omega, teacher_runs
from farzi.errors import SettingsError
from farzi.evaluation import sequences_of
from farzi.experiments.rows import ROWS
from farzi.experiments.splits import Split
from farzi.models import Params, Student, same_student, with_dropout
from farzi.provenance import read_again, remembered_by, split_folders

__all__ = ["Opener", "kept_runs", "open_split", "read_others"]

_log = logging.getLogger("farzi")


@dataclass(frozen=True)
class Opener:
    """How the splits of a comparison are opened, by whichever process needs one.

    Args:
        folders: a run or an artifact for each split.
        on: where their source is now; None: where it was.
        read: how it is read, where that is not remembered: arguments of `prepare`.
        also: further runs on the same splits, by the name of their row.
        student: what was distilled for, where it is a model of the user's own.
    """

    folders: tuple[Path, ...]
    on: str | os.PathLike[str] | None = None
    read: Mapping[str, Any] = field(default_factory=dict)
    also: Mapping[str, str | os.PathLike[str]] = field(default_factory=dict)
    student: str | None = None

    def open(self, place: int, *, teachers: bool = True) -> Split:
        """Open one split.

        Args:
            place: its place in `folders`.
            teachers: whether its rows need teachers.

        Raises:
            DataError: the source cannot be read.
            ArtifactError: an artifact is broken, or is of another split.
            SettingsError: nothing says where the source is, or `also` does not fit.
        """
        folder = self.folders[place]
        data = read_again(remembered_by(folder), self.on, **self.read)
        return open_split(
            folder, data, others=self._others, teachers=teachers, student=self.student
        )

    def has_teachers(self, place: int) -> bool:
        """Whether the run of a split kept its teachers: else they are trained when it is opened."""
        return (self.folders[place] / "teachers" / "omega.json").is_file()

    @functools.cached_property
    def _others(self) -> list[tuple[str, Artifact]]:
        """The further runs, read once for all splits."""
        return read_others(self.also)

    def __getstate__(self) -> dict[str, Any]:
        """What to open: another process reads for itself."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


def read_others(paths: Mapping[str, str | os.PathLike[str]]) -> list[tuple[str, Artifact]]:
    """Further artifacts, one for each split, with the name of their row.

    Args:
        paths: a run, an artifact or a folder of several splits, by the name of its row.

    Raises:
        SettingsError: a name is that of a row already.
        ArtifactError: a path holds no artifact.
    """
    others = []
    for name, path in paths.items():
        if not name or name in ROWS:
            raise SettingsError(f"`also` {name!r} must be a name that is not a row already.")
        others += [(name, read_artifact(locate_artifact(folder))) for folder in split_folders(path)]
    return others


def open_split(
    folder: Path,
    data: PreparedData,
    *,
    others: Iterable[tuple[str, Artifact]] = (),
    teachers: bool = True,
    student: str | None = None,
) -> Split:
    """One split, with what was distilled from it and the teachers that its rows need.

    The teachers are the run's own; where it has none, some are trained.

    Args:
        folder: a run or an artifact.
        data: its source, as it was read.
        others: what `read_others` returned; those of this split are taken.
        teachers: whether rows are to be compared that need teachers.
        student: what was distilled for, where it is a model of the user's own.

    Raises:
        ArtifactError: an artifact is broken, or is of another split.
        SettingsError: one of `others` has no artifact of this split.
    """
    artifact = read_artifact(locate_artifact(folder))
    every = list(others)
    also = {name: other for name, other in every if other.source["split_seed"] == data.split_seed}
    if missing := [name for name, _ in every if name not in also]:
        raise SettingsError(f"`also` {missing[0]}: has no artifact of split {data.split_seed}.")
    for distilled in (artifact, *also.values()):
        check_split(distilled, data.identity)
    settings = recipe_student(artifact)
    own = same_student(settings, student)
    weights: tuple[Params, ...] = ()
    teacher = None
    if teachers:
        weights, teacher = _teachers(folder, data, own)
    return Split(
        data,
        settings,
        artifact.num_sequences,
        recipe_number(artifact, "batch_size", int),
        {
            **{name: distilled.synthetic for name, distilled in also.items()},
            "farzi": artifact.synthetic,
        },
        weights,
        own=own,
        teacher=teacher,
        num_bytes={
            **{name: distilled.num_bytes for name, distilled in also.items()},
            "farzi": artifact.num_bytes,
        },
    )


def kept_runs(folder: Path) -> Path | None:
    """Where a comparison's finished runs are kept: in the run's folder, never in an artifact."""
    return folder / "compared" if (folder / "settings.json").is_file() else None


def _teachers(folder: Path, data: PreparedData, own: Student) -> tuple[tuple[Params, ...], Student]:
    """Weights of the run's teachers, or of some that are trained now, and their architecture."""
    omega = Omega.load(folder / "teachers")
    if omega is not None:
        return omega.teachers(), omega.student(own)
    _log.info("no teachers in the run folder: training some for the soft rows")
    settings = TeacherSettings()
    with tempfile.TemporaryDirectory() as scratch:
        trained = teacher_runs(
            with_dropout(own, settings.dropout),
            sequences_of(data, "train"),
            sequences_of(data, "validation"),
            settings,
            Path(scratch),
        )
        return trained.teachers(), own
