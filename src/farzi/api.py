"""What `import farzi` offers: a function for each step, with plain arguments and typed results.

    import farzi

    data = farzi.prepare("ml-100k")
    run = farzi.distill(data, "runs/ml-100k")
    model = farzi.train("runs/ml-100k", out="models/small")
    farzi.evaluate(model)
    farzi.compare("runs/ml-100k")

A run, an artifact and a model remember their source and how it was read, so that later steps need
neither; `on=` says where the source is now, where it has moved. What is done is told to the logger
`farzi`, never printed. The commands of the command line call these functions.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
import torch
from numpy.typing import NDArray

from farzi.artifact import (
    Artifact,
    check_split,
    locate_artifact,
    read_artifact,
    recipe_decay,
    recipe_dropout,
    recipe_number,
    recipe_rate,
    recipe_student,
)
from farzi.artifact.checks import short
from farzi.data.arguments import HowRead
from farzi.data.identity import tokens_of
from farzi.data.preparation import prepare
from farzi.data.prepared import PreparedData
from farzi.data.sources import Origin
from farzi.dataset import DistilledDataset
from farzi.devices import Device, choose_device
from farzi.errors import ArtifactError, SettingsError
from farzi.evaluation import evaluate as score
from farzi.evaluation import sequences_of, to_look_at, validation_loss
from farzi.experiments.ahead import Elsewhere
from farzi.experiments.cells import CompareSettings
from farzi.experiments.compare import compare as compare_splits
from farzi.experiments.comparison import Comparison
from farzi.experiments.opened import Opener, kept_runs
from farzi.experiments.rows import ROWS, load_row
from farzi.experiments.store import Store
from farzi.models import Student, student_from
from farzi.provenance import (
    Remembered,
    is_run,
    read_again,
    remembered_by,
    remembered_by_weights,
    source_record,
    split_folders,
    write_origin,
)
from farzi.trained import WEIGHTS, TrainedModel, load_model, save_model
from farzi.training import (
    Batches,
    RealBatches,
    Schedule,
    Shifted,
    SyntheticBatches,
    Trained,
    TrainSettings,
    patience_with,
)
from farzi.training import train as train_student

__all__ = [
    "Evaluation",
    "Training",
    "TrainingPlan",
    "compare",
    "evaluate",
    "plan_training",
    "train",
]

_log = logging.getLogger("farzi")

MOST_STEPS = 20_000
"""Steps after which training on an artifact ends at the latest; validation ends it long before."""

Progress = Callable[[int, int, str], None]
PathLike = str | os.PathLike[str]

DEFAULT_RATE = 0.01
"""AdamW's step size where neither the caller nor a recipe names one."""


# ---------------------------------------------------------------------------------------- train


@dataclass(frozen=True)
class Training:
    """A trained model, and how its training went.

    Attributes:
        model: the model, an ordinary `torch.nn.Module`.
        loss: validation loss at the step whose weights it has, in nats a token.
        step: that step.
        seconds: seconds of training until the run stopped, looks at validation not counted.
        stopped: `validation` when the loss no longer fell, `schedule` where the step size had
            fallen to nothing, `cap` at the last allowed step.
        curve: (step, validation loss) of every look.
        protocol_line: on what, in one line.
        weights: the file, where it was saved.
        origin: where its source was read.
    """

    model: TrainedModel = field(repr=False)
    loss: float
    step: int
    seconds: float
    stopped: str
    curve: tuple[tuple[int, float], ...] = field(repr=False)
    protocol_line: str = field(repr=False)
    weights: Path | None = None
    origin: Origin | None = field(default=None, repr=False)


