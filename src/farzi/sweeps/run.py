"""`farzi.sweep(...)`: a search over settings, in its folder, by one process or several."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, Unpack

import torch

from farzi.artifact import check_split, locate_artifact, read_artifact
from farzi.data.arguments import HowRead
from farzi.data.files import write_text
from farzi.data.preparation import prepare
from farzi.data.prepared import PreparedData
from farzi.devices import choose_device
from farzi.distill.stopping import ShouldStop, never
from farzi.errors import DataError, SettingsError
from farzi.provenance import is_home, is_run, read_again, remembered_by
from farzi.sweeps.results import SweepResult, short
from farzi.sweeps.space import Value, parse_axes, parse_fixed
from farzi.sweeps.study import Sampler, Study, grid, load_optuna
from farzi.sweeps.tasks import Distillations, Students, Task, check, flock

__all__ = ["sweep", "work"]

_log = logging.getLogger("farzi")

Progress: TypeAlias = Callable[[int, int, str], None]
PathLike: TypeAlias = str | os.PathLike[str]

RECORD = "sweep.json"
RESULT = "result.json"
POLL_SECONDS = 0.2


def sweep(
    source: Any,
    out: PathLike | None = None,
    *,
    vary: Sequence[str],
    fixed: Mapping[str, Value] | Sequence[str] = (),
    of: Literal["student", "distillation"] = "student",
    trials: int | None = None,
    seeds: int = 1,
    sampler: Sampler = "tpe",
    processes: int = 1,
    seed: int = 0,
    on: PathLike | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    should_stop: ShouldStop = never,
    **read: Unpack[HowRead],
) -> SweepResult:
    r"""Search over settings by the loss on the validation part; test is never looked at.

    The sweep lives in its folder: the same call goes on where it was cut off, with more `trials`
    it makes more, and calls of several processes or machines that share the folder share the work.

    Args:
        source: a run or an artifact, whose students train on distilled data; or what
            `farzi.prepare` takes or returned.
        out: the sweep's folder; None: `sweep` in the folder of a run.
        vary: what is varied, each `NAME=LOW..HIGH`, `NAME=LOW..HIGH:log` or `NAME=VALUE,VALUE`.
            Settings of a student are the arguments of `farzi.train`, and `student.NAME` for those
            of the student itself; of a distillation, those of `farzi.distill` by dotted names.
        fixed: settings that are the same in every trial, by name, or each `NAME=VALUE`.
        of: what a trial is: a student's training, or a distillation.
        trials: in all, those done before counted; None: 20, or the whole grid.
        seeds: students a trial, whose mean loss counts; a distillation has seeds of its own.
        sampler: `tpe` learns from the trials before, `random` does not; `grid` tries every
            combination.
        processes: how many share the work; each reads the source again.
        seed: of the suggestions and of the models.
        on: where the source of a run or an artifact is now.
        device: `auto`, `cpu`, `cuda` or a torch device.
        progress: called with (trials done, in all, what runs now).
        should_stop: asked before every step; True puts the running trial back and returns.
        read: how the source is read, where that is not remembered: arguments of `farzi.prepare`.

    Raises:
        SettingsError: a setting is wrong, or the sweep in `out` is another; Optuna is missing.
        DataError: the source cannot be read, or every trial failed.
        ArtifactError: the artifact is broken.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import farzi
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     log = Path(folder, "log.csv")
        ...     rows = [f"u{n // 9},film{(n + n // 9) % 7},{n}" for n in range(180)]
        ...     _ = log.write_text("user,item,time\n" + "\n".join(rows))
        ...     found = farzi.sweep(
        ...         log, Path(folder, "sweep"), vary=["lr=0.0001,0.02"], sampler="grid",
        ...         fixed={"width": 8, "max_steps": 20})
        >>> found.best.values, len(found.trials)
        ({'lr': 0.02}, 2)
    """
    load_optuna()
    for name, number in {"trials": trials, "seeds": seeds, "processes": processes}.items():
        if number is not None and number < 1:
            raise ValueError(f"`{name}` must be an int >= 1, got {number}.")
    if sampler not in ("tpe", "random", "grid"):
        raise ValueError(f"`sampler` must be tpe, random or grid, got {sampler!r}.")
    if of == "distillation" and seeds != 1:
        raise SettingsError("`seeds` counts students; of a distillation: outer.validation_seeds.")
    axes = parse_axes(vary)
    always = dict(fixed) if isinstance(fixed, Mapping) else parse_fixed(fixed)
    in_all = len(grid(axes)) if sampler == "grid" else 20
    wanted = min(trials or in_all, in_all) if sampler == "grid" else trials or in_all
    chosen, _ = choose_device(device)
    data, artifact = _open(source, on, of, read)
    folder = _folder(source, out)
    task = _task(of, data, artifact, folder, seeds, seed, chosen)
    check(task, axes, always)
    line = task.protocol_line()
    _log.info("%s", line)
    for warning in data.warnings:
        _log.warning("%s", warning)
    record = {
        "source": _named(source, on),
        "on": None if on is None else os.fspath(on),
        "of": of,
        "fingerprint": data.fingerprint,
        "split_kind": data.split_kind,
        "split_seed": data.split_seed,
        "read": {name: _plain(value) for name, value in read.items()},
        "vary": [axis.text for axis in axes],
        "fixed": always,
        "sampler": sampler,
        "seeds": seeds,
        "seed": seed,
    }
    _claim(folder, record)
    study = Study(folder, axes, always, sampler, seed)
    told = _Told(study, wanted, progress)
    told.say("")
    if processes == 1:
        study.work(task, wanted, should_stop=should_stop, tell=told.say)
    else:
        if not isinstance(source, str | os.PathLike):
            raise SettingsError("`processes` must be 1 for a source in memory, got more.")
        _work_together(folder, wanted, processes, str(chosen), told, should_stop)
    told.say("")
    result = SweepResult(
        folder=folder,
        source=str(artifact or _named(source, on)),
        of=of,
        protocol_line=line,
        fixed=always,
        vary=tuple(axis.text for axis in axes),
        trials=study.trials(),
        wanted=wanted,
        stopped=should_stop() and len(study.trials()) < wanted,
    )
    if result.failed and result.best is None:
        raise DataError(f"{folder}: every trial failed, the last: {result.failed[-1].error}")
    _write(folder / RESULT, result.to_json())
    return result


# -------------------------------------------------------------------------------- source and task


def _open(
    source: Any, on: PathLike | None, of: str, read: HowRead
) -> tuple[PreparedData, str | None]:
    """The split, and the artifact's folder where students train on one."""
    if isinstance(source, PreparedData):
        if read:
            raise SettingsError(f"`{next(iter(read))}` is of no use: the source is prepared.")
        return source, None
    if isinstance(source, str | os.PathLike) and is_run(source):
        data = read_again(remembered_by(source), on, **read)
        if of == "distillation":
            return data, None
        check_split(read_artifact(locate_artifact(source)), data.identity)
        return data, os.fspath(source)
    if on is not None:
        raise SettingsError(f"`on` {on}: {source} is the source itself.")
    return prepare(source, **read), None


