"""`farzi compare`: full data, samples of it and distilled data side by side."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from farzi.cli._common import DEFAULT_OUTPUT, Device, Output, Seed, choose_device
from farzi.cli._source import DEFAULT_READING, On, Reading
from farzi.cli.report import report_at_the_end
from farzi.errors import SettingsError

if TYPE_CHECKING:
    from farzi.artifact import Artifact
    from farzi.data import PreparedData
    from farzi.experiments.splits import Split

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
    full_batch: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = (),
    tune_seconds: float | None = None,
    max_steps: int | None = None,
    max_epochs: int | None = None,
    report: Annotated[bool, Parameter(negative="--no-report")] = True,
    fresh: bool = False,
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
        full_batch: sequences a step that the rows of all training data are tuned over.
        tune_seconds: seconds of training that tuning one row on one split may take.
        max_steps: most steps of a small row; one that it cuts off is no result.
        max_epochs: most epochs of a row of all training data, likewise.
        fresh: make every run again, those that are kept too.
        report: write the run's report; --no-report leaves it out.

    Example:
        farzi compare runs/ml-100k --json out.json
        farzi compare stdlib-calls --artifact runs/calls --rows full farzi --json
    """
    from farzi.artifact import locate_artifact, read_artifact
    from farzi.experiments.compare import CompareSettings
    from farzi.experiments.compare import compare as run_comparison
    from farzi.experiments.store import Store
    from farzi.experiments.tables import notes, terminal
    from farzi.provenance import is_home, is_run, read_again, remembered_by, split_folders

    folders = [inner for folder in artifact for inner in split_folders(folder)]
    if is_run(run_or_source):
        folders = [*split_folders(run_or_source), *folders]
    elif on is not None:
        raise SettingsError(f"--on {on}: {run_or_source} is the source itself.")
    elif not folders:
        raise SettingsError(
            f"{run_or_source}: is no run; name a run, or what to compare with --artifact."
        )
    else:
        on = run_or_source
    if splits is not None:
        if splits > len(folders):
            raise SettingsError(
                f"--splits {splits} needs one artifact for each split, and there are "
                f"{len(folders)}; `farzi distill --split-seed 0 1 2` makes several."
            )
        folders = folders[:splits]
    chosen, _ = choose_device(device)
    values: dict[str, Any] = {
        "seeds": seeds,
        "seed": seed,
        "rows": rows,
        "tune_seconds": tune_seconds,
    }
    given = {
        "lrs": grid_lr,
        "dropouts": grid_dropout,
        "smoothings": grid_smoothing,
        "decays": grid_decay,
        "batches": full_batch,
        "max_steps": max_steps,
        "max_epochs": max_epochs,
    }
    values |= {name: value for name, value in given.items() if value not in ((), None)}
    settings = CompareSettings(**values)
    stores = [Store(_kept(folder)) for folder in folders]
    if fresh:
        for store in stores:
            store.clear()
    others = _others(also)
    opened = [
        _split(
            read_again(remembered_by(folder), on, **reading.asked),
            read_artifact(locate_artifact(folder)),
            folder,
            others,
            settings,
            output,
            student,
        )
        for folder in folders
    ]
    with output.progress("compare", unit="runs") as bar:
        result = run_comparison(opened, settings, device=chosen, stores=stores, progress=bar)
    output.say(result.protocol_line)
    (table,) = terminal(result)
    output.result(result.to_json(), text=table)
    if not output.json:
        for line in notes(result):
            print(line)
    home = Path(run_or_source) if is_run(run_or_source) else artifact[0]
    if report and is_home(home):
        report_at_the_end(home, opened[0].data, output, comparison=result.to_json())


def _kept(folder: Path) -> Path | None:
    """Where a comparison's finished runs are kept: in the run's folder, never in an artifact."""
    return folder / "compared" if (folder / "settings.json").is_file() else None


def _others(also: tuple[str, ...]) -> list[tuple[str, Artifact]]:
    """The artifacts that `--also` names, one a split, with the name of their row."""
    from farzi.artifact import locate_artifact, read_artifact
    from farzi.experiments.rows import ROWS
    from farzi.provenance import split_folders

    others = []
    for value in also:
        name, equals, path = value.partition("=")
        if not equals or not name or name in ROWS:
            raise SettingsError(
                f"--also must be NAME=PATH with a name that is not a row already, got {value!r}."
            )
        others += [(name, read_artifact(locate_artifact(folder))) for folder in split_folders(path)]
    return others


def _split(
    data: PreparedData,
    artifact: Artifact,
    folder: Path,
    others: list[tuple[str, Artifact]],
    settings: Any,
    output: Output,
    text: str | None,
) -> Split:
    """Check the split an artifact belongs to, and find or train the teacher of the soft rows."""
    from farzi.artifact import check_split
    from farzi.distill.teachers import Omega, TeacherSettings, teacher_runs
    from farzi.evaluation import sequences_of
    from farzi.experiments.rows import ROWS, load_row
    from farzi.experiments.splits import Split
    from farzi.models import same_student, with_dropout

    also = {name: x for name, x in others if x.source["split_seed"] == data.split_seed}
    if missing := [name for name, _ in others if name not in also]:
        raise SettingsError(f"--also {missing[0]}: has no artifact of split {data.split_seed}.")
    for distilled in (artifact, *also.values()):
        check_split(
            distilled,
            fingerprint=data.fingerprint,
            split_kind=data.split_kind,
            split_seed=data.split_seed,
            train_users_hash=data.train_users_hash,
        )
    student: Any = artifact.recipe["student"]
    own = same_student(student, text)
    teachers: tuple[Any, ...] = ()
    if any("teachers" in load_row(name).needs for name in settings.rows or ROWS):
        omega = Omega.load(folder / "teachers")
        if omega is None:
            output.say("no teachers in the run folder: training some for the soft rows")
            defaults = TeacherSettings()
            with tempfile.TemporaryDirectory() as scratch:
                trained = teacher_runs(
                    with_dropout(own, defaults.dropout),
                    sequences_of(data, "train"),
                    sequences_of(data, "validation"),
                    defaults,
                    Path(scratch),
                )
                teachers = trained.teachers()
        else:
            teachers = omega.teachers()
    return Split(
        data,
        student,
        artifact.num_sequences,
        int(artifact.recipe.get("batch_size", 10)),
        {
            **{name: distilled.synthetic for name, distilled in also.items()},
            "farzi": artifact.synthetic,
        },
        teachers,
        own=own,
    )
