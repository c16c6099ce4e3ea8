"""How students train is chosen on validation, and everything after it trains so."""

import json
from dataclasses import replace

import pytest
import torch

from farzi.artifact import read_artifact
from farzi.distill import distill, routine
from farzi.distill.fresh import Fresh
from farzi.distill.routine import Routine, find_routine
from farzi.distill.settings import InnerSettings, RoutineSettings
from farzi.errors import NonFiniteError, SettingsError
from farzi.metagrad import SGD, Adam, AdamW, metagradient
from farzi.models import sequence_loss
from toy import SMALL, TINY, distiller, toy_data


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def found(monkeypatch, tmp_path, losses, settings, optimizer=None):
    """The routine where a student's loss and its best step hang on its setting alone."""
    tried = []

    def train_fresh(problem, synthetic, validation_sequences, steps, seed, **looks):
        hyper = problem.optimizer.hyper
        tried.append((hyper["lr"], hyper.get("weight_decay", 0.0)))
        loss = losses.get(tried[-1])
        if loss is None:
            raise NonFiniteError("diverged")
        return Fresh(loss, len(tried))

    monkeypatch.setattr(routine, "train_fresh", train_fresh)
    loop = distiller(tmp_path)
    problem = replace(loop.problem, optimizer=optimizer or Adam(lr=1.0, eps_root=1e-7))
    return find_routine(problem, loop.start, loop.validation_sequences, settings, 0), tried


def test_the_step_size_goes_up_while_that_helps(monkeypatch, tmp_path):
    losses = {(1.0, 0.0): 3.0, (2.0, 0.0): 2.0, (4.0, 0.0): 1.0, (8.0, 0.0): 1.5, (4.0, 0.05): 0.5}
    best, tried = found(monkeypatch, tmp_path, losses, RoutineSettings(tries=9))
    assert (best.lr, best.weight_decay, best.loss, best.steps) == (4.0, 0.05, 0.5, 5)
    assert tried == list(losses)
    assert [each["loss"] for each in best.tries] == list(losses.values())


def test_or_down_where_it_does_not_help_or_diverges(monkeypatch, tmp_path):
    losses = {(1.0, 0.0): 3.0, (0.5, 0.0): 2.0, (0.25, 0.0): 2.5, (0.5, 0.05): 2.1}
    best, tried = found(monkeypatch, tmp_path, losses, RoutineSettings(tries=9))
    assert (best.lr, best.weight_decay, best.steps) == (0.5, 0.0, 3)
    assert tried == [(1.0, 0.0), (2.0, 0.0), (0.5, 0.0), (0.25, 0.0), (0.5, 0.05)]
    assert best.tries[1] == {
        "lr": 2.0,
        "weight_decay": 0.0,
        "dropout": 0.0,
        "steps": 0,
        "loss": None,
    }


def test_no_more_is_tried_than_may_be(monkeypatch, tmp_path):
    losses = {(2.0**n, 0.0): 9.0 - n for n in range(9)}
    best, tried = found(monkeypatch, tmp_path, losses, RoutineSettings(tries=3))
    assert len(tried) == 3
    assert best.lr == 4.0
    with pytest.raises(NonFiniteError, match=r"every one of 3 settings; the largest .* was 2:"):
        found(monkeypatch, tmp_path, {}, RoutineSettings(tries=3))
    assert found(monkeypatch, tmp_path, losses, RoutineSettings(tries=0)) == (None, [])


def test_decay_is_tried_where_the_optimizer_has_it(monkeypatch, tmp_path):
    losses = {(1.0, 0.0): 3.0, (2.0, 0.0): 4.0, (0.5, 0.0): 4.0}
    for optimizer in (SGD(lr=1.0), SGD(lr=1.0, momentum=0.9)):
        _, tried = found(monkeypatch, tmp_path, losses, RoutineSettings(tries=9), optimizer)
        assert tried == list(losses)
    losses = {(lr, decay): loss for (lr, _), loss in losses.items() for decay in (0.1, 0.05)}
    optimizer = AdamW(lr=1.0, weight_decay=0.1)
    _, tried = found(monkeypatch, tmp_path, losses, RoutineSettings(tries=9), optimizer)
    assert tried == [(1.0, 0.1), (2.0, 0.1), (0.5, 0.1), (1.0, 0.05)]
    penalty = Adam(lr=1.0, weight_decay=0.1)  # an L2 penalty is not decoupled decay
    _, tried = found(monkeypatch, tmp_path, losses, RoutineSettings(tries=9), penalty)
    assert tried == [(1.0, 0.1), (2.0, 0.1), (0.5, 0.1)]


def test_inner_students_train_by_the_routine():
    inner = InnerSettings(steps=10, window=4, optimizer=Adam(lr=0.1, b1=0.8, eps_root=1e-6))
    chosen = Routine(0.2, 0.05, 97, 1.0)
    changed = chosen.inner(inner)
    assert changed.steps == 96
    assert changed.optimizer == AdamW(lr=0.2, b1=0.8, eps_root=1e-6, weight_decay=0.05)
    assert Routine(0.2, 0.0, 1, 1.0).inner(replace(inner, stride=7)).steps == 7
    assert Routine(0.2, 0.0, 97, 1.0).inner(inner).optimizer == replace(inner.optimizer, lr=0.2)
    assert Routine.from_json(json.loads(json.dumps(chosen.to_json()))) == chosen


