"""Every objective's gradient is the gradient of its value, in float64."""

import functools
from dataclasses import replace

import pytest
import torch

from farzi.data.sequences import Sequences
from farzi.distill.objectives import OBJECTIVES
from farzi.distill.objectives.gradient_matching import GradientMatching, _dealt
from farzi.distill.objectives.meta_matching import MetaMatching
from farzi.distill.objectives.random_matching import RandomMatching
from farzi.distill.problem import Problem, decoded
from farzi.distill.starts.random import random_start
from farzi.distill.teachers import TeacherSettings, teacher_runs
from farzi.errors import DataError
from farzi.metagrad import SGD, Adam, Checkpointed, Stored
from farzi.models import SASRec, sequence_loss

LOG = Sequences.from_lists([[(s + i) % 7 for i in range(6 + s % 3)] for s in range(12)])
STUDENT = SASRec(num_tokens=7, context_length=5, width=4)


@pytest.fixture(scope="module")
def omega(tmp_path_factory):
    settings = TeacherSettings(num_runs=2, max_epochs=3, batch_size=4)
    return teacher_runs(STUDENT, LOG, LOG, settings, tmp_path_factory.mktemp("omega"))


def problem_for(omega=None, dtype=torch.float64, labels=True, **kwargs):
    start = random_start(4, 5 if labels else 6, 3, 7, labels=labels, seed=0)
    start = start.with_factors({name: x.to(dtype) for name, x in start.factors().items()})
    values = {
        "student": STUDENT,
        "optimizer": Adam(lr=0.02, eps_root=1e-7),
        "adjoint": Stored(),
        "start": start,
        "train_sequences": LOG,
        "window": 4,
        "inner_batch": 3,
        "outer_batch": 6,
        "seed": 0,
        "omega": omega,
    }
    return Problem(**{**values, **kwargs})


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_gradients_agree_with_central_differences(omega, name, labels):
    # Gradient matching takes the weights along a run as they are: one step of it is a function.
    size = 1 if name == "gradient_matching" else 4
    objective, problem = OBJECTIVES[name](), problem_for(omega, labels=labels, window=size)
    member = objective.begin(problem, 5)
    if objective.goes_on:
        member = problem.advance(member, problem.start, 2)
    factors = problem.start.factors()
    evaluate = functools.partial(objective.window, problem, member)
    window = evaluate(problem.start, 1)
    assert window.member.age == member.age + size
    for block, gradient in window.gradients.items():
        direction = torch.randn(
            gradient.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
        )
        step = 2e-5
        near, back, far, far_back = (
            evaluate(
                problem.start.with_factors({**factors, block: factors[block] + d * direction}), 1
            ).value
            for d in (step, -step, 2 * step, -2 * step)
        )
        # Of fourth order: the loss bends too much for two points.
        numeric = (8 * (near - back) - (far - far_back)) / (12 * step)
        analytic = float((gradient * direction).sum())
        assert abs(numeric) > 1e-6, block
        assert abs(analytic - numeric) <= 1e-5 * abs(numeric) + 1e-9, block


def test_gradient_matching_is_plain_autograd_of_its_equation():
    problem = problem_for(window=1, inner_batch=4)
    member = problem.fresh_member(0)
    batch = problem.real_batch(3)
    factors = {name: x.clone().requires_grad_() for name, x in problem.start.factors().items()}
    soft = decoded(problem.start.with_factors(factors))
    params = {name: w.clone().requires_grad_() for name, w in member.params.items()}
    real = torch.autograd.grad(
        sequence_loss(STUDENT, params, batch.tokens, mask=batch.mask), list(params.values())
    )
    ours = torch.autograd.grad(
        sequence_loss(STUDENT, params, soft["tokens"], labels=soft["labels"]),
        list(params.values()),
        create_graph=True,
    )
    distance = sum(
        1 - torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0)
        for a, b in zip(ours, real, strict=True)
    )
    expected = torch.autograd.grad(distance, list(factors.values()))
    window = GradientMatching().window(problem, member, problem.start, 3)
    assert window.value == pytest.approx(float(distance.detach()), rel=1e-9)
    for name, gradient in zip(factors, expected, strict=True):
        torch.testing.assert_close(window.gradients[name], gradient, rtol=1e-7, atol=1e-12)


