"""An experiment runs cell by cell: nothing is run twice, a cut loses one cell."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from farzi.cli import main
from farzi.errors import SettingsError
from farzi.experiments import runner
from farzi.experiments.collected import break_even, collect
from farzi.experiments.comparison import Spread
from farzi.experiments.pages import experiment_page, students_grid
from farzi.experiments.results import headline_metrics
from farzi.experiments.runner import Places, plan_cells, run_experiment
from farzi.experiments.specification import SearchSettings, read_experiment
from farzi.experiments.tables import early_ranking_grid, ranking_grid
from toy import SMALL_EXPERIMENT, write_log

ROOT = Path(__file__).resolve().parents[3]
HEADLINE = headline_metrics("recommend")
TOY = (
    """
source = "{log}"
about = "a toy"
splits = [0, 1]
seeds = 2
sizes = ["6x8"]
rows = ["full", "random", "random-soft", "start", "farzi", "most-popular"]

[read]
task = "recommend"

[variants.start]
outer.steps = 0

"""
    + SMALL_EXPERIMENT
)


@pytest.fixture
def toy(tmp_path):
    log = write_log(tmp_path / "toy.tsv")
    path = tmp_path / "toy.toml"
    path.write_text(TOY.format(log=log))
    return read_experiment(path), Places(tmp_path / "results", tmp_path / "runs")


def test_every_cell_is_made_once(toy, monkeypatch):
    experiment, places = toy
    made = []
    real = runner.make_cell
    monkeypatch.setattr(runner, "make_cell", lambda *args: (made.append(args[2]), real(*args))[1])
    cells, _ = plan_cells(experiment, places)
    kinds = [cell.kind for cell in cells]
    # a split: teachers, two distillations, five rows tuned, two students of each, most-popular
    assert [kinds.count(kind) for kind in ("teachers", "distill", "tune", "score")] == [
        2,
        4,
        10,
        22,
    ]
    outcome = run_experiment(experiment, places, jobs=0, budget_s=0.0)
    assert (outcome.done, outcome.left, outcome.stopped) == (0, 38, "the time budget")
    outcome = run_experiment(experiment, places, jobs=0)
    assert outcome.failed == {}
    assert (outcome.done, outcome.there, outcome.left) == (38, 0, 0)
    assert [cell.file for cell in made] == [cell.file for cell in cells]
    made.clear()
    assert run_experiment(experiment, places, jobs=0).there == 38
    assert made == []

    # one more seed: four rows of two splits, and nothing else again
    more = replace(experiment, seeds=3)
    run_experiment(more, places, jobs=0)
    assert {cell.kind for cell in made} == {"score"}
    assert len(made) == 10

    # tables come from the files alone
    found = collect(places.results / "toy")
    (group,) = found.groups
    assert (group.done, group.total) == (48, 48)
    rows = {row.name: row for row in group.comparison.rows}
    assert list(rows) == list(experiment.rows)
    assert rows["farzi"].num_runs == 6
    assert group.comparison.split_seeds == (0, 1)
    assert set(group.distilled) == {"start", "farzi"}
    assert len(group.teachers_s) == 2
    even = {each.row: each for each in break_even(group)}
    assert set(even) == {"random-soft", "start", "farzi"}
    assert even["farzi"].making_s > even["random-soft"].making_s > 0
    assert group.distilled["farzi"].own_teachers == 0
    taught_alone = next((places.results / "toy/cells").glob("distill.farzi.split-1.*"))
    values = json.loads(taught_alone.read_text())
    values["result"]["own_teachers"] = True
    taught_alone.write_text(json.dumps(values))
    assert collect(places.results / "toy").groups[0].distilled["farzi"].own_teachers == 0.5

    # other settings of the search are other cells; teachers and artifacts stay
    made.clear()
    other = replace(experiment, compare=replace(experiment.compare, lrs=(0.1,)))
    run_experiment(other, places, jobs=0)
    assert {cell.kind for cell in made} == {"tune", "score"}

    # artifacts that were removed are made again only for cells that are missing
    made.clear()
    for folder in (places.runs / "toy").glob("farzi-*"):
        (folder / "artifact" / "farzi.json").unlink()
    run_experiment(other, places, jobs=0)
    assert made == []


def test_teachers_that_were_removed_with_their_artifacts_are_made_first(toy, monkeypatch):
    """Else the distillation would train them, and their seconds would count as its own."""
    experiment, places = toy
    once = replace(experiment, splits=(0,), rows=("full", "farzi"), seeds=1)
    run_experiment(once, places, jobs=0)
    shutil.rmtree(places.runs)
    made = []
    real = runner.make_cell
    monkeypatch.setattr(runner, "make_cell", lambda *args: (made.append(args[2]), real(*args))[1])
    run_experiment(replace(once, seeds=2), places, jobs=0)
    assert [(cell.kind, cell.row) for cell in made] == [
        ("score", "full"), ("teachers", ""), ("distill", "farzi"), ("score", "farzi"),
    ]  # fmt: skip


def remove_cells(places, *patterns):
    for pattern in patterns:
        for path in (places.results / "toy" / "cells").glob(pattern):
            path.unlink()


def test_teachers_without_a_result_are_trained_anew(toy):
    """What was trained before a cut is not known: its seconds would be missing."""
    experiment, places = toy
    once = replace(experiment, splits=(0,), rows=("full", "farzi"), seeds=1)
    run_experiment(once, places, jobs=0)
    (cell,) = (places.results / "toy" / "cells").glob("teachers.*")
    (run,) = (places.runs / "toy").glob("teachers-*/run-00.safetensors")
    losses = json.loads(cell.read_text())["result"]["losses"]
    before = run.stat().st_mtime_ns
    remove_cells(places, "teachers.*", "distill.*", "score.farzi.*")
    run_experiment(once, places, jobs=0)
    assert run.stat().st_mtime_ns > before
    assert json.loads(cell.read_text())["result"]["losses"] == losses


def test_seconds_of_a_distillation_that_was_cut_off_count(toy):
    experiment, places = toy
    once = replace(experiment, splits=(0,), rows=("full", "farzi"), seeds=1)
    run_experiment(once, places, jobs=0)
    (cell,) = (places.results / "toy" / "cells").glob("distill.*")
    (spent,) = (places.runs / "toy").glob("seconds-farzi-*.json")
    first = json.loads(cell.read_text())["result"]
    assert 0 <= json.loads(spent.read_text())["seconds"] <= first["seconds"]
    assert not first["went_on"]
    remove_cells(places, "distill.*", "score.farzi.*")
    spent.write_text('{"seconds": 1000}')
    run_experiment(once, places, jobs=0)
    again = json.loads(cell.read_text())["result"]
    assert again["went_on"]
    assert again["seconds"] > 1000
    spent.unlink()
    remove_cells(places, "distill.*", "score.farzi.*")
    (reason,) = run_experiment(once, places, jobs=0).failed.values()
    assert reason == f"{spent}: does not say how long the run beside it took; remove that run."


def test_time_left_is_told_from_cells_that_take_as_long(toy):
    experiment, places = toy
    cells, _ = plan_cells(replace(experiment, splits=(0,)), places)
    seconds = {"teachers": 40.0, "distill": 30.0, "tune": 20.0, "score": 10.0}
    there = set()
    folder = places.results / "toy" / "cells"
    folder.mkdir(parents=True)

    def done(cell, wall_s=None):
        there.add(cell.file)
        value = {"wall_s": seconds[cell.kind] if wall_s is None else wall_s}
        (folder / cell.file).write_text(json.dumps(value))

    def told(jobs=1):
        outcome = runner.Outcome()
        state = runner._State(cells, folder, places.runs)
        state.there = set(there)
        state.expect(outcome, jobs)
        return outcome.left_s, outcome.left_known, outcome.eta

    assert told() == (None, False, "")
    popular = next(cell for cell in cells if cell.row == "most-popular")
    done(popular, 0.1)  # scored as it is: no student will be as fast
    assert told() == (None, False, "")
    full = next(cell for cell in cells if (cell.kind, cell.row) == ("tune", "full"))
    done(full)
    assert told() == (4 * 20.0, False, "at least 80 s")  # four more rows to tune
    for cell in cells:
        if cell.kind in ("teachers", "distill", "tune"):
            done(cell)
    first = next(cell for cell in cells if cell.kind == "score" and cell.row == "full")
    done(first)
    assert told(jobs=2) == (9 * 10.0 / 2, True, "about 45 s")
    second = next(cell for cell in cells if cell.kind == "score" and cell.row == "farzi")
    done(second, 50.0)  # the next of its row is expected to take as long
    assert told()[0] == pytest.approx(10.0 + 50.0 + 6 * 30.0)


def test_a_cell_that_fails_stops_only_those_that_need_it(toy, monkeypatch, caplog):
    experiment, places = toy
    experiment = replace(experiment, splits=(0,), rows=("full", "farzi"), variants={})
    real = runner.make_cell

    def failing(experiment, places, cell, tell):
        if cell.kind == "distill":
            raise ValueError("no luck")
        real(experiment, places, cell, tell)

    monkeypatch.setattr(runner, "make_cell", failing)
    outcome = run_experiment(experiment, places, jobs=0)
    assert outcome.failed == {"split 0 6x8 distill farzi": "ValueError: no luck"}
    assert "split 0 6x8 distill farzi failed: ValueError: no luck" in caplog.messages
    assert outcome.left == 4  # that, and what is built on it
    assert outcome.stopped == "cells failed"


def test_the_first_failed_cell_is_the_error_line_even_where_it_is_quiet(
    toy, tmp_path, monkeypatch, capsys
):
    _, places = toy
    flags = ["--results", str(places.results), "--runs", str(places.runs)]

    def failing(experiment, places, cell, tell):
        raise OSError(f"no space for {cell.kind}")

    run = run_experiment  # in this process, where a cell can be made to fail
    monkeypatch.setattr(runner, "make_cell", failing)
    monkeypatch.setattr(
        runner, "run_experiment", lambda *args, **more: run(*args, **{**more, "jobs": 0})
    )
    assert main(["experiments", "run", str(tmp_path / "toy.toml"), *flags, "-q"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("farzi: split 0 ")
    assert "no space for" in line


def test_a_killed_run_loses_the_cell_it_was_at(toy, tmp_path):
    _, places = toy
    path = tmp_path / "toy.toml"
    path.write_text(
        path.read_text()
        .replace("max_steps = 30", "max_steps = 100000")
        .replace("patience = 2", "patience = 1000")
        .replace("lrs = [0.05]", "lrs = [0.05, 0.02]")  # a search of one setting tries nothing
        .replace(
            'rows = ["full", "random", "random-soft", "start", "farzi", "most-popular"]',
            'rows = ["most-popular", "random"]',
        )
    )
    command = [sys.executable, "-m", "farzi", "experiments", "run", str(path)]
    command += ["--results", str(places.results), "--runs", str(places.runs)]
    for number, code in ((signal.SIGTERM, 75), (signal.SIGKILL, -9)):
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
        )
        kept = places.results / "toy" / "cells"
        deadline = time.monotonic() + 300
        while not list(kept.glob("score.most-popular.split-0*")):
            assert time.monotonic() < deadline
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.2)
        time.sleep(2 if number == signal.SIGTERM else 0)
        process.send_signal(number)
        out, _ = process.communicate(timeout=60)
        assert process.returncode == code
        if number == signal.SIGTERM:
            assert "left" in out
        names = [json.loads(file.read_text())["identity"]["row"] for file in kept.iterdir()]
        assert names.count("random") == 0
        assert names.count("most-popular") >= 1


@pytest.mark.slow
def test_two_processes_make_the_same_as_one(toy, tmp_path):
    experiment, places = toy
    run_experiment(experiment, places, jobs=0)
    others = Places(tmp_path / "results-2", tmp_path / "runs-2")
    outcome = run_experiment(experiment, others, jobs=2)
    assert outcome.failed == {}
    one, two = (collect(each.results / "toy").groups[0].comparison for each in (places, others))
    for row in one.rows:
        assert two.row(row.name).metrics == row.metrics


def test_list_and_show(toy, tmp_path, capsys):
    experiment, places = toy
    quick = replace(experiment, splits=(0,), seeds=1, rows=("full", "most-popular"), variants={})
    run_experiment(quick, places, jobs=0)
    flags = ["--results", str(places.results), "--runs", str(places.runs)]
    assert main(["experiments", "list", str(tmp_path), *flags, "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)["experiments"]
    assert listed["name"] == "toy"
    assert listed["cells_done"] == listed["cells"] == 3
    assert main(["experiments", "show", str(tmp_path / "toy.toml"), *flags]) == 0
    shown = capsys.readouterr().out
    assert "most-popular" in shown
    assert "best step" in shown
    assert main(["experiments", "show", str(tmp_path / "toy.toml"), *flags, "--json"]) == 0
    (group,) = json.loads(capsys.readouterr().out)["groups"]
    assert [row["name"] for row in group["comparison"]["rows"]] == ["full", "most-popular"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('about = "a toy"', 'abuot = "a toy"'), "unknown name 'abuot': did you mean about"),
        (('"random"', '"rendom"'), "unknown row 'rendom': did you mean random"),
        (("lrs = [0.05]", "lr = [0.05]"), "unknown name 'compare.lr'"),
        (("lrs = [0.05]", "lrs = [0.0]"), r"\[compare\] `lrs`: 0.0 cannot be tried"),
        (("seeds = 2", 'seeds = "two"'), "`seeds` must be int"),
        (("seeds = 2", "overview = 0"), "`overview` must be true or false, got 0"),
        (("lrs = [0.05]", "lrs = 0.05"), "`compare.lrs` must be a list"),
        (("splits = [0, 1]", "splits = []"), "`splits` is empty"),
        (("[variants.start]", "[variants.head]"), "unknown row 'start'"),
        (("source =", "sourec ="), "is no experiment"),
    ],
)
def test_a_wrong_file_is_one_clear_line(tmp_path, change, message):
    path = tmp_path / "toy.toml"
    path.write_text(TOY.replace(*change))
    with pytest.raises(SettingsError, match=message) as raised:
        read_experiment(path)
    assert "\n" not in str(raised.value)


def test_pages_and_figures_come_from_the_cells_alone(toy, tmp_path):
    experiment, places = toy
    quick = replace(
        experiment,
        splits=(0,),
        seeds=1,
        rows=("full", "farzi", "most-popular"),
        variants={},
        paper={"6x8": 1.02},
        # until validation stops them: whether one that a limit stops is finished hangs on the clock
        compare=replace(experiment.compare, patience=1, max_steps=2000),
    )
    root = tmp_path / "repository"
    places = replace(places, results=root / "experiments" / "results")
    run_experiment(quick, places, jobs=0)
    pages = root / "docs" / "results"
    pages.mkdir(parents=True)
    (pages / "index.md").write_text((ROOT / "docs" / "results" / "index.md").read_text())
    render_docs = load_script("render_docs")
    assert render_docs.fill_document(pages / "index.md", root, write=True)
    written = {path.name for path in render_docs.write_results(root, write=True)}
    assert written == {"toy.md", "quality-size.svg", "quality-seconds.svg", "few-seconds.svg"}
    assert render_docs.write_results(root, write=False) == []
    assert not render_docs.fill_document(pages / "index.md", root, write=False)
    index = (pages / "index.md").read_text()
    assert "| toy 6x8: farzi |" in index
    assert "1.020" in index
    assert "](toy.md)" in index
    page = (pages / "toy.md").read_text()
    assert "When making a row pays" in page
    (group,) = collect(places.results / "toy").groups
    shown = 100 * group.comparison.row("most-popular").metrics["MRR"].mean
    assert f"| {shown:.1f} |" in page


OWN = """
import torch

