"""Ratios, differences and costs, on runs small enough to work out by hand."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest

from farzi.experiments.comparison import Comparison, RowResult, Spread, compare_runs
from farzi.experiments.pages import _choice_grid
from farzi.experiments.results import Choice, Run
from farzi.experiments.tables import markdown, notes, ratio_lines, reached_lines
from farzi.experiments.tuning import Search, Try
from made_up_runs import RANKING, compared, run, training

HEADLINE = ("HR@10", "HR@100", "nDCG@10", "nDCG@100")


def test_a_ratio_is_the_row_over_full_data_and_perplexity_the_other_way_round():
    runs = [
        run("full", metrics={"perplexity": 60.0, "accuracy": 0.25}),
        run("farzi", metrics={"perplexity": 80.0, "accuracy": 0.2}),
    ]
    ratios = compared(runs, task="language").ratios
    assert ratios == {"farzi": {"perplexity": 0.75, "accuracy": 0.8, "mean": pytest.approx(0.775)}}


def test_a_ratio_is_of_means_over_runs():
    runs = [
        run("full", seed=seed, metrics={**RANKING, "HR@10": hr})
        for seed, hr in ((0, 0.4), (1, 0.6))
    ]
    runs += [
        run("farzi", seed=seed, metrics={**RANKING, "HR@10": hr})
        for seed, hr in ((0, 0.1), (1, 0.2))
    ]
    result = compared(runs)
    assert result.ratios["farzi"]["HR@10"] == pytest.approx(0.15 / 0.5)
    assert result.row("farzi").metrics["HR@10"].mean == pytest.approx(0.15)
    assert result.row("farzi").metrics["HR@10"].std == pytest.approx(math.sqrt(0.005))


def test_a_row_that_lacks_a_split_is_held_against_full_data_on_the_others():
    runs = [
        run("full", split=split, metrics={**RANKING, "HR@10": hr})
        for split, hr in ((0, 0.4), (1, 0.8))
    ]
    runs += [run("farzi", split=0, metrics={**RANKING, "HR@10": 0.4})]
    assert compared(runs, splits=(0, 1)).ratios["farzi"]["HR@10"] == pytest.approx(1.0)


def test_a_row_that_lacks_a_split_is_named():
    """Its mean scores are of other users than the scores beside them."""
    runs = [run("full", split=0), run("full", split=1), run("farzi", split=1)]
    whole = compared([*runs, run("farzi", split=0)], splits=(0, 1))
    partial = compared(runs, splits=(0, 1))
    told = [line for line in notes(partial) if line.startswith("not run on every split")]
    assert len(told) == 1
    assert told[0].endswith(": farzi (1)")
    assert not any(line.startswith("not run on every split") for line in notes(whole))


def test_differences_pair_the_same_users_of_the_same_split():
    """Users' means over seeds; splits one after the other, whatever the order of the runs."""
    full = [
        run("full", split=1, per_user={"HR@10": (1, 1, 1)}),
        run("full", split=0, per_user={"HR@10": (0, 1)}),
    ]
    farzi = [
        run("farzi", split=0, seed=0, per_user={"HR@10": (1, 1)}),
        run("farzi", split=1, seed=0, per_user={"HR@10": (1, 0, 1)}),
        run("farzi", split=0, seed=1, per_user={"HR@10": (0, 1)}),
        run("farzi", split=1, seed=1, per_user={"HR@10": (1, 0, 0)}),
    ]
    (pair,) = compared([*full, *farzi], splits=(0, 1)).paired
    users = np.array([0.5, 0, 0, -1, -0.5])  # split 0, then split 1
    assert (pair.a, pair.b, pair.metric) == ("farzi", "full", "HR@10")
    assert pair.difference == pytest.approx(users.mean())
    assert pair.low < users.mean() < pair.high


def test_the_bootstrap_draws_users_for_both_rows_at_once():
    """Two users that differ by 0 and 1: a resample's mean is 0, .5 or 1.

    Were rows drawn apart, two rows that are equal user by user would differ in most resamples.
    """
    same = {"HR@10": (0.0, 1.0)}
    (none,) = compared([run("full", per_user=same), run("farzi", per_user=same)]).paired
    assert (none.difference, none.low, none.high) == (0, 0, 0)
    better = {"HR@10": (1.0, 1.0)}
    (some,) = compared([run("full", per_user=same), run("farzi", per_user=better)]).paired
    assert (some.difference, some.low, some.high) == (0.5, 0, 1)
    shifted = {"HR@10": (0.25, 1.25)}
    (shift,) = compared([run("full", per_user=same), run("farzi", per_user=shifted)]).paired
    assert (shift.low, shift.high) == (0.25, 0.25)


