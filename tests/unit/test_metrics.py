"""The metrics against brute force, scikit-learn, scipy and ranx."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch
from hypothesis import given
from hypothesis import strategies as st

from farzi import metrics
from farzi.errors import NonFiniteError

NUM_USERS, NUM_ITEMS = 40, 23


@pytest.fixture(params=["distinct", "tied"])
def ranking(request: pytest.FixtureRequest) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores, targets and seen items; `tied` scores take five values only."""
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(NUM_USERS, NUM_ITEMS, generator=generator)
    if request.param == "tied":
        scores = scores.round()
    targets = torch.randint(NUM_ITEMS, (NUM_USERS,), generator=generator)
    exclude = torch.rand(NUM_USERS, NUM_ITEMS, generator=generator) < 0.3
    return scores, targets, exclude


def brute_force_rank(scores: list[float], target: int, exclude: list[bool]) -> float:
    """The average rank of the target over the orders of equal scores, counted one by one."""
    rank = 1.0
    for item, score in enumerate(scores):
        if item == target or exclude[item]:
            continue
        if score > scores[target]:
            rank += 1
        elif score == scores[target]:
            rank += 0.5
    return rank


def test_ranks_against_brute_force(ranking) -> None:
    scores, targets, exclude = ranking
    found = metrics.target_ranks(scores, targets, exclude)
    expected = [
        brute_force_rank(*row)
        for row in zip(scores.tolist(), targets.tolist(), exclude.tolist(), strict=True)
    ]
    assert found.tolist() == expected


def test_ranks_against_scipy(ranking) -> None:
    scores, targets, _ = ranking
    all_ranks = scipy.stats.rankdata(-scores.numpy(), method="average", axis=1)
    expected = all_ranks[np.arange(NUM_USERS), targets.numpy()]
    assert metrics.target_ranks(scores, targets).tolist() == expected.tolist()


def test_excluding_an_item_is_taking_its_column_away(ranking) -> None:
    scores, targets, exclude = ranking
    found = metrics.target_ranks(scores, targets, exclude)
    counts = metrics.count_candidates(targets, NUM_ITEMS, exclude)
    for user in range(NUM_USERS):
        keep = ~exclude[user]
        keep[targets[user]] = True
        target = keep[: targets[user]].sum()
        alone = metrics.target_ranks(scores[user][keep][None], target[None])
        assert found[user] == alone[0]
        assert counts[user] == keep.sum()


def test_scores_that_are_not_finite_are_refused() -> None:
    for broken in (math.nan, math.inf):
        with pytest.raises(NonFiniteError, match=r"^the scores to be ranked are not all finite$"):
            metrics.target_ranks(torch.tensor([[0.0, broken]]), torch.tensor([0]))


def test_a_constant_model_is_in_the_middle() -> None:
    ranks = metrics.target_ranks(torch.zeros(1, 101), torch.tensor([7]))
    assert ranks.tolist() == [51]
    assert metrics.auc(ranks, 101) == 0.5


@pytest.mark.parametrize("k", [1, 5, 10])
def test_ranking_metrics_against_scikit_learn(k: int) -> None:
    generator = torch.Generator().manual_seed(4)
    scores = torch.randn(NUM_USERS, NUM_ITEMS, generator=generator)
    targets = torch.randint(NUM_ITEMS, (NUM_USERS,), generator=generator)
    relevance = torch.nn.functional.one_hot(targets, NUM_ITEMS).numpy()
    ranks = metrics.target_ranks(scores, targets)
    labels = list(range(NUM_ITEMS))
    assert metrics.hit_rate(ranks, k) == pytest.approx(
        sklearn.metrics.top_k_accuracy_score(targets, scores, k=k, labels=labels)
    )
    assert metrics.ndcg(ranks, k) == pytest.approx(
        sklearn.metrics.ndcg_score(relevance, scores.numpy(), k=k)
    )
    assert metrics.mrr(ranks) == pytest.approx(
        sklearn.metrics.label_ranking_average_precision_score(relevance, scores.numpy())
    )


def test_auc_against_scikit_learn(ranking) -> None:
    scores, targets, exclude = ranking
    ranks = metrics.target_ranks(scores, targets, exclude)
    counts = metrics.count_candidates(targets, NUM_ITEMS, exclude)
    found = metrics.auc(ranks, counts, per_user=True)
    for user in range(NUM_USERS):
        keep = ~exclude[user]
        keep[targets[user]] = True
        is_target = torch.arange(NUM_ITEMS) == targets[user]
        expected = sklearn.metrics.roc_auc_score(is_target[keep], scores[user][keep])
        assert found[user] == pytest.approx(expected)


