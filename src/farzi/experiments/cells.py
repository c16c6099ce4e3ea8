"""The pieces of a comparison: a row tuned, a student scored, each kept when it is done.

`farzi compare` and the runner of experiments do the same pieces by the same functions here, so a
piece is the same wherever it was made. A piece that is there is not made again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, get_args

import torch

from farzi.errors import NonFiniteError, SettingsError
from farzi.experiments.results import Choice, Run
from farzi.experiments.rows import ROWS
from farzi.experiments.rows.base import Fixed, Row, Sample
from farzi.experiments.splits import Split
from farzi.experiments.store import RESULT_FORMAT, Store, key_of, named_by
from farzi.experiments.students import Limits, fixed_run, scored_run, train_student
from farzi.experiments.tuning import Axes, Search, Try, search
from farzi.experiments.workers import Tell
from farzi.training import Schedule

__all__ = ["Cells", "CompareSettings"]


@dataclass(frozen=True)
class CompareSettings:
    """How rows are tuned and scored.

    Args:
        rows: which rows, of `ROWS`; all that the splits can have when it is empty.
        seeds: fresh students a row and split; where a row is drawn at random, each from its own
            draw.
        lrs: step sizes that are tried; the search begins with the first of each.
        batches: sequences a step of the rows of all training data; the others have the artifact's.
        decays: weight decays that are tried.
        dropouts: dropout rates that are tried.
        smoothings: shares of label smoothing that are tried.
        schedules: schedules of the step size that are tried: `constant`, whose runs validation
            stops, and `linear`, whose runs go on until the step size is nothing, at `max_steps` or
            `max_epochs`. Either way the weights of the best look are scored.
        shifts: places by which labelled rows are moved at most that are tried; 0: not at all.
        num_steps: steps that are tried of rows of the artifact's size, in place of `max_steps`;
            other rows are not asked. The other settings are tuned with the first of them.
        tune_seconds: seconds of training that the search of one row and split may take; None: as
            long as it needs.
        tune_sweeps: how often that search goes over what is tuned, at most.
        max_steps: most steps of a small row.
        max_epochs: most epochs of a row of all training data; None: as many as `max_steps` allows,
            or 200 where that is more.
        patience: looks without improvement after which a run stops: with looks a tenth of the steps
            apart, ten go on to 2.6 times the best step. On stdlib-calls full data stop at step 189
            with six, and are a tenth of a nat better at step 772.
        eval_every: steps between looks, at least; half an epoch of all training data where that is
            more.
        look_growth: steps between looks as a share of the steps so far, where that is more.
        validation_size: validation sequences that a look reads, at most.
        seed: of everything drawn.
    """

    rows: tuple[str, ...] = ()
    seeds: int = 3
    lrs: tuple[float, ...] = (0.01, 0.02, 0.005)
    batches: tuple[int, ...] = (64, 16)
    decays: tuple[float, ...] = (0.0, 0.05)
    dropouts: tuple[float, ...] = (0.0, 0.2)
    smoothings: tuple[float, ...] = (0.1, 0.0)
    schedules: tuple[Schedule, ...] = ("constant",)
    shifts: tuple[int, ...] = (0,)
    num_steps: tuple[int, ...] = ()
    tune_seconds: float | None = None
    tune_sweeps: int = 1
    max_steps: int = 20_000
    max_epochs: int | None = None
    patience: int = 10
    eval_every: int = 10
    look_growth: float = 0.1
    validation_size: int = 2048
    seed: int = 0

    def __post_init__(self) -> None:
        if unknown := [row for row in self.rows if row not in ROWS]:
            raise SettingsError(f"`rows`: unknown row {unknown[0]!r}; known: {', '.join(ROWS)}.")
        for name, count in (
            ("seeds", self.seeds),
            ("batches", min(self.batches, default=0)),
            ("max_epochs", 1 if self.max_epochs is None else self.max_epochs),
            ("max_steps", self.max_steps),
            ("patience", self.patience),
            ("tune_sweeps", self.tune_sweeps),
            ("num_steps", min(self.num_steps, default=1)),
        ):
            if count < 1:
                raise SettingsError(f"`{name}` must be at least 1, got {count}.")
        for name, values, good in (
            ("lrs", self.lrs, all(value > 0 for value in self.lrs)),
            ("decays", self.decays, all(value >= 0 for value in self.decays)),
            ("dropouts", self.dropouts, all(0 <= value < 1 for value in self.dropouts)),
            ("smoothings", self.smoothings, all(0 <= value < 1 for value in self.smoothings)),
            ("schedules", self.schedules, set(self.schedules) <= set(get_args(Schedule))),
            ("shifts", self.shifts, min(self.shifts, default=0) >= 0),
        ):
            if not values or not good:
                shown = ", ".join(map(str, values)) or "nothing"
                raise SettingsError(f"`{name}`: {shown} cannot be tried.")

    @property
    def limits(self) -> Limits:
        """When a run is looked at, and when it stops."""
        return Limits(
            max_steps=self.max_steps,
            max_epochs=self.max_epochs,
            patience=self.patience,
            eval_every=self.eval_every,
            look_growth=self.look_growth,
            validation_size=self.validation_size,
        )

    def axes(self, row: Row, split: Split) -> Axes:
        """What is tuned of a row, in order."""
        axes: dict[str, Sequence[Any]] = {
            "lr": self.lrs,
            "batch_size": (split.batch_size,) if row.sized else self.batches,
            "weight_decay": self.decays,
            "dropout": self.dropouts,
            "smoothing": self.smoothings,
        }
        # Results of before there were schedules, shifts and steps keep their names.
        if self.schedules != ("constant",):
            axes["schedule"] = self.schedules
        if self.shifts != (0,) and row.sized and row.needs:  # of rows that have labels
            axes["shift"] = self.shifts
        if self.num_steps and row.sized:
            axes["num_steps"] = self.num_steps
        return axes


@dataclass
class Cells:
    """What can be made of one split, and what is made of it already.

    Args:
        split: the split.
        settings: how rows are tuned and scored.
        store: where results are kept.
        tries: where the tries of unfinished searches are kept.
        code: what of the code results depend on.
        device: where to compute.
        tuned_by: cells of another split, whose choices are used here; None: rows are tuned on this
            one.
    """

    split: Split
    settings: CompareSettings
    store: Store = field(default_factory=Store)
    tries: Store = field(default_factory=Store)
    code: str = f"format {RESULT_FORMAT}"
    device: torch.device | str = "cpu"
    tuned_by: Cells | None = None

    def __post_init__(self) -> None:
        self._built: tuple[str, int, Sample | Fixed] | None = None

    # ------------------------------------------------------------------------------ identities

    def identity(self, kind: str, name: str, row: Row) -> dict[str, Any]:
        """All that a piece depends on, but for what tunes and seeds it."""
        values: dict[str, Any] = {"kind": kind, "row": name, "code": self.code}
        values |= self.split.identity()
        for need in sorted(row.needs):
            values[need] = self.split.key(name if need == "distilled" else need)
        if row.trained and row.sized:
            values |= {
                "num_sequences": self.split.num_sequences,
                "batch_size": self.split.batch_size,
            }
        if row.drawn:
            values["draws"] = self.settings.seed
        if row.trained:
            values["limits"] = asdict(self.settings.limits)
            values["device"] = torch.device(self.device).type
        return values

    def tune_identity(self, name: str, row: Row) -> dict[str, Any]:
        """All that a row's choice depends on."""
        if self.tuned_by is not None:
            return self.tuned_by.tune_identity(name, row)
        return {**self.identity("tune", name, row), **self._tuning(row)}

    def _tuning(self, row: Row) -> dict[str, Any]:
        """What is tried of a row, and how long."""
        axes = {axis: list(values) for axis, values in self.settings.axes(row, self.split).items()}
        tuning: dict[str, Any] = {"axes": axes, "tune_seconds": self.settings.tune_seconds}
        if self.settings.tune_sweeps > 1:  # results of before there were several keep their names
            tuning["sweeps"] = self.settings.tune_sweeps
        return tuning

    def score_identity(self, name: str, row: Row, seed: int) -> dict[str, Any]:
        """All that a scored student, or a model as it is, depends on."""
        values = self.identity("score", name, row)
        if not row.trained:
            return values
        if self.tuned_by is not None:
            values["tuned_by"] = key_of(self.tuned_by.tune_identity(name, row))
        return {**values, **self._tuning(row), "seed": seed}

    # ---------------------------------------------------------------------------------- pieces

    def tuned(self, name: str, row: Row, tell: Tell = lambda note: None) -> tuple[Search, bool]:
        """The row's search, and whether it was there already."""
        if self.tuned_by is not None:
            return self.tuned_by.tuned(name, row, tell)

        def make() -> Mapping[str, Any]:
            found = search(
                self.settings.axes(row, self.split),
                lambda choice: self._tried(name, row, choice, tell),
                budget_s=self.settings.tune_seconds,
                sweeps=self.settings.tune_sweeps,
            )
            return found.to_json()

        result, was_there = self.store.take(self.tune_identity(name, row), make)
        return Search.from_json(result), was_there

    def _tried(self, name: str, row: Row, choice: Choice, tell: Tell) -> Try:
        identity = {**self.identity("try", name, row), "choice": named_by(asdict(choice))}

        def make() -> Mapping[str, Any]:
            tell(str(choice))
            sample = self._sample(name, row, 0)
            try:
                _, _, training = train_student(
                    self.split,
                    sample,
                    choice,
                    0,
                    self.settings.limits,
                    self.device,
                    tell=lambda note: tell(f"{choice}: {note}"),
                )
            except NonFiniteError:
                return Try(choice, None).to_json()
            return Try(
                choice, training.loss, training.total_seconds, training.step, training.stopped
            ).to_json()

        return Try.from_json(self.tries.take(identity, make)[0])

    def scored(
        self, name: str, row: Row, seed: int = 0, tell: Tell = lambda note: None
    ) -> tuple[Run, bool]:
        """The row's student number `seed`, tuned and scored; and whether it was there already."""

        def make() -> Mapping[str, Any]:
            if not row.trained:
                built = row.build(self.split, 0, self.settings.seed)
                if not isinstance(built, Fixed):
                    raise TypeError(f"row {name!r} is data to train on, and says that it is none.")
                return fixed_run(name, self.split, built).to_json()
            choice = self.tuned(name, row, tell)[0].best
            tell(f"seed {seed}")
            return scored_run(
                name,
                self.split,
                self._sample(name, row, seed if row.drawn else 0),
                choice,
                seed,
                self.settings.limits,
                self.device,
                tell=lambda note: tell(f"seed {seed}: {note}"),
            ).to_json()

        result, was_there = self.store.take(self.score_identity(name, row, seed), make)
        return Run.from_json(result), was_there

    def _sample(self, name: str, row: Row, draw: int) -> Sample:
        """The data of one draw; that of the last call is kept at hand."""
        if self._built is None or self._built[:2] != (name, draw):
            self._built = (name, draw, row.build(self.split, draw, self.settings.seed))
        built = self._built[2]
        if not isinstance(built, Sample):
            raise TypeError(f"row {name!r} has nothing to train on, and says that it has.")
        return built

    def with_settings(self, **changes: Any) -> Cells:
        """The same with other settings."""
        return replace(self, settings=replace(self.settings, **changes))
