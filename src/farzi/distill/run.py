"""A distillation in a folder: settings, teachers, records, resumable state, artifact.

    run/settings.json       settings, source and split, versions, threads
    run/teachers/           Omega
    run/start.safetensors   the sequences before the first outer step
    run/state.safetensors   everything the outer loop needs to go on
    run/metrics.jsonl       one record an outer step, one more a look
    run/artifact/           the result

A run that is killed at any moment and resumed writes the same artifact, byte for byte, as one that
was left alone, on the same machine with the same number of threads.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import farzi
from farzi.artifact import Artifact, write_artifact
from farzi.data.prepared import PreparedData
from farzi.data.sequences import Sequences
from farzi.data.sources import Origin
from farzi.distill.distiller import Distiller, DistillState, Member, Record
from farzi.distill.initialise import RowChoice, choose_rows, random_start, real_start, teacher_start
from farzi.distill.settings import DistillSettings
from farzi.distill.starts import Omega, TeacherSettings, teacher_runs
from farzi.distill.world import ALONE, World
from farzi.errors import DataError, RunLockedError, SettingsError
from farzi.evaluation import rounded, sequences_of
from farzi.models import Student, build_student
from farzi.seeding import stream
from farzi.synthetic import SyntheticSequences

__all__ = ["RunOutcome", "distill", "make_artifact"]

SAVE_EVERY = 10  # outer steps between two saves of the state

Report = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class RunOutcome:
    """What a run left.

    Attributes:
        folder: the run.
        artifact: its artifact, or None where it was stopped before the end.
        stopped: why the outer loop ended.
        start_loss: fresh students' validation loss before the first outer step.
        best_loss: the lowest one.
        best_step: the outer step it was reached at.
        outer_steps: outer steps taken.
    """

    folder: Path
    artifact: Path | None
    stopped: str
    start_loss: float
    best_loss: float
    best_step: int
    outer_steps: int


def distill(
    data: PreparedData,
    out: str | os.PathLike[str],
    settings: DistillSettings,
    *,
    resume: bool = False,
    device: torch.device | str = "cpu",
    report: Report | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    world: World = ALONE,
) -> RunOutcome:
    """Distil a prepared source into `out`, or go on with the run that is there.

    Args:
        data: the prepared source.
        out: run folder; it must be empty or missing unless `resume`.
        settings: how.
        resume: go on with the run in `out`; the settings must be those it was begun with.
        device: where to compute.
        report: called with (stage, done, total, note).
        should_stop: asked after every outer step; True saves and returns.
        world: the processes of this run; only the first writes the result.

    Raises:
        SettingsError: `out` is in use, or its settings differ.
        RunLockedError: another process writes to `out`.
        DataError: the source is too small.
    """
    folder = Path(out)
    say: Report = report or (lambda stage, done, total, note: None)
    first = world.rank == 0
    if first:
        _claim(folder, _identity(data, settings, world.size), data.origin, resume)
    world.wait()
    with _locked(folder) if first else contextlib.nullcontext():
        student = build_student(_student_settings(data, settings))
        teacher = build_student({**_student_settings(data, settings), "dropout": settings.dropout})
        train_sequences = sequences_of(data, "train")
        validation_sequences = _sample(
            sequences_of(data, "validation"), settings.validation_size, settings.seed
        )
        omega = None
        if not first:
            world.wait()
        if settings.needs_teachers:
            omega = teacher_runs(
                teacher,
                train_sequences,
                validation_sequences,
                TeacherSettings(
                    num_runs=settings.num_teachers,
                    lr=settings.teacher_lr,
                    batch_size=settings.teacher_batch,
                    max_epochs=settings.teacher_epochs,
                    smoothing=settings.teacher_smoothing,
                    seed=settings.seed,
                ),
                folder / "teachers",
                device=device,
                progress=lambda done, total, note: say("teachers", done, total, note),
            )
        if first:
            world.wait()
        start = _on(_start(data, settings, student, omega, train_sequences), device)
        distiller = Distiller(
            student,
            settings,
            train_sequences,
            validation_sequences,
            start,
            omega,
            world,
        )
        state_file = _state_file(folder, world.rank)
        state = _load_state(state_file, device) if resume else None
        metrics = _Metrics(folder / "metrics.jsonl", state.step if state else None, first)
        if state is None:
            state = distiller.begin(lambda done, total, note: say("students", done, total, note))
            metrics.add({"step": 0, "fresh_loss": state.best_loss})
            metrics.write()
            _save_state(state, state_file)
        state = _loop(distiller, state, metrics, state_file, say, should_stop)
        start_loss = metrics.start_loss()
        finished = state.stopped is not None or state.step >= settings.outer_steps
        reason = state.stopped or ("all outer steps taken" if finished else "asked to stop")
        path = folder / "artifact"
        if finished and first:
            artifact = make_artifact(data, settings, state, start_loss)
            write_artifact(artifact, path, overwrite=path.exists())
        return RunOutcome(
            folder=folder,
            artifact=path if finished else None,
            stopped=reason,
            start_loss=start_loss,
            best_loss=state.best_loss,
            best_step=state.best_step,
            outer_steps=state.step,
        )


def _loop(
    distiller: Distiller,
    state: DistillState,
    metrics: _Metrics,
    state_file: Path,
    say: Report,
    should_stop: Callable[[], bool],
) -> DistillState:
    settings = distiller.settings
    look = f"fresh loss {state.best_loss:.3f}"
    while state.step < settings.outer_steps and state.stopped is None:
        started = time.perf_counter()
        state, record = distiller.step(state)
        record["wall_s"] = time.perf_counter() - started
        metrics.add(record)
        looking = state.step % settings.validate_every == 0 or state.step == settings.outer_steps
        if looking:
            agreement = distiller.alignment(state)
            state, record = distiller.look(state)
            record["agreement"] = agreement
            metrics.add(record)
            look = f"fresh loss {record['fresh_loss']:.3f} (best {state.best_loss:.3f})"
            look += "".join(f", cos {name} {value:.2f}" for name, value in agreement.items())
        stopping = distiller.world.agree(should_stop())
        if looking or stopping or state.step % SAVE_EVERY == 0:
            metrics.write()
            _save_state(state, state_file)
        say("outer steps", state.step, settings.outer_steps, look)
        if stopping:
            break
    return state


# -------------------------------------------------------------------------------- the result


def make_artifact(
    data: PreparedData, settings: DistillSettings, state: DistillState, start_loss: float
) -> Artifact:
    """The best sequences of a run as an artifact."""
    best = _on(state.best, "cpu")
    return Artifact(
        latent=best.latent.contiguous(),
        decoder=best.decoder.contiguous(),
        label_latent=None if best.label_latent is None else best.label_latent.contiguous(),
        lengths=best.lengths,
        temperature=best.temperature,
        recipe={
            "student": _student_settings(data, settings),
            "optimizer": "adam",
            "lr": settings.inner_lr,
            "steps": settings.inner_steps,
            "batch_size": settings.inner_batch,
            "start": settings.start,
            "outer_steps": state.best_step,
            "num_threads": torch.get_num_threads(),
            "versions": {"farzi": farzi.__version__, "torch": str(torch.__version__)},
        },
        source={
            "name": data.name,
            "task": data.task,
            "fingerprint": data.fingerprint,
            "split_kind": data.split_kind,
            "split_seed": data.split_seed,
            "train_users_hash": data.train_users_hash,
            "seen_items": data.seen_items,
            "protocol": data.protocol,
        },
        vocabulary=data.vocabulary.decode(np.arange(data.vocabulary.size)),  # type: ignore[arg-type]
        scores={
            "validation": rounded({"start_loss": start_loss, "fresh_loss": state.best_loss}),
        },
    )


# ------------------------------------------------------------------------------------- parts


def _student_settings(data: PreparedData, settings: DistillSettings) -> dict[str, Any]:
    return {
        "name": settings.student,
        "num_tokens": data.vocabulary.size,
        "context_length": settings.context_length,
        "width": settings.width,
        "num_layers": settings.num_layers,
        "num_heads": settings.num_heads,
        "conv_size": settings.conv_size,
    }


def _row_choice(data: PreparedData, settings: DistillSettings) -> RowChoice:
    """Which real rows a start is built from; `auto` decides by the source and the format."""
    if settings.start_rows != "auto":
        return settings.start_rows
    if data.task == "language":
        return "joined"
    return "pieces" if settings.labels else "ends"


def _start(
    data: PreparedData,
    settings: DistillSettings,
    student: Student,
    omega: Omega | None,
    train_sequences: Sequences,
) -> SyntheticSequences:
    num_tokens = data.vocabulary.size
    if settings.start == "random":
        start = random_start(
            settings.num_sequences,
            settings.length,
            settings.latent_dim,
            num_tokens,
            labels=settings.labels,
            seed=settings.seed,
        )
        return replace(start, temperature=settings.temperature)
    rows = choose_rows(
        train_sequences,
        settings.num_sequences,
        settings.length,
        stream(settings.seed, "start rows"),
        how=_row_choice(data, settings),
    )
    if settings.start == "real":
        start = real_start(
            train_sequences,
            rows,
            settings.latent_dim,
            num_tokens,
            labels=settings.labels,
            seed=settings.seed,
        )
    else:
        if omega is None:
            raise DataError("the teacher start needs teacher runs.")
        start = teacher_start(
            student, omega.teachers(), rows, settings.latent_dim, labels=settings.labels
        )
    if start.lengths is not None and bool((start.lengths == settings.length).all()):
        start = replace(start, lengths=None)
    scaled = {
        name: factor * (settings.temperature if name != "decoder" else 1.0)
        for name, factor in start.factors().items()
    }
    return replace(start.with_factors(scaled), temperature=settings.temperature)


def _sample(sequences: Sequences, size: int, seed: int) -> Sequences:
    if len(sequences) <= size:
        return sequences
    generator = stream(seed, "validation sample")
    return sequences.take(np.sort(generator.permutation(len(sequences))[:size]))


def _on(synthetic: SyntheticSequences, device: torch.device | str) -> SyntheticSequences:
    factors = {name: factor.to(device) for name, factor in synthetic.factors().items()}
    lengths = None if synthetic.lengths is None else synthetic.lengths.to(device)
    return replace(synthetic.with_factors(factors), lengths=lengths)


# ------------------------------------------------------------------------------------ folder


def _identity(data: PreparedData, settings: DistillSettings, num_ranks: int) -> dict[str, Any]:
    """What must be the same for a run to be taken up again."""
    return {
        "settings": settings.as_dict(),
        "source": data.name,
        "fingerprint": data.fingerprint,
        "split_kind": data.split_kind,
        "split_seed": data.split_seed,
        "threads": torch.get_num_threads(),
        "processes": num_ranks,
        "versions": {"farzi": farzi.__version__, "torch": str(torch.__version__)},
    }


def _claim(folder: Path, identity: dict[str, Any], origin: Origin | None, resume: bool) -> None:
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
def _locked(folder: Path) -> Iterator[None]:
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


class _Metrics:
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
        self.records.append(record)

    def write(self) -> None:
        if self.writes:
            _write_text(self.path, "".join(json.dumps(record) + "\n" for record in self.records))

    def start_loss(self) -> float:
        return float(self.records[0]["fresh_loss"])


def _state_file(folder: Path, rank: int) -> Path:
    return folder / ("state.safetensors" if rank == 0 else f"state-{rank}.safetensors")


def _save_state(state: DistillState, path: Path) -> None:
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


def _load_state(path: Path, device: torch.device | str) -> DistillState | None:
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
            {name: under(f"{index}/{name}") for name in ("m", "v")} if entry["trained"] else None,
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
