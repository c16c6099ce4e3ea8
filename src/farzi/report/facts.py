"""What a report says, gathered from a run, its source and a comparison before anything is drawn."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from farzi.artifact import Artifact, locate_artifact, read_artifact
from farzi.data import SOURCES
from farzi.data.files import read_json, read_text, write_text
from farzi.data.prepared import PreparedData
from farzi.errors import DataError
from farzi.privacy import AUDIT, read_audit
from farzi.report.sweep import read_sweep

__all__ = [
    "COMPARISON",
    "Cost",
    "Course",
    "Facts",
    "gather",
    "keep_comparison",
    "read_comparison",
    "read_records",
]

COMPARISON = "comparison.json"
SWEEP = "sweep/result.json"


@dataclass(frozen=True)
class Course:
    """How the outer loop went: (outer step, value) of what its records hold.

    Args:
        fresh: validation loss of fresh students.
        outer: the outer loss.
        gradients: norm of the meta-gradient, by block.
        agreement: mean cosine between students' meta-gradients, by block.
        best: outer step and loss of the sequences that were kept.
    """

    fresh: tuple[tuple[float, float], ...] = ()
    outer: tuple[tuple[float, float], ...] = ()
    gradients: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    agreement: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)

    @property
    def best(self) -> tuple[float, float] | None:
        """The lowest validation loss of fresh students, and where."""
        return min(self.fresh, key=lambda look: look[1], default=None)


@dataclass(frozen=True)
class Cost:
    """Seconds and bytes.

    Args:
        before_s: seconds before the first outer step: teachers, start, students; None where the
            run did not note them.
        outer_s: seconds of the outer steps.
        full_s: seconds in which a student trains on everything, where that was compared.
        distilled_s: seconds in which one trains on the distilled sequences.
        equal_s: seconds in which one comes to full data's validation loss; None where not every
            run does.
        artifact_bytes: of the distilled tensors.
        source_bytes: of the real training tokens, four a token.
    """

    before_s: float | None
    outer_s: float | None
    full_s: float | None
    distilled_s: float | None
    artifact_bytes: int
    source_bytes: int
    equal_s: float | None = None

    @property
    def distil_s(self) -> float | None:
        """Seconds of the whole distillation, as far as they were noted."""
        known = [seconds for seconds in (self.before_s, self.outer_s) if seconds is not None]
        return sum(known) if known else None

    @property
    def saved_s(self) -> float | None:
        """Seconds that each training saves; negative where it takes longer."""
        return self._saved(self.distilled_s)

    @property
    def break_even(self) -> float | None:
        """Trainings after which the distillation has paid for itself; None where it never does."""
        return self._trainings(self.distilled_s)

    @property
    def equal_break_even(self) -> float | None:
        """The same for trainings that end where they have full data's validation loss."""
        return self._trainings(self.equal_s)

    def _saved(self, training_s: float | None) -> float | None:
        if self.full_s is None or training_s is None:
            return None
        return self.full_s - training_s

    def _trainings(self, training_s: float | None) -> float | None:
        saved = self._saved(training_s)
        if self.distil_s is None or saved is None or saved <= 0:
            return None
        return self.distil_s / saved


@dataclass(frozen=True)
class Facts:
    """Everything a report says, apart from the look inside.

    Args:
        run: the run's folder as it was named.
        heading: what was distilled, for people.
        artifact: the distilled sequences.
        data: their source.
        settings: the run's settings by name.
        record: `settings.json` of the run: versions, threads, source.
        course: how the outer loop went.
        comparison: JSON values of a comparison, or None.
        cost: seconds and bytes.
        sweep: JSON values of the run's sweep, or None.
        audit: JSON values of its audit, or None.
    """

    run: str
    heading: str
    artifact: Artifact
    data: PreparedData
    settings: Mapping[str, Any]
    record: Mapping[str, Any]
    course: Course
    comparison: Mapping[str, Any] | None
    cost: Cost
    sweep: Mapping[str, Any] | None = None
    audit: Mapping[str, Any] | None = None


def gather(
    run: str | os.PathLike[str],
    data: PreparedData,
    *,
    comparison: Mapping[str, Any] | None = None,
) -> Facts:
    """Gather what a report says of a run.

    Args:
        run: a run's folder, or an artifact's.
        data: the source, as the run read it.
        comparison: JSON values of a comparison; None: `comparison.json` in the run's folder, where
            there is one.

    Raises:
        ArtifactError: there is no finished artifact.
        DataError: a record of the run cannot be read.
    """
    folder = Path(run)
    place = locate_artifact(folder)
    home = place.parent if place.name == "artifact" else place
    artifact = read_artifact(place)
    record = _read_json(home / "settings.json") if (home / "settings.json").is_file() else {}
    for name in ("settings", "versions"):
        if not isinstance(record.get(name, {}), dict):
            raise DataError(f"{home / 'settings.json'}: `{name}` is no object.")
    records = read_records(home / "metrics.jsonl")
    # Of several splits the comparison stands beside them all.
    for kept in (home / COMPARISON, home.parent / COMPARISON):
        of_this = kept.parent == home or home.name.startswith("split-")
        if comparison is None and of_this and kept.is_file():
            comparison = read_comparison(kept)
    known = SOURCES.get(data.name)
    return Facts(
        run=os.fspath(run),
        heading=_heading(known.title if known is not None else data.name),
        artifact=artifact,
        data=data,
        settings=record.get("settings", {}),
        record=record,
        course=_course(records),
        comparison=comparison,
        cost=_cost(artifact, data, records, comparison),
        sweep=read_sweep(swept) if (swept := home / SWEEP).is_file() else None,
        audit=read_audit(audited) if (audited := home / AUDIT).is_file() else None,
    )