def train(
    source: Any,
    out: PathLike | None = None,
    *,
    on: PathLike | PreparedData | None = None,
    student: Student | str | None = None,
    width: int | None = None,
    num_layers: int | None = None,
    num_heads: int | None = None,
    conv_size: int | None = None,
    context_length: int = 50,
    dropout: float | None = None,
    smoothing: float = 0.0,
    lr: float | None = None,
    weight_decay: float | None = None,
    batch_size: int | None = None,
    max_steps: int | None = None,
    schedule: Schedule = "constant",
    shift: int = 0,
    patience: int = 6,
    seed: int = 0,
    device: Device = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
    **read: Unpack[HowRead],
) -> Training:
    r"""Train an ordinary model on distilled sequences, or on real ones.

    Training stops when the loss on the validation part no longer falls, or at the end of its
    schedule, and keeps the weights of the best look. A look reads at most 10,000 validation
    sequences of 200,000 tokens, evenly spaced.

    Args:
        source: a run or an artifact; what `farzi.load` or `farzi.prepare` returned; or anything
            that `farzi.prepare` takes.
        out: folder for the weights; None: they are not saved.
        on: where the source of a run or an artifact is now, or that source prepared.
        student: `sasrec`, `gru4rec`, `fmlp`, `transformer`, `rnn`, with settings of its own as in
            `rnn:cell=lstm`; what `farzi.models.student_from` takes; or a `Student`, trained as it
            is. None: the artifact's, or what fits the task.
        width: model width.
        num_layers: blocks.
        num_heads: attention heads.
        conv_size: positions that a causal convolution of the input reads; 0: no convolution.
        context_length: tokens the model reads; on an artifact it is the artifact's.
        dropout: dropout rate; None: the artifact's, else none, or a model of one's own keeps what
            it has.
        smoothing: label smoothing.
        lr: AdamW's step size; None: the artifact's where Adam or AdamW was its inner optimiser,
            else 0.01.
        weight_decay: AdamW's; None: the artifact's where AdamW was its inner optimiser, else 0.
        batch_size: sequences a step; None: the artifact's, or 64.
        max_steps: the cap; None: 20,000 on an artifact, 80 epochs on real sequences.
        schedule: of the step size: `constant`; or `linear`, which falls to nothing at `max_steps`,
            where it ends, since the loss often falls until then, or earlier where it has long been
            far above its best.
        shift: on an artifact with labels: places by which half of its rows are moved at most at a
            step, anew each time. It may help where a few long rows stand for much data.
        patience: looks without improvement after which it stops, where the step size is constant.
        seed: of the weights and the batches.
        device: `auto`, `cpu`, `cuda` or a torch device.
        overwrite: replace weights that are there.
        progress: called with (steps done, the cap, what matters now).
        read: how the source is read, where that is not remembered: arguments of `farzi.prepare`.

    Raises:
        SettingsError: weights are there already; a setting does not fit.
        ArtifactError: the artifact is broken, or belongs to another split.
        DataError: the source cannot be read.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import farzi
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     log = Path(folder, "log.csv")
        ...     rows = [f"u{n // 9},film{(n + n // 9) % 7},{n}" for n in range(180)]
        ...     _ = log.write_text("user,item,time\n" + "\n".join(rows))
        ...     trained = farzi.train(log, Path(folder, "model"), width=8, max_steps=60, lr=0.02)
        ...     scores = farzi.evaluate(Path(folder, "model"))
        >>> trained.loss < 1.0, round(scores["HR@10"], 1)
        (True, 1.0)
        >>> trained.model.recommend([["film1", "film2"]], k=1)
        [['film3']]
    """
    folder = None if out is None else Path(out)
    if folder is not None and (folder / WEIGHTS).exists() and not overwrite:
        raise SettingsError(f"`out` {out}: weights are there already; `overwrite` replaces them.")
    plan = plan_training(
        source,
        on=on,
        student=student,
        width=width,
        num_layers=num_layers,
        num_heads=num_heads,
        conv_size=conv_size,
        context_length=context_length,
        dropout=dropout,
        smoothing=smoothing,
        lr=lr,
        weight_decay=weight_decay,
        batch_size=batch_size,
        max_steps=max_steps,
        schedule=schedule,
        shift=shift,
        patience=patience,
        seed=seed,
        device=device,
        **read,
    )
    _tell(plan.data, plan.protocol_line)
    trained = plan.train(progress)
    data = plan.data
    provenance = source_record(data) | {"distilled": plan.distilled}
    weights = None
    if folder is not None:
        weights = save_model(folder, plan.student, trained.params, data.vocabulary, provenance)
        write_origin(folder, data.origin)
    module = TrainedModel(plan.student, trained.params, data.vocabulary, provenance).eval()
    return Training(
        model=module,
        loss=trained.loss,
        step=trained.step,
        seconds=trained.seconds,
        stopped=trained.stopped,
        curve=tuple((look.step, look.loss) for look in trained.curve),
        protocol_line=plan.protocol_line,
        weights=weights,
        origin=data.origin,
    )


