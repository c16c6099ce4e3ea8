"""`farzi compare`: full data, samples of it and distilled data side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from farzi.cli._common import DEFAULT_OUTPUT, Device, Output, Seed
from farzi.cli._source import DEFAULT_READING, On, Reading
from farzi.cli.report import report_at_the_end
from farzi.errors import SettingsError

__all__ = ["compare"]


def compare(
    run_or_source: str,
    /,
    *,
    artifact: Annotated[tuple[Path, ...], Parameter(consume_multiple=True)] = (),
    on: On = None,
    also: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    student: str | None = None,
    splits: int | None = None,
    seeds: int = 3,
    rows: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    grid_lr: Annotated[tuple[float, ...], Parameter(consume_multiple=True)] = (),
    grid_dropout: Annotated[tuple[float, ...], Parameter(consume_multiple=True)] = (),
    grid_smoothing: Annotated[tuple[float, ...], Parameter(consume_multiple=True)] = (),
    grid_decay: Annotated[tuple[float, ...], Parameter(consume_multiple=True)] = (),
    grid_schedule: Annotated[
        tuple[Literal["constant", "linear"], ...], Parameter(consume_multiple=True)
    ] = (),
    grid_shift: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = (),
    grid_steps: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = (),
    full_batch: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = (),
    tune_seconds: float | None = None,
    tune_sweeps: int | None = None,
    tune_once: bool = False,
    patience: int | None = None,
    max_steps: int | None = None,
    max_epochs: int | None = None,
    report: Annotated[bool, Parameter(negative="--no-report")] = True,
    fresh: bool = False,
    jobs: int = 1,
    reading: Reading = DEFAULT_READING,
    seed: Seed = 0,
    device: Device = "auto",
    output: Output = DEFAULT_OUTPUT,
) -> None:
    """Compare an artifact with full data and with samples of it.

    Every row is tuned on validation over the same step sizes, weight decays, dropout rates and
    label smoothing, one after another; then fresh students from other seeds are scored on test,
    once. Rows with soft labels have them from the run's own teachers. Finished runs are kept in the
    run's folder: a comparison that was cut off goes on with them.

    Args:
        run_or_source: a run or an artifact; OUT of `farzi distill --split-seed 0 1 2` stands for
            all of its splits. It remembers its source. Or a source, with --artifact.
        artifact: further runs or artifacts, one for each split.
        also: further runs on the same splits as rows of their own, as NAME=PATH.
        student: what was distilled for, where it is a model of your own: my_models.py:make or
            hf:config.json; an artifact names no code.
        splits: how many splits to use; all artifacts without it.
        seeds: fresh students a row and split.
        rows: which rows; all without it.
        grid_lr: step sizes that every row is tuned over; the search begins with the first of each.
        grid_dropout: dropout rates that every row is tuned over.
        grid_smoothing: shares of label smoothing that every row is tuned over.
        grid_decay: weight decays that every row is tuned over.
        grid_schedule: schedules of the step size that every row is tuned over: constant, whose runs
            validation stops, linear, whose runs go on to the last step that the limits allow
            unless their loss is far above its best for long.
        grid_shift: places by which labelled rows are moved at most that they are tuned over; see
            `farzi train`.
        grid_steps: steps of a small row that it is tuned over, in place of --max-steps: how long
            its step size falls, say. The other settings are tuned with the first.
        full_batch: sequences a step that the rows of all training data are tuned over.
        tune_seconds: seconds of training that tuning one row on one split may take.
        tune_sweeps: how often the search of a row goes over what is tuned, at most; without it
            once, and over the step size again.
        tune_once: tune on the first split alone, and train on the others with what it chose.
        patience: looks at validation without improvement after which a run stops; looks are a tenth
            of the steps so far apart.
        max_steps: most steps of a small row; one that it cuts off is no result.
        max_epochs: most epochs of a row of all training data, likewise.
        fresh: make every run again, those that are kept too.
        jobs: processes that train students, of one thread each.
        report: write the run's report; --no-report leaves it out.

    Example:
        farzi compare runs/ml-100k --json out.json
        farzi compare stdlib-calls --artifact runs/calls --rows full farzi --json
    """
    from farzi.api import compare as run_comparison
    from farzi.experiments.tables import notes, ratio_lines, reached_lines, terminal
    from farzi.provenance import is_home, is_run, read_again, remembered_by, split_folders

    runs = [*([Path(run_or_source)] if is_run(run_or_source) else []), *artifact]
    if not is_run(run_or_source):
        if on is not None:
            raise SettingsError(f"--on {on}: {run_or_source} is the source itself.")
        if not runs:
            raise SettingsError(
                f"{run_or_source}: is no run; name a run, or what to compare with --artifact."
            )
        on = run_or_source
    with output.progress("compare", unit="runs") as bar:
        result = run_comparison(
            runs,
            on=on,
            also=dict(map(_named, also)),
            student=student,
            splits=splits,
            rows=rows,
            seeds=seeds,
            lrs=grid_lr,
            dropouts=grid_dropout,
            smoothings=grid_smoothing,
            decays=grid_decay,
            schedules=grid_schedule,
            shifts=grid_shift,
            num_steps=grid_steps,
            full_batch=full_batch,
            tune_seconds=tune_seconds,
            tune_sweeps=tune_sweeps,
            tune_once=tune_once,
            patience=patience,
            max_steps=max_steps,
            max_epochs=max_epochs,
            seed=seed,
            fresh=fresh,
            jobs=jobs,
            device=device,
            progress=bar,
            **reading.asked,
        )
    (table,) = terminal(result)
    output.result(result.to_json(), text=table)
    if not output.json:
        for line in [*ratio_lines(result), *reached_lines(result), *notes(result)]:
            print(line)
    if report and is_home(runs[0]):
        data = read_again(remembered_by(split_folders(runs[0])[0]), on, **reading.asked)
        report_at_the_end(runs[0], data, output, comparison=result.to_json())


def _named(text: str) -> tuple[str, str]:
    """`NAME=PATH` as both."""
    name, equals, path = text.partition("=")
    if not equals or not name:
        raise SettingsError(f"--also must be NAME=PATH, got {text!r}.")
    return name, path
