"""Rankings: tau against scipy's, regret and time by hand."""

import json
import math

import numpy as np
import pytest
from scipy.stats import kendalltau

from farzi.experiments.ranking import (
    Ranked,
    configurations,
    kendall_tau,
    rank_early,
    rank_rows,
)
from farzi.experiments.results import Look
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


def test_every_setting_is_drawn_from_its_own_values():
    """Also those at the ends of a list; and a configuration is the same in a longer search."""
    search = SearchSettings(
        configurations=200,
        lrs=(0.002, 0.05),
        decays=(0.0, 0.05, 0.3),
        dropouts=(0.0, 0.1, 0.4),
        smoothings=(0.0, 0.1, 0.2),
        widths=(16, 32, 48),
        num_layers=(1, 2, 3),
        conv_sizes=(0, 4, 7),
    )
    student = {"width": 32, "num_layers": 1, "conv_size": 0}
    drawn = configurations(search, student, 10)
    assert [each.number for each in drawn] == list(range(200))
    for field, values in (
        ("weight_decay", search.decays),
        ("dropout", search.dropouts),
        ("smoothing", search.smoothings),
    ):
        found = [getattr(each.choice, field) for each in drawn]
        assert set(found) == set(values)
        assert min(found.count(value) for value in values) > 40
    for field, sizes in (
        ("width", search.widths),
        ("num_layers", search.num_layers),
        ("conv_size", search.conv_sizes),
    ):
        assert {each.sizes[field] for each in drawn} == set(sizes)
    rates = np.log([each.choice.lr for each in drawn])
    middle = (math.log(0.002) + math.log(0.05)) / 2
    assert 80 < (rates < middle).sum() < 120  # evenly on a logarithmic scale
    assert all(each.choice.lr == round(each.choice.lr, 5) for each in drawn)
    assert (
        configurations(SearchSettings(configurations=3), student, 10)
        == (configurations(SearchSettings(configurations=5), student, 10)[:3])
    )
    assert len({(each.choice, tuple(each.sizes.values())) for each in drawn}) == 200


def test_a_ranked_run_is_the_same_after_json():
    curve = (Look(10, 1.0, 5.0), Look(20, 2.0, 4.5))
    for first in (Ranked(3, 4.5, 2.0, {"HR@10": 0.5}, curve), Ranked(0, None, 0.0, {})):
        values = first.to_json()
        assert values == {
            "number": first.number,
            "loss": first.loss,
            "seconds": first.seconds,
            "metrics": dict(first.metrics),
            "curve": first.curve,
        }
        assert Ranked.from_json(json.loads(json.dumps(values))) == first


def test_a_file_of_before_curves_were_kept_is_read():
    values = {"number": 3, "loss": 4.5, "seconds": 2.0, "metrics": {"HR@10": 0.5}}
    assert Ranked.from_json(values) == Ranked(3, 4.5, 2.0, {"HR@10": 0.5})


def looked_at(number, losses):
    """A run with a look after each second."""
    curve = tuple(Look(10 * (k + 1), k + 1.0, loss) for k, loss in enumerate(losses))
    return Ranked(number, min(losses), float(len(losses)), {"nDCG@10": -min(losses)}, curve)


def test_a_run_ended_early_knows_what_it_has_seen():
    run = looked_at(0, [5.0, 4.0, 4.5, 3.0])
    assert [run.until(seconds).loss for seconds in (0.5, 1, 2.9, 3, 4, 9)] == [
        None, 5.0, 4.0, 4.0, 3.0, 3.0,
    ]  # fmt: skip
    assert [run.until(seconds).seconds for seconds in (0.5, 9)] == [0.5, 4.0]
    diverged = Ranked(1, None, 0.0, {})
    assert diverged.until(3) == diverged


