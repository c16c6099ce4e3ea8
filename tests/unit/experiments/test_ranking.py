"""Rankings: tau against scipy's, regret and time by hand."""

import math

import numpy as np
import pytest
from scipy.stats import kendalltau

from farzi.experiments.ranking import Ranked, configurations, kendall_tau, rank_rows
from farzi.experiments.specification import SearchSettings


@pytest.mark.parametrize("seed", range(20))
def test_tau_is_scipys(seed):
    generator = np.random.default_rng(seed)
    number = int(generator.integers(2, 25))
    a = generator.integers(0, 8, number).astype(float)  # with many ties
    b = generator.normal(size=number) if seed % 2 else generator.integers(0, 4, number)
    wanted = kendalltau(a, b).statistic
    assert kendall_tau(a, b) == pytest.approx(wanted, abs=1e-12, nan_ok=True)


def test_tau_of_all_ties_is_none():
    assert math.isnan(kendall_tau([1, 1, 1], [1, 2, 3]))


def test_a_diverged_run_is_the_worst():
    assert kendall_tau([1, 2, math.inf, math.inf], [1, 2, 3, 3]) == pytest.approx(1.0)


def runs(losses, seconds=1.0):
    return [
        Ranked(number, loss, seconds, {"nDCG@10": 0.0 if loss is None else 1 - loss / 10})
        for number, loss in enumerate(losses)
    ]


def test_regret_is_what_full_data_lose_by_the_rows_choice():
    """The row's best is configuration 2, which on full data is .3 nats behind configuration 0."""
    (ranking,) = rank_rows(
        {"full": runs([5.0, 5.1, 5.3], 10.0), "farzi": runs([6.2, 6.1, 6.0])}, "nDCG@10"
    )
    assert ranking.tau == -1
    assert ranking.regret == pytest.approx(0.3)
    assert ranking.metric_regret == pytest.approx(0.03)
    assert (ranking.seconds, ranking.faster) == (3.0, 10.0)


def test_the_same_ranking_has_no_regret():
    losses = [5.0, 5.1, 5.3, 5.2, 5.4]
    (ranking,) = rank_rows(
        {"full": runs(losses), "farzi": runs([loss + 1 for loss in losses])}, "nDCG@10"
    )
    assert (ranking.tau, ranking.low, ranking.high, ranking.regret) == (1, 1, 1, 0)


def test_the_interval_holds_the_tau_of_the_sample():
    generator = np.random.default_rng(0)
    full = generator.normal(size=30)
    row = full + generator.normal(size=30)
    (ranking,) = rank_rows({"full": runs(full), "farzi": runs(row)}, "nDCG@10")
    assert ranking.low < ranking.tau < ranking.high
    assert ranking.high - ranking.low < 0.6


def test_only_configurations_that_both_have_are_ranked():
    full = runs([5.0, 5.1, 5.2, 4.0])[:3]
    (ranking,) = rank_rows({"full": full, "farzi": runs([6.0, 6.1, 6.2, 5.0])}, "nDCG@10")
    assert ranking.configurations == 3
    assert ranking.regret == 0


def test_a_draw_is_a_function_of_its_seed_and_the_same_for_every_row():
    search = SearchSettings(configurations=40)
    student = {"width": 32, "num_layers": 1, "conv_size": 0}
    one, two = (configurations(search, student, batch) for batch in (10, 64))
    assert [each.sizes for each in one] == [each.sizes for each in two]
    assert [each.choice.lr for each in one] == [each.choice.lr for each in two]
    assert {each.choice.batch_size for each in two} == {64}
    assert all(0.002 <= each.choice.lr <= 0.05 for each in one)
    assert {each.sizes["width"] for each in one} == {16, 32, 64}
    assert configurations(search, {"width": 32}, 10)[0].sizes.keys() == {"width"}
    assert configurations(SearchSettings(seed=1), student, 10)[0] != one[0]
