"""The folder of a run: who writes to it, what it was begun with, its state and its records.

    run/settings.json       settings, source, split, versions, threads, kernels
    run/teachers/           Omega
    run/state.safetensors   everything the outer loop needs to go on, with its hash
    run/metrics.jsonl       one record an outer step, one more a look
    run/artifact/           the result

Every file is written under a hidden name, then renamed: what a killed process leaves is complete,
or such a draft, which the next process removes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from farzi.data.columns import shorten
from farzi.data.files import read_json, read_text
from farzi.data.sources import Origin
from farzi.distill.distiller import DistillState, Record
from farzi.distill.problem import Member
from farzi.distill.routine import Routine
from farzi.distill.sealed import digest_of, load_sealed, save_sealed, write_text
from farzi.distill.settings import YOUNGER
from farzi.errors import DataError, RunLockedError, SettingsError
from farzi.metagrad import Optimizer
from farzi.metagrad.update import state_names
from farzi.synthetic import SyntheticSequences

__all__ = [
    "Metrics",
    "OnRecord",
    "check_claim",
    "claim",
    "load_state",
    "locked",
    "save_state",
    "state_file",
]

OnRecord: TypeAlias = Callable[[Record], None]

RECORD = "settings.json"
LOCK = "run.lock"


# ------------------------------------------------------------------------- whose the folder is


def check_claim(folder: Path, identity: Mapping[str, Any], resume: bool) -> None:
    """Refuse a folder that a run may not write to, or may not go on in; change nothing.

    Raises:
        SettingsError: it is in use or cannot be written, or its run was begun otherwise.
    """
    _check_writable(folder)
    if not resume:
        if _holds_something(folder):
            raise SettingsError(
                f"--out {folder} is not empty: --resume goes on with the run in it, "
                "or choose another folder."
            )
        return
    record = folder / RECORD
    if not record.is_file():
        if folder.is_dir() and not _holds_something(folder) and any(folder.iterdir()):
            return  # a run that was killed before it wrote anything: it begins
        raise SettingsError(f"--resume: there is no run in {folder}.")
    try:
        before = read_json(record)
    except (OSError, ValueError) as error:
        raise DataError(f"--resume: {record}: cannot be read ({error}).") from None
    if not isinstance(before, dict):
        raise DataError(f"--resume: {record}: holds no settings.")
    now = _flat(identity)
    was = {name: value for name, value in _younger().items() if name in now} | _flat(before)
    for name, value in now.items():
        if name not in was:
            raise SettingsError(f"--resume: {record}: `{name}` is missing.")
        if was[name] != value:
            then = shorten(repr(was[name]))
            raise SettingsError(
                f"--resume: {name} was {then} when the run in {folder} began and is {value!r} now."
            )
    if more := sorted(set(was) - set(now) - {name for name in was if name.startswith("origin")}):
        raise SettingsError(
            f"--resume: {record}: `{shorten(more[0])}` is not a setting of this run."
        )


def claim(folder: Path, identity: Mapping[str, Any], origin: Origin | None, resume: bool) -> None:
    """Check a folder that is `locked`, and make it that of this run.

    `settings.json` keeps where the source lies too, which may change before a run goes on. What
    killed processes left half written is removed.
    """
    check_claim(folder, identity, resume)
    for draft in [*folder.glob(".*"), *folder.glob("teachers/.*")]:
        if draft.is_file():
            draft.unlink()
    if not (folder / RECORD).is_file():
        kept = {**identity, "origin": None if origin is None else asdict(origin)}
        write_text(folder / RECORD, json.dumps(kept, indent=2, sort_keys=True) + "\n")


def _holds_something(folder: Path) -> bool:
    """Whether there is more in a folder than the lock and the drafts of a run just begun."""
    if not folder.is_dir():
        return False
    return any(path.name not in (LOCK, f".{RECORD}") for path in folder.iterdir())


def _check_writable(folder: Path) -> None:
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise SettingsError(f"--out {folder}: {there} is not a folder.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise SettingsError(f"--out {folder}: {there} cannot be written to.")


def _younger() -> dict[str, Any]:
    """Settings that a record may lack, as `_flat` names them."""
    groups = {name: dict(values) for name, values in YOUNGER.items() if name}
    return _flat({"settings": {**YOUNGER[""], **groups}})


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": inner for key, inner in _flat(value).items()}
        else:
            flat[name] = value
    return flat


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run as the only process that writes to it; makes the folder where it is missing.

    Raises:
        SettingsError: the folder cannot be made.
        RunLockedError: another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("w")
    except OSError as error:
        raise SettingsError(f"--out {folder}: {error.strerror}.") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunLockedError(f"{folder}: another process is writing to this run.") from None
        yield


# ------------------------------------------------------------------------------------- records


class Metrics:
    """`metrics.jsonl`: records reach it together with the state they belong to.

    Args:
        path: the file.
        step: outer steps of the state that is gone on from; None for a new run.
        writes: whether this process writes it.
        on_record: called with every record that is added.

    Raises:
        DataError: a record that the state needs is missing or damaged.
    """

    def __init__(
        self,
        path: Path,
        step: int | None,
        writes: bool,
        on_record: OnRecord | None = None,
    ) -> None:
        self.path = path
        self.on_record = on_record
        self.writes = writes
        self.records: list[Record] = []
        if step is not None and writes:
            self.records = self._read(step)

    def _read(self, step: int) -> list[Record]:
        try:
            lines = read_text(self.path).splitlines()
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path}: cannot be read ({error}).") from None
        records = []
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                raise DataError(f"{self.path}:{number}: is no record.") from None
            if not isinstance(record, dict) or type(record.get("step")) is not int:
                raise DataError(f"{self.path}:{number}: `step` is missing or wrong.")
            if record["step"] <= step:
                records.append(record)
        begun = records[0] if records else {}
        if begun.get("step") != 0 or not isinstance(begun.get("fresh_loss"), int | float):
            raise DataError(f"{self.path}: `fresh_loss` of outer step 0 is missing.")
        taken = [record["step"] for record in records if "ages" in record]
        if taken != list(range(1, step + 1)):
            raise DataError(f"{self.path}: does not hold outer steps 1 to {step}.")
        return records

    def add(self, record: Record) -> None:
        """Note a record; `write` puts it into the file."""
        self.records.append(record)
        if self.on_record is not None:
            self.on_record(record)

    def drop_after(self, count: int) -> None:
        """Forget all but the first `count` records."""
        del self.records[count:]

    def write(self) -> None:
        """Write all records, complete or not at all."""
        if self.writes:
            write_text(self.path, "".join(json.dumps(record) + "\n" for record in self.records))


# --------------------------------------------------------------------------------------- state


def state_file(folder: Path, rank: int) -> Path:
    """Where process `rank` keeps its state."""
    return folder / ("state.safetensors" if rank == 0 else f"state-{rank}.safetensors")


def save_state(state: DistillState, path: Path, start: SyntheticSequences) -> None:
    """Write a state, complete or not at all, with the hash of the sequences it began from."""
    tensors: dict[str, Tensor] = {}
    for name, synthetic in (("synthetic", state.synthetic), ("best", state.best)):
        tensors |= {f"{name}/{block}": value for block, value in synthetic.factors().items()}
    if state.synthetic.lengths is not None:
        tensors["lengths"] = state.synthetic.lengths
    tensors |= {f"first/{block}": value for block, value in state.first.items()}
    tensors |= {f"second/{block}": value for block, value in state.second.items()}
    for index, member in enumerate(state.members):
        tensors |= {f"{index}/params/{key}": value for key, value in member.params.items()}
        for accumulator, values in (member.state or {}).items():
            tensors |= {f"{index}/{accumulator}/{key}": value for key, value in values.items()}
    record = {
        "step": state.step,
        "num_begun": state.num_begun,
        "start_loss": state.start_loss.hex(),
        "best_step": state.best_step,
        "best_loss": state.best_loss.hex(),
        "looks_since_best": state.looks_since_best,
        "stopped": state.stopped,
        "routine": None if state.routine is None else state.routine.to_json(),
        "start": _digest(start),
        "temperature": state.synthetic.temperature,
        "members": [
            {"age": member.age, "seed": member.seed, "trained": member.state is not None}
            for member in state.members
        ],
    }
    save_sealed(path, tensors, record)


def _digest(start: SyntheticSequences) -> str:
    """The hash of the sequences that a run begins from."""
    return digest_of(start.factors() | ({"tokens": start.latent} if start.has_hard_tokens else {}))


def load_state(
    path: Path,
    optimizer: Optimizer,
    device: torch.device | str,
    start: SyntheticSequences,
    student: Mapping[str, Tensor] | None = None,
) -> DistillState | None:
    """The state in `path`, or None where there is none yet.

    Args:
        path: the file.
        optimizer: the inner optimiser, whose accumulators every trained student has.
        device: where to put it.
        start: the sequences that the run begins from, which must be those it began from.
        student: weights of a student, whose names and shapes those of the pool must have; None:
            whatever they are.

    Raises:
        DataError: the file is damaged, or the run began from other sequences.
    """
    if not os.path.lexists(path):
        return None
    tensors, record = load_sealed(path, device)
    if record.get("start") != _digest(start):
        raise DataError(
            f"{path}: `start` is not that of the sequences which the run begins from now; what "
            "they are made from has changed."
        )

    def under(prefix: str) -> dict[str, Tensor]:
        begin = f"{prefix}/"
        return {
            name.removeprefix(begin): value
            for name, value in tensors.items()
            if name.startswith(begin)
        }

    def synthetic(prefix: str) -> SyntheticSequences:
        factors = under(prefix)
        return SyntheticSequences(
            start.latent if start.has_hard_tokens else factors["latent"],
            factors["decoder"],
            factors.get("labels"),
            tensors.get("lengths"),
            record["temperature"],
        )

    def accumulators(index: int) -> dict[str, dict[str, Tensor]]:
        return {name: under(f"{index}/{name}") for name in state_names(inner)}

    try:
        routine = None if record["routine"] is None else Routine.from_json(record["routine"])
        inner = optimizer if routine is None else routine.optimizer(optimizer)
        members = tuple(
            Member(
                under(f"{index}/params"),
                accumulators(index) if entry["trained"] else None,
                entry["age"],
                entry["seed"],
            )
            for index, entry in enumerate(record["members"])
        )
        state = DistillState(
            synthetic=synthetic("synthetic"),
            step=record["step"],
            first=under("first"),
            second=under("second"),
            members=members,
            num_begun=record["num_begun"],
            start_loss=float.fromhex(record["start_loss"]),
            best=synthetic("best"),
            best_step=record["best_step"],
            best_loss=float.fromhex(record["best_loss"]),
            looks_since_best=record["looks_since_best"],
            stopped=record["stopped"],
            routine=routine,
        )
        _check_state(state, tensors, start, student)
    except KeyError as error:
        raise DataError(f"{path}: the field {shorten(str(error))} is missing.") from None
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"{path}: cannot be read ({shorten(str(error))}).") from None
    return state


def _check_state(
    state: DistillState,
    tensors: Mapping[str, Tensor],
    start: SyntheticSequences,
    student: Mapping[str, Tensor] | None,
) -> None:
    """Check counts, and the shapes of all tensors against those that a run of this start has.

    Raises:
        ValueError: one is wrong, and which.
    """
    counts = {
        "step": state.step,
        "num_begun": state.num_begun,
        "best_step": state.best_step,
        "looks_since_best": state.looks_since_best,
    }
    for index, member in enumerate(state.members):
        counts |= {f"members.{index}.age": member.age, f"members.{index}.seed": member.seed}
    for name, count in counts.items():
        if type(count) is not int or not 0 <= count < 1 << 63:
            raise ValueError(f"`{name}` must be an int >= 0, got {count!r}")
    if not isinstance(state.stopped, str | None):
        raise ValueError(f"`stopped` must be a text or null, got {state.stopped!r}")
    if not isinstance(state.synthetic.temperature, int | float):
        raise ValueError(f"`temperature` must be a number, got {state.synthetic.temperature!r}")
    expected: dict[str, Tensor] = {}
    for prefix in ("synthetic", "best", "first", "second"):
        expected |= {f"{prefix}/{name}": value for name, value in start.factors().items()}
    if start.lengths is not None:
        expected["lengths"] = start.lengths
    if student is not None:
        for index, member in enumerate(state.members):
            for kind in ("params", *(member.state or {})):
                expected |= {f"{index}/{kind}/{name}": value for name, value in student.items()}
    for name, value in expected.items():
        found = tensors.get(name)
        if found is None or found.shape != value.shape or found.dtype != value.dtype:
            is_now = "missing" if found is None else f"{found.dtype} of shape {list(found.shape)}"
            wanted = f"{value.dtype} of shape {list(value.shape)}"
            raise ValueError(f"`{name}` must be {wanted}, and is {is_now}")
    if student is not None and (more := sorted(set(tensors) - set(expected))):
        raise ValueError(f"`{more[0]}` is no tensor of a state")