@dataclass(frozen=True)
class TrainingPlan:
    """A training that nothing speaks against, before its first step.

    Attributes:
        data: the split.
        distilled: whether it reads an artifact.
        student: the model.
        batches: what it reads.
        settings: how it is trained.
        device: where.
    """

    data: PreparedData
    distilled: bool
    student: Student
    batches: Batches
    settings: TrainSettings
    device: torch.device

    @property
    def protocol_line(self) -> str:
        """On what, in one line."""
        return self.data.protocol_line(self.student.context_length)

    def train(self, progress: Progress | None = None) -> Trained:
        """Train fresh weights, keeping those with the lowest loss on the validation part."""
        held_out = to_look_at(sequences_of(self.data, "validation"))
        looks: list[float] = []

        def tell(step: int, loss: float, _: float) -> None:
            if progress is not None:
                looked = f", validation loss {looks[-1]:.3f}" if looks else ""
                progress(step, self.settings.max_steps, f"training loss {loss:.3f}{looked}")

        return train_student(
            self.student,
            self.batches,
            self.settings,
            lambda params: validation_loss(self.student, params, held_out),
            device=self.device,
            on_look=lambda step, params, loss: looks.append(loss),
            progress=tell,
        )


def plan_training(
    source: Any,
    *,
    on: PathLike | PreparedData | None = None,
    student: Student | str | None = None,
    width: int | None = None,
    num_layers: int | None = None,
    num_heads: int | None = None,
    conv_size: int | None = None,
    context_length: int = 50,
    dropout: float | None = None,
    smoothing: float = 0.0,
    lr: float | None = None,
    weight_decay: float | None = None,
    batch_size: int | None = None,
    max_steps: int | None = None,
    schedule: Schedule = "constant",
    shift: int = 0,
    patience: int = 6,
    seed: int = 0,
    device: Device = "auto",
    **read: Unpack[HowRead],
) -> TrainingPlan:
    """Check all that can be known of a training before it begins; the arguments of `train`."""
    sizes = {"width": width, "num_layers": num_layers, "num_heads": num_heads}
    for name, number in {**sizes, "batch_size": batch_size, "max_steps": max_steps}.items():
        if number is not None and number < 1:
            raise ValueError(f"`{name}` must be an int >= 1, got {number}.")
    if shift < 0:
        raise ValueError(f"`shift` must be an int >= 0, got {shift}.")
    artifact, data = _open(source, on, read)
    chosen, _ = choose_device(device)
    if student is not None and not isinstance(student, str):
        context_length = student.context_length
    defaults: dict[str, Any] = {"context_length": context_length, "width": 32}
    usual = "transformer" if data.task == "language" else "sasrec"
    batches: Batches
    if artifact is not None:
        defaults |= recipe_student(artifact)
        usual = defaults.pop("name")
        defaults.pop("dropout", None)
        if dropped := recipe_dropout(artifact):
            defaults["dropout"] = dropped
        batch_size = batch_size or recipe_number(artifact, "batch_size", int)
        batches = SyntheticBatches(artifact.synthetic, batch_size, seed)
        if shift and artifact.synthetic.label_latent is None:
            raise SettingsError(f"`shift` {shift}: the artifact has no labels to move.")
        batches = Shifted(batches, shift, seed) if shift else batches
        lr = _rate(artifact) if lr is None else lr
        weight_decay = recipe_decay(artifact) if weight_decay is None else weight_decay
        cap, look, growth = max_steps or MOST_STEPS, 10, 0.1
    else:
        if shift:
            raise SettingsError(f"`shift` {shift}: real sequences are read in windows as it is.")
        batches = RealBatches(sequences_of(data, "train"), context_length, batch_size or 64, seed)
        look = batches.steps_per_epoch
        cap, growth = max_steps or 80 * look, 0.0
    asked = {**sizes, "conv_size": conv_size, "dropout": dropout}
    model = _student(
        student or usual,
        {**defaults, "num_tokens": data.vocabulary.size},
        {name: value for name, value in asked.items() if value is not None},
    )
    settings = TrainSettings(
        lr=DEFAULT_RATE if lr is None else lr,
        max_steps=cap,
        eval_every=look,
        look_growth=growth,
        patience=patience_with(schedule, patience, cap),
        weight_decay=weight_decay or 0.0,
        smoothing=smoothing,
        seed=seed,
        schedule=schedule,
    )
    return TrainingPlan(data, artifact is not None, model, batches, settings, chosen)