# Importing numba and ranx's own dependencies warns.
@pytest.mark.filterwarnings("ignore")
def test_ranking_metrics_against_ranx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")  # compiling takes a minute, running it a moment
    ranx = pytest.importorskip("ranx")
    generator = torch.Generator().manual_seed(5)
    scores = torch.rand(NUM_USERS, NUM_ITEMS, generator=generator)
    targets = torch.randint(NUM_ITEMS, (NUM_USERS,), generator=generator)
    qrels = ranx.Qrels({f"u{u}": {f"i{int(target)}": 1} for u, target in enumerate(targets)})
    run = ranx.Run(
        {
            f"u{u}": {f"i{item}": float(score) for item, score in enumerate(row)}
            for u, row in enumerate(scores)
        }
    )
    expected = ranx.evaluate(qrels, run, ["hit_rate@10", "ndcg@10", "mrr"])
    ranks = metrics.target_ranks(scores, targets)
    assert metrics.hit_rate(ranks, 10) == pytest.approx(expected["hit_rate@10"])
    assert metrics.ndcg(ranks, 10) == pytest.approx(expected["ndcg@10"])
    assert metrics.mrr(ranks) == pytest.approx(expected["mrr"])


@given(st.lists(st.integers(2, 200).map(lambda twice: twice / 2), min_size=1), st.integers(1, 50))
def test_properties_of_the_ranking_metrics(ranks: list[float], k: int) -> None:
    hits = metrics.hit_rate(ranks, k, per_user=True)
    gains = metrics.ndcg(ranks, k, per_user=True)
    assert ((gains > 0) == (hits == 1)).all()
    assert (gains <= hits).all()
    assert metrics.hit_rate(ranks, k) <= metrics.hit_rate(ranks, k + 1)
    assert metrics.hit_rate(ranks, 100) == 1
    assert metrics.auc(ranks, 101) == pytest.approx((101 - np.mean(ranks)) / 100)
    assert metrics.ndcg(ranks, k) == pytest.approx(gains.mean())


def test_language_metrics_against_scikit_learn() -> None:
    generator = np.random.default_rng(6)
    lengths = np.array([3, 1, 9])
    tokens = generator.integers(5, size=lengths.sum())
    probabilities = generator.dirichlet(np.ones(5), size=lengths.sum())
    nll = -np.log(probabilities[np.arange(len(tokens)), tokens])
    correct = probabilities.argmax(1) == tokens
    ends = np.cumsum(lengths)
    sums, hits = (np.add.reduceat(values, ends - lengths) for values in (nll, correct.astype(int)))
    labels = np.arange(5)
    assert metrics.perplexity(sums, lengths) == pytest.approx(
        math.exp(sklearn.metrics.log_loss(tokens, probabilities, labels=labels))
    )
    assert metrics.accuracy(hits, lengths) == pytest.approx(
        sklearn.metrics.accuracy_score(tokens, probabilities.argmax(1))
    )
    each = [
        math.exp(sklearn.metrics.log_loss(tokens[a:b], probabilities[a:b], labels=labels))
        for a, b in zip(ends - lengths, ends, strict=True)
    ]
    assert metrics.sentence_perplexity(sums, lengths) == pytest.approx(np.mean(each))


def test_a_uniform_model_is_as_perplexed_as_there_are_words() -> None:
    counts = np.array([2, 7])
    assert metrics.perplexity(counts * math.log(50), counts) == pytest.approx(50)
    assert metrics.sentence_perplexity(counts * math.log(50), counts) == pytest.approx(50)


def test_paired_bootstrap_against_scipy() -> None:
    generator = np.random.default_rng(7)
    a = generator.random(300)
    b = a + 0.1 * generator.standard_normal(300) - 0.02
    found = metrics.paired_bootstrap(a, b, num_resamples=4000)
    expected = scipy.stats.bootstrap(
        (a - b,), np.mean, n_resamples=4000, method="percentile", rng=generator
    ).confidence_interval
    assert found.difference == pytest.approx((a - b).mean())
    assert found.low == pytest.approx(expected.low, abs=5e-4)
    assert found.high == pytest.approx(expected.high, abs=5e-4)


def test_paired_bootstrap_pairs_the_users() -> None:
    generator = np.random.default_rng(8)
    b = 100 * generator.random(50)
    found = metrics.paired_bootstrap(b + 1, b)
    assert found.low == pytest.approx(1)
    assert found.high == pytest.approx(1)


