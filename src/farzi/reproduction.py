"""Distilling again from an artifact's own record, and what differs."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import torch

from farzi.artifact import Artifact, check_split, locate_artifact, read_artifact
from farzi.artifact.layout import FILES, SETTINGS
from farzi.data.arguments import HowRead
from farzi.devices import Device, choose_device, threads
from farzi.distill.parse import settings_for
from farzi.distill.run import conditions
from farzi.distill.run import distill as distill_prepared
from farzi.distill.stopping import ShouldStop, never
from farzi.errors import ArtifactError, FarziError
from farzi.provenance import read_again, remembered_by

__all__ = ["Reproduction", "reproduce"]


@dataclass(frozen=True)
class Reproduction:
    """What a second distillation came to.

    Args:
        same_files: files that are the same bytes.
        other_files: files that are not.
        changed: name of a tensor -> the largest difference of a number in it.
        conditions: what was otherwise when the first was made: name -> (then, now).
        fields: settings of the artifact that differ, by dotted name.
    """

    same_files: tuple[str, ...]
    other_files: tuple[str, ...]
    changed: Mapping[str, float]
    conditions: Mapping[str, tuple[Any, Any]]
    fields: tuple[str, ...]

    @property
    def same_bytes(self) -> bool:
        """Whether every file is the same."""
        return not self.other_files

    @property
    def same_numbers(self) -> bool:
        """Whether every tensor is the same."""
        return not self.changed

    @property
    def line(self) -> str:
        """What came of it, in one line."""
        was = "; ".join(
            f"{name} was {then} and is {now}" for name, (then, now) in self.conditions.items()
        )
        because = f" ({was})" if was else ""
        if self.same_bytes:
            return f"reproduced: all {len(self.same_files)} files are the same bytes{because}."
        if self.same_numbers:
            fields = ", ".join(self.fields) or ", ".join(self.other_files)
            return f"reproduced: every number is the same, and these differ: {fields}{because}."
        tensors = ", ".join(
            "another shape of " + name if apart == float("inf") else f"{name} by up to {apart:.3g}"
            for name, apart in self.changed.items()
        )
        why = was or "versions, kernels and threads are those of the record, so the machine differs"
        return f"not reproduced: {tensors} ({why})."

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            **dataclasses.asdict(self),
            "same_bytes": self.same_bytes,
            "same_numbers": self.same_numbers,
            "line": self.line,
        }


def reproduce(
    artifact: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    on: str | os.PathLike[str] | None = None,
    resume: bool = False,
    device: Device = "auto",
    progress: Callable[[int, int, str], None] | None = None,
    should_stop: ShouldStop = never,
    **read: Unpack[HowRead],
) -> Reproduction | None:
    """Distil again with what an artifact says of itself, and compare every file and number.

    Args:
        artifact: a run or an artifact.
        out: run folder of the second distillation; None: it is removed at the end.
        on: where the source is now; None: where it was.
        resume: go on with the run in `out`.
        device: `auto`, `cpu`, `cuda` or a torch device.
        progress: called with (done, in all, what is done now).
        should_stop: asked before every inner step.
        read: how the source is read, where that is not remembered: arguments of `farzi.prepare`.

    Returns:
        what differs; None where it was stopped.

    Raises:
        ArtifactError: the artifact does not say how it was made, or the source has changed.
        DataError: the source cannot be read.
        SettingsError: nothing says where the source is.
    """
    place = locate_artifact(Path(artifact))
    first = read_artifact(place)
    settings = _settings(first, place)
    data = read_again(remembered_by(artifact), on, **read)
    check_split(first, data.identity)
    chosen, _ = choose_device(device)
    with contextlib.ExitStack() as held:
        count = first.recipe.get("num_threads")  # sums of floats depend on it
        if type(count) is int and 0 < count <= 4096:
            held.enter_context(threads(count))
        folder = out or held.enter_context(tempfile.TemporaryDirectory())
        try:
            asked = settings_for(data, settings)
        except FarziError as error:
            raise ArtifactError(
                f"{place / SETTINGS}: `recipe.settings` cannot be followed: {error}"
            ) from None
        outcome = distill_prepared(
            data,
            folder,
            asked,
            resume=resume,
            device=chosen,
            report=lambda stage, done, total, note: _tell(progress, stage, done, total, note),
            should_stop=should_stop,
        )
        if outcome.artifact is None:
            return None
        return _compared(place, first, outcome.artifact, conditions(chosen))


def _settings(artifact: Artifact, place: Path) -> dict[str, Any]:
    settings = artifact.recipe.get("settings")
    if not isinstance(settings, dict):
        raise ArtifactError(
            f"{place / SETTINGS}: `recipe.settings` is missing: it was made by an earlier farzi, "
            "which did not keep all settings in the artifact."
        )
    if not isinstance(settings.get("student"), dict):
        raise ArtifactError(
            f"{place / SETTINGS}: the student was a model of one's own, and no file names its code."
        )
    start = settings.get("start")
    if isinstance(start, dict) and start.get("name") == "artifact":
        raise ArtifactError(
            f"{place / SETTINGS}: it began from another artifact, which it does not hold; distil "
            "that one again first, then begin this one from it."
        )
    return settings


def _tell(
    progress: Callable[[int, int, str], None] | None, stage: str, done: int, total: int, note: str
) -> None:
    if progress is not None:
        progress(done, total, f"{stage}: {note}" if note else stage)


# -------------------------------------------------------------------------------- what differs


def _compared(place: Path, first: Artifact, again: Path, now: Mapping[str, Any]) -> Reproduction:
    second = read_artifact(again)
    digests = [_digests(folder) for folder in (place, again)]
    names = sorted({*digests[0], *digests[1]})
    same = tuple(name for name in names if digests[0].get(name) == digests[1].get(name))
    fields = [json.loads((folder / SETTINGS).read_text("utf-8")) for folder in (place, again)]
    then = {name: first.recipe.get(name) for name in now}
    return Reproduction(
        same_files=same,
        other_files=tuple(name for name in names if name not in same),
        changed=_changed(first, second),
        conditions={name: (then[name], now[name]) for name in now if then[name] != now[name]},
        fields=tuple(_differences(*fields)),
    )


def _digests(folder: Path) -> dict[str, str]:
    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in FILES
        if (folder / name).is_file()
    }


def _changed(first: Artifact, second: Artifact) -> dict[str, float]:
    one, two = first.tensors, second.tensors
    changed = {}
    for name in sorted({*one, *two}):
        if name not in one or name not in two or one[name].shape != two[name].shape:
            changed[name] = float("inf")
        elif not torch.equal(one[name], two[name]):
            changed[name] = float((one[name].double() - two[name].double()).abs().max())
    return changed


def _differences(one: Any, two: Any, name: str = "") -> Iterator[str]:
    """Dotted names of what differs between two JSON values."""
    if isinstance(one, dict) and isinstance(two, dict):
        for key in sorted({*one, *two}):
            yield from _differences(one.get(key), two.get(key), f"{name}.{key}" if name else key)
    elif one != two:
        yield name
