"""Does a search on a few sequences choose what a search on all data would?

The same configurations are trained on every row and ranked by their validation loss. A row is of
use for a search where it ranks them as full data do, where the one that it chooses is nearly as
good on full data as the best there, and where it takes less time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from farzi.experiments.results import Choice, Look
from farzi.experiments.specification import SearchSettings
from farzi.seeding import stream

__all__ = [
    "Configuration",
    "Ranked",
    "Ranking",
    "configurations",
    "kendall_tau",
    "rank_early",
    "rank_rows",
]

EARLY_SHARES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Of the seconds that full data take for a configuration: when searches are read early."""


@dataclass(frozen=True)
class Configuration:
    """One point of a search.

    Args:
        number: its place in the draw.
        choice: how a student is trained.
        sizes: settings of the student that it changes.
    """

    number: int
    choice: Choice
    sizes: Mapping[str, int]


def configurations(
    search: SearchSettings, student: Mapping[str, Any], batch_size: int
) -> list[Configuration]:
    """The configurations of a search; the same for every row but for the batch size.

    Args:
        search: what they are drawn from.
        student: settings of the student; only sizes that it has are changed.
        batch_size: sequences a step.

    Example:
        >>> from farzi.experiments.ranking import configurations
        >>> from farzi.experiments.specification import SearchSettings
        >>> drawn = configurations(SearchSettings(), {"width": 32}, 10)
        >>> len(drawn), sorted(drawn[0].sizes)
        (30, ['width'])
    """
    drawn = []
    for number in range(search.configurations):
        generator = stream(search.seed, "search", number)

        def one(values: Sequence[Any], generator: np.random.Generator = generator) -> Any:
            return values[int(generator.integers(len(values)))]

        low, high = map(math.log, search.lrs)
        choice = Choice(
            lr=round(math.exp(generator.uniform(low, high)), 5),
            batch_size=batch_size,
            weight_decay=one(search.decays),
            dropout=one(search.dropouts),
            smoothing=one(search.smoothings),
        )
        sizes = {
            "width": one(search.widths),
            "num_layers": one(search.num_layers),
            "conv_size": one(search.conv_sizes),
        }
        kept = {name: value for name, value in sizes.items() if name in student}
        drawn.append(Configuration(number, choice, kept))
    return drawn