def test_paired_bootstrap_with_weights_counts_a_user_as_often() -> None:
    """A mean over tokens: sentences are drawn, and each counts by its tokens."""
    a, b = np.random.default_rng(11).random((2, 30))
    tokens = np.random.default_rng(12).integers(1, 50, size=30)
    found = metrics.paired_bootstrap(a, b, weights=tokens)
    assert found.difference == pytest.approx(np.repeat(a - b, tokens).mean())
    generator = np.random.default_rng(0)
    draws = []
    for _ in range(2000):
        drawn = generator.integers(30, size=30)
        draws.append(np.repeat((a - b)[drawn], tokens[drawn]).mean())
    assert [found.low, found.high] == pytest.approx(np.quantile(draws, [0.025, 0.975]).tolist())
    assert metrics.paired_bootstrap(a, b, weights=np.full(30, 2)).low == pytest.approx(
        metrics.paired_bootstrap(a, b).low
    )


def test_paired_bootstrap_repeats_for_a_seed() -> None:
    a, b = [0, 1, 1, 0, 1], [0, 0, 1, 0, 0]
    assert metrics.paired_bootstrap(a, b, seed=1) == metrics.paired_bootstrap(a, b, seed=1)


def test_paired_bootstrap_by_hand() -> None:
    """Drawn again as it says: 2,000 times, from the seed, percentiles of the means."""
    a, b = np.random.default_rng(9).random((2, 37))
    for seed, level in ((0, 0.95), (4, 0.5)):
        generator = np.random.default_rng(seed)
        draws = [(a - b)[generator.integers(37, size=37)].mean() for _ in range(2000)]
        expected = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
        found = metrics.paired_bootstrap(a, b, seed=seed, level=level)
        assert [found.low, found.high] == expected.tolist()
    assert metrics.paired_bootstrap(a, b) == metrics.paired_bootstrap(a, b, seed=0, level=0.95)
    once = metrics.paired_bootstrap(a, b, num_resamples=1)
    assert once.low == once.high == (a - b)[np.random.default_rng(0).integers(37, size=37)].mean()


def test_two_candidates_are_enough_for_auc() -> None:
    assert metrics.auc([1.0, 2.0], 2, per_user=True).tolist() == [1, 0]


def test_counts_are_whole_numbers_and_values_float64_whatever_comes_in() -> None:
    narrow = torch.tensor([2, 0], dtype=torch.int32)
    assert metrics.count_candidates(narrow, 5).dtype == torch.int64
    assert metrics.count_candidates(narrow, 5).tolist() == [5, 5]
    # In float16, 2,049 is 2,048, and a third has four digits.
    ranks = np.array([3, 2048], np.float16)
    for values in (
        metrics.hit_rate(ranks, 10, per_user=True),
        metrics.mrr(ranks, per_user=True),
        metrics.ndcg(ranks, 10, per_user=True),
    ):
        assert values.dtype == np.float64
    assert metrics.auc(ranks, np.array([2049, 2049]), per_user=True)[1] == 1 / 2048
    assert metrics.mrr(ranks, per_user=True)[0] == 1 / 3
    assert metrics.hit_rate(ranks, 10, per_user=True).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: metrics.hit_rate([1.0], 0), "k"),
        (lambda: metrics.ndcg([1.0], 0), "k"),
        (lambda: metrics.mrr([0.5]), "ranks"),
        (lambda: metrics.mrr([math.nan]), "ranks"),
        (lambda: metrics.auc([1.0], 1), "num_candidates"),
        (lambda: metrics.perplexity([1.0], [0]), "counts"),
        (lambda: metrics.sentence_perplexity([], []), "counts"),
        (
            lambda: metrics.paired_bootstrap([1.0], [1.0, 2.0]),
            "a` and `b",
        ),
        (lambda: metrics.paired_bootstrap([], []), "a` and `b"),
        (lambda: metrics.paired_bootstrap([[1.0]], [[1.0]]), "a` and `b"),
        (lambda: metrics.paired_bootstrap([1.0], [1.0], weights=[1, 1]), "weights"),
        (lambda: metrics.paired_bootstrap([1.0], [1.0], weights=[0]), "weights"),
        (lambda: metrics.paired_bootstrap([1.0], [1.0], level=0.0), "level"),
        (lambda: metrics.paired_bootstrap([1.0], [1.0], num_resamples=0), "num_resamples"),
        (lambda: metrics.paired_bootstrap([1.0], [1.0], level=1.0), "level"),
    ],
)
def test_bad_arguments_are_named(call, name: str) -> None:
    with pytest.raises(ValueError, match=f"^`{name}` "):
        call()


def test_what_is_compared_must_be_of_one_shape() -> None:
    with pytest.raises(ValueError, match=r"of one shape \(B,\) with B >= 1, got \(1,\) and \(2,\)"):
        metrics.paired_bootstrap([1.0], [1.0, 2.0])