SEARCHED = SMALL.with_values(
    {
        "routine.tries": 4,
        "routine.max_steps": 40,
        "inner.stride": 8,
        "inner.window_lr": 0.005,
        "start.tokens": "ids",
    }
)


def test_a_run_keeps_its_routine_and_names_it_in_the_recipe(tmp_path):
    data = toy_data(tmp_path)
    outcome = distill(data, tmp_path / "whole", SEARCHED)
    artifact = read_artifact(outcome.artifact)
    assert artifact.has_hard_tokens
    first = json.loads((tmp_path / "whole/metrics.jsonl").read_text().splitlines()[0])
    chosen = Routine.from_json(first["routine"])
    assert artifact.recipe["lr"] == chosen.lr
    assert artifact.recipe["weight_decay"] == chosen.weight_decay
    assert artifact.recipe["steps"] == chosen.inner(SEARCHED.inner).steps != SEARCHED.inner.steps
    assert chosen.loss == min(each["loss"] for each in chosen.tries)
    assert len({each["loss"] for each in chosen.tries}) == 4
    taken = []

    def note(stage, done, total, note):
        if stage == "outer steps":
            taken.append(done)

    distill(data, tmp_path / "parts", SEARCHED, report=note, should_stop=lambda: len(taken) >= 4)
    distill(data, tmp_path / "parts", SEARCHED, resume=True)
    assert files(tmp_path / "parts/artifact") == files(tmp_path / "whole/artifact")


def test_a_window_at_a_rate_of_its_own(tmp_path):
    """Its gradient is that of the slower window; the student goes on at its own rate beside it."""
    settings = TINY.with_values({"inner.window_lr": 0.004, "inner.stride": 5})
    loop = distiller(tmp_path, settings)
    problem, member = loop.problem, loop.begin().members[1]
    real = problem.real_batch(0)

    def outer_loss(params, meta):
        return sequence_loss(problem.student, params, real.tokens, mask=real.mask)

    window = problem.differentiate(member, loop.start, outer_loss)
    expected = metagradient(
        problem.inner_loss(member.seed),
        outer_loss,
        member.params,
        loop.start.factors(),
        steps=3,
        optimizer=replace(problem.optimizer, lr=0.004),
        state=member.state,
        first_step=member.age,
    )
    for name, gradient in expected.meta_grads.items():
        torch.testing.assert_close(window.gradients[name], gradient, rtol=1e-3, atol=1e-6)
        assert gradient.abs().max() > 1e-4
    beside = problem.advance(member, loop.start, 5)
    assert window.member.age == member.age + 5
    for name, value in beside.params.items():
        torch.testing.assert_close(window.member.params[name], value)


def test_a_stride_goes_on_after_the_window(tmp_path):
    loop = distiller(tmp_path, TINY.with_values({"inner.stride": 5}))
    member = loop.begin().members[0]
    window = loop.settings.objective.window(loop.problem, member, loop.start, 0)
    beside = loop.problem.advance(member, loop.start, 5)
    assert window.member.age == 5
    for name, value in beside.params.items():
        torch.testing.assert_close(window.member.params[name], value, rtol=1e-4, atol=1e-6)


def test_ids_and_tokens_that_are_certain_give_the_same_gradient(tmp_path):
    loop = distiller(tmp_path)
    few = loop.start
    ids = few.tokens().argmax(-1)
    certain = torch.eye(few.num_tokens)
    decoder = torch.cat([few.decoder, 60 * certain])
    wide = few.num_tokens
    labels = torch.nn.functional.pad(few.label_latent, (0, wide))
    soft = torch.cat([torch.zeros(*ids.shape, 3), certain[ids]], -1)
    gradients = []
    for tokens in (soft, ids):
        start = replace(few, latent=tokens, decoder=decoder, label_latent=labels)
        here = replace(loop, start=start)
        member = here.problem.fresh_member(0)
        gradients.append(here.settings.objective.window(here.problem, member, start, 0).gradients)
    assert set(gradients[1]) == {"decoder", "labels"}
    for name, gradient in gradients[1].items():  # in float32: to the rounding of the largest
        largest = float(gradient.abs().max())
        torch.testing.assert_close(gradient, gradients[0][name], rtol=0, atol=1e-6 * largest)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"routine.tries": -1}, r"`tries` must be >= 0, got -1"),
        ({"routine.lr_factor": 1.0}, r"`lr_factor` must be above 1"),
        ({"routine.decays": (-0.1,)}, r"`decays` must be 0 or more"),
        ({"inner.stride": 2}, r"`stride` must be 0, or at least `inner.window` = 4"),
        ({"inner.stride": 99}, r"`stride` must be at most `inner.steps` = 8"),
        ({"inner.window_lr": -1.0}, r"`window_lr` must be >= 0"),
    ],
)
def test_wrong_settings(changes, message):
    with pytest.raises(SettingsError, match=message):
        SMALL.with_values(changes)


def test_ids_need_labels(tmp_path):
    settings = SMALL.with_values({"labels": False, "start.tokens": "ids"})
    with pytest.raises(SettingsError, match=r"`start.tokens` must be soft where tokens are labels"):
        distill(toy_data(tmp_path), tmp_path / "run", settings)
