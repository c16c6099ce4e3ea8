"""The folder of a run: who writes to it, what it was begun with, its state and its records.

run/settings.json       settings, source and split, versions, threads
run/teachers/           Omega
run/state.safetensors   everything the outer loop needs to go on
run/metrics.jsonl       one record an outer step, one more a look
run/artifact/           the result
"""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from farzi.data.sources import Origin
from farzi.distill.distiller import DistillState, Record
from farzi.distill.problem import Member
from farzi.errors import DataError, RunLockedError, SettingsError
from farzi.metagrad import Optimizer
from farzi.metagrad.update import state_names
from farzi.synthetic import SyntheticSequences

__all__ = ["Metrics", "claim", "load_state", "locked", "save_state", "state_file"]


def claim(folder: Path, identity: dict[str, Any], origin: Origin | None, resume: bool) -> None:
    """Make the folder for a new run, or check that it holds the run to go on with.

    `settings.json` keeps where the source lies too, which may change before a run goes on.
    """
    record = folder / "settings.json"
    if not resume:
        if folder.exists() and any(folder.iterdir()):
            raise SettingsError(
                f"--out {folder} is not empty: --resume goes on with the run in it, "
                "or choose another folder."
            )
        folder.mkdir(parents=True, exist_ok=True)
        kept = {**identity, "origin": None if origin is None else asdict(origin)}
        _write_text(record, json.dumps(kept, indent=2, sort_keys=True) + "\n")
        return
    if not record.is_file():
        raise SettingsError(f"--resume: there is no run in {folder}.")
    try:
        before = json.loads(record.read_text(encoding="utf-8"))
    except ValueError:
        raise SettingsError(f"--resume: {record} cannot be read.") from None
    for name, value in _flat(identity).items():
        was = _flat(before).get(name)
        if was != value:
            raise SettingsError(
                f"--resume: {name} was {was!r} when the run in {folder} began and is {value!r} now."
            )


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": inner for key, inner in _flat(value).items()}
        else:
            flat[name] = value
    return flat


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run as the only process that writes to it.

    Raises:
        RunLockedError: another process holds it.
    """
    with (folder / "run.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunLockedError(f"{folder}: another process is writing to this run.") from None
        yield


def _write_text(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}")
    draft.write_text(text, encoding="utf-8")
    draft.rename(path)


class Metrics:
    """`metrics.jsonl`: records reach it together with the state they belong to."""

    def __init__(self, path: Path, step: int | None, writes: bool) -> None:
        self.path = path
        self.writes = writes
        self.records: list[Record] = []
        if step is not None and path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            records = [json.loads(line) for line in lines if line.endswith("}")]
            self.records = [record for record in records if record["step"] <= step]

    def add(self, record: Record) -> None:
        """Note a record; `write` puts it into the file."""
        self.records.append(record)

    def write(self) -> None:
        """Write all records, complete or not at all."""
        if self.writes:
            _write_text(self.path, "".join(json.dumps(record) + "\n" for record in self.records))

    def start_loss(self) -> float:
        """Validation loss of fresh students before the first outer step."""
        return float(self.records[0]["fresh_loss"])


def state_file(folder: Path, rank: int) -> Path:
    """Where process `rank` keeps its state."""
    return folder / ("state.safetensors" if rank == 0 else f"state-{rank}.safetensors")


def save_state(state: DistillState, path: Path) -> None:
    """Write a state under another name, then put it in place."""
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
        "best_step": state.best_step,
        "best_loss": state.best_loss.hex(),
        "looks_since_best": state.looks_since_best,
        "stopped": state.stopped,
        "temperature": state.synthetic.temperature,
        "members": [
            {"age": member.age, "seed": member.seed, "trained": member.state is not None}
            for member in state.members
        ],
    }
    draft = path.with_name(f".{path.name}")
    save_file(
        {name: value.detach().cpu().clone() for name, value in tensors.items()},
        draft,
        metadata={"state": json.dumps(record)},
    )
    draft.rename(path)


def load_state(path: Path, optimizer: Optimizer, device: torch.device | str) -> DistillState | None:
    """The state in `path`, or None where there is none yet.

    Args:
        path: the file.
        optimizer: the inner optimiser, whose accumulators every student has.
        device: where to put it.

    Raises:
        DataError: the file cannot be read.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            record = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}).") from None

    def under(prefix: str) -> dict[str, Tensor]:
        start = f"{prefix}/"
        return {
            name.removeprefix(start): value
            for name, value in tensors.items()
            if name.startswith(start)
        }

    def synthetic(prefix: str) -> SyntheticSequences:
        factors = under(prefix)
        return SyntheticSequences(
            factors["latent"],
            factors["decoder"],
            factors.get("labels"),
            tensors.get("lengths"),
            record["temperature"],
        )

    members = tuple(
        Member(
            under(f"{index}/params"),
            {name: under(f"{index}/{name}") for name in state_names(optimizer)}
            if entry["trained"]
            else None,
            entry["age"],
            entry["seed"],
        )
        for index, entry in enumerate(record["members"])
    )
    return DistillState(
        synthetic=synthetic("synthetic"),
        step=record["step"],
        first=under("first"),
        second=under("second"),
        members=members,
        num_begun=record["num_begun"],
        best=synthetic("best"),
        best_step=record["best_step"],
        best_loss=float.fromhex(record["best_loss"]),
        looks_since_best=record["looks_since_best"],
        stopped=record["stopped"],
    )
