"""`farzi sweep`: a search over settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from farzi.cli._common import (
    DEFAULT_OUTPUT,
    EXIT_DONE,
    Device,
    Output,
)
from farzi.cli._source import DEFAULT_READING, On, Reading
from farzi.cli._stopping import stop_on_signal
from farzi.cli.report import report_at_the_end

if TYPE_CHECKING:
    from rich.table import Table

    from farzi.sweeps import SweepResult

__all__ = ["sweep"]


def sweep(
    run_or_source: str,
    /,
    *,
    vary: tuple[str, ...] = (),
    set: tuple[str, ...] = (),
    of: Literal["student", "distillation"] = "student",
    out: Path | None = None,
    trials: int | None = None,
    seeds: int = 1,
    sampler: Literal["tpe", "random", "grid"] = "tpe",
    processes: int = 1,
    report: Annotated[bool, Parameter(negative="--no-report")] = True,
    on: On = None,
    reading: Reading = DEFAULT_READING,
    seed: Annotated[
        int, Parameter(help="Seed of what is suggested, and of the models.", env_var="FARZI_SEED")
    ] = 0,
    split_seed: Annotated[
        int | None, Parameter(help="Seed of the data split.", env_var="FARZI_SPLIT_SEED")
    ] = None,
    device: Device = "auto",
    output: Output = DEFAULT_OUTPUT,
) -> int:
    """Search over settings of a student or of a distillation, by the loss on the validation part.

    On a run, students train on its distilled sequences, which tells how to train on these, and
    hardly what is best on all data; on a source, on all of its data. The same command goes on where
    a sweep was cut off, makes more trials with a higher --trials, and shares the work where it runs
    several times at once. Needs the extra `sweep`.

    Args:
        run_or_source: a run or an artifact; or a source.
        vary: what to try, may be repeated: lr=0.001..0.1:log, dropout=0..0.5, width=16,32,64,
            student=sasrec,gru4rec. For students the flags of `farzi train`, and student.NAME for
            a setting of the student's own; for distillations what `farzi distill --dry-run` lists.
        set: NAME=VALUE that is the same in every trial; may be repeated.
        of: what a trial is.
        out: the sweep's folder; RUN/sweep without it.
        trials: in all, those done before counted; 20 without it, or the whole grid.
        seeds: students a trial, whose mean loss counts.
        sampler: tpe learns from the trials before, random does not; grid tries every combination.
        processes: how many share the work; each reads the source again.
        report: write OUT/report.html, and the run's report anew; --no-report leaves them out.

    Example:
        farzi sweep runs/calls --vary lr=0.003..0.1:log --vary dropout=0..0.5 --trials 30
        farzi sweep ml-100k --vary student=sasrec,gru4rec --set width=64 --out sweeps/full
        farzi sweep stdlib-calls --of distillation --vary outer.lr_labels=0.001..0.05:log
            --set outer.steps=10 --trials 8 --processes 2 --out sweeps/labels
    """
    from farzi.provenance import is_home, read_again, remembered_by
    from farzi.report.sweep import write_sweep
    from farzi.sweeps import sweep as run_sweep

    asked = reading.asked | ({} if split_seed is None else {"split_seed": split_seed})
    with (
        stop_on_signal() as stop,
        output.progress("sweep", unit="trials") as bar,
        stop.polled(),
    ):
        found = run_sweep(
            run_or_source,
            out,
            vary=vary,
            fixed=set,
            of=of,
            trials=trials,
            seeds=seeds,
            sampler=sampler,
            processes=processes,
            seed=seed,
            on=on,
            device=device,
            progress=bar,
            should_stop=stop.asked,
            **asked,
        )
    if report and found.best is not None:
        output.say(f"report: {write_sweep(found.to_json(), found.folder / 'report.html')}")
        if found.folder == Path(run_or_source) / "sweep" and is_home(run_or_source):
            data = read_again(remembered_by(run_or_source), on, **asked)
            report_at_the_end(Path(run_or_source), data, output)
    output.result(found.to_json(), text=_table(found))
    if found.best is not None and not output.json:
        print(found.command)
    if not found.stopped:
        return EXIT_DONE
    output.say(f"stopped after {len(found.trials)} of {found.wanted}; the same command goes on.")
    return stop.code


def _table(found: SweepResult) -> Table:
    """The best trials, and how many there are."""
    from rich.table import Table

    from farzi.sweeps.results import short

    done, failed = len(found.ranked), len(found.failed)
    caption = f"{done} of {found.wanted} trials" + (f", {failed} more failed" if failed else "")
    table = Table(caption=caption)
    names = [text.partition("=")[0].replace("-", "_") for text in found.vary]
    for name in ("trial", *names, "validation loss", "seconds"):
        table.add_column(name, justify="right")
    for trial in found.ranked[:10]:
        cells: list[Any] = [short(trial.values[name]) for name in names]
        table.add_row(str(trial.number + 1), *cells, f"{trial.loss:.4f}", f"{trial.seconds:.1f}")
    return table
