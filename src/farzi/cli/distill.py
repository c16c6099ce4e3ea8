"""`farzi distill`: the main job."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from farzi.cli._common import (
    DEFAULT_OUTPUT,
    EXIT_DONE,
    Device,
    Output,
    SplitSeeds,
    choose_device,
)
from farzi.cli._source import DEFAULT_READING, Reading
from farzi.cli._stopping import Stop, stop_on_signal
from farzi.cli.report import report_at_the_end

if TYPE_CHECKING:
    from farzi.distill import RunOutcome
    from farzi.distill.parse import Layer

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
    objective: str | None = None,
    start: str | None = None,
    from_: Annotated[Path | None, Parameter(name="--from")] = None,
    inner_optimizer: str | None = None,
    adjoint: str | None = None,
    config: Path | None = None,
    set: tuple[str, ...] = (),
    resume: bool = False,
    dry_run: bool = False,
    report: Annotated[bool, Parameter(negative="--no-report")] = True,
    track: str | None = None,
    reading: Reading = DEFAULT_READING,
    seed: Annotated[
        int | None,
        Parameter(
            help="Seed of the models: their weights and their batches.", env_var="FARZI_SEED"
        ),
    ] = None,
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
        size: sequences x length; without it what suits the source: 2 % of its events, but at least
            500 tokens and at most 50x50, where nothing better is known.
        latent_dim: rank of the factors.
        outer_steps: steps of the outer loop; 0 keeps the start as it is.
        inner_steps: steps a student is trained for.
        window: inner steps that one meta-gradient goes through.
        student: the model to distil for: sasrec, gru4rec, fmlp, transformer, rnn:cell=lstm; of
            transformers, hf:config.json; your own, my_models.py:make; what fits the task without
            it.
        objective: what the outer loop lowers: meta_matching (Farzi), random_matching (the same
            from random weights), gradient_matching or trajectory_matching.
        start: where the synthetic sequences begin: teacher, real, random, or artifact with --from.
        from_: run or artifact to begin from.
        inner_optimizer: what trains the students: adam, adamw, sgd, rmsprop or adagrad; momentum
            and decay by --set inner.optimizer.momentum=0.9.
        adjoint: how inner steps are differentiated: stored, checkpointed, reversible, direct, auto.
        config: TOML or JSON file of settings; flags go before it.
        set: NAME=VALUE of any other setting, such as outer.lr_labels=0.01; may be repeated.
            --dry-run lists them all.
        resume: go on with the run in OUT.
        dry_run: check everything, show the settings, and stop before any training.
        report: write the run's report at the end; --no-report leaves it out.
        track: tensorboard: the run's numbers as curves in OUT/tensorboard while it goes on.

    Example:
        farzi distill stdlib-calls --out runs/calls
        farzi distill ml-100k --data-root ~/datasets --size 50x50 --out runs/ml-100k
        farzi distill ml-100k --out runs/a --set outer.lr_labels=0.02 --set teachers.num_runs=1
        farzi distill ml-100k --out runs/sgd --inner-optimizer sgd --adjoint reversible
        farzi distill log.csv --out runs/today --start artifact --from runs/yesterday
        torchrun --nproc-per-node 2 -m farzi distill ml-100k --out runs/b
    """
    with stop_on_signal() as stop:
        flags: dict[str, tuple[str, Any]] = {
            "seed": ("--seed", seed),
            "latent_dim": ("--latent-dim", latent_dim),
            "outer.steps": ("--outer-steps", outer_steps),
            "inner.steps": ("--inner-steps", inner_steps),
            "inner.window": ("--window", window),
            "student.name": ("--student", student),
            "objective.name": ("--objective", objective),
            "start.name": ("--start", start),
            "start.run": ("--from", None if from_ is None else str(from_)),
            "inner.optimizer.name": ("--inner-optimizer", inner_optimizer),
            "inner.adjoint.name": ("--adjoint", adjoint),
        }
        given = {name: flag for name, flag in flags.items() if flag[1] is not None}
        chosen_device, reason = choose_device(device)
        output.detail(f"device {chosen_device}: {reason}")
        layers = _layers(config, size, given, set)
        outcomes: list[dict[str, Any]] = []
        for number in split_seed:
            folder = out if len(split_seed) == 1 else out / f"split-{number}"
            outcome = _one_split(
                source,
                folder,
                layers,
                {**reading.asked, "split_seed": number},
                resume=resume,
                dry_run=dry_run,
                report=report,
                track=track,
                device=chosen_device,
                stop=stop,
                output=output,
            )
            if outcome is None:
                continue  # a process of torchrun that is not the first
            outcomes.append(outcome)
            if "artifact" in outcome and outcome["artifact"] is None:
                output.say(_advice(outcome))
                break
        if not outcomes:
            return EXIT_DONE
        payload = outcomes[0] if len(outcomes) == 1 else {"runs": outcomes}
        output.result(payload, text="\n".join(_line(outcome) for outcome in outcomes))
        if "artifact" in outcomes[-1] and outcomes[-1]["artifact"] is None:
            return stop.code
        return EXIT_DONE


