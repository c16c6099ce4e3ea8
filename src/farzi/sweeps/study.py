"""The trials of a sweep in a journal that several processes write to, and that outlives them.

Optuna suggests and keeps the record. What it suggests is a function of the seed and of the trials
that are done, so a sweep of one process that was cut off goes on as if it had not been. A trial
whose process died or was stopped is put back and tried again.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from farzi.distill.stopping import ShouldStop, StopRequested, never
from farzi.errors import FarziError, SettingsError
from farzi.seeding import stream_seed
from farzi.sweeps.results import Trial
from farzi.sweeps.space import Axis, Value
from farzi.sweeps.tasks import Task, flock, quiet

__all__ = ["Sampler", "Study", "grid"]

Sampler = Literal["tpe", "random", "grid"]

CUT_OFF = "cut_off"


@dataclass
class Study:
    """A sweep's trials.

    Args:
        folder: where the journal lies.
        axes: what is varied.
        fixed: the settings that are not.
        sampler: what suggests.
        seed: of what it suggests.

    Raises:
        SettingsError: Optuna is not installed.
    """

    folder: Path
    axes: tuple[Axis, ...]
    fixed: Mapping[str, Value]
    sampler: Sampler = "tpe"
    seed: int = 0
    _optuna: Any = field(init=False, repr=False)
    _storage: Any = field(init=False, repr=False)
    _study: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._optuna = load_optuna()
        journal = self._optuna.storages.journal.JournalFileBackend(str(self.folder / "journal.log"))
        with self._alone():
            self._storage = self._optuna.storages.JournalStorage(journal)
            self._study = self._optuna.create_study(
                storage=self._storage,
                study_name="sweep",
                direction="minimize",
                load_if_exists=True,
            )
            if self.sampler == "grid" and not self._all():
                for values in grid(self.axes):
                    self._study.enqueue_trial(values)

    def trials(self) -> tuple[Trial, ...]:
        """The trials that are done, in their order; those that were cut off are not."""
        done = []
        for number, each in enumerate(self._done()):
            known = each.user_attrs
            done.append(
                Trial(
                    number=number,
                    values=dict(each.params),
                    loss=each.value,
                    losses=tuple(known.get("losses", ())),
                    seconds=float(known.get("seconds", 0.0)),
                    steps=tuple(known.get("steps", ())),
                    folder=known.get("folder"),
                    error=known.get("error"),
                )
            )
        return tuple(done)

    def work(
        self,
        task: Task,
        wanted: int,
        *,
        should_stop: ShouldStop = never,
        tell: Callable[[str], None] = lambda note: None,
    ) -> None:
        """Make trials until `wanted` are done or running elsewhere, or a stop is asked for.

        Args:
            task: what a trial does.
            wanted: trials in all, those that are done already counted.
            should_stop: asked before each step; a trial that it cuts off is put back.
            tell: called with what runs now.
        """
        while not should_stop():
            with self._next(wanted) as trial:
                if trial is None or not self._run(task, trial, should_stop, tell):
                    return

    def _run(
        self,
        task: Task,
        trial: Any,
        should_stop: ShouldStop,
        tell: Callable[[str], None],
    ) -> bool:
        """Try what a trial suggests; False where a stop cut it off."""
        states = self._optuna.trial.TrialState
        began = perf_counter()
        tell("")
        try:
            with quiet():
                outcome = task.run({**self.fixed, **trial.params}, tell, should_stop)
        except StopRequested:
            with self._alone():
                self._put_back(trial._trial_id, trial.number, trial.params)
            return False
        except (FarziError, ValueError, RuntimeError) as error:
            trial.set_user_attr("error", " ".join(str(error).split()))
            trial.set_user_attr("seconds", perf_counter() - began)
            self._study.tell(trial, state=states.FAIL)
        else:
            trial.set_user_attr("losses", list(outcome.losses))
            trial.set_user_attr("steps", list(outcome.steps))
            trial.set_user_attr("folder", outcome.folder)
            trial.set_user_attr("seconds", perf_counter() - began)
            self._study.tell(trial, sum(outcome.losses) / len(outcome.losses))
        return True

    @contextlib.contextmanager
    def _next(self, wanted: int) -> Iterator[Any]:
        """The next trial, as this process's own while the block runs; None where none is left."""
        states = self._optuna.trial.TrialState
        with contextlib.ExitStack() as held:
            with self._alone():
                self._put_back_the_dead()
                running = sum(each.state == states.RUNNING for each in self._all())
                count = len(self._done()) + running
                waiting = any(each.state == states.WAITING for each in self._all())
                trial = None
                if count < wanted and (waiting or self.sampler != "grid"):
                    self._study.sampler = self._suggests(count)
                    axes = {axis.name: axis.distribution() for axis in self.axes}
                    trial = self._study.ask(axes)
                    opened = held.enter_context(self._mark(trial.number).open("w"))
                    fcntl.flock(opened, fcntl.LOCK_EX)
            yield trial
            if trial is not None:
                self._mark(trial.number).unlink(missing_ok=True)

    def _suggests(self, count: int) -> Any:
        seed = stream_seed(self.seed, "sweep", count) % 2**32
        samplers = self._optuna.samplers
        if self.sampler == "tpe":
            return samplers.TPESampler(seed=seed)
        return samplers.RandomSampler(seed=seed)

    def _put_back_the_dead(self) -> None:
        """Put back the trials that no process is at any more."""
        states = self._optuna.trial.TrialState
        for each in self._all():
            if each.state != states.RUNNING:
                continue
            mark = self._mark(each.number)
            with mark.open("a") as opened:
                try:
                    fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    continue  # its process lives
                self._put_back(each._trial_id, each.number, each.params)
            mark.unlink(missing_ok=True)

    def _put_back(self, trial_id: int, number: int, params: Mapping[str, Any]) -> None:
        self._storage.set_trial_user_attr(trial_id, CUT_OFF, True)
        self._study.tell(number, state=self._optuna.trial.TrialState.FAIL)
        self._study.enqueue_trial(dict(params))

    def _all(self) -> list[Any]:
        trials: list[Any] = self._study.get_trials(deepcopy=False)
        return trials

    def _done(self) -> list[Any]:
        states = self._optuna.trial.TrialState
        return [
            each
            for each in self._all()
            if each.state == states.COMPLETE
            or (each.state == states.FAIL and CUT_OFF not in each.user_attrs)
        ]

    def _mark(self, number: int) -> Path:
        folder = self.folder / "running"
        folder.mkdir(exist_ok=True)
        return folder / str(number)

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        """While the block runs, no other process takes a trial or puts one back."""
        return flock(self.folder / "journal.lock")


def grid(axes: tuple[Axis, ...]) -> list[dict[str, Value]]:
    """Every combination of the axes' values, the last axis the fastest.

    Raises:
        SettingsError: an axis is a range.

    Example:
        >>> from farzi.sweeps.space import parse_axes
        >>> from farzi.sweeps.study import grid
        >>> grid(parse_axes(["width=8,16", "lr=0.1"]))
        [{'width': 8, 'lr': 0.1}, {'width': 16, 'lr': 0.1}]
    """
    for axis in axes:
        if not axis.values:
            raise SettingsError(
                f"--vary {axis.text}: a grid needs values, NAME=VALUE,VALUE,..., no range."
            )
    names = [axis.name for axis in axes]
    combinations = itertools.product(*(axis.values for axis in axes))
    return [dict(zip(names, values, strict=True)) for values in combinations]


def load_optuna() -> Any:
    """Optuna, which stays silent.

    Raises:
        SettingsError: it is not installed.
    """
    try:
        import optuna
        import optuna.storages.journal
    except ImportError:
        raise SettingsError("a sweep needs Optuna: pip install 'farzi[sweep]' brings it.") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
