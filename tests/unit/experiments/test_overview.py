"""What the pages of results say of a group of runs."""

from dataclasses import replace

import pytest

from farzi.experiments.collected import Collected, Distillations, Group, break_even
from farzi.experiments.overview import chosen_rows, failures, index_parts
from made_up_runs import RANKING, compared, run, training

WORSE = {name: value * 0.9 for name, value in RANKING.items()}


def group(runs, **values):
    rows = {each.row for each in runs} - {"full"}
    given = {"events": 50, "distilled": dict.fromkeys(rows, Distillations((30.0,))), **values}
    return Group(
        "toy",
        "5x20",
        {},
        "recommend",
        done=1,
        total=1,
        comparison=compared(runs, splits=sorted({each.split_seed for each in runs})),
        **given,
    )


def cut_short(**values):
    return training(**values, seconds=1.0, total=2.0, stopped="cap")


def test_what_does_not_work_is_a_line_for_each_group():
    slow = training(seconds=20.0, total=30.0)
    runs = [run("full"), run("farzi", metrics=WORSE), run("start", training=slow)]
    (line,) = failures([group(runs)])
    assert line == (
        "toy 5x20: below full data on the mean of the headline metrics: farzi 0.900; "
        "more bytes than the events: farzi 2.0 times, start 2.0 times; "
        "never pays, since full data train as fast: farzi, start."
    )


@pytest.mark.parametrize(("paper", "told"), [(0.9, False), (0.91, True)])
def test_a_ratio_below_the_papers_is_told(paper, told):
    """Of HR@10 alone, as the paper reports it: the mean of all metrics is no less than it."""
    lower = RANKING | {"HR@10": RANKING["HR@10"] * 0.9}
    (line,) = failures([group([run("full"), run("farzi", metrics=lower)], paper=paper)])
    assert ("below the paper's HR@10 ratio of 0.910: farzi 0.900;" in line) == told


def test_where_all_is_well_nothing_is_said():
    quick = training(seconds=1.0, total=2.0)
    assert failures([group([run("full"), run("farzi", training=quick)], events=100)]) == []


def test_an_unfinished_row_is_no_result():
    cut = training(seconds=1.0, total=2.0, stopped="cap")
    (line,) = failures([group([run("full"), run("farzi", metrics=WORSE, training=cut)])])
    assert "not finished, so no result: farzi" in line
    assert "0.900" not in line


@pytest.mark.parametrize("overview", [True, False])
def test_small_changes_of_one_thing_stand_on_their_own_page_alone(overview):
    runs = [run("full"), run("farzi", metrics=WORSE)]
    parts = index_parts([Collected("toy", "many changes", (group(runs),), overview)])
    assert ("[toy 5x20](toy.md): farzi" in parts["overview"]) == overview
    assert ("toy 5x20: farzi" in parts["rows"]) == overview
    assert ("farzi 0.900" in parts["failures"]) == overview
    assert "[toy](toy.md): many changes" in parts["experiments"]


def test_the_papers_sizes_come_first_with_its_metric_beside_ours():
    """HR@10 is a tenth lower; the mean of four metrics, of which one is HR@10, a fortieth."""
    lower = RANKING | {"HR@10": RANKING["HR@10"] * 0.9}
    runs = [run("full"), run("farzi", metrics=lower)]
    groups = (group(runs), group(runs, paper=0.95))
    all_found = [Collected(str(n), "", (each,)) for n, each in enumerate(groups)]
    papers, ours = index_parts(all_found)["rows"].splitlines()[-2:]
    assert papers.startswith("| toy 5x20, 1: farzi | 0.975 | 0.900 | 0.950 |")
    assert ours.startswith("| toy 5x20, 0: farzi | 0.975 | 0.900 |  |")
    (chosen,) = index_parts(all_found)["overview"].splitlines()[2:]  # of two alike, the paper's
    assert chosen == "| [toy 5x20](1.md): farzi | 0.975 |  | 0.900 | 0.950 |  |  | 1 | 1 |"


def test_two_experiments_of_one_source_and_size_are_told_apart():
    runs = [run("full"), run("farzi", metrics=WORSE)]
    one, other = Collected("short", "", (group(runs),)), Collected("long", "", (group(runs),))
    both = index_parts([one, other])
    for part in ("rows", "failures"):
        assert all(f"toy 5x20, {name}: " in both[part] for name in ("short", "long"))
    assert "toy 5x20: farzi" in index_parts([one])["rows"]