def _student(
    student: Student | str, defaults: Mapping[str, Any], asked: Mapping[str, Any]
) -> Student:
    """The student that is named; or the one that is given, where it fits the data."""
    if isinstance(student, str):
        return student_from(student, defaults, asked)
    if asked:
        name = next(iter(asked))
        raise SettingsError(f"`{name}` must not be given with a student that is there already.")
    if student.num_tokens != defaults["num_tokens"]:
        raise SettingsError(
            f"`student` must have {defaults['num_tokens']:,} tokens as the data has, got "
            f"{student.num_tokens:,}."
        )
    if student.context_length < defaults["context_length"]:
        raise SettingsError(
            f"`student` must read {defaults['context_length']} tokens, got one that reads "
            f"{student.context_length}."
        )
    return student


def _open(
    source: Any,
    on: PathLike | PreparedData | None,
    read: HowRead,
) -> tuple[Artifact | None, PreparedData]:
    """The artifact, where there is one, and the split that it belongs to."""
    if isinstance(source, DistilledDataset):
        artifact = source.artifact
        remembered = Remembered("the dataset", artifact.source)
    elif isinstance(source, str | os.PathLike) and is_run(source):
        remembered = remembered_by(source)
        artifact = read_artifact(locate_artifact(source))
    elif on is not None:
        raise SettingsError(f"`on` {on}: {source} is the source itself.")
    else:
        return None, source if isinstance(source, PreparedData) else prepare(source, **read)
    data = on if isinstance(on, PreparedData) else read_again(remembered, on, **read)
    check_split(artifact, data.identity)
    return artifact, data


def _rate(artifact: Artifact) -> float:
    """The step size of a recipe; where it is another optimiser's, the usual one, and a word."""
    rate = recipe_rate(artifact)
    if rate is not None:
        return rate
    _log.info(
        "trained by AdamW at lr %g: the artifact's recipe has a rate for %s; `lr` sets another",
        DEFAULT_RATE,
        short(str(artifact.recipe.get("optimizer"))),
    )
    return DEFAULT_RATE


def _tell(data: PreparedData, line: str) -> None:
    """Log what a result is about, and what stood out in its source."""
    _log.info("%s", line)
    for note in data.notes:
        _log.debug("%s", note)
    for warning in data.warnings:
        _log.warning("%s", warning)