def _layers(
    config: Path | None, size: str | None, flags: dict[str, tuple[str, Any]], texts: tuple[str, ...]
) -> list[Layer]:
    """The settings of files and flags, the last of highest rank; checked before data are read."""
    from farzi.distill.parse import check_layers, read_file, read_flags
    from farzi.distill.presets import parse_size

    for name, value in parse_size(size).items():
        flags[name] = ("--size", value)
    layers = [] if config is None else [read_file(config)]
    layers.append(read_flags(texts, flags))
    check_layers(layers)
    return layers


def _one_split(
    source: str,
    folder: Path,
    layers: list[Layer],
    reading: dict[str, Any],
    *,
    resume: bool,
    dry_run: bool,
    report: bool,
    track: str | None,
    device: Any,
    stop: Stop,
    output: Output,
) -> dict[str, Any] | None:
    """Distil one split; its outcome for the reader, None in a process that is not the first."""
    from farzi.data import prepare
    from farzi.distill import distill_source, plan_run
    from farzi.distill.folder import check_claim
    from farzi.distill.parse import settings_for
    from farzi.distill.world import world_of_torchrun
    from farzi.report.tracking import tracker

    if not resume and int(os.environ.get("RANK", "0")) == 0:
        check_claim(folder, {}, resume)  # before the source is read, which may take long
    data = prepare(source, **reading)
    settings = settings_for(data, *layers)
    if dry_run:
        output.say(data.protocol_line(settings.context_length))
        for warning in data.warnings:
            output.say(f"warning: {warning}")
        plan = plan_run(data, settings)
        plan.check_out(folder, resume=resume, device=device)
        for line in plan.lines:
            output.say(line)
        for warning in plan.warnings:
            output.say(f"warning: {warning}")
        return {"out": str(folder), "settings": plan.settings.as_dict()}
    told = None if track is None else tracker(track, folder)
    with (
        contextlib.closing(told) if told is not None else contextlib.nullcontext(),
        world_of_torchrun(device) as world,
        (output if world.rank == 0 else Output(quiet=True)).progress("distil", unit="") as bar,
        stop.polled(),
    ):
        outcome = distill_source(
            data,
            folder,
            settings,
            resume=resume,
            device=device,
            progress=bar,
            on_record=None if told is None else told.record,
            should_stop=stop.asked,
            world=world,
        )
    if world.rank:
        return None
    if report and outcome.artifact is not None:
        report_at_the_end(folder, data, output)
    return _payload(outcome)


def _payload(outcome: RunOutcome) -> dict[str, Any]:
    return {
        "run": str(outcome.folder),
        "artifact": None if outcome.artifact is None else str(outcome.artifact),
        "stopped": outcome.stopped,
        "outer_steps": outcome.outer_steps,
        "best_step": outcome.best_step,
        "start_loss": outcome.start_loss,
        "best_loss": outcome.best_loss,
    }


def _advice(outcome: dict[str, Any]) -> str:
    return f"stopped after outer step {outcome['outer_steps']}; --resume goes on."


def _line(outcome: dict[str, Any]) -> str:
    if "settings" in outcome:
        lines = [f"{name} = {value}" for name, value in _dotted(outcome["settings"])]
        return "\n".join([f"would write {outcome['out']}", *lines])
    if outcome["artifact"] is None:
        return f"{outcome['run']}: {outcome['stopped']}"
    return (
        f"fresh students' validation loss {outcome['start_loss']:.3f} -> "
        f"{outcome['best_loss']:.3f} at outer step {outcome['best_step']} of "
        f"{outcome['outer_steps']} ({outcome['stopped']})\n{outcome['artifact']}"
    )


def _dotted(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