class Own(torch.nn.Module):
    def __init__(self, num_tokens):
        super().__init__()
        self.table = torch.nn.Embedding(num_tokens, 6)
        self.body = torch.nn.GRU(6, 8, batch_first=True)
        self.head = torch.nn.Linear(8, num_tokens)

    def forward(self, tokens):
        return self.head(self.body(self.table(tokens))[0])

def make(num_tokens, context_length):
    return Own(num_tokens)
"""


def test_several_students_are_each_held_against_their_own_full_data(toy, tmp_path):
    experiment, places = toy
    (tmp_path / "own.py").write_text(OWN)
    own = f"{tmp_path / 'own.py'}:make"
    distil = {name: value for name, value in experiment.distill.items() if name != "student"}
    several = replace(
        experiment,
        splits=(0,),
        seeds=1,
        students=("sasrec:width=8", own),
        rows=("full", "random-soft", "farzi"),
        variants={},
        distill=distil,
        # so that validation stops every run, and none is "not finished"
        compare=replace(experiment.compare, max_steps=2000, max_epochs=None, patience=1),
    )
    outcome = run_experiment(several, places, jobs=0)
    assert outcome.failed == {}
    assert outcome.done == 2 * (1 + 1 + 2 * 3)
    found = collect(places.results / "toy")
    assert [group.title for group in found.groups] == ["6x8, sasrec:width=8", f"6x8, {own}"]
    assert [group.student["name"] for group in found.groups] == ["sasrec", "module"]
    page = experiment_page(found)
    lines = [line.split(" | ") for line in page.splitlines()]
    for group in found.groups:
        assert f"## {group.title}" in page
        row, full = (group.comparison.row(name) for name in ("farzi", "full"))
        (line,) = [line for line in lines if line[0] == f"| {group.title}"]
        ratio = fmean(row.metrics[name].mean / full.metrics[name].mean for name in HEADLINE)
        assert line[1:3] == ["farzi", f"{ratio:.3f}"]
        assert line[3] == f"{100 * full.metrics['nDCG@10'].mean:.1f}"
        assert line[6] == f"{row.metrics['loss'].mean:.3f}"
        begun, best = group.distilled["farzi"].losses[0]
        assert best <= begun
        assert line[7:9] == [f"{begun:.3f}", f"{best:.3f}"]

    scores = {"perplexity": Spread(60.0), "accuracy": Spread(0.25)}
    rows = [replace(row, metrics=scores) for row in found.groups[0].comparison.rows]
    texts = replace(found.groups[0].comparison, rows=tuple(rows))
    grid = students_grid([replace(found.groups[0], task="language", comparison=texts)])
    assert grid.head[3:7:2] == ("perplexity, full", "accuracy, full")
    assert grid.rows[0][3:7] == ("60.0", "60.0", "25.0", "25.0")

    search = replace(several, search=SearchSettings(configurations=2), students=(own,))
    with pytest.raises(SettingsError, match="a search changes the student's sizes"):
        plan_cells(search, places)


def load_script(name):
    path = ROOT / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_search_is_ranked_on_every_row(toy):
    experiment, places = toy
    search = SearchSettings(configurations=3, lrs=(0.01, 0.1), widths=(8,), num_layers=(1,))
    chosen = replace(
        experiment, splits=(0,), rows=("full", "random-tenth", "farzi"), variants={}, search=search
    )
    outcome = run_experiment(chosen, places, jobs=0)
    assert outcome.failed == {}
    assert outcome.done == 1 + 1 + 3 * 3
    (group,) = collect(places.results / "toy").groups
    assert {ranking.row for ranking in group.rankings} == {"random-tenth", "farzi"}
    assert all(ranking.configurations == 3 for ranking in group.rankings)
    assert all(ranking.regret >= 0 for ranking in group.rankings)
    assert group.searched_s > 0
    assert ranking_grid([group]).rows[0][1] == "3"
    assert {ranking.row for ranking in group.early_rankings} <= {"full", "random-tenth", "farzi"}
    assert all(ranking.configurations == 3 for ranking in group.early_rankings)
    assert len(early_ranking_grid(group).rows) == len(group.early_rankings) > 0


def test_one_split_can_choose_for_all(toy):
    experiment, places = toy
    tried = replace(experiment.compare, lrs=(0.05,), dropouts=(0.0, 0.2), num_steps=(8, 1_030))
    rows = ("full", "random", "start")
    once = replace(experiment, rows=rows, compare=tried, tuned_on=1)
    cells, _ = plan_cells(once, places)
    tuned = [cell for cell in cells if cell.kind == "tune"]
    assert [(cell.split_seed, cell.row) for cell in tuned] == [
        (1, "full"), (1, "random"), (1, "start"),
    ]  # fmt: skip
    assert run_experiment(once, places, jobs=0).failed == {}
    (group,) = collect(places.results / "toy").groups
    assert group.tuned_on == 1
    for row in group.comparison.rows:
        assert row.num_runs == 4
        tries = 2 if row.name == "full" else 3  # all data are not asked for steps
        assert [(choice["split_seed"], choice["tries"]) for choice in row.chosen] == [(1, tries)]
    page = experiment_page(collect(places.results / "toy"))
    lines = [
        line.split(" | ") for line in page.splitlines() if "most steps" in line or "of 3" in line
    ]
    place = lines[0].index("most steps")
    assert {line[place] for line in lines[1:]} <= {"8", "1,030"}
    assert len(lines) == 3
    assert "as tuned on validation of split 1, for all:" in page
    # the split that chose has the cells of an experiment where each chooses for itself
    own, _ = plan_cells(replace(once, splits=(1,), tuned_on=None), places)
    assert {cell.file for cell in own} <= {cell.file for cell in cells}
    with pytest.raises(SettingsError, match="`tuned_on` must be one of the splits 0, 1, got 2"):
        replace(experiment, tuned_on=2)


def test_rows_of_another_student_are_learnt_by_the_one_in_hand(tmp_path):
    path = tmp_path / "toy.toml"
    text = TOY.format(log=write_log(tmp_path / "toy.tsv"))
    text = text.replace("splits = [0, 1]", 'splits = [0]\nstudents = ["sasrec", "gru4rec"]')
    rows = '"random", "random-soft", "start", "farzi", "most-popular"'
    text = text.replace(rows, '"of-sasrec", "of-gru4rec"')
    text = text.replace("[variants.start]\nouter.steps = 0", "")
    text += "\n".join(
        f'\n[variants.of-{name}]\nstudent.name = "{name}"' for name in ("sasrec", "gru4rec")
    )
    path.write_text(text)
    experiment, places = read_experiment(path), Places(tmp_path / "results", tmp_path / "runs")
    cells, plan = plan_cells(experiment, places)
    kinds = [cell.kind for cell in cells]
    # One distillation of each, which both students learn: three rows tuned and scored by each.
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "teachers": 2, "distill": 2, "tune": 6, "score": 12,
    }  # fmt: skip
    assert [group["student"]["name"] for group in plan["groups"]] == ["sasrec", "gru4rec"]
    outcome = run_experiment(experiment, places, jobs=0)
    assert outcome.failed == {}
    found = collect(places.results / "toy")
    losses = {}
    for group in found.groups:
        for row in group.comparison.rows:
            losses[group.label, row.name] = row.metrics["loss"].mean
    assert len(losses) == len({round(loss, 6) for loss in losses.values()}) == 6
