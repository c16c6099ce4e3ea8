"""Finished pieces are kept, found again by all they depend on, and taken up after a cut."""

import itertools
import json
from dataclasses import asdict, replace

import pytest
import torch

from farzi.errors import SettingsError
from farzi.experiments import cells as module
from farzi.experiments.cells import Cells, CompareSettings
from farzi.experiments.compare import compare
from farzi.experiments.pace import Pace
from farzi.experiments.results import Choice, Run
from farzi.experiments.rows import load_row
from farzi.experiments.splits import Split
from farzi.experiments.store import Store, named_by
from farzi.models import build_student
from farzi.synthetic import SyntheticSequences
from toy import toy_data

STUDENT = {"name": "sasrec", "num_tokens": 12, "context_length": 8, "width": 8}
QUICK = CompareSettings(
    seeds=2,
    lrs=(0.05, 0.02),
    batches=(64,),
    decays=(0.0,),
    dropouts=(0.0,),
    smoothings=(0.1,),
    patience=2,
    max_steps=40,
    max_epochs=10,
)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    data = toy_data(tmp_path_factory.mktemp("toy"))
    student = build_student(STUDENT)
    teachers = tuple(student.init(torch.Generator().manual_seed(seed)) for seed in (0, 1))
    few = SyntheticSequences(torch.ones(6, 8, 3), torch.eye(3, 12))
    return Split(data, STUDENT, 6, 3, {"farzi": few}, teachers)


@pytest.fixture
def counted(monkeypatch):
    """Every training that is really done."""
    trained = []
    for name in ("train_student", "scored_run"):
        real = getattr(module, name)

        def count(*args, name=name, real=real, **kwargs):
            trained.append(name)
            if len(trained) == count_until[0]:
                raise KeyboardInterrupt
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, count)
    count_until = [None]
    trained_until = count_until
    return trained, trained_until


def test_a_comparison_that_was_cut_off_goes_on(split, tmp_path, counted):
    trained, cut_at = counted
    settings = replace(QUICK, rows=("full", "random", "teachers"))
    whole = compare([split], settings)
    assert len(trained) == 2 * (2 + 2)
    trained.clear()
    cut_at[0] = 6
    assert [choice["tries"] for choice in whole.row("full").chosen] == [2]
    stores = [Store(tmp_path / "kept")]
    with pytest.raises(KeyboardInterrupt):
        compare([split], settings, stores=stores)
    trained.clear()
    cut_at[0] = None
    resumed = compare([split], settings, stores=stores)
    assert len(trained) == 8 - 5
    for row in whole.rows:
        assert resumed.row(row.name).metrics == row.metrics
        assert resumed.row(row.name).chosen == row.chosen
    trained.clear()
    assert compare([split], settings, stores=stores).to_json() == resumed.to_json()
    assert trained == []


def test_more_seeds_keep_the_search(split, tmp_path, counted):
    trained, _ = counted
    stores = [Store(tmp_path)]
    settings = replace(QUICK, rows=("full",), seeds=1)
    compare([split], settings, stores=stores)
    trained.clear()
    compare([split], replace(settings, seeds=2), stores=stores)
    assert trained == ["scored_run"]


def changed(split, **values):
    return replace(split, **values)


def other_teachers(split):
    return replace(split, teachers=split.teachers[:1])


def other_artifact(split):
    few = split.distilled["farzi"]
    return replace(split, distilled={"farzi": replace(few, latent=few.latent + 1)})


def other_number(split):
    return replace(split, num_sequences=5)


def other_width(split):
    return replace(split, student={**STUDENT, "width": 16})


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        (other_teachers, {"full-soft", "teachers", "random-soft", "head-soft", "coreset-soft"}),
        (other_artifact, {"farzi"}),
        (other_number, {"random", "head", "random-soft", "head-soft", "coreset-soft", "farzi"}),
    ],
)
def test_a_result_depends_on_what_its_row_reads(split, change, rows):
    names = rows | {"full", "most-popular"}
    before, after = Cells(split, QUICK), Cells(change(split), QUICK)
    differ = {
        name
        for name in names
        if before.score_identity(name, load_row(name), 0)
        != after.score_identity(name, load_row(name), 0)
    }
    assert differ == rows


@pytest.mark.parametrize(
    "settings",
    [
        {"lrs": (0.05,)},
        {"decays": (0.0, 0.1)},
        {"schedules": ("linear",)},
        {"patience": 3},
        {"max_steps": 41},
        {"tune_sweeps": 2},
    ],
)
def test_a_result_depends_on_how_it_is_tuned(split, settings):
    row = load_row("random")
    one = Cells(split, QUICK).score_identity("random", row, 0)
    assert one != Cells(split, replace(QUICK, **settings)).score_identity("random", row, 0)
    assert one != Cells(split, QUICK).score_identity("random", row, 1)
    assert one != Cells(other_width(split), QUICK).score_identity("random", row, 0)


def test_a_row_tuned_on_another_split_depends_on_what_that_one_chose_from(split):
    """Its own data still count, and nothing is tuned on it."""
    row = load_row("random")
    other = replace(split, data=replace(split.data, split_seed=7))
    alone, there = Cells(other, QUICK), Cells(split, QUICK)
    lent = Cells(other, QUICK, tuned_by=there)
    assert lent.tune_identity("random", row) == there.tune_identity("random", row)
    names = [
        cells.score_identity("random", row, 0)
        for cells in (
            alone,
            there,
            lent,
            Cells(other, QUICK, tuned_by=Cells(other_width(split), QUICK)),
        )
    ]
    assert len({json.dumps(name, sort_keys=True) for name in names}) == 4
    slow = replace(there, settings=replace(QUICK, lrs=(0.001,)))
    fast = replace(there, settings=replace(QUICK, lrs=(0.1,)))
    chosen = [
        Cells(other, QUICK, tuned_by=tuner).scored("random", row)[0].choice
        for tuner in (slow, fast)
    ]
    assert [choice.lr for choice in chosen] == [0.001, 0.1]


