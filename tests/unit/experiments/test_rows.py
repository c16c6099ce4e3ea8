"""What each row reads, and that it has a file of its own."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from farzi.distill.teachers import mean_logits
from farzi.errors import SettingsError
from farzi.evaluation import evaluate, sequences_of, validation_loss
from farzi.experiments import rows
from farzi.experiments.compare import CompareSettings, compare, rows_of
from farzi.experiments.results import Choice
from farzi.experiments.rows import ROWS, load_row
from farzi.experiments.rows.base import Row
from farzi.experiments.rows.coreset_soft import k_centres
from farzi.experiments.rows.teachers import Ensemble
from farzi.experiments.splits import Split, check_one_protocol
from farzi.experiments.students import train_student
from farzi.models import build_student
from farzi.synthetic import SyntheticSequences
from farzi.training import RealBatches, TrainSettings, train
from toy import toy_data

STUDENT = {"name": "sasrec", "num_tokens": 12, "context_length": 8, "width": 8}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return toy_data(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def split(data):
    student = build_student(STUDENT)
    teachers = tuple(student.init(torch.Generator().manual_seed(seed)) for seed in (0, 1))
    few = SyntheticSequences(torch.zeros(6, 8, 3), torch.zeros(3, 12))
    return Split(data, STUDENT, 6, 3, {"farzi": few}, teachers)


def test_every_name_has_its_file():
    names = {path.stem for path in Path(rows.__file__).parent.glob("*.py")}
    helpers = {"__init__", "base", "soft_labels"}
    assert names - helpers == {name.replace("-", "_") for name in ROWS}
    assert all(isinstance(load_row(name), Row) for name in ROWS)


@pytest.mark.parametrize("name", [name for name in ROWS if load_row(name).trained])
def test_equal_draws_give_equal_batches(split, name):
    row = load_row(name)
    one, two = (row.build(split, 1, 0).batches(3, 5) for _ in range(2))
    for step in (0, 1, 7):
        first, second = one(step), two(step)
        assert torch.equal(first.tokens, second.tokens)
        assert (first.labels is None) == (second.labels is None)
        if first.labels is not None:
            assert torch.equal(first.labels, second.labels)


def test_only_random_rows_differ_from_draw_to_draw(split):
    for name in ROWS:
        row = load_row(name)
        if not row.trained:
            continue
        one, two = (row.build(split, draw, 0).batches(48, 0)(0).tokens for draw in (0, 1))
        assert torch.equal(one, two) is not row.drawn, name


def test_labels_are_the_geometric_mean_of_the_teachers(split):
    batch = load_row("head-soft").build(split, 0, 0).batches(2, 0)(0)
    student = build_student(STUDENT)
    logs = []
    for params in split.teachers:
        table = student.embedding(params)
        logits = student.hidden(params, table[batch.tokens]) @ table.T
        logs.append(logits.log_softmax(-1))
    wanted = torch.stack(logs).mean(0).softmax(-1)
    torch.testing.assert_close(batch.labels[batch.mask], wanted[batch.mask])


def test_centres_are_the_farthest_from_those_before():
    """By hand: nearest the mean 4.5 is 4 (the earlier of two), then 9, then 0."""
    assert k_centres(torch.tensor([[0.0], [4.0], [5.0], [9.0]]), 3).tolist() == [1, 3, 0]
    equal = torch.ones(4, 2)
    assert sorted(k_centres(equal, 4).tolist()) == [0, 1, 2, 3]
    assert len(k_centres(equal, 9)) == 4


def test_a_coreset_lies_nearer_to_all_sequences_than_a_random_draw(split):
    points = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    covered = torch.cdist(points, points[k_centres(points, 10)]).amin(1).max()
    drawn = [
        torch.randperm(200, generator=torch.Generator().manual_seed(n))[:10] for n in range(20)
    ]
    assert covered < min(torch.cdist(points, points[one]).amin(1).max() for one in drawn)
    labelled = load_row("coreset-soft").build(split, 0, 0)
    assert labelled.size.sequences == 6


def test_full_soft_reads_the_windows_of_full_with_labels(split):
    hard = load_row("full").build(split, 0, 0).batches(4, 3)(2)
    labelled = load_row("full-soft").build(split, 0, 0).batches(4, 3)(2)
    assert torch.equal(labelled.tokens, hard.tokens[:, :-1])
    assert torch.equal(labelled.mask, hard.mask[:, 1:])
    assert torch.allclose(labelled.labels.sum(-1), torch.ones(()))


def test_the_teachers_row_scores_their_mean_logits(split):
    ensemble = Ensemble(build_student(STUDENT), 2)
    params = ensemble.joined(split.teachers)
    tokens = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
    table = ensemble.embedding(params)
    got = ensemble.head(params).scores(ensemble.hidden(params, table[tokens]))
    hidden, factors = mean_logits(build_student(STUDENT), split.teachers, tokens)
    torch.testing.assert_close(got, hidden @ factors.T)
    row = load_row("teachers").build(split, 0, 0)
    alone = replace(split, teachers=split.teachers[:1])
    one = evaluate(build_student(STUDENT), split.teachers[0], split.data, "test")
    assert load_row("teachers").build(alone, 0, 0).scores().metrics == pytest.approx(one.metrics)
    assert row.scores().metrics["loss"] != pytest.approx(one.metrics["loss"])


def test_a_full_row_is_ordinary_training(data, split):
    """The comparison adds nothing: plain training with the same seeds gives the same scores."""
    settings = CompareSettings(
        rows=("full",),
        seeds=1,
        lrs=(0.02,),
        decays=(0.03,),
        dropouts=(0.1,),
        smoothings=(0.05,),
        batches=(16,),
        max_epochs=20,
    )
    (row,) = compare([split], settings).rows
    student = build_student({**STUDENT, "dropout": 0.1})
    batches = RealBatches(sequences_of(data, "train"), 8, 16, seed=1)
    trained = train(
        student,
        batches,
        TrainSettings(
            lr=0.02,
            max_steps=20 * batches.steps_per_epoch,
            eval_every=10,
            look_growth=0.1,
            patience=10,
            weight_decay=0.03,
            smoothing=0.05,
            seed=1,
        ),
        lambda params: validation_loss(student, params, sequences_of(data, "validation")),
    )
    scores = evaluate(student, trained.params, data, "test")
    assert row.step == trained.step
    assert {name: value.mean for name, value in row.metrics.items()} == scores.metrics
    read = sum(int(batches(step).mask.sum()) for step in range(trained.step))
    assert row.events == read


def test_a_student_is_scored_at_its_best_look(split):
    sample = load_row("random").build(split, 0, 0)
    limits = CompareSettings().limits
    _, trained, training = train_student(split, sample, Choice(0.05, 3), 1, limits)
    losses = [look.loss for look in training.curve]
    assert training.loss == min(losses) == trained.loss
    assert training.step == training.curve[int(np.argmin(losses))].step
    seconds = [look.seconds for look in training.curve]
    assert seconds == sorted(seconds)
    assert training.seconds == seconds[int(np.argmin(losses))] <= training.total_seconds


def test_rows_that_cannot_be_had_are_refused_when_asked_for(data):
    bare = Split(data, STUDENT, 6, 3)
    there = {"full", "random", "random-tenth", "head", "most-popular"}
    assert set(rows_of([bare], CompareSettings())) == there
    with pytest.raises(SettingsError, match="random-soft needs teachers"):
        rows_of([bare], CompareSettings(rows=("random-soft",)))
    with pytest.raises(SettingsError, match="farzi needs an artifact"):
        rows_of([bare], CompareSettings(rows=("farzi",)))


def test_splits_of_different_protocols_never_share_a_table(tmp_path, split):
    other = toy_data(tmp_path, split_seed=1)
    first = Split(other, STUDENT, 6)
    check_one_protocol([split, first])
    last_out = toy_data(tmp_path, split="leave-last-out")
    kept = toy_data(tmp_path, seen_items="leave-out", split_seed=3)
    for wrong, what in (
        (Split(last_out, STUDENT, 6), "kind of split"),
        (Split(kept, STUDENT, 6), "seen items"),
        (replace(split, student={**STUDENT, "width": 16}), "width"),
        (replace(split, num_sequences=7), "number of sequences"),
    ):
        with pytest.raises(SettingsError, match=what):
            check_one_protocol([first, wrong])
    with pytest.raises(SettingsError, match="there twice"):
        check_one_protocol([split, split])
    with pytest.raises(SettingsError, match="at least one"):
        check_one_protocol([])
