"""One renderer: the same cells on a terminal and in Markdown, every rate in percent."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from farzi.experiments.tables import full_grids, markdown, notes, summary_grid, terminal
from made_up_runs import RANKING, compared, run, training

METRICS = {**RANKING, "MRR": 0.125, "AUC": 0.75}


def result():
    runs = [run("full", metrics=METRICS, per_user={"HR@10": (0, 1)})]
    runs += [run("farzi", metrics={**METRICS, "HR@10": 0.6}, per_user={"HR@10": (0, 1)})]
    return compared(runs)


def test_every_rate_is_in_percent():
    (first, *_) = full_grids(result())
    cells = dict(zip(first.head, first.rows[1], strict=True))
    assert cells["MRR"] == "12.5"
    assert cells["AUC"] == "75.0"
    assert cells["HR@10"] == "60.0"
    assert cells["loss"] == "5.000"


def test_terminal_and_markdown_show_the_same_cells():
    grid = summary_grid(result())
    (table,) = terminal(result())
    console = Console(width=200, file=io.StringIO())
    console.print(table)
    shown = console.file.getvalue().splitlines()
    text = markdown(result(), summary=True).splitlines()
    for place, row in enumerate(grid.rows):
        (on_screen,) = [line for line in shown if line.startswith(f"│ {row[0]} ")]
        assert [cell.strip() for cell in on_screen.strip("│").split("│")] == list(row)
        in_document = text[2 + place].strip("|").split("|")
        assert [cell.strip() for cell in in_document] == list(row)


def test_what_cannot_be_ranked_or_learnt_is_said_once_for_all_rows():
    counts = {"users": 40, "nothing_to_rank": 2, "targets_without_training": 3}
    runs = [run(row, split, counts=counts) for row in ("full", "farzi") for split in (0, 1)]
    lines = notes(compared(runs, splits=(0, 1)))
    assert [line for line in lines if line.startswith("4 of 80 test users had every item")]
    assert [line for line in lines if line.startswith("6 of 80 test targets are items that no")]
    nothing = dict.fromkeys(("nothing_to_rank", "targets_without_training"), 0)
    for quiet in ({}, {"users": 40, **nothing}):
        assert not [x for x in notes(compared([run("full", counts=quiet)])) if " test " in x]


@pytest.mark.parametrize(
    ("paces", "said"),
    [
        ((0.002, 0.003), "up to 1.5 times slower"),
        ((0.002, 0.0024), ""),
        ((None, 0.003), "not known of some runs of full:"),
        ((None, None), ""),
    ],
)
def test_a_machine_that_was_slower_at_some_runs_is_told_of(paces, said):
    runs = [
        run(row, training=replace(training(), pace_s=pace))
        for row, pace in zip(("full", "farzi"), paces, strict=True)
    ]
    told = "".join(line for line in notes(compared(runs)) if "machine" in line)
    assert said in told
    assert bool(said) == bool(told)


def test_a_row_without_a_result_shows_none():
    runs = [
        run("full", training=training(total=60)),
        run("farzi", training=training(stopped="cap")),
    ]
    grid = summary_grid(compared(runs))
    row = dict(zip(grid.head, grid.rows[1], strict=True))
    assert row["of full"] == "not finished"
    assert row["HR@10"] == ""
    assert any("not finished" in line and line.endswith("farzi") for line in notes(compared(runs)))
