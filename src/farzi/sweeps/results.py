"""What a sweep found: its trials, the best first, as values that JSON can hold."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from farzi.sweeps.space import Value, named_student

__all__ = ["SweepResult", "Trial"]


@dataclass(frozen=True)
class Trial:
    """One setting that was tried.

    Attributes:
        number: in the order of the sweep.
        values: what was varied, by name.
        loss: mean validation loss of its students, in nats a token; None where it failed.
        losses: of each student.
        seconds: what the trial took.
        steps: steps at the best look, of each student; outer steps of a distillation.
        folder: its run, where it is a distillation.
        error: why it failed.
    """

    number: int
    values: Mapping[str, Value]
    loss: float | None
    losses: tuple[float, ...] = ()
    seconds: float = 0.0
    steps: tuple[int, ...] = ()
    folder: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class SweepResult:
    """A sweep, finished or not.

    Attributes:
        folder: where it is kept; the same call goes on with it.
        source: what was tried on, as it was named.
        of: `student` or `distillation`.
        protocol_line: on what, in one line.
        fixed: settings that are the same in every trial.
        vary: the axes as they were written.
        trials: all that are done, those that failed too, in their order.
        wanted: how many there are to be.
        stopped: whether it was stopped before all were done.
    """

    folder: Path
    source: str
    of: Literal["student", "distillation"]
    protocol_line: str
    fixed: Mapping[str, Value]
    vary: tuple[str, ...]
    trials: tuple[Trial, ...] = field(repr=False)
    wanted: int
    stopped: bool = False

    @property
    def ranked(self) -> tuple[Trial, ...]:
        """The trials that have a loss, the lowest first."""
        done = [trial for trial in self.trials if trial.loss is not None]
        return tuple(sorted(done, key=lambda trial: (trial.loss or -math.inf, trial.number)))

    @property
    def best(self) -> Trial | None:
        """The trial with the lowest loss; None where all failed."""
        return next(iter(self.ranked), None)

    @property
    def failed(self) -> tuple[Trial, ...]:
        """The trials that ended in an error."""
        return tuple(trial for trial in self.trials if trial.loss is None)

    @property
    def command(self) -> str | None:
        """What to run with the best setting."""
        if self.best is None:
            return None
        if self.of == "distillation":
            return f"farzi compare {shlex.quote(str(self.best.folder))}"
        settings: dict[str, Any] = {}
        own: list[str] = []
        for name, value in {**self.fixed, **self.best.values}.items():
            if name.startswith("student."):
                own.append(f"{name.partition('.')[2]}={value}")
            else:
                settings[name] = value
        if own:
            settings["student"] = named_student(settings["student"], own)
        flags = [
            part
            for name, value in settings.items()
            for part in (f"--{name.replace('_', '-')}", str(value))
        ]
        return shlex.join(["farzi", "train", self.source, *flags, "--out", "models/best"])

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        best = self.best
        return {
            "sweep": str(self.folder),
            "source": self.source,
            "of": self.of,
            "protocol_line": self.protocol_line,
            "fixed": dict(self.fixed),
            "vary": list(self.vary),
            "wanted": self.wanted,
            "stopped": self.stopped,
            "best": None if best is None else dataclasses.asdict(best),
            "command": self.command,
            "trials": [dataclasses.asdict(trial) for trial in self.trials],
        }

    def __str__(self) -> str:
        lines = [self.protocol_line]
        for trial in self.ranked[:10]:
            values = ", ".join(f"{name} {short(value)}" for name, value in trial.values.items())
            lines.append(f"  {trial.loss:.4f}  {values}")
        return "\n".join(lines)


def short(value: Value) -> str:
    """A value in four digits.

    Example:
        >>> from farzi.sweeps.results import short
        >>> short(0.0123456), short(64), short("sasrec")
        ('0.01235', '64', 'sasrec')
    """
    return f"{value:.4g}" if isinstance(value, float) else str(value)