# ------------------------------------------------------------------------------------- evaluate


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Scores of a model on one part of its split.

    Attributes:
        metrics: mean value by name; rates are fractions.
        per_user: one value a user, or a sentence, by name.
        counts: what was scored, and what was left out.
        part: `validation` or `test`.
        protocol_line: how the scores came about, in one line.

    Example:
        >>> from farzi.api import Evaluation
        >>> Evaluation({"HR@10": 0.25}, {}, {"users": 94}, "test", "ml-100k")
        test: ml-100k
          HR@10                    0.2500
          users                    94
    """

    metrics: Mapping[str, float]
    per_user: Mapping[str, NDArray[np.float64]]
    counts: Mapping[str, int]
    part: str
    protocol_line: str

    def __getitem__(self, name: str) -> float:
        return self.metrics[name]

    def __repr__(self) -> str:
        rows = [f"  {name:24} {value:.4f}" for name, value in self.metrics.items()]
        rows += [f"  {n.replace('_', ' '):24} {count:,}" for n, count in self.counts.items()]
        return "\n".join([f"{self.part}: {self.protocol_line}", *rows])


def evaluate(
    model: PathLike | TrainedModel | Training,
    *,
    on: PathLike | PreparedData | None = None,
    student: Student | str | None = None,
    part: Literal["validation", "test"] = "test",
    device: Device = "auto",
    **read: Unpack[HowRead],
) -> Evaluation:
    """Score a model on the split that it was trained on.

    On any other split, some of its training users would be among those it is scored on; that is
    refused. Every event and every token that follows another is scored once.

    Args:
        model: what `farzi.train` returned or saved, or `farzi.load_model` loaded.
        on: where the source is now, or that source prepared; None: where it was.
        student: the model on disk, where it is one of the user's own: a `Student`, or what
            `--student` takes.
        part: `validation` to choose on, `test` to look at once.
        device: `auto`, `cpu`, `cuda` or a torch device.
        read: how the source is read, where that is not remembered: arguments of `farzi.prepare`.

    Raises:
        ArtifactError: the weights are broken, or were trained on other users.
        SettingsError: nothing says where the source is.
        DataError: the source cannot be read.

    `farzi.train` shows an example.
    """
    if isinstance(model, Training):
        remembered = Remembered("the model", model.model.provenance, model.origin)
        module = model.model
    elif isinstance(model, TrainedModel):
        remembered, module = Remembered("the model", model.provenance), model
    else:
        path = Path(model)
        weights = path / WEIGHTS if path.is_dir() else path
        module = load_model(path, student)
        remembered = remembered_by_weights(weights, module.provenance)
    data = on if isinstance(on, PreparedData) else read_again(remembered, on, **read)
    if module.provenance.get("train_users_hash") != data.train_users_hash:
        raise ArtifactError(
            f"{remembered.by}: trained on other users than {data.name}'s split {data.split_seed} "
            "holds for training, so its scores would not be of held-out users."
        )
    was, now = tokens_of(remembered.source.get("protocol") or {}), data.identity.tokens
    if was and now and was != now:
        raise ArtifactError(f"{remembered.by}: trained on tokens {short(was)}, not {short(now)}.")
    chosen, _ = choose_device(device)
    params = {name: value.detach().to(chosen) for name, value in module.params.items()}
    scores = score(module.student, params, data, part)
    line = data.protocol_line(module.student.context_length)
    for warning in data.warnings:
        _log.warning("%s", warning)
    return Evaluation(scores.metrics, scores.per_user, scores.counts, part, line)


# -------------------------------------------------------------------------------------- compare


def compare(
    runs: PathLike | Sequence[PathLike],
    *,
    on: PathLike | None = None,
    also: Mapping[str, PathLike] | None = None,
    student: str | None = None,
    splits: int | None = None,
    rows: Sequence[str] = (),
    seeds: int = 3,
    lrs: Sequence[float] = (),
    dropouts: Sequence[float] = (),
    smoothings: Sequence[float] = (),
    decays: Sequence[float] = (),
    schedules: Sequence[Schedule] = (),
    shifts: Sequence[int] = (),
    num_steps: Sequence[int] = (),
    full_batch: Sequence[int] = (),
    tune_seconds: float | None = None,
    tune_sweeps: int | None = None,
    tune_once: bool = False,
    patience: int | None = None,
    max_steps: int | None = None,
    max_epochs: int | None = None,
    seed: int = 0,
    fresh: bool = False,
    jobs: int = 1,
    device: Device = "auto",
    progress: Progress | None = None,
    **read: Unpack[HowRead],
) -> Comparison:
    """Compare distilled sequences with full data and with samples of it.

    Every row is tuned on validation in the same way; then fresh students from other seeds are
    scored on test, once. Finished runs are kept in the run's folder, and taken up again.

    Args:
        runs: a run or an artifact, a folder of several splits, or several of these.
        on: where their source is now; None: where it was.
        also: further runs on the same splits as rows of their own, by name.
        student: what was distilled for, where it is a model of the user's own.
        splits: how many splits to use; None: all.
        rows: which rows; empty: all that can be made.
        seeds: fresh students a row and split.
        lrs: step sizes that every row is tuned over.
        dropouts: dropout rates, likewise.
        smoothings: shares of label smoothing, likewise.
        decays: weight decays, likewise.
        schedules: schedules of the step size, likewise: `constant`, whose runs validation stops,
            `linear`, whose runs go on to the last step that the limits below allow
            unless their loss is far above its best for long.
        shifts: places by which labelled rows are moved at most, likewise; see `train`.
        num_steps: steps of a small row, in place of `max_steps`: how long its step size falls, say.
            The other settings are tuned with the first.
        full_batch: sequences a step that the rows of all training data are tuned over.
        tune_seconds: seconds of training that tuning one row on one split may take.
        tune_sweeps: how often the search of a row goes over what is tuned, at most; None: once, and
            over the step size again.
        tune_once: tune on the first split alone, and train on the others with what it chose.
        patience: looks at validation without improvement after which a run stops.
        max_steps: most steps of a small row.
        max_epochs: most epochs of a row of all training data.
        seed: of everything drawn.
        fresh: make every run again, those that are kept too.
        jobs: processes that train students, of one thread each; 1: this one alone trains them, with
            the threads that it has. Each process reads the source for itself. A script that asks
            for several keeps its calls under `if __name__ == "__main__":`.
        device: `auto`, `cpu`, `cuda` or a torch device.
        progress: called with (runs done, runs in all, what runs now).
        read: how the source is read, where that is not remembered: arguments of `farzi.prepare`.

    Raises:
        SettingsError: a setting is wrong, or nothing says where the source is.
        ArtifactError: an artifact is broken, or belongs to another split.
        DataError: the source cannot be read.

    Example:
        >>> import farzi
        >>> farzi.compare("runs/nowhere")
        Traceback (most recent call last):
        ...
        farzi.errors.ArtifactError: runs/nowhere: there is no such folder.
    """
    named = [runs] if isinstance(runs, str | os.PathLike) else list(runs)
    folders = [folder for path in named for folder in split_folders(path)]
    if splits is not None:
        if splits > len(folders):
            raise SettingsError(
                f"`splits` {splits} needs one artifact for each split, and there are "
                f"{len(folders)}; `farzi distill --split-seed 0 1 2` makes several."
            )
        folders = folders[:splits]
    grids = {
        "rows": rows,
        "lrs": lrs,
        "dropouts": dropouts,
        "smoothings": smoothings,
        "decays": decays,
        "schedules": schedules,
        "shifts": shifts,
        "num_steps": num_steps,
        "batches": full_batch,
    }
    numbers = {
        "tune_seconds": tune_seconds,
        "tune_sweeps": tune_sweeps,
        "patience": patience,
        "max_steps": max_steps,
        "max_epochs": max_epochs,
    }
    given: dict[str, Any] = {name: tuple(values) for name, values in grids.items() if values}
    given |= {name: value for name, value in numbers.items() if value is not None}
    settings = CompareSettings(seeds=seeds, seed=seed, **given)
    if jobs < 1:
        raise SettingsError(f"`jobs` must be at least 1, got {jobs}.")
    chosen, _ = choose_device(device)
    opener = Opener(tuple(folders), on, read, also or {}, student)
    teachers = any("teachers" in load_row(name).needs for name in rows or ROWS)
    opened = [opener.open(place, teachers=teachers) for place in range(len(folders))]
    for warning in opened[0].data.warnings:
        _log.warning("%s", warning)
    stores = [Store(kept_runs(folder)) for folder in folders]
    if fresh:
        for store in stores:
            store.clear()
    result = compare_splits(
        opened,
        settings,
        tune_once=tune_once,
        device=chosen,
        stores=stores,
        progress=progress,
        elsewhere=Elsewhere(opener, jobs) if jobs > 1 else None,
    )
    _log.info("%s", result.protocol_line)
    return result
