"""`farzi distill`: the main job."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import signal
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from farzi.cli._common import (
    DEFAULT_OUTPUT,
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_STOPPED,
    Device,
    Output,
    Seed,
    SplitSeeds,
    choose_device,
)
from farzi.cli._source import DEFAULT_READING, Reading
from farzi.cli.report import report_at_the_end
from farzi.errors import SettingsError

__all__ = ["distill"]


def distill(
    source: str,
    /,
    *,
    out: Path,
    size: str | None = None,
    latent_dim: int | None = None,
    outer_steps: int | None = None,
    inner_steps: int | None = None,
    window: int | None = None,
    student: str | None = None,
    start: Literal["teacher", "real", "random"] | None = None,
    config: Path | None = None,
    set: tuple[str, ...] = (),
    resume: bool = False,
    dry_run: bool = False,
    report: Annotated[bool, Parameter(negative="--no-report")] = True,
    reading: Reading = DEFAULT_READING,
    seed: Seed = 0,
    split_seed: SplitSeeds = (0,),
    device: Device = "auto",
    output: Output = DEFAULT_OUTPUT,
) -> int:
    """Distil a source into a few synthetic sequences.

    Stopped by a signal or killed, a run goes on where it was with --resume, to the same bits.
    Several split seeds make one run each, in OUT/split-N.

    Args:
        source: a name from `farzi sources`, a path, or a folder that `farzi prepare` wrote.
        out: run folder.
        size: sequences x length; a sensible one from the source without it.
        latent_dim: rank of the factors.
        outer_steps: steps of the outer loop; 0 keeps the start as it is.
        inner_steps: steps a student is trained for.
        window: inner steps that one meta-gradient goes through.
        student: sasrec, gru4rec, fmlp, transformer or rnn; what fits the task without it.
        start: where the synthetic sequences begin.
        config: TOML or JSON file of settings; flags go before it.
        set: NAME=VALUE of any other setting; may be repeated.
        resume: go on with the run in OUT.
        dry_run: show settings and sizes, and stop before any training.
        report: write the run's report at the end; --no-report leaves it out.

    Example:
        farzi distill stdlib-calls --out runs/calls
        farzi distill ml-100k --data-root ~/datasets --size 50x50 --out runs/ml-100k
        farzi distill ml-100k --out runs/a --set lr_labels=0.02 --set num_teachers=1
        torchrun --nproc-per-node 2 -m farzi distill ml-100k --out runs/b
    """
    from farzi.data import prepare
    from farzi.distill import DistillSettings
    from farzi.distill import distill as run_distillation
    from farzi.distill.world import world_of_torchrun

    chosen_device, reason = choose_device(device)
    output.detail(f"device {chosen_device}: {reason}")
    outcomes: list[dict[str, Any]] = []
    code = EXIT_DONE
    for number in split_seed:
        data = prepare(
            source,
            split_seed=number,
            **reading.asked,
        )
        values = _read_config(config) | {"seed": seed}
        flags = {
            "latent_dim": latent_dim,
            "outer_steps": outer_steps,
            "inner_steps": inner_steps,
            "window": window,
            "student": student,
            "start": start,
        }
        values |= {name: value for name, value in flags.items() if value is not None}
        values |= _parse_size(size)
        values |= dict(_parse_setting(text) for text in set)
        values = _defaults(source, data.task, labels=values.get("labels") is not False) | values
        settings = DistillSettings(**_typed(values))
        folder = out if len(split_seed) == 1 else out / f"split-{number}"
        output.say(data.protocol_line(settings.context_length))
        for warning in data.warnings:
            output.say(f"warning: {warning}")
        if dry_run:
            outcomes.append({"out": str(folder), "settings": settings.as_dict()})
            continue
        with (
            world_of_torchrun(chosen_device) as world,
            _stop_on_signal() as stop,
            (output if world.rank == 0 else Output(quiet=True)).progress("distil", unit="") as bar,
        ):

            def show(stage: str, done: int, total: int, note: str, bar: Any = bar) -> None:
                bar(done, total, f"{stage}: {note}" if note else stage)

            outcome = run_distillation(
                data,
                folder,
                settings,
                resume=resume,
                device=chosen_device,
                report=show,
                should_stop=lambda stop=stop: stop[0] is not None,  # type: ignore[misc]
                world=world,
            )
        if world.rank:
            continue
        outcomes.append(
            {
                "run": str(folder),
                "artifact": None if outcome.artifact is None else str(outcome.artifact),
                "stopped": outcome.stopped,
                "outer_steps": outcome.outer_steps,
                "best_step": outcome.best_step,
                "start_loss": outcome.start_loss,
                "best_loss": outcome.best_loss,
            }
        )
        if outcome.artifact is None:
            code = EXIT_INTERRUPTED if stop[0] == signal.SIGINT else EXIT_STOPPED
            output.say(f"stopped after outer step {outcome.outer_steps}; --resume goes on.")
            break
        if report:
            report_at_the_end(folder, data, output)
    if not outcomes:
        return code  # a process of torchrun that is not the first
    payload = outcomes[0] if len(outcomes) == 1 else {"runs": outcomes}
    output.result(payload, text="\n".join(_line(outcome) for outcome in outcomes))
    return code


def _line(outcome: dict[str, Any]) -> str:
    if "settings" in outcome:
        lines = [f"{name} = {value}" for name, value in outcome["settings"].items()]
        return "\n".join([f"would write {outcome['out']}", *lines])
    if outcome["artifact"] is None:
        return f"{outcome['run']}: {outcome['stopped']}"
    return (
        f"fresh students' validation loss {outcome['start_loss']:.3f} -> "
        f"{outcome['best_loss']:.3f} at outer step {outcome['best_step']} of "
        f"{outcome['outer_steps']} ({outcome['stopped']})\n{outcome['artifact']}"
    )


def _defaults(source: str, task: str, *, labels: bool) -> dict[str, Any]:
    """What suits the source, the task and the format where nothing else is asked for."""
    from farzi.data import SOURCES

    known = SOURCES.get(source)
    values = _parse_size(known.size if known is not None else None)
    if task == "language":
        values |= {"student": "transformer", "teacher_epochs": 12, "teacher_batch": 128}
        values |= {"latent_dim": 24}
    if not labels:
        # Tokens alone start far from what they can be, and take longer steps.
        values |= {"outer_steps": 200, "lr_latent": 0.02, "lr_decoder": 0.01, "latent_dim": 24}
    return values


def _parse_size(size: str | None) -> dict[str, Any]:
    if size is None:
        return {}
    match = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,4})", size)
    if match is None:
        raise SettingsError(f"--size must be SEQUENCESxLENGTH such as 50x50, got {size!r}.")
    return {"num_sequences": int(match[1]), "length": int(match[2])}


def _read_config(config: Path | None) -> dict[str, Any]:
    if config is None:
        return {}
    try:
        text = config.read_text(encoding="utf-8")
        values = json.loads(text) if config.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise SettingsError(f"--config {config}: {error.strerror}.") from None
    except ValueError as error:
        raise SettingsError(f"--config {config}: {error}.") from None
    if not isinstance(values, dict):
        raise SettingsError(f"--config {config}: must hold names and values.")
    return values


def _parse_setting(text: str) -> tuple[str, Any]:
    name, found, value = text.partition("=")
    if not found:
        raise SettingsError(f"--set must be NAME=VALUE, got {text!r}.")
    try:
        return name.strip(), json.loads(value.lower() if value in ("True", "False") else value)
    except ValueError:
        return name.strip(), value


def _typed(values: dict[str, Any]) -> dict[str, Any]:
    """The values, each known and of the type of its default."""
    from farzi.distill import DistillSettings

    defaults = {field.name: field.default for field in dataclasses.fields(DistillSettings)}
    typed = {}
    for name, value in values.items():
        if name not in defaults:
            close = difflib.get_close_matches(name, defaults, n=3)
            hint = f" Close matches: {', '.join(close)}." if close else ""
            raise SettingsError(f"unknown setting {name!r}.{hint}")
        kind = type(defaults[name])
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not kind:
            raise SettingsError(f"`{name}` must be of type {kind.__name__}, got {value!r}.")
        typed[name] = value
    return typed


@contextmanager
def _stop_on_signal() -> Iterator[list[int | None]]:
    """Note the first SIGINT or SIGTERM, so that the run saves and stops; a second one ends it."""
    got: list[int | None] = [None]
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: Any) -> None:
        got[0] = number
        for restored, handler in before.items():
            signal.signal(restored, handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield got
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