def scores(values):
    """The same for every headline metric."""
    return {metric: tuple(values) for metric in HEADLINE}


def test_the_interval_of_a_ratio_draws_the_same_users_for_both_rows():
    """Twice full data's score for every user is a ratio of two, whoever is drawn."""
    full = run("full", per_user=scores([0.1, 0.2, 0.4]))
    twice = run("farzi", per_user=scores([0.2, 0.4, 0.8]))
    low, high = compared([full, twice]).ratio_intervals["farzi"]
    assert (low, high) == (pytest.approx(2.0), pytest.approx(2.0))


def test_the_interval_of_a_ratio_is_that_of_a_slow_bootstrap():
    """Users and students drawn one by one, means over two splits of other sizes, a ratio a draw."""
    generator = np.random.default_rng(3)
    users = {0: generator.random((40, 4)), 1: generator.random((25, 4))}
    students = {"full": (0.0,), "farzi": (-0.1, 0.1, 0.3)}
    runs = [
        run(row, split, seed, per_user=dict(zip(HEADLINE, (values + by).T, strict=True)))
        for split, values in users.items()
        for row, more in students.items()
        for seed, by in enumerate(more)
    ]
    found = compared(runs, splits=(0, 1)).ratio_intervals["farzi"]
    ratios = []
    for _ in range(4000):
        means = {"full": [], "farzi": []}
        for values in users.values():
            drawn = values[generator.integers(len(values), size=len(values))].mean(axis=0)
            for row, more in students.items():
                means[row].append(drawn + generator.choice(more, size=len(more)).mean())
        ratios.append((np.mean(means["farzi"], axis=0) / np.mean(means["full"], axis=0)).mean())
    assert found == pytest.approx(np.quantile(ratios, [0.025, 0.975]), abs=0.02)
    assert found[1] - found[0] > 0.2
    alike = [
        each if each.row == "full" else replace(each, per_user=runs[0].per_user) for each in runs
    ]
    users_alone = compared(alike[:4], splits=(0,)).ratio_intervals["farzi"]
    assert users_alone == (pytest.approx(1.0), pytest.approx(1.0))


def test_the_lines_below_a_comparison_tell_ratios_with_their_intervals():
    full = run("full", per_user=scores([0.1, 0.2, 0.4]))
    twice = run("farzi", metrics=dict.fromkeys(HEADLINE, 1.0), per_user=scores([0.2, 0.4, 0.8]))
    assert ratio_lines(compared([full, twice])) == [
        "of full, with 95 % intervals: farzi 2.438 [2.000, 2.000]"  # scores and users made up apart
    ]
    assert ratio_lines(compared([run("full"), run("farzi")])) == []


@pytest.mark.parametrize(
    "full",
    [{}, scores([0.0, 0.0, 1.0])],  # of the latter some draw has a mean of nothing
)
def test_no_interval_where_a_ratio_has_none(full):
    few = scores([1.0, 1.0, 1.0])
    assert compared([run("full", per_user=full), run("farzi", per_user=few)]).ratio_intervals == {}


def test_the_interval_of_a_texts_ratio_weighs_sentences_by_their_tokens():
    """Perplexity is of all tokens, the other way round; drawn one by one for two students."""
    generator = np.random.default_rng(5)
    tokens = generator.integers(1, 40, size=60)
    full = {"loss": 4 + generator.random(60), "accuracy": generator.random(60)}
    worse = [{**full, "loss": full["loss"] + by} for by in (0.1, 0.3)]
    total = {"perplexity": 60.0, "accuracy": 0.25}
    runs = [run("full", metrics=total, per_user=full)]
    runs += [run("farzi", 0, seed, total, per_user=each) for seed, each in enumerate(worse)]
    found = compared(runs, task="language", test_tokens={0: tokens.tolist()}).ratio_intervals
    ratios = []
    for _ in range(4000):
        drawn = generator.integers(60, size=60)
        share = tokens[drawn] / tokens[drawn].sum()
        students = [worse[each] for each in generator.integers(2, size=2)]
        perplexity = np.mean([np.exp(share @ each["loss"][drawn]) for each in students])
        ratios.append((np.exp(share @ full["loss"][drawn]) / perplexity + 1) / 2)
    assert found["farzi"] == pytest.approx(np.quantile(ratios, [0.025, 0.975]), abs=0.005)
    assert found["farzi"][0] == pytest.approx((np.exp(-0.3) + 1) / 2)  # both draws the worse one
    assert compared(runs, task="language").ratio_intervals == {}
    pairs = compared(runs, task="language", test_tokens={0: tokens.tolist()}).paired
    loss = next(pair for pair in pairs if pair.metric == "loss")
    assert loss.difference == pytest.approx(0.2)
    assert "perplexity" not in {pair.metric for pair in pairs}