def _folder(source: Any, out: PathLike | None) -> Path:
    if out is not None:
        return Path(out)
    if isinstance(source, str | os.PathLike) and is_home(source):
        return Path(source) / "sweep"
    raise SettingsError("`out` must be given: the folder to keep the sweep in.")


def _task(
    of: str,
    data: PreparedData,
    artifact: str | None,
    folder: Path,
    seeds: int,
    seed: int,
    device: torch.device,
) -> Task:
    if of == "student":
        return Students(artifact, data, seeds, seed, device)
    return Distillations(data, folder, seed, device)


def _named(source: Any, on: PathLike | None) -> str:
    """What the source is called where the sweep is shown and taken up again."""
    if isinstance(source, PreparedData):
        return source.name
    return os.fspath(source) if isinstance(source, str | os.PathLike) else type(source).__name__


def _plain(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


# ------------------------------------------------------------------------------------- the folder


def _claim(folder: Path, record: dict[str, Any]) -> None:
    """Make the folder that of this sweep, or see that it is."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with flock(folder / f".{RECORD}.lock"):
            file = folder / RECORD
            if file.is_file():
                _refuse_another(folder, json.loads(file.read_text(encoding="utf-8")), record)
                return
            others = [path for path in folder.iterdir() if not path.name.startswith(".")]
            if others:
                raise SettingsError(f"`out` {folder}: holds {others[0].name}, and no sweep.")
            _write(file, record)
    except OSError as error:
        raise SettingsError(f"`out` {folder}: {error.strerror}.") from None
    except ValueError:
        raise DataError(f"{folder / RECORD}: cannot be read.") from None


def _refuse_another(folder: Path, before: Any, record: dict[str, Any]) -> None:
    if not isinstance(before, dict):
        raise DataError(f"{folder / RECORD}: holds no sweep.")
    for name, now in json.loads(json.dumps(record, default=str)).items():
        if before.get(name) != now and name not in ("read", "on"):
            raise SettingsError(
                f"`out` {folder}: the sweep in it has {name} {before.get(name)!r}, and this one "
                f"{now!r}; choose another folder."
            )


def _write(file: Path, values: Mapping[str, Any]) -> None:
    write_text(file, json.dumps(values, indent=1, default=str) + "\n")


class _Told:
    """Says how far a sweep is, and the best so far."""

    def __init__(self, study: Study, wanted: int, progress: Progress | None) -> None:
        self.study = study
        self.wanted = wanted
        self.progress = progress
        self.count = -1
        self.best = ""

    def say(self, note: str) -> None:
        """Report; the journal is read where a trial has ended or begun."""
        if self.progress is None:
            return
        if not note or self.count < 0:
            trials = self.study.trials()
            self.count = len(trials)
            done = [trial for trial in trials if trial.loss is not None]
            if done:
                best = min(done, key=lambda trial: trial.loss or 0.0)
                values = ", ".join(f"{name} {short(x)}" for name, x in best.values.items())
                self.best = f"best {best.loss:.4f} ({values})"
        self.progress(self.count, self.wanted, "; ".join(filter(None, (self.best, note))))


# -------------------------------------------------------------------------------------- processes


def _work_together(
    folder: Path,
    wanted: int,
    processes: int,
    device: str,
    told: _Told,
    should_stop: ShouldStop,
) -> None:
    """Share the work among processes; each one's words go to a file of its own."""
    threads = max(1, (os.cpu_count() or 1) // processes)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "farzi.sweeps.worker", str(folder), str(wanted), device]
    with contextlib.ExitStack() as opened:
        children: list[tuple[subprocess.Popen[bytes], Path]] = []
        for number in range(processes):
            said = folder / f"worker-{number}.log"
            log = opened.enter_context(said.open("w"))
            child = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            opened.callback(_end, child)
            children.append((child, said))
        sent = False
        while any(child.poll() is None for child, _ in children):
            if should_stop() and not sent:
                sent = True
                for child, _ in children:
                    child.send_signal(signal.SIGTERM)
            time.sleep(POLL_SECONDS)
            told.say("")
        for child, said in children:
            if child.returncode:
                lines = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                last = lines[-1] if lines else f"ended with {child.returncode}"
                raise DataError(f"{said}: a process of the sweep failed: {last}")


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def work(folder: Path, wanted: int, device: str, should_stop: ShouldStop) -> None:
    """What one of several processes does: trials of the sweep in a folder.

    Args:
        folder: of a sweep that was begun.
        wanted: trials in all.
        device: where to compute.
        should_stop: asked before every step.
    """
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    read: HowRead = record["read"]
    data, artifact = _open(record["source"], record.get("on"), record["of"], read)
    if data.fingerprint != record["fingerprint"]:
        raise DataError(f"{record['source']}: has changed since the sweep began.")
    task = _task(
        record["of"], data, artifact, folder, record["seeds"], record["seed"], torch.device(device)
    )
    axes = parse_axes(record["vary"])
    study = Study(folder, axes, record["fixed"], record["sampler"], record["seed"])
    study.work(task, wanted, should_stop=should_stop)
