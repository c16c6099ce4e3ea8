"""What one run leaves: scores, how it was trained, and the whole as JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, NamedTuple

__all__ = ["Choice", "Look", "Run", "Training", "headline_metrics"]


def headline_metrics(task: str) -> tuple[str, ...]:
    """The metrics whose mean ratio to full data is the headline.

    Example:
        >>> from farzi.experiments.results import headline_metrics
        >>> headline_metrics("language")
        ('perplexity', 'accuracy')
    """
    if task == "language":
        return ("perplexity", "accuracy")
    return ("HR@10", "HR@100", "nDCG@10", "nDCG@100")


@dataclass(frozen=True)
class Choice:
    """What is tuned of how a row's students are trained.

    Args:
        lr: step size.
        batch_size: sequences a step.
        weight_decay: decoupled weight decay.
        dropout: rate of dropout.
        smoothing: label smoothing.
        schedule: `constant`, or `linear`: the step size falls to nothing at the last step.
        shift: places by which labelled rows are moved at most; see `farzi.training.Shifted`.
        num_steps: most steps of a small row; 0: as many as the limits say.
    """

    lr: float
    batch_size: int
    weight_decay: float = 0.0
    dropout: float = 0.0
    smoothing: float = 0.0
    schedule: Literal["constant", "linear"] = "constant"
    shift: int = 0
    num_steps: int = 0

    def __str__(self) -> str:
        parts = [
            f"lr {self.lr:g}",
            f"batch {self.batch_size}",
            f"decay {self.weight_decay:g}",
            f"dropout {self.dropout:g}",
            f"smoothing {self.smoothing:g}",
            *([self.schedule] if self.schedule != "constant" else []),
            *([f"shift {self.shift}"] if self.shift else []),
            *([f"{self.num_steps:,} steps"] if self.num_steps else []),
        ]
        return ", ".join(parts)


class Look(NamedTuple):
    """Where a run stood at one look at the validation loss."""

    step: int
    seconds: float
    loss: float


@dataclass(frozen=True)
class Training:
    """How a student was trained.

    Args:
        step: the step with the lowest validation loss, whose weights are scored.
        loss: the validation loss there.
        events: tokens read until then, repeats counted.
        seconds: seconds of training until then, looks at validation not counted.
        total_seconds: the same until the run stopped.
        stopped: `validation` when the loss no longer fell, `schedule` where the step size had
            fallen to nothing, `cap` where a limit ended the run.
        curve: every look.
        pace_s: processor seconds of a fixed piece of training at that time, which tell how fast the
            machine was (`farzi.experiments.pace`); None where seconds are by the clock, or in runs
            of before it was taken.
    """

    step: int
    loss: float
    events: int
    seconds: float
    total_seconds: float
    stopped: str
    curve: tuple[Look, ...] = ()
    pace_s: float | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON values: `from_json` gives the same back."""
        return {**asdict(self), "curve": [list(look) for look in self.curve]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Training:
        """What `to_json` was called on."""
        return cls(**{**values, "curve": tuple(Look(*look) for look in values["curve"])})


@dataclass(frozen=True)
class Run:
    """One scored student, or one model that needs no training.

    Args:
        row: the row's name.
        split_seed: the split.
        seed: which of the row's students on it.
        sequences: sequences that it was trained on.
        tokens: their tokens.
        num_bytes: their bytes.
        metrics: test scores by name; rates are fractions.
        per_user: test scores of each user, or sentence, by name.
        counts: what was scored, as in `farzi.evaluation.Scores`.
        choice: how it was trained, as tuned.
        training: how that went.
    """

    row: str
    split_seed: int
    seed: int
    sequences: int
    tokens: int
    num_bytes: int
    metrics: Mapping[str, float]
    per_user: Mapping[str, tuple[float, ...]] = field(default_factory=dict, repr=False)
    counts: Mapping[str, int] = field(default_factory=dict, repr=False)
    choice: Choice | None = None
    training: Training | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON values: `from_json` gives the same run back."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        values["metrics"] = dict(self.metrics)
        values["per_user"] = {name: list(each) for name, each in self.per_user.items()}
        values["counts"] = dict(self.counts)
        values["choice"] = None if self.choice is None else asdict(self.choice)
        values["training"] = None if self.training is None else self.training.to_json()
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Run:
        """The run that `to_json` was called on."""
        known = {item.name: values[item.name] for item in fields(cls) if item.name in values}
        known["per_user"] = {name: tuple(each) for name, each in values.get("per_user", {}).items()}
        if (choice := values.get("choice")) is not None:
            known["choice"] = Choice(**choice)
        if (training := values.get("training")) is not None:
            known["training"] = Training.from_json(training)
        return cls(**known)
