"""Teachers of another architecture than the students', and their step size."""

import itertools
from dataclasses import replace

import pytest
import torch

from farzi.distill import distill
from farzi.distill.run import plan_run
from farzi.distill.teachers import Omega, TeacherSettings, mean_logits
from farzi.errors import DataError, SettingsError
from farzi.evaluation import evaluate
from farzi.experiments.opened import open_split
from farzi.experiments.rows import load_row
from farzi.models import SASRec, hidden_states, logits
from farzi.training import Batch, TrainSettings, train
from toy import SMALL, toy_data

OTHER = "sasrec:conv_size=2,width=12"


def with_teachers(**changes):
    return replace(SMALL, teachers=replace(SMALL.teachers, **changes))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    data = toy_data(tmp_path_factory.mktemp("toy"))
    folder = tmp_path_factory.mktemp("runs") / "run"
    distill(data, folder, with_teachers(student=OTHER))
    return data, folder


def test_teachers_of_another_kind_are_kept_with_their_kind(run):
    data, folder = run
    omega = Omega.load(folder / "teachers")
    student = plan_run(data, SMALL).student
    teacher = omega.student(student)
    assert (teacher.width, teacher.settings()["conv_size"]) == (12, 2)
    assert teacher.settings()["dropout"] == 0
    assert teacher.context_length == student.context_length
    assert set(omega.teachers()[0]) == set(teacher.init(torch.Generator()))


def test_the_labels_at_the_start_are_those_teachers_predictions(run, tmp_path):
    data, folder = run
    settings = with_teachers(student=OTHER).with_values({"latent_dim": 40})
    plan = plan_run(data, settings)
    omega = Omega.load(folder / "teachers")
    inputs = replace(plan.inputs, omega=omega)
    start = settings.start(inputs)
    rows = inputs.rows()
    positions = rows.tokens[:, : start.length]
    teacher = omega.student(plan.student)
    hidden, table = mean_logits(teacher, omega.teachers(), positions)
    torch.testing.assert_close(start.labels(), (hidden @ table.T).softmax(-1), rtol=1e-4, atol=1e-5)


def test_rows_and_the_ensemble_read_those_teachers(run):
    data, folder = run
    split = open_split(folder, data)
    teacher = split.build_teacher()
    assert teacher.settings()["width"] == 12
    assert split.build_student().settings()["width"] != 12
    one = load_row("teachers").build(replace(split, teachers=split.teachers[:1]), 0, 0)
    alone = evaluate(teacher, split.teachers[0], data, "test")
    assert one.scores().metrics["loss"] == pytest.approx(alone.metrics["loss"], rel=1e-5)
    sample = load_row("random-soft").build(split, 0, 0)
    batch = sample.batches(3, 0)(0)
    mean = sum(
        logits(teacher, each, hidden_states(teacher, each, batch.tokens)) for each in split.teachers
    )
    torch.testing.assert_close(
        batch.labels, (mean / len(split.teachers)).softmax(-1), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("objective", ["meta_matching", "trajectory_matching"])
def test_students_do_not_begin_from_weights_of_another_kind(tmp_path, objective):
    settings = with_teachers(student=OTHER).with_values({"objective": objective})
    if objective == "meta_matching":
        plan_run(toy_data(tmp_path), settings)  # its students begin with fresh weights
        settings = settings.with_values({"objective.from_teachers": 0.5})
    with pytest.raises(SettingsError, match=r"`teachers.student` must be empty where students"):
        plan_run(toy_data(tmp_path), settings)


@pytest.mark.parametrize("name", ["gru5rec", "hf:config.json", "mine.py:make", "sasrec:legs=4"])
def test_an_unknown_teacher_is_refused_before_anything_is_trained(tmp_path, name):
    with pytest.raises(SettingsError, match="legs" if "legs" in name else "`teachers.student`"):
        plan_run(toy_data(tmp_path), with_teachers(student=name))


def test_an_unknown_schedule_is_refused():
    with pytest.raises(SettingsError, match=r"`schedule` must be constant or linear, got .cosine"):
        TeacherSettings(schedule="cosine")
    with pytest.raises(ValueError, match="`schedule` must be constant or linear"):
        TrainSettings(schedule="cosine")


def test_runs_of_before_kinds_were_kept_are_of_the_students_kind(run, tmp_path):
    data, folder = run
    other = Omega.load(folder / "teachers")
    distill(data, tmp_path / "own", SMALL)
    student = plan_run(data, SMALL).student
    own = replace(Omega.load(tmp_path / "own/teachers"), settings={})
    assert own.student(student) is student
    with pytest.raises(DataError, match=r"run-00\.safetensors: `1/.*` is not what its student has"):
        replace(other, settings={}).student(student)


def test_a_linear_schedule_ends_at_nothing():
    """Adam's step on a constant gradient is the step size: their sum is that of the schedule."""

    def run(schedule, steps):
        student = SASRec(num_tokens=3, context_length=2, width=2)
        batch = Batch(torch.tensor([[0, 1, 2]]))
        seen = []

        class Batches:
            steps_per_epoch = 1

            def __call__(self, step):
                return batch

        settings = TrainSettings(
            lr=0.01, max_steps=steps, eval_every=1, patience=steps, schedule=schedule
        )
        train(
            student,
            Batches(),
            settings,
            lambda params: float(len(seen)),
            on_look=lambda step, params, loss: seen.append(params["embedding"].clone()),
        )
        return [float((b - a).abs().max()) for a, b in itertools.pairwise(seen)]

    falling, constant = run("linear", 10), run("constant", 10)
    # Early steps move along the gradient's sign by the step size: 9/10 of it at the second step.
    assert falling[0] / constant[0] == pytest.approx(0.9, abs=0.02)
    assert falling[-1] < 0.2 * constant[-1]