def test_the_best_row_is_held_against_the_others_where_there_is_no_farzi():
    same = {"HR@10": (0.0, 1.0)}
    runs = [run(name, per_user=same) for name in ("full", "start", "ids")]
    assert compared(runs).paired == ()
    pairs = compared(runs, lead="ids").paired
    assert [(pair.a, pair.b) for pair in pairs] == [("ids", "full"), ("ids", "start")]
    assert "| ids less | HR@10 |" in markdown(compared(runs, lead="ids"))


def test_users_of_another_split_are_never_paired():
    runs = [
        run("full", split=0, per_user={"HR@10": (0, 1)}),
        run("farzi", split=1, per_user={"HR@10": (1, 1)}),
    ]
    result = compared(runs, splits=(0, 1))
    assert result.paired == ()
    assert result.ratios == {}


def test_what_training_cost():
    runs = [run("full", training=training(seconds=40, total=60)), run("farzi")]
    row = compared(runs).row("farzi")
    assert (row.step, row.events, row.seconds, row.faster) == (40, 800, 10, 4)


def test_seconds_to_a_share_of_full_data_are_read_off_the_curve():
    """95 % of the quality is a perplexity of 1 / .95 times full data's: a loss of .0513 more."""
    curve = ((10, 1.0, 6.0), (20, 2.0, 5.05), (30, 3.0, 4.99), (40, 4.0, 4.98))
    runs = [
        run("full", training=training(loss=5.0)),
        run("farzi", training=training(loss=4.98, curve=curve)),
        run("random", training=training(loss=5.2)),
    ]
    result = compared(runs)
    assert [(each.share, each.seconds) for each in result.row("farzi").reached] == [
        (0.95, 2),
        (1, 3),
    ]
    assert [each.seconds for each in result.row("random").reached] == [None, None]
    assert [each.runs for each in result.row("random").reached] == [0, 0]
    assert [line.split("farzi ")[1] for line in reached_lines(result)] == ["2.0", "3.0"]
    assert reached_lines(result)[0].startswith("seconds to 95% of full: full ")
    assert not any("random" in line for line in reached_lines(result))


@pytest.mark.parametrize(
    ("stopped", "total", "finished"),
    [("validation", 1, True), ("schedule", 1, True), ("cap", 59, False), ("cap", 60, True)],
)
def test_a_row_cut_off_before_the_seconds_of_full_data_is_no_result(stopped, total, finished):
    runs = [
        run("full", training=training(total=60)),
        run("farzi", training=training(stopped=stopped, total=total)),
    ]
    result = compared(runs)
    assert result.row("farzi").finished is finished
    assert ("farzi" in result.ratios) is finished


def test_every_split_counts_alike_in_a_ratio_however_many_students_it_has():
    """On both splits the row scores what full data do; the second split is the harder one."""
    hard = {name: value / 2 for name, value in RANKING.items()}
    full = [
        run("full", split=split, seed=seed, metrics=metrics)
        for split, metrics in ((0, RANKING), (1, hard))
        for seed in (0, 1)
    ]
    few = [run("farzi", split=0), run("farzi", split=0, seed=1), run("farzi", 1, metrics=hard)]
    ratios = compared([*full, *few], splits=(0, 1)).ratios["farzi"]
    assert ratios == pytest.approx(dict.fromkeys(ratios, 1.0))