@dataclass(frozen=True)
class Ranked:
    """One configuration trained on one row.

    Args:
        number: the configuration.
        loss: lowest validation loss; None where training diverged.
        seconds: of training, until it stopped.
        metrics: test scores.
        curve: its looks at the validation loss; empty in files of before they were kept.
    """

    number: int
    loss: float | None
    seconds: float
    metrics: Mapping[str, float]
    curve: tuple[Look, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "metrics": dict(self.metrics)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Ranked:
        """What `to_json` was called on."""
        curve = tuple(Look(*look) for look in values.get("curve", ()))
        return cls(**{**values, "curve": curve})

    def until(self, seconds: float) -> Ranked:
        """What is known of it after so many seconds: its lowest loss at a look by then.

        Training has to be the same whenever it ends, as it is at a constant step size.
        """
        losses = [look.loss for look in self.curve if look.seconds <= seconds]
        known = min(losses) if losses and self.loss is not None else None
        return replace(self, loss=known, seconds=min(self.seconds, seconds))


@dataclass(frozen=True)
class Ranking:
    """How a search on one row compares with one on full data.

    Args:
        row: the row.
        configurations: how many were ranked.
        tau: Kendall's tau-b between the two rankings, 1 where they are the same.
        low: lower bound of its 95 % bootstrap interval over configurations.
        high: upper bound.
        regret: validation loss on full data of the configuration that the row chooses, less that of
            the best one.
        metric_regret: the same in a test score on full data, best less chosen.
        seconds: of training, all configurations.
        faster: seconds on full data over these.
        seconds_each: most seconds for a configuration; None: each until validation stopped it.
    """

    row: str
    configurations: int
    tau: float
    low: float
    high: float
    regret: float
    metric_regret: float
    seconds: float
    faster: float
    seconds_each: float | None = None


def kendall_tau(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Kendall's tau-b between two rankings of the same things; NaN where one ties them all.

    Example:
        >>> from farzi.experiments.ranking import kendall_tau
        >>> kendall_tau([1, 2, 3], [10, 20, 30]), kendall_tau([1, 2, 3], [3, 2, 1])
        (1.0, -1.0)

    References:
        Kendall 1945, The treatment of ties in ranking problems.
    """
    first, second = (np.asarray(values, dtype=np.float64) for values in (a, b))
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(
            f"`a` and `b` must be of one shape (N,), got {first.shape}, {second.shape}."
        )
    return float(_taus(first, second, np.arange(len(first))[None])[0])


def _taus(
    first: npt.NDArray[np.float64], second: npt.NDArray[np.float64], drawn: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Kendall's tau-b of each draw (R, N) of things from two rankings (N,) of them."""
    left, right = (drawn[:, place] for place in np.triu_indices(drawn.shape[1], 1))
    signs = [
        (values[left] > values[right]).astype(np.int8) - (values[left] < values[right])
        for values in (first, second)
    ]
    untied = [(each != 0).sum(axis=1) for each in signs]
    with np.errstate(invalid="ignore"):  # nothing over nothing where one ties them all
        taus: npt.NDArray[np.float64] = (signs[0] * signs[1]).sum(axis=1) / np.sqrt(
            untied[0] * untied[1]
        )
    return taus


def rank_rows(
    runs: Mapping[str, Sequence[Ranked]],
    metric: str,
    *,
    higher_is_better: bool = True,
    num_resamples: int = 2000,
    seed: int = 0,
) -> list[Ranking]:
    """Hold the search on each row against that on `full`.

    Args:
        runs: by row, its configurations; those that a row or full data lack are left out.
        metric: the test score that `metric_regret` is in.
        higher_is_better: of that score.
        num_resamples: of the bootstrap.
        seed: of its draws.
    """
    paired = {row: _paired(of_row, runs["full"]) for row, of_row in runs.items() if row != "full"}
    return [
        _ranking(row, both, metric, higher_is_better, num_resamples, seed)
        for row, both in paired.items()
        if len(both) > 1
    ]


def rank_early(
    runs: Mapping[str, Sequence[Ranked]],
    metric: str,
    *,
    higher_is_better: bool = True,
    shares: Sequence[float] = EARLY_SHARES,
    num_resamples: int = 2000,
    seed: int = 0,
) -> list[Ranking]:
    """Hold searches that give each configuration few seconds against the whole one on `full`.

    Full data are a row here as well: to stop early on all data is what a search on few rows has to
    be better than. Its runs are the very ones that it is held against, which flatters it.

    Args:
        runs: by row, its configurations; rows whose looks were not kept are left out.
        metric: the test score that `metric_regret` is in.
        higher_is_better: of that score.
        shares: of the mean seconds of a configuration on full data, that each may take.
        num_resamples: of the bootstrap.
        seed: of its draws.

    Returns:
        by row and seconds, how each compares; none for seconds by which fewer than two
        configurations had been looked at.
    """
    full = runs["full"]
    mean = sum(run.seconds for run in full) / len(full)
    ranked = []
    for row, of_row in runs.items():
        if not any(run.curve for run in of_row):
            continue
        for share in shares:
            cut = [run.until(share * mean) for run in of_row]
            both = _paired(cut, full)
            if sum(run.loss is not None for run, _ in both) > 1:
                early = _ranking(row, both, metric, higher_is_better, num_resamples, seed)
                ranked.append(replace(early, seconds_each=share * mean))
    return ranked


def _paired(of_row: Sequence[Ranked], of_full: Sequence[Ranked]) -> list[tuple[Ranked, Ranked]]:
    full = {run.number: run for run in of_full}
    return [(run, full[run.number]) for run in of_row if run.number in full]


def _ranking(
    row: str,
    both: Sequence[tuple[Ranked, Ranked]],
    metric: str,
    higher_is_better: bool,
    num_resamples: int,
    seed: int,
) -> Ranking:
    own = np.array([_loss(run) for run, _ in both])
    of_full = np.array([_loss(run) for _, run in both])
    drawn = np.random.default_rng(seed).integers(len(both), size=(num_resamples, len(both)))
    low, high = np.nanquantile(_taus(own, of_full, drawn), [0.025, 0.975])
    chosen = both[int(own.argmin())][1]
    best = both[int(of_full.argmin())][1]
    sign = 1 if higher_is_better else -1
    seconds = sum(run.seconds for run, _ in both)
    return Ranking(
        row=row,
        configurations=len(both),
        tau=kendall_tau(own, of_full),
        low=float(low),
        high=float(high),
        regret=_loss(chosen) - _loss(best),
        metric_regret=sign
        * (best.metrics.get(metric, math.nan) - chosen.metrics.get(metric, math.nan)),
        seconds=seconds,
        faster=sum(run.seconds for _, run in both) / seconds,
    )


def _loss(run: Ranked) -> float:
    return math.inf if run.loss is None else run.loss
