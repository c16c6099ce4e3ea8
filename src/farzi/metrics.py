"""What a model is worth: rankings of the next item, likelihoods of the next token.

Every user has one target, ranked among all candidates (full ranking, no sampled negatives). Ranks
are computed once, by `target_ranks`; every ranking metric is a function of them.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias, overload

import numpy as np
import numpy.typing as npt
import torch

from farzi.errors import NonFiniteError

__all__ = [
    "Interval",
    "accuracy",
    "auc",
    "count_candidates",
    "hit_rate",
    "mrr",
    "ndcg",
    "paired_bootstrap",
    "perplexity",
    "sentence_perplexity",
    "target_ranks",
]

Array: TypeAlias = npt.NDArray[np.float64]
ArrayLike: TypeAlias = torch.Tensor | npt.ArrayLike


# --------------------------------------------------------------------------------------- ranking


def target_ranks(
    scores: torch.Tensor, targets: torch.Tensor, exclude: torch.Tensor | None = None
) -> torch.Tensor:
    """Rank each target among all candidates, from 1, ties counted half.

        rank = 1 + |{j : s_j > s_target}| + |{j != target : s_j = s_target}| / 2

    The mid-rank is what random tie breaking gives on average; a model that scores all items alike
    gets the rank in the middle, not the first.

    Args:
        scores: (B, V), the higher the better.
        targets: (B,), integers in [0, V).
        exclude: (B, V) bool, True for an item left out of that user's ranking, such as one already
            seen. The target itself is always ranked.

    Returns:
        (B,) float64 on the device of `scores`.

    Raises:
        NonFiniteError: a score is NaN or infinite: comparisons with NaN are false, so that a
            diverged model would rank every target first.

    Example:
        >>> import torch
        >>> from farzi.metrics import target_ranks
        >>> target_ranks(torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.5, 0.5]]), torch.tensor([2, 0]))
        tensor([2., 2.], dtype=torch.float64)
    """
    if scores.numel() and not bool(torch.isfinite(torch.stack(torch.aminmax(scores))).all()):
        raise NonFiniteError("the scores to be ranked are not all finite")
    own_B1 = scores.gather(1, targets[:, None])
    greater_BV = scores > own_B1
    equal_BV = scores == own_B1
    if exclude is not None:
        greater_BV &= ~exclude
        equal_BV &= ~exclude
    equal_BV.scatter_(1, targets[:, None], False)
    return 1 + _count_true(greater_BV).double() + _count_true(equal_BV).double() / 2


def _count_true(marks: torch.Tensor) -> torch.Tensor:
    """True values of each row of (B, V), (B,) int64; sums of 32 bits take a tenth of the time."""
    return marks.sum(1, dtype=torch.int32).long()


def count_candidates(
    targets: torch.Tensor, num_items: int, exclude: torch.Tensor | None = None
) -> torch.Tensor:
    """Count the items that each target is ranked among, itself included: `auc` asks for it.

    Args:
        targets: (B,), as for `target_ranks`.
        num_items: V.
        exclude: (B, V), as for `target_ranks`.

    Returns:
        (B,) int64.

    Example:
        >>> import torch
        >>> from farzi.metrics import count_candidates
        >>> exclude = torch.tensor([[True, True, False]])
        >>> count_candidates(torch.tensor([0]), 3, exclude)
        tensor([2])
    """
    if exclude is None:
        return torch.full_like(targets, num_items, dtype=torch.int64)
    target_excluded = exclude.gather(1, targets[:, None])[:, 0]
    return num_items - _count_true(exclude) + target_excluded.long()


@overload
def hit_rate(ranks: ArrayLike, k: int, *, per_user: Literal[False] = False) -> float: ...
@overload
def hit_rate(ranks: ArrayLike, k: int, *, per_user: Literal[True]) -> Array: ...
def hit_rate(ranks: ArrayLike, k: int, *, per_user: bool = False) -> float | Array:
    """Return HR@k, the share of users whose target is among the first k.

        HR@k = mean_u [rank_u <= k]

    Args:
        ranks: (B,), from `target_ranks`.
        k: length of the list, >= 1.
        per_user: return the (B,) float64 array of each user's value instead of the mean.

    Example:
        >>> from farzi.metrics import hit_rate
        >>> hit_rate([1, 3, 12, 40], k=10)
        0.5
    """
    _check_cutoff(k)
    return _mean_unless(per_user, (_ranks(ranks) <= k).astype(np.float64))


@overload
def ndcg(ranks: ArrayLike, k: int, *, per_user: Literal[False] = False) -> float: ...
@overload
def ndcg(ranks: ArrayLike, k: int, *, per_user: Literal[True]) -> Array: ...
def ndcg(ranks: ArrayLike, k: int, *, per_user: bool = False) -> float | Array:
    """Return nDCG@k with one relevant item a user, whose ideal gain is 1.

        nDCG@k = mean_u [rank_u <= k] / log2(1 + rank_u)

    Args:
        ranks: (B,), from `target_ranks`.
        k: length of the list, >= 1.
        per_user: return the (B,) float64 array of each user's value instead of the mean.

    Example:
        >>> from farzi.metrics import ndcg
        >>> ndcg([1, 3, 12, 40], k=10)
        0.375
    """
    _check_cutoff(k)
    values = _ranks(ranks)
    return _mean_unless(per_user, (values <= k) / np.log2(1 + values))


@overload
def mrr(ranks: ArrayLike, *, per_user: Literal[False] = False) -> float: ...
@overload
def mrr(ranks: ArrayLike, *, per_user: Literal[True]) -> Array: ...
def mrr(ranks: ArrayLike, *, per_user: bool = False) -> float | Array:
    """Return the mean reciprocal rank over the whole ranking, not cut at any k.

        MRR = mean_u 1 / rank_u

    Args:
        ranks: (B,), from `target_ranks`.
        per_user: return the (B,) float64 array of each user's value instead of the mean.

    Example:
        >>> from farzi.metrics import mrr
        >>> mrr([1, 2, 4, 4])
        0.5
    """
    return _mean_unless(per_user, 1 / _ranks(ranks))


@overload
def auc(
    ranks: ArrayLike, num_candidates: ArrayLike, *, per_user: Literal[False] = False
) -> float: ...
@overload
def auc(ranks: ArrayLike, num_candidates: ArrayLike, *, per_user: Literal[True]) -> Array: ...
def auc(ranks: ArrayLike, num_candidates: ArrayLike, *, per_user: bool = False) -> float | Array:
    """Return the mean over users of the area under the ROC curve of their one target.

    It is the chance that the target is scored above another candidate, a tie counting half:

        AUC = mean_u (n_u - rank_u) / (n_u - 1)

    Args:
        ranks: (B,), from `target_ranks`.
        num_candidates: n, an int or (B,), >= 2: the items ranked, the target included, as
            `count_candidates` gives them.
        per_user: return the (B,) float64 array of each user's value instead of the mean.

    Example:
        >>> from farzi.metrics import auc
        >>> auc([1, 3, 5], num_candidates=5)
        0.5
    """
    counts = _array(num_candidates)
    if counts.size and counts.min() < 2:
        raise ValueError(f"`num_candidates` must be at least 2, got {counts.min():g}.")
    return _mean_unless(per_user, (counts - _ranks(ranks)) / (counts - 1))


# -------------------------------------------------------------------------------------- language


def perplexity(nll_sums: ArrayLike, counts: ArrayLike) -> float:
    """Return the perplexity per token of a text.

        exp( sum_i nll_i / sum_i n_i )

    Args:
        nll_sums: (B,), the negative log-likelihood in nats of each sentence, summed over tokens.
        counts: (B,), the tokens predicted in each sentence.

    Example:
        >>> import math
        >>> from farzi.metrics import perplexity
        >>> round(perplexity([3 * math.log(8), math.log(2)], counts=[3, 1]), 6)
        5.656854
    """
    nll, num_tokens = _array(nll_sums), _counts(counts)
    return float(np.exp(nll.sum() / num_tokens.sum()))


def sentence_perplexity(nll_sums: ArrayLike, counts: ArrayLike) -> float:
    """Return the mean of the sentences' perplexities, as the Farzi Data paper reports it.

        mean_i exp( nll_i / n_i )

    A few unlikely short sentences weigh heavily here; it is no bound on, and not comparable with,
    the perplexity per token.

    Args:
        nll_sums: (B,), as for `perplexity`.
        counts: (B,), as for `perplexity`.

    Example:
        >>> import math
        >>> from farzi.metrics import sentence_perplexity
        >>> round(sentence_perplexity([3 * math.log(8), math.log(2)], counts=[3, 1]), 6)
        5.0
    """
    return float(np.exp(_array(nll_sums) / _counts(counts)).mean())


def accuracy(num_correct: ArrayLike, counts: ArrayLike) -> float:
    """Return the share of tokens that are the model's first guess.

        sum_i correct_i / sum_i n_i

    Args:
        num_correct: (B,), the tokens of each sentence that were guessed.
        counts: (B,), the tokens predicted in each sentence.

    Example:
        >>> from farzi.metrics import accuracy
        >>> accuracy([1, 0], counts=[3, 1])
        0.25
    """
    return float(_array(num_correct).sum() / _counts(counts).sum())


# ----------------------------------------------------------------------------------- uncertainty


class Interval(NamedTuple):
    """A mean difference and the bounds of its interval."""

    difference: float
    low: float
    high: float


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    num_resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return the mean of a - b over users, and its percentile bootstrap interval.

    Users are drawn with replacement, the same users for both models. The interval speaks of other
    users of the same kind; it says nothing of other seeds or other splits.

    Args:
        a: (B,), a metric of each user under one model, from `per_user=True`.
        b: (B,), the same users under the other.
        weights: (B,), > 0, how much each counts in the mean, such as the tokens of each sentence
            where a metric is a mean over tokens; None: all alike.
        num_resamples: draws, >= 1.
        seed: seed of the draws.
        level: share of the draws inside the interval, in (0, 1).

    Cost:
        num_resamples times B draws; memory is that of one resample.

    Example:
        >>> from farzi.metrics import paired_bootstrap
        >>> paired_bootstrap([1, 1, 0, 1], [0, 1, 0, 0])
        Interval(difference=0.5, low=0.0, high=1.0)

    References:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    first, second = _array(a), _array(b)
    if first.shape != second.shape or first.ndim != 1 or not first.size:
        raise ValueError(
            "`a` and `b` must be of one shape (B,) with B >= 1, "
            f"got {first.shape} and {second.shape}."
        )
    counted = None if weights is None else _array(weights)
    if counted is not None and (counted.shape != first.shape or not (counted > 0).all()):
        raise ValueError(f"`weights` must be {first.size} numbers > 0, got {weights!r}.")
    if num_resamples < 1:
        raise ValueError(f"`num_resamples` must be an int >= 1, got {num_resamples}.")
    if not 0 < level < 1:
        raise ValueError(f"`level` must be in (0, 1), got {level}.")
    differences = first - second
    generator = np.random.default_rng(seed)
    num_users = differences.size

    def mean(users: npt.NDArray[np.int64] | slice) -> float:
        return float(
            np.average(differences[users], weights=None if counted is None else counted[users])
        )

    means = [mean(generator.integers(num_users, size=num_users)) for _ in range(num_resamples)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean(slice(None)), float(low), float(high))


# --------------------------------------------------------------------------------------- helpers


def _array(values: ArrayLike) -> Array:
    if isinstance(values, torch.Tensor):
        return values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)


def _ranks(ranks: ArrayLike) -> Array:
    values = _array(ranks)
    if values.size and not values.min() >= 1:
        raise ValueError(f"`ranks` must be at least 1, got {values.min():g}.")
    return values


def _counts(counts: ArrayLike) -> Array:
    values = _array(counts)
    if not values.size or values.min() < 1:
        raise ValueError("`counts` must be at least 1 for each of one or more sentences.")
    return values


def _check_cutoff(k: int) -> None:
    if k < 1:
        raise ValueError(f"`k` must be an int >= 1, got {k}.")


def _mean_unless(per_user: bool, values: Array) -> float | Array:
    return values if per_user else float(values.mean())