def test_a_window_of_gradient_matching_is_the_mean_of_its_steps():
    # Of one real sequence, which every step reads.
    long, short = (problem_for(window=size, outer_batch=1) for size in (3, 1))
    whole = GradientMatching().window(long, long.fresh_member(0), long.start, 2)
    member, steps = short.fresh_member(0), []
    for _ in range(3):
        steps.append(GradientMatching().window(short, member, short.start, 2))
        member = steps[-1].member
    assert whole.value == pytest.approx(sum(step.value for step in steps) / 3, rel=1e-12)
    for name, gradient in whole.gradients.items():
        mean = torch.stack([step.gradients[name] for step in steps]).mean(0)
        torch.testing.assert_close(gradient, mean, rtol=1e-10, atol=1e-15)
    for name, weights in whole.member.params.items():
        assert torch.equal(weights, member.params[name])


def test_a_window_of_gradient_matching_reads_every_real_sequence_once():
    batch = problem_for(outer_batch=7).real_batch(0)
    parts = [_dealt(batch, place, 3).tokens for place in range(3)]
    assert sorted(map(len, parts)) == [2, 2, 3]
    rows = sorted(torch.cat(parts).tolist())
    assert rows == sorted(batch.tokens.tolist())


def test_kernels_give_gradient_matching_the_same_gradient():
    exact, quick = (problem_for(dtype=dtype) for dtype in (torch.float64, torch.float32))
    windows = [
        GradientMatching().window(problem, problem.fresh_member(0), problem.start, 0)
        for problem in (exact, quick)
    ]
    assert windows[1].value == pytest.approx(windows[0].value, rel=1e-4)
    for name, gradient in windows[0].gradients.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(
            windows[1].gradients[name].double(), gradient, rtol=0, atol=1e-3 * scale
        )


def test_random_matching_is_meta_matching_without_teachers(omega):
    problem = problem_for(omega)
    windows = [
        objective.window(problem, objective.begin(problem, 2), problem.start, 0)
        for objective in (RandomMatching(), MetaMatching(from_teachers=0.0))
    ]
    assert windows[0].value == windows[1].value
    teachers = MetaMatching(from_teachers=1.0)
    assert teachers.needs_teachers
    begun = teachers.begin(problem, 2).params["embedding"]
    stored = [omega.weights(run, epoch)["embedding"] for run in (0, 1) for epoch in (1, 2, 3)]
    assert any(torch.equal(begun, weights.double()) for weights in stored)
    assert not torch.equal(begun, problem.fresh_member(2).params["embedding"])


def test_trajectory_matching_is_one_where_nothing_moves_and_zero_on_arrival(omega):
    from farzi.distill.objectives.trajectory_matching import TrajectoryMatching

    still = problem_for(omega, optimizer=SGD(lr=1e-12), window=1)
    objective = TrajectoryMatching(epochs=1, last_start=1)
    member = objective.begin(still, 0)
    window = objective.window(still, member, still.start, 0)
    assert window.value == pytest.approx(1.0, abs=1e-9)
    arrived = [omega.weights(run, 2) for run in (0, 1)]
    members = [replace(member, params=still.on_device(weights)) for weights in arrived]
    values = [objective.window(still, there, still.start, 0).value for there in members]
    assert min(values) == pytest.approx(0.0, abs=1e-9)


def test_trajectory_matching_needs_runs_that_are_long_enough(omega):
    from farzi.distill.objectives.trajectory_matching import TrajectoryMatching

    with pytest.raises(DataError, match=r"lower objective\.epochs"):
        TrajectoryMatching(epochs=3).begin(problem_for(omega), 0)
    with pytest.raises(DataError, match="there are none"):
        TrajectoryMatching().begin(problem_for(), 0)


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_any_inner_optimiser_and_adjoint(omega, name):
    problem = problem_for(omega, optimizer=SGD(lr=0.5, momentum=0.9), adjoint=Checkpointed(slots=2))
    objective = OBJECTIVES[name]()
    member = objective.begin(problem, 1)
    window = objective.window(problem, member, problem.start, 0)
    assert set(window.member.state) == {"velocity"}
    again = objective.window(
        replace(problem, adjoint=Stored()), objective.begin(problem, 1), problem.start, 0
    )
    for block, gradient in window.gradients.items():
        torch.testing.assert_close(gradient, again.gradients[block], rtol=1e-9, atol=1e-15)