@pytest.mark.parametrize(
    ("best", "total", "stopped", "falling"),
    [
        (50, 59, "schedule", True),
        (40, 59, "schedule", False),  # it was past its best
        (50, 60, "schedule", False),  # it had as long as full data
        (50, 59, "validation", False),
    ],
)
def test_a_short_schedule_is_told_of_where_the_loss_was_still_falling(
    best, total, stopped, falling
):
    curve = ((40, 30.0, 5.2 if best == 50 else 4.9), (50, total, 5.0))
    few = training(stopped=stopped, total=total, step=best, curve=curve)
    result = compared([run("full", training=training(total=60)), run("farzi", training=few)])
    assert result.row("farzi").still_falling is falling
    assert not result.row("full").still_falling
    assert any("a longer one may do better: farzi" in line for line in notes(result)) is falling


def test_a_search_that_ended_early_is_told_of():
    """A row that was tried once is no equal of one that was tried four times."""
    tried = Try(Choice(0.01, 10), 5.0)
    searches = {
        ("full", 0): Search(tried.choice, (tried,) * 3, left_out=1),
        ("full", 1): Search(tried.choice, (tried,), left_out=3),
        ("farzi", 0): Search(tried.choice, (tried,) * 4),
    }
    runs = [run("full", split=0), run("full", split=1), run("farzi", split=0)]
    given = {"task": "recommend", "protocol_line": "shop", "order": ["full", "farzi"]}
    result = compare_runs(runs, **given, test_sequences={0: 2, 1: 2}, searches=searches)
    said = [line for line in notes(result) if line.startswith("tuning ended before all")]
    assert said == [
        "tuning ended before all settings were tried, more time may do better: full (1 of 4)"
    ]
    assert [choice["tries"] for choice in result.row("full").chosen] == [3, 1]
    grid = _choice_grid(result)
    at = grid.head.index("settings tried")
    assert [line[at] for line in grid.rows] == ["3 of 4", "1 of 4", "4 of 4"]
    whole = {key: found for key, found in searches.items() if key[0] == "farzi"}
    result = compare_runs(runs, **given, test_sequences={0: 2, 1: 2}, searches=whole)
    assert not any("tuning ended" in line for line in notes(result))
    assert [line[at] for line in _choice_grid(result).rows] == ["", "", "4 of 4"]


def test_a_split_that_chose_tells_its_own_best_step():
    steps = {0: (40, 60), 1: (10, 20)}
    runs = [
        run("full", split, seed, training=training(step=step))
        for split, of in steps.items()
        for seed, step in enumerate(of)
    ]
    grid = _choice_grid(compared(runs, splits=(0, 1)))
    assert [line[-1] for line in grid.rows] == ["50", "15"]


def test_full_data_cut_off_are_no_result_either():
    assert not compared([run("full", training=training(stopped="cap"))]).row("full").finished


def test_json_holds_all_of_it():
    runs = [
        run("full", per_user={"HR@10": (0, 1)}),
        run("farzi", per_user={"HR@10": (1, 1)}),
        run("most-popular", training=None, choice=None),
    ]
    result = replace(compared(runs), clock="seconds of a clock")
    assert Comparison.from_json(json.loads(json.dumps(result.to_json()))) == result
    assert result.curves("farzi") == [list(training().curve)]


def test_results_of_earlier_versions_are_read():
    row = {"name": "full", "sequences": 5, "tokens": 6, "bytes": 7, "num_runs": 2}
    score = {"HR@10": {"mean": 0.5, "std": None}}
    old = {"protocol_line": "shop", "rows": [{**row, "metrics": score}]}
    expected = RowResult(**row, metrics={"HR@10": Spread(0.5)})
    assert Comparison.from_json(old) == Comparison("shop", (expected,))