def test_random_rows_depend_on_the_seed_of_their_draws(split):
    other = replace(QUICK, seed=1)
    for name, depends in (("random", True), ("head", False)):
        row = load_row(name)
        one, two = (Cells(split, each).score_identity(name, row, 0) for each in (QUICK, other))
        assert (one != two) is depends


def test_looks_grow_rarer(split):
    row = load_row("random")
    cells = Cells(
        split, replace(QUICK, max_steps=150, patience=1000, eval_every=10, look_growth=0.2)
    )
    run, _ = cells.scored("random", row)
    steps = [look.step for look in run.training.curve]
    gaps = [later - earlier for earlier, later in itertools.pairwise(steps)]
    assert steps[:3] == [10, 20, 30]
    assert all(gap == max(10, int(0.2 * step)) for step, gap in zip(steps, gaps[:-1], strict=False))
    assert run.training.stopped == "cap"


def test_a_run_takes_the_pace_of_its_machine_beside_its_own_time(split, monkeypatch):
    """The fixed piece of training changes nothing of what the run learns."""
    row = load_row("random")
    run, _ = Cells(split, QUICK).scored("random", row)
    assert 0 < run.training.pace_s < 1
    monkeypatch.setattr(Pace, "take", lambda self: None)
    other, _ = Cells(split, QUICK).scored("random", row)
    assert other.training.pace_s is None
    assert (other.training.loss, other.metrics) == (run.training.loss, run.metrics)
    assert Run.from_json(run.to_json()) == run


def test_a_constant_schedule_is_no_part_of_a_name(split):
    row = load_row("random")
    identity = Cells(split, QUICK).score_identity("random", row, 0)
    assert "schedule" not in identity["axes"]
    assert "sweeps" not in identity
    assert "schedule" not in named_by(asdict(Choice(0.05, 3)))
    assert named_by(asdict(Choice(0.05, 3, schedule="linear")))["schedule"] == "linear"


def test_a_linear_schedule_goes_on_to_its_end(split):
    row = load_row("full")
    cells = Cells(split, replace(QUICK, schedules=("linear",), lrs=(0.05,), patience=1))
    run, _ = cells.scored("full", row)
    epoch = len(split.data.train) // 64 + (len(split.data.train) % 64 > 0)
    assert run.choice.schedule == "linear"
    assert run.training.curve[-1].step == 10 * epoch
    assert run.training.stopped == "schedule"
    both = replace(QUICK, schedules=("constant", "linear"), lrs=(0.05,))
    search, _ = Cells(split, both).tuned("full", row)
    assert [each.choice.schedule for each in search.tries] == ["constant", "linear"]
    assert search.best == min(search.tries, key=lambda each: each.loss).choice


def test_labelled_rows_alone_are_tuned_over_shifts(split):
    cells = Cells(split, replace(QUICK, shifts=(0, 2), lrs=(0.05,)))
    for name, tried in (("random-soft", [0, 2]), ("farzi", [0, 2]), ("random", [0]), ("full", [0])):
        search, _ = cells.tuned(name, load_row(name))
        assert sorted({each.choice.shift for each in search.tries} or {search.best.shift}) == tried
    soft, _ = cells.tuned("random-soft", load_row("random-soft"))
    assert soft.tries[0].loss != soft.tries[1].loss
    assert named_by(asdict(Choice(0.05, 3))) == named_by(asdict(Choice(0.05, 3, shift=0)))
    assert "shift 2" in str(Choice(0.05, 3, shift=2))


def test_small_rows_alone_are_tuned_over_steps_and_full_data_keep_their_names(split):
    falling = replace(QUICK, schedules=("linear",), lrs=(0.05,))
    cells = Cells(split, replace(falling, num_steps=(10, 30)))
    row = load_row("random")
    search, _ = cells.tuned("random", row)
    assert [each.choice.num_steps for each in search.tries] == [10, 30]
    run, _ = cells.scored("random", row)
    assert run.choice.num_steps == search.best.num_steps == run.training.curve[-1].step
    full = load_row("full")
    assert cells.score_identity("full", full, 0) == Cells(split, falling).score_identity(
        "full", full, 0
    )
    assert named_by(asdict(Choice(0.05, 3))) == named_by(asdict(Choice(0.05, 3, num_steps=0)))
    assert "30,000 steps" in str(Choice(0.05, 3, num_steps=30_000))
    with pytest.raises(SettingsError, match=r"`num_steps` must be at least 1, got 0"):
        replace(QUICK, num_steps=(0,))


@pytest.mark.parametrize("shifts", [(), (-1,)])
def test_shifts_that_cannot_be_are_refused(shifts):
    with pytest.raises(SettingsError, match=r"`shifts`: (nothing|-1) cannot be tried"):
        replace(QUICK, shifts=shifts)


@pytest.mark.parametrize("schedules", [(), ("cosine",)])
def test_an_unknown_schedule_is_refused(schedules):
    with pytest.raises(SettingsError, match=r"`schedules`: (nothing|cosine) cannot be tried"):
        replace(QUICK, schedules=schedules)


def test_a_scored_student_says_what_was_scored(split):
    cells = Cells(split, QUICK)
    result, _ = cells.scored("full", load_row("full"))
    assert result.counts["users"] == len(split.data.test)
    assert result.counts["events_scored"] == split.data.test.num_tokens - len(split.data.test)
    assert type(result).from_json(result.to_json()) == result
