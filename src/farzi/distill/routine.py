"""How students train on the start, chosen on validation before the outer loop begins.

A student that is stopped in the middle of its training is not the one that users will train. So
the step size and the weight decay of the inner optimiser, where asked for the dropout, and the
number of steps after which validation no longer improves, are found with the start; the outer
loop's students train by them, and the artifact's recipe names them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from farzi.data.sequences import Sequences
from farzi.distill.fresh import LOOK_EVERY, number, train_fresh
from farzi.distill.problem import Problem
from farzi.distill.settings import InnerSettings, RoutineSettings
from farzi.errors import NonFiniteError
from farzi.metagrad import Adam, AdamW, Optimizer
from farzi.synthetic import SyntheticSequences

__all__ = ["Routine", "find_routine"]


@dataclass(frozen=True)
class Routine:
    """A student's training as it was chosen.

    Args:
        lr: step size.
        weight_decay: decoupled weight decay; 0: none.
        steps: steps until the lowest validation loss.
        loss: that loss.
        tries: what was tried, in order: `lr`, `weight_decay`, `dropout`, `steps`, and `loss`, which
            is None where training diverged.
        dropout: the students' dropout.
    """

    lr: float
    weight_decay: float
    steps: int
    loss: float
    tries: tuple[Mapping[str, Any], ...] = ()
    dropout: float = 0.0

    def optimizer(self, optimizer: Optimizer) -> Optimizer:
        """An inner optimiser with this step size and decay."""
        return _with(optimizer, self.lr, self.weight_decay)

    def inner(self, inner: InnerSettings) -> InnerSettings:
        """Inner settings that train so, its steps the horizon in whole strides."""
        steps = inner.pace * max(1, round(self.steps / inner.pace))
        optimizer = self.optimizer(inner.optimizer)
        return replace(inner, optimizer=optimizer, steps=steps, dropout=self.dropout)

    def to_json(self) -> dict[str, Any]:
        """JSON values: `from_json` gives the same back."""
        return {**asdict(self), "tries": [dict(each) for each in self.tries]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Routine:
        """What `to_json` was called on.

        Raises:
            ValueError: a value is missing or wrong.
        """
        for part in (values, *values["tries"]):
            for name in ("lr", "weight_decay", "dropout", "steps", "loss"):
                diverged = part is not values and name == "loss" and part.get(name) is None
                if not diverged and not _is_number(part.get(name)):
                    raise ValueError(
                        f"`routine`: `{name}` must be a number, got {part.get(name)!r}"
                    )
            if more := sorted(
                set(part) - {"lr", "weight_decay", "dropout", "steps", "loss", "tries"}
            ):
                raise ValueError(f"`routine` has no field {more[0]!r}")
        return cls(**{**values, "tries": tuple(values["tries"])})


def find_routine(
    problem: Problem,
    start: SyntheticSequences,
    validation_sequences: Sequences,
    settings: RoutineSettings,
    seed: int,
    progress: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> Routine | None:
    """Choose how students train on the start: step size first, then weight decay, then dropout.

    The step size goes up by a factor for as long as validation gets better, or down where the first
    step up does not help.

    Args:
        problem: student, inner optimiser and batch size.
        start: what students train on.
        validation_sequences: real sequences.
        settings: what is tried, and how often.
        seed: of the fresh student, the same in every try.
        progress: called with (tries done, most tries, what the last one gave).

    Returns:
        The setting with the lowest validation loss; None where nothing is to be tried, or the
        optimiser's step size is not one number.

    Raises:
        NonFiniteError: training diverged with every setting.
        StopRequested: a stop was asked for.

    Cost:
        `settings.tries` fresh students.
    """
    first = number(problem.optimizer.hyper["lr"])
    if not settings.tries or first is None:
        return None
    own = number(problem.optimizer.hyper.get("weight_decay", 0.0)) or 0.0
    tries: dict[tuple[float, float, float], dict[str, Any]] = {}

    def loss_of(lr: float, decay: float, dropout: float) -> float:
        """The loss of a setting; infinite where training diverged or no try is left."""
        if (lr, decay, dropout) not in tries:
            if len(tries) >= settings.tries:
                return math.inf
            names = {"lr": lr, "weight_decay": decay, "dropout": dropout}
            tried: dict[str, Any] = {**names, "steps": 0, "loss": None}
            try:
                optimizer = _with(problem.optimizer, lr, decay)
                fresh = train_fresh(
                    replace(problem, optimizer=optimizer, dropout=dropout),
                    start,
                    validation_sequences,
                    settings.max_steps,
                    seed,
                    patience=settings.patience,
                    look_every=LOOK_EVERY,
                    look_growth=0.1,
                )
                tried |= {"steps": fresh.step, "loss": fresh.loss}
            except NonFiniteError:
                pass
            tries[lr, decay, dropout] = tried
            said = "diverged" if tried["loss"] is None else f"loss {tried['loss']:.3f}"
            dropped = f", dropout {dropout:g}" if settings.dropouts or dropout else ""
            progress(len(tries), settings.tries, f"lr {lr:g}, decay {decay:g}{dropped}: {said}")
        found = tries[lr, decay, dropout]["loss"]
        return math.inf if found is None else float(found)

    dropout = problem.dropout
    lr, lowest = first, loss_of(first, own, dropout)
    for factor in (settings.lr_factor, 1 / settings.lr_factor):
        while (loss := loss_of(lr * factor, own, dropout)) < lowest:
            lr, lowest = lr * factor, loss
        if lr != first:
            break
    decay = own
    for value in settings.decays if _takes_decay(problem.optimizer) else ():
        if (loss := loss_of(lr, value, dropout)) < lowest:
            decay, lowest = value, loss
    for value in settings.dropouts:
        if (loss := loss_of(lr, decay, value)) < lowest:
            dropout, lowest = value, loss
    if not math.isfinite(lowest):
        raise NonFiniteError(
            f"training on the start diverged with every one of {len(tries)} settings; the largest "
            f"step size was {max(lr for lr, *_ in tries):g}: try a smaller `inner.optimizer.lr`."
        )
    steps = tries[lr, decay, dropout]["steps"]
    return Routine(lr, decay, steps, lowest, tuple(tries.values()), dropout)


def _takes_decay(optimizer: Optimizer) -> bool:
    """Whether decoupled weight decay can be tried: not where Adam has an L2 penalty already."""
    if isinstance(optimizer, Adam):
        return not number(optimizer.weight_decay)
    return isinstance(optimizer, AdamW)


def _with(optimizer: Optimizer, lr: float, decay: float) -> Optimizer:
    """The optimiser with this step size and decoupled weight decay."""
    if decay and isinstance(optimizer, Adam) and not number(optimizer.weight_decay):
        kept = {name: getattr(optimizer, name) for name in ("b1", "b2", "eps", "eps_root")}
        return AdamW(lr=lr, weight_decay=decay, **kept)
    changes: dict[str, Any] = {"lr": lr}
    if isinstance(optimizer, AdamW):
        changes["weight_decay"] = decay
    return replace(optimizer, **changes)  # type: ignore[type-var]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1 << 63