def test_searches_read_early_are_held_against_the_whole_one():
    """Full data take 4 seconds each: at a quarter they rank wrongly, at half rightly."""
    full = [looked_at(0, [6.0, 5.0, 4.5, 4.0]), looked_at(1, [5.5, 5.2, 5.1, 5.0])]
    few = [looked_at(0, [7.0, 6.0]), looked_at(1, [6.9, 6.5]), looked_at(2, [1.0, 1.0])]
    unlooked = [Ranked(0, 4.0, 4.0, {}), Ranked(1, 5.0, 4.0, {})]
    given = {"full": full, "few": few, "old": unlooked}
    found = rank_early(given, "nDCG@10", shares=(1 / 8, 1 / 4, 1 / 2, 1))
    assert [(each.row, each.seconds_each, each.tau, each.regret) for each in found] == [
        ("full", 1.0, -1.0, 1.0),
        ("full", 2.0, 1.0, 0.0),
        ("full", 4.0, 1.0, 0.0),
        ("few", 1.0, -1.0, 1.0),
        ("few", 2.0, 1.0, 0.0),
        ("few", 4.0, 1.0, 0.0),
    ]
    assert [(each.seconds, each.faster) for each in found] == [
        (2.0, 4.0), (4.0, 2.0), (8.0, 1.0), (2.0, 4.0), (4.0, 2.0), (4.0, 2.0),
    ]  # fmt: skip
    (whole,) = rank_rows({"full": full, "few": few}, "nDCG@10")
    assert whole.seconds_each is None
    assert whole.tau == 1.0


def test_rankings_of_different_things_are_refused():
    with pytest.raises(ValueError, match=r"one shape \(N,\), got \(2,\), \(3,\)\."):
        kendall_tau([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="one shape"):
        kendall_tau([[1, 2]], [[1, 2]])


def test_the_interval_is_the_bootstraps_by_hand():
    full, row = [5.0, 5.2, 5.1, 5.6, 5.3], [6.0, 6.1, 6.3, 6.2, 6.4]
    given = {"full": runs(full), "farzi": runs(row)}
    for seed, resamples in ((0, 2000), (3, 40)):
        generator = np.random.default_rng(seed)
        taus = []
        for _ in range(resamples):
            drawn = generator.integers(5, size=5)
            taus.append(kendalltau(np.array(row)[drawn], np.array(full)[drawn]).statistic)
        low, high = np.nanquantile(taus, [0.025, 0.975])
        asked = {} if seed == 0 else {"seed": seed, "num_resamples": resamples}
        (ranking,) = rank_rows(given, "nDCG@10", **asked)
        assert (ranking.low, ranking.high) == (pytest.approx(low), pytest.approx(high))


def test_every_row_is_held_against_full_data_wherever_it_stands():
    """A row of one configuration cannot be ranked; a score that falls is turned round."""
    full = [Ranked(n, loss, 4.0, {"perplexity": 10 * loss}) for n, loss in enumerate([5.0, 6.0])]
    given = {
        "few": runs([6.0]),
        "first": runs([7.0, 6.5]),
        "full": full,
        "last": [Ranked(0, 8.0, 1.0, {}), Ranked(1, None, 3.0, {}), Ranked(7, 1.0, 9.0, {})],
    }
    first, last = rank_rows(given, "perplexity", higher_is_better=False)
    assert (first.row, last.row) == ("first", "last")
    assert (first.regret, first.metric_regret) == (1.0, 10.0)
    assert (last.configurations, last.regret, last.metric_regret) == (2, 0.0, 0.0)
    assert (last.seconds, last.faster) == (4.0, 2.0)
    (other,) = rank_rows({"full": full, "first": given["first"]}, "nDCG@10")
    assert math.isnan(other.metric_regret)


def test_the_bootstrap_is_seeded():
    generator = np.random.default_rng(0)
    given = {"full": runs(generator.normal(size=25)), "farzi": runs(generator.normal(size=25))}
    (one,) = rank_rows(given, "nDCG@10")
    (same,) = rank_rows(given, "nDCG@10", seed=0, num_resamples=2000)
    (other,) = rank_rows(given, "nDCG@10", seed=1)
    assert one == same
    assert (other.low, other.high) != (one.low, one.high)
