"""How a row's training is chosen on validation: one axis after another.

Every row is tuned over the same axes by the same rule. The first value of each axis is where the
search begins; each axis in turn tries its other values at the best setting so far; the step size is
tried again at the end where another axis has changed, since the two hang together. A budget of
seconds ends the search early and says how many tries were left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from farzi.errors import NonFiniteError
from farzi.experiments.results import Choice

__all__ = ["Axes", "Search", "Try", "most_tries", "search"]

Axes = Mapping[str, Sequence[Any]]
"""Values by the field of `Choice`, in the order in which they are tried."""


@dataclass(frozen=True)
class Try:
    """One setting that was tried.

    Args:
        choice: the setting.
        loss: its lowest validation loss; None where training diverged.
        seconds: what the try cost, in seconds of training.
        step: where the lowest loss was.
        stopped: `validation` or `cap`.
    """

    choice: Choice
    loss: float | None
    seconds: float = 0.0
    step: int = 0
    stopped: str = "validation"

    def to_json(self) -> dict[str, Any]:
        """JSON values: `from_json` gives the same back."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Try:
        """What `to_json` was called on."""
        return cls(**{**values, "choice": Choice(**values["choice"])})


@dataclass(frozen=True)
class Search:
    """A finished search.

    Args:
        best: the setting with the lowest validation loss; the earlier where two are equal.
        tries: all that was tried, in order.
        left_out: tries that the budget left no time for.
    """

    best: Choice
    tries: tuple[Try, ...]
    left_out: int = 0

    def to_json(self) -> dict[str, Any]:
        """JSON values: `from_json` gives the same back."""
        return {
            "best": asdict(self.best),
            "tries": [each.to_json() for each in self.tries],
            "left_out": self.left_out,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Search:
        """What `to_json` was called on."""
        tries = tuple(Try.from_json(each) for each in values["tries"])
        return cls(Choice(**values["best"]), tries, values["left_out"])


def most_tries(axes: Axes, sweeps: int = 1) -> int:
    """How many settings a search tries at most; none where there is but one.

    Example:
        >>> from farzi.experiments.tuning import most_tries
        >>> most_tries({"lr": (0.01, 0.02), "dropout": (0.0, 0.2)})
        4
    """
    first, *others = (len(values) for values in axes.values())
    if first == 1 and all(number == 1 for number in others):
        return 0
    again = first - 1 if any(number > 1 for number in others) else 0
    changes = first - 1 + sum(number - 1 for number in others)
    return 1 + sweeps * changes + again


def search(
    axes: Axes,
    run: Callable[[Choice], Try],
    *,
    budget_s: float | None = None,
    sweeps: int = 1,
) -> Search:
    """Search the axes one after another; the first is the step size.

    Where every axis has one value there is nothing to search, and nothing is tried. One sweep over
    the axes, and the step size once more, finds what is best where the axes hardly depend on one
    another. Where dropout is of use with label smoothing alone, say, it takes more.

    Args:
        axes: values of each, the one to begin with first.
        run: tries a setting.
        budget_s: seconds of training after which no further setting is tried; None: no limit.
        sweeps: over all axes, at most; the search ends after one that changes nothing.

    Raises:
        NonFiniteError: training diverged with every setting.
    """
    firsts: dict[str, Any] = {each: values[0] for each, values in axes.items()}
    if most_tries(axes) == 0:
        return Search(Choice(**firsts), ())
    done: dict[Choice, Try] = {}
    left_out: set[Choice] = set()

    def best() -> Choice:
        return min(done, key=lambda choice: _loss(done[choice]))

    def try_axis(name: str) -> None:
        around = best() if done else Choice(**firsts)
        for value in axes[name]:
            changed: dict[str, Any] = {name: value}
            choice = replace(around, **changed)
            if choice in done:
                continue
            spent = sum(each.seconds for each in done.values())
            if done and budget_s is not None and spent >= budget_s:
                left_out.add(choice)
            else:
                done[choice] = run(choice)

    first, *others = axes
    try_axis(first)
    before = best()
    for name in others:
        try_axis(name)
    if best() != before:
        try_axis(first)
    for _ in range(sweeps - 1):
        before = best()
        for name in axes:
            try_axis(name)
        if best() == before:
            break
    if not math.isfinite(_loss(done[best()])):
        raise NonFiniteError(
            f"training diverged with every setting of {len(done)}; try smaller step sizes."
        )
    return Search(best(), tuple(done.values()), len(left_out))


def _loss(tried: Try) -> float:
    return math.inf if tried.loss is None else tried.loss