def read_comparison(file: Path) -> dict[str, Any]:
    """JSON values of a comparison, as `farzi compare --json FILE` wrote them.

    Raises:
        DataError: it is no such file.
    """
    values = _read_json(file)
    rows = values.get("rows")
    named = isinstance(rows, list) and all(
        isinstance(row, dict) and {"name", "metrics", "sequences", "bytes"} <= row.keys()
        for row in rows
    )
    if not named:
        raise DataError(f"{file}: is no comparison; `farzi compare RUN --json FILE` writes one.")
    return values


def reached(row: Mapping[str, Any]) -> dict[float, tuple[float, int]]:
    """Seconds until shares of full data's quality, and how many runs of a row came there.

    Args:
        row: JSON values of a comparison's row, of any version.

    Returns:
        by share, those that some run came to; nothing where none was measured.
    """
    found = {}
    values = row.get("reached")
    for each in values if isinstance(values, list | tuple) else ():
        if isinstance(each, Mapping) and all(
            _is_number(each.get(name)) for name in ("share", "seconds", "runs")
        ):
            found[float(each["share"])] = (float(each["seconds"]), int(each["runs"]))
    return found


def keep_comparison(run: Path, comparison: Mapping[str, Any]) -> None:
    """Keep a comparison in a run's folder, where reports look for it."""
    write_text(run / COMPARISON, json.dumps(comparison, indent=1, default=str) + "\n")


def _heading(title: str) -> str:
    """The first clause of a title, with a capital."""
    first = title.partition(",")[0]
    return first[:1].upper() + first[1:]


def read_records(file: Path) -> list[dict[str, Any]]:
    """The records of `metrics.jsonl`; none where there is no file, or of a line half written."""
    if not file.is_file():
        return []
    records = []
    try:
        lines = read_text(file).splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({error}).") from None
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records


def _read_json(file: Path) -> dict[str, Any]:
    try:
        values = read_json(file)
    except (OSError, ValueError):
        raise DataError(f"{file}: cannot be read.") from None
    if not isinstance(values, dict):
        raise DataError(f"{file}: holds no record.")
    return values


def _course(records: Sequence[Mapping[str, Any]]) -> Course:
    def values(name: str) -> tuple[tuple[float, float], ...]:
        return tuple((float(r["step"]), float(r[name])) for r in records if _is_number(r.get(name)))

    def blocks(name: str) -> dict[str, tuple[tuple[float, float], ...]]:
        found: dict[str, list[tuple[float, float]]] = {}
        for record in records:
            if "outer_loss" not in record or not isinstance(record.get(name), Mapping):
                continue
            for block, value in record[name].items():
                if _is_number(value):
                    found.setdefault(block, []).append((float(record["step"]), float(value)))
        return {block: tuple(points) for block, points in found.items()}

    return Course(
        values("fresh_loss"), values("outer_loss"), blocks("gradient_norm"), blocks("agreement")
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value - value == 0


def _cost(
    artifact: Artifact,
    data: PreparedData,
    records: Sequence[Mapping[str, Any]],
    comparison: Mapping[str, Any] | None,
) -> Cost:
    steps = [r["wall_s"] for r in records if r["step"] > 0 and _is_number(r.get("wall_s"))]
    before = [r["wall_s"] for r in records if r["step"] == 0 and _is_number(r.get("wall_s"))]
    seconds, equal_s = {}, None
    for row in (comparison or {}).get("rows", ()):
        if row["name"] == "farzi":
            came = reached(row).get(1.0)
            equal_s = came[0] if came is not None and came[1] == row.get("num_runs") else None
        taken = row.get("seconds", row.get("train_wall_s"))
        if _is_number(taken) and taken > 0:
            seconds[row["name"]] = float(taken)
    return Cost(
        before_s=sum(before) if before else None,
        outer_s=sum(steps) if steps else None,
        full_s=seconds.get("full"),
        distilled_s=seconds.get("farzi"),
        artifact_bytes=artifact.num_bytes,
        source_bytes=4 * data.train.num_tokens,
        equal_s=equal_s,
    )
