"""What the pages of results say of a group of runs."""

from farzi.experiments.collected import Group
from farzi.experiments.pages import failures
from made_up_runs import RANKING, compared, run, training

WORSE = {name: value * 0.9 for name, value in RANKING.items()}


def group(runs, **values):
    rows = {each.row for each in runs} - {"full"}
    given = {"events": 50, "distil_s": dict.fromkeys(rows, (30.0,)), **values}
    return Group(
        "toy", "5x20", {}, "recommend", done=1, total=1, comparison=compared(runs), **given
    )


def test_what_does_not_work_is_a_line_for_each_group():
    slow = training(seconds=20.0, total=30.0)
    runs = [run("full"), run("farzi", metrics=WORSE), run("start", training=slow)]
    (line,) = failures([group(runs)])
    assert line == (
        "toy 5x20: below full data on the mean of the headline metrics: farzi 0.900; "
        "more bytes than the events: farzi 2.0 times, start 2.0 times; "
        "never pays, since full data train as fast: farzi, start."
    )


def test_where_all_is_well_nothing_is_said():
    quick = training(seconds=1.0, total=2.0)
    assert failures([group([run("full"), run("farzi", training=quick)], events=100)]) == []


def test_an_unfinished_row_is_no_result():
    cut = training(seconds=1.0, total=2.0, stopped="cap")
    (line,) = failures([group([run("full"), run("farzi", metrics=WORSE, training=cut)])])
    assert "not finished, so no result: farzi" in line
    assert "0.900" not in line
