"""Ratios of rows to full data, and how far they would be off with other users and students."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from farzi.experiments.results import Run

__all__ = ["ratio_intervals", "ratios_to_full"]


def ratios_to_full(
    of_row: Mapping[str, list[Run]], headline: tuple[str, ...]
) -> dict[str, dict[str, float]]:
    """Each row's metrics over full data's on the same splits, and the mean of these.

    Every split counts alike, also where a row or full data have more students on one of them.
    Perplexity, which is better when lower, is taken the other way round.

    Args:
        of_row: finished runs by row.
        headline: the metrics.
    """
    ratios = {}
    for name, runs in of_row.items():
        splits = {run.split_seed for run in runs}
        full = [run for run in of_row.get("full", ()) if run.split_seed in splits]
        if name == "full" or not full:
            continue
        values = {}
        for metric in headline:
            mean, of_full = (_mean_over_splits(each, metric) for each in (runs, full))
            better, worse = (of_full, mean) if metric == "perplexity" else (mean, of_full)
            values[metric] = better / worse if worse else float("nan")
        ratios[name] = {**values, "mean": statistics.fmean(values.values())}
    return ratios


def ratio_intervals(
    of_row: Mapping[str, list[Run]],
    headline: tuple[str, ...],
    tokens: Mapping[int, Sequence[int]] | None = None,
    num_resamples: int = 2000,
) -> dict[str, tuple[float, float]]:
    """Bounds of each row's mean ratio to full data, over draws of test users and students.

    A percentile bootstrap: on every split test users, or sentences, are drawn with replacement, the
    same for both rows, and the students of each row. Rows without scores of single users have no
    interval, nor has a row where full data score nothing in some draw.

    Args:
        of_row: finished runs by row.
        headline: the metrics.
        tokens: by split, the tokens of each test sentence: metrics of texts are means over tokens.
            Where they are not known, texts have no intervals.
        num_resamples: draws, R.

    Returns:
        the bounds that hold 95 % of the draws, by row.

    Cost:
        R times the test users of all splits, in time and memory.
    """
    full = _scores_of_users(of_row.get("full", []), headline)
    is_text = "perplexity" in headline
    if is_text and not full.keys() <= (tokens or {}).keys():
        return {}
    lower = np.array([metric == "perplexity" for metric in headline])  # better when lower
    generator = np.random.default_rng(0)
    users = {}
    for seed, scores in full.items():
        drawn = _shares(generator, num_resamples, scores.shape[1])
        if is_text and tokens is not None:
            drawn = drawn * np.array(tokens[seed])
        users[seed] = drawn / drawn.sum(axis=1, keepdims=True)

    def means(scores: npt.NDArray[np.float64], seed: int) -> npt.NDArray[np.float64]:
        students = _shares(generator, num_resamples, len(scores))
        of_students = users[seed] @ scores  # (S, R, M)
        of_students[..., lower] = np.exp(of_students[..., lower])
        of_draws: npt.NDArray[np.float64] = np.einsum("rs,srm->rm", students, of_students)
        return of_draws

    intervals = {}
    for name, runs in of_row.items():
        own = _scores_of_users(runs, headline)
        if name == "full" or not own or not own.keys() <= full.keys():
            continue
        mean, of_full = (
            np.mean([means(scores[seed], seed) for seed in own], axis=0) for scores in (own, full)
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.where(lower, of_full / mean, mean / of_full).mean(axis=1)
        if np.isfinite(ratios).all():
            low, high = np.quantile(ratios, [0.025, 0.975])
            intervals[name] = (float(low), float(high))
    return intervals


def _shares(
    generator: np.random.Generator, num_resamples: int, number: int
) -> npt.NDArray[np.float64]:
    """(R, N): how large a share of each draw with replacement each of N things is."""
    return generator.multinomial(number, np.full(number, 1 / number), num_resamples) / number


def _scores_of_users(
    runs: Iterable[Run], metrics: Sequence[str]
) -> dict[int, npt.NDArray[np.float64]]:
    """By split, (S, B, M): what each of the row's students scores for each test user.

    In place of perplexity its logarithm, the loss.
    """
    names = ["loss" if metric == "perplexity" else metric for metric in metrics]
    scores: dict[int, list[npt.NDArray[np.float64]]] = {}
    for run in runs:
        if all(name in run.per_user for name in names):
            of_metrics = [np.array(run.per_user[name]) for name in names]
            scores.setdefault(run.split_seed, []).append(np.stack(of_metrics, axis=1))
    return {seed: np.stack(each) for seed, each in scores.items()}


def _mean_over_splits(runs: Iterable[Run], metric: str) -> float:
    by_split: dict[int, list[float]] = {}
    for run in runs:
        by_split.setdefault(run.split_seed, []).append(run.metrics[metric])
    return statistics.fmean(statistics.fmean(values) for values in by_split.values())