def test_a_comparison_says_what_it_was_given():
    """Sizes are means over draws; what a split has is under its own seed."""
    choices = {1: Choice(0.01, 10, dropout=0.2), 0: Choice(0.02, 10)}
    runs = [
        run("full", split=0, training=training(stopped="cap", total=1.0)),
        replace(run("random", split=1, seed=0, choice=choices[1]), sequences=4, tokens=90),
        replace(run("random", split=1, seed=1, choice=choices[1]), num_bytes=300),
        run("random", split=0, choice=choices[0], training=training(stopped="cap", total=9.0)),
        replace(run("farzi", split=1), counts={"targets": 8}),
        replace(run("farzi", split=0), counts={"targets": 9}),
    ]
    result = compare_runs(
        runs,
        task="recommend",
        protocol_line="shop, by users",
        order=["random", "farzi", "tokens", "full"],
        test_sequences={1: 30, 0: 20},
        clock="seconds of a clock",
    )
    assert (result.protocol_line, result.task) == ("shop, by users", "recommend")
    assert (result.split_seeds, result.test_sequences) == ((1, 0), (30, 20))
    assert result.clock == "seconds of a clock"
    assert result.counts == ({"targets": 8}, {"targets": 9})
    assert [row.name for row in result.rows] == ["random", "farzi", "full"]
    row = result.row("random")
    assert (row.sequences, row.tokens, row.bytes, row.num_runs) == (5, 97, 367, 3)
    assert row.stopped == ("cap", "validation")
    assert row.chosen == (
        {"split_seed": 1, **asdict(choices[1])},
        {"split_seed": 0, **asdict(choices[0])},
    )
    assert row.faster == 1.0
    assert result.row("full").faster is None
    assert repr(result) == markdown(result, summary=True) != markdown(result)
    with pytest.raises(KeyError, match="tokens"):
        result.row("tokens")
    assert result.curves("tokens") == []
    assert compared([run("farzi")]).clock == ""
    assert compared([run("farzi")]).counts == ({},)
    assert compared([run("farzi")]).row("farzi").faster is None

    first, second = result.splits
    assert (first["split_seed"], second["split_seed"]) == (1, 0)
    assert list(first["rows"]) == ["random", "farzi"]
    assert [each["seed"] for each in first["rows"]["random"]] == [0, 1]
    assert second["rows"]["farzi"] == [
        {"seed": 0, "metrics": RANKING, "training": training().to_json()}
    ]
    assert first["ratios"] == {}
    assert second["ratios"]["farzi"] == {**dict.fromkeys(HEADLINE, 1.0), "mean": 1.0}


def test_one_run_has_no_spread():
    assert Spread.of([3.0]) == Spread(3.0, 0.0)
    assert Spread.of([1.0, 3.0]) == Spread(2.0, math.sqrt(2))


def test_farzi_is_held_against_every_row_in_every_metric_that_both_have():
    both = {"HR@10": (0, 1), "loss": (5.0, 4.0)}
    runs = [
        run("random", per_user={"HR@10": (1, 1)}),
        run("farzi", per_user=both),
        run("most-popular", per_user={"loss": (6.0, 6.0)}, training=None),
    ]
    pairs = [(pair.b, pair.metric, pair.difference) for pair in compared(runs).paired]
    assert pairs == [("random", "HR@10", -0.5), ("most-popular", "loss", -1.5)]


def test_a_ratio_to_nothing_is_no_number():
    runs = [run("full", metrics={**RANKING, "HR@10": 0.0}), run("farzi")]
    ratios = compared(runs).ratios["farzi"]
    assert math.isnan(ratios["HR@10"])
    assert ratios["nDCG@10"] == 1.0


def test_costs_are_held_against_full_data_of_the_same_split():
    """A run that no training stands behind, or no full data, has nothing to be held against."""
    curve = ((10, 1.0, 6.0), (20, 2.0, 5.0), (30, 3.0, 4.0))
    runs = [
        run("full", split=0, training=training(loss=5.0, total=60)),
        run("full", split=1, training=training(loss=1.0, total=20)),
        run("full", split=1, seed=1, training=None),
        run("farzi", split=2, training=training(curve=curve)),
        run("farzi", split=0, seed=1, training=None),
        run("farzi", split=0, training=training(curve=curve)),
        run("random", split=0, training=training(stopped="cap", total=50)),
        run("head", split=1, training=training(stopped="cap", total=20)),
        run("coreset", split=2, training=training(stopped="cap", total=99)),
    ]
    result = compared(runs, splits=(0, 1, 2))
    whole = result.row("farzi").reached[1]
    assert (whole.share, whole.seconds, whole.runs) == (1.0, 2.0, 1)
    assert not result.row("random").finished
    assert result.row("head").finished
    assert not result.row("coreset").finished
    alone = compared([run("farzi", training=training(stopped="cap"))])
    assert not alone.row("farzi").finished
    assert alone.row("farzi").reached == ()


def test_a_run_is_the_same_after_json():
    first = run("farzi", per_user={"loss": (0.5, 1.25)})
    assert Run.from_json(json.loads(json.dumps(first.to_json()))) == first