def test_rows_without_full_data_beside_them_stand_on_their_own_page_alone():
    parts = index_parts([Collected("toy", "no ratio", (group([run("farzi", metrics=WORSE)]),))])
    assert "toy 5x20" not in parts["overview"] + parts["rows"] + parts["failures"]
    assert "[toy](toy.md): no ratio" in parts["experiments"]


def test_validation_chooses_the_row_of_a_source_and_size_whatever_its_test_scores():
    worse, better = training(loss=4.9), training(loss=4.5)
    one = [run("full"), run("farzi", training=worse), run("cut", training=cut_short(loss=4.0))]
    two = [run("full"), run("start", metrics=WORSE, training=better)]
    alone = Collected("alone", "no full data", (group([run("other", training=training(1.0))]),))
    changes = Collected("changes", "", (group([run("full"), run("b", training=training(1.0))]),))
    found = [Collected("one", "", (group(one),)), Collected("two", "", (group(two),)), alone]
    ((name, _, _, row),) = chosen_rows([*found, replace(changes, overview=False)])
    assert (name, row.name) == ("two", "start")


def test_a_row_of_more_splits_is_chosen_before_one_of_fewer():
    runs = [run(row, split) for row in ("full", "farzi") for split in (0, 1)]
    few = group([*runs, run("start", training=training(loss=4.0))])
    ((_, _, _, row),) = chosen_rows([Collected("toy", "", (few,))])
    assert row.name == "farzi"


@pytest.mark.parametrize(("own", "told"), [(0.0, "1.000"), (1.0, ""), (0.5, "1.000")])
def test_teachers_stand_beside_the_rows_that_they_labelled_alone(own, told):
    runs = [run("full"), run("teachers", training=None), run("farzi", metrics=WORSE)]
    few = group(runs, distilled={"farzi": Distillations((1.0,), own_teachers=own)})
    (line,) = index_parts([Collected("toy", "", (few,))])["overview"].splitlines()[2:]
    assert line.split(" | ")[5] == told


@pytest.mark.parametrize(("own", "made_s"), [(0.0, 50.0), (0.5, 40.0), (1.0, 30.0)])
def test_seconds_of_teachers_are_counted_once(own, made_s):
    runs = [run("full"), run("farzi", training=training(seconds=5.0))]
    made = {"farzi": Distillations((30.0,), own_teachers=own)}
    (even,) = break_even(group(runs, teachers_s=(20.0,), distilled=made))
    assert even.making_s == pytest.approx(made_s)


def test_the_page_tells_when_the_chosen_row_and_real_rows_with_labels_pay():
    quick, worse = training(loss=4.8, seconds=5.0), training(loss=4.9, seconds=4.0)
    runs = [run("full"), run("farzi", training=quick), run("start", training=worse)]
    runs += [run("random-soft", training=worse), run("head-soft", training=worse)]
    parts = index_parts([Collected("toy", "", (group(runs, teachers_s=(20.0,)),))])
    (line,) = parts["seconds"].splitlines()[2:]
    assert line == "| toy 5x20: farzi | 10 | 5.0 | 10 | 5.0 | 5.0 | 0 | 0 |"
    chosen, real = parts["break-even"].splitlines()[2:]
    assert chosen.startswith("| toy 5x20: farzi | 50 | 10 | 5.0 |")
    assert real.startswith("| toy 5x20: random-soft | ")


def test_a_row_pays_at_its_end_or_where_it_has_full_datas_loss():
    """Full data take 10 s to 5.0. A row that takes 20 s to 4.8 passes 5.0 after 4."""
    curve = ((10, 2.0, 5.5), (20, 4.0, 5.0), (100, 20.0, 4.8), (120, 24.0, 4.9))
    longer = training(loss=4.8, seconds=20.0, total=24.0, curve=curve, step=100)
    shorter = training(loss=5.2, seconds=5.0, total=6.0)
    runs = [run("full"), run("longer", training=longer), run("shorter", training=shorter)]
    even = {each.row: each for each in break_even(group(runs))}
    assert even["longer"].trainings is None
    assert even["longer"].equal_s == pytest.approx(4.0)
    assert even["longer"].equal_trainings == pytest.approx(30 / 6)
    assert even["shorter"].trainings == pytest.approx(30 / 5)
    assert even["shorter"].equal_s is even["shorter"].equal_trainings is None
    assert not [line for line in failures([group(runs)]) if "never pays" in line]
