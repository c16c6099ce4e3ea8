"""Students of the outer loop that drop out: the gradient stays exact, runs stay repeatable."""

import dataclasses
import json
from dataclasses import replace

import pytest
import torch

from artifact_examples import toy_artifact
from farzi.api import plan_training
from farzi.artifact import read_artifact, recipe_dropout
from farzi.dataset import DistilledDataset
from farzi.distill import distill, routine
from farzi.distill.fresh import Fresh
from farzi.distill.routine import Routine, find_routine
from farzi.distill.settings import InnerSettings, RoutineSettings
from farzi.errors import ArtifactError, SettingsError
from farzi.experiments.store import named_by
from farzi.metagrad import SGD, Adam
from farzi.models import SASRec, from_module, sequence_loss
from toy import SMALL, TINY, distiller, toy_data

DROPPING = TINY.with_values({"inner.dropout": 0.3})


def in_float64(loop, settings):
    """The loop's problem with factors of float64."""
    start = loop.start
    doubled = {name: block.double() for name, block in start.factors().items()}
    settings = replace(
        settings, inner=replace(settings.inner, optimizer=Adam(lr=0.02, eps_root=1e-6))
    )
    return replace(loop, settings=settings, start=start.with_factors(doubled)).problem


@pytest.mark.parametrize("form", ["soft", "ids", "tokens alone", "factors"])
def test_its_gradient_is_that_of_central_differences(tmp_path, monkeypatch, form):
    if form == "factors":  # decoded at every step, as large ones are
        monkeypatch.setattr("farzi.distill.problem.MOST_DECODED", 0)
    loop = distiller(tmp_path, DROPPING)
    start = loop.start
    if form == "ids":
        start = replace(start, latent=start.tokens().argmax(-1))
    if form == "tokens alone":
        start = replace(start, label_latent=None)
    problem = in_float64(replace(loop, start=start), DROPPING)
    member = problem.advance(problem.fresh_member(0), problem.start, 2)
    real = problem.real_batch(0)

    def outer_loss(params, meta):
        return sequence_loss(problem.student, params, real.tokens, mask=real.mask)

    def value_at(factors):
        later = problem.advance(member, problem.start.with_factors(factors), problem.window)
        return float(outer_loss(later.params, {}))

    window = problem.differentiate(member, problem.start, outer_loss)
    factors = problem.start.factors()
    assert set(window.gradients) == set(factors)
    assert window.value == pytest.approx(value_at(factors), rel=1e-12)
    generator = torch.Generator().manual_seed(1)
    for name, block in factors.items():
        way = torch.randn(block.shape, generator=generator, dtype=block.dtype)
        way /= way.norm()
        step = 1e-5
        moved = [value_at(factors | {name: block + sign * step * way}) for sign in (1, -1)]
        slope = (moved[0] - moved[1]) / (2 * step)
        exact = float((window.gradients[name] * way).sum())
        assert abs(exact) > 1e-8
        assert exact == pytest.approx(slope, rel=1e-5, abs=1e-11)


def test_a_step_drops_the_same_whenever_it_is_made(tmp_path):
    problem = distiller(tmp_path, DROPPING).problem
    params, meta = problem.fresh_member(0).params, problem.start.factors()
    losses = [float(problem.inner_loss(seed)(params, meta, step)) for seed, step in [(0, 0)] * 2]
    others = [
        float(problem.inner_loss(seed)(params, meta, step)) for seed, step in [(1, 0), (0, 2)]
    ]
    assert losses[0] == losses[1]
    assert len({losses[0], *others}) == 3
    none = replace(problem, dropout=0.0)
    again = replace(problem, dropout=1e-9)
    assert float(none.inner_loss(0)(params, meta, 0)) == pytest.approx(
        float(again.inner_loss(0)(params, meta, 0)), rel=1e-5
    )


def test_fresh_students_drop_out_too(tmp_path):
    """Whether torch's Adam trains them or the engine's."""
    for optimizer in (Adam(lr=0.02, eps_root=1e-7), SGD(lr=0.5)):
        settings = TINY.with_values({"inner.optimizer": optimizer})
        loop = distiller(tmp_path, settings)
        dropping = replace(loop, settings=settings.with_values({"inner.dropout": 0.5}))
        losses = {each.fresh_loss(loop.start) for each in (loop, dropping, dropping)}
        assert len(losses) == 2


def test_a_run_goes_on_as_it_would_have_and_names_its_dropout(tmp_path):
    data = toy_data(tmp_path)
    settings = SMALL.with_values({"inner.dropout": 0.25})
    whole = read_artifact(distill(data, tmp_path / "whole", settings).artifact)
    taken = []

    def note(stage, done, total, note):
        if stage == "outer steps":
            taken.append(done)

    distill(data, tmp_path / "parts", settings, report=note, should_stop=lambda: len(taken) >= 3)
    parts = read_artifact(distill(data, tmp_path / "parts", settings, resume=True).artifact)
    for name, block in whole.synthetic.factors().items():
        assert torch.equal(block, parts.synthetic.factors()[name])
    plain = read_artifact(distill(data, tmp_path / "plain", SMALL).artifact)
    assert not torch.equal(plain.decoder, whole.decoder)
    assert (recipe_dropout(plain), recipe_dropout(whole)) == (0.0, 0.25)


def test_a_model_trained_on_it_drops_out_as_it_did(tmp_path):
    data = toy_data(tmp_path)
    artifact = distill(data, tmp_path / "run", SMALL.with_values({"inner.dropout": 0.25})).artifact
    source = DistilledDataset(read_artifact(artifact))
    assert plan_training(source, on=data).student.dropout == 0.25
    assert plan_training(source, on=data, dropout=0.0).student.dropout == 0.0


def test_the_routine_tries_dropout_last(monkeypatch, tmp_path):
    losses = {(1.0, 0.0, 0.0): 3.0, (2.0, 0.0, 0.0): 4.0, (0.5, 0.0, 0.0): 4.0}
    losses |= {(1.0, 0.05, 0.0): 2.0, (1.0, 0.05, 0.2): 1.0, (1.0, 0.05, 0.4): 1.5}
    tried = []

    def train_fresh(problem, synthetic, validation_sequences, steps, seed, **looks):
        hyper = problem.optimizer.hyper
        tried.append((hyper["lr"], hyper.get("weight_decay", 0.0), problem.dropout))
        return Fresh(losses[tried[-1]], len(tried))

    monkeypatch.setattr(routine, "train_fresh", train_fresh)
    loop = distiller(tmp_path)
    problem = replace(loop.problem, optimizer=Adam(lr=1.0))
    settings = RoutineSettings(tries=9, dropouts=(0.2, 0.4))
    best = find_routine(problem, loop.start, loop.validation_sequences, settings, 0)
    assert tried == list(losses)
    assert (best.lr, best.weight_decay, best.dropout, best.steps) == (1.0, 0.05, 0.2, 5)
    assert best.inner(InnerSettings(steps=10, window=5)).dropout == 0.2
    assert Routine.from_json(json.loads(json.dumps(best.to_json()))) == best


def test_a_run_trains_by_the_dropout_it_chose(tmp_path):
    settings = SMALL.with_values(
        {"routine.tries": 6, "routine.max_steps": 20, "routine.dropouts": (0.5,), "outer.steps": 0}
    )
    outcome = distill(toy_data(tmp_path), tmp_path / "run", settings)
    first = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[0])
    tries = first["routine"]["tries"]
    assert {each["dropout"] for each in tries} == {0.0, 0.5}
    lowest = min(tries, key=lambda each: each["loss"])
    assert recipe_dropout(read_artifact(outcome.artifact)) == lowest["dropout"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inner.dropout": 1.0}, r"`dropout` must be in \[0, 1\), got 1.0"),
        ({"inner.dropout": -0.1}, r"`dropout` must be in \[0, 1\), got -0.1"),
        ({"inner.dropout": 0.1, "inner.compiled": True}, r"`dropout` must be 0 with `inner.comp"),
        ({"routine.dropouts": (1.0,)}, r"`dropouts` must be in \[0, 1\)"),
    ],
)
def test_wrong_settings(changes, message):
    with pytest.raises(SettingsError, match=message):
        SMALL.with_values(changes)


@dataclasses.dataclass(frozen=True)
class WithoutDropout:
    """A student of one's own that knows of no dropout."""

    inner: SASRec

    def __getattr__(self, name):
        return getattr(self.inner, name)


def test_students_without_dropout_are_refused_before_anything_is_made(tmp_path):
    data = toy_data(tmp_path)
    student = WithoutDropout(SASRec(data.vocabulary.size, 8, width=8))
    for changes in ({"inner.dropout": 0.2}, {"routine.tries": 2, "routine.dropouts": (0.2,)}):
        with pytest.raises(SettingsError, match=r"must be 0 for this student: WithoutDropout has"):
            distill(data, tmp_path / "run", SMALL.with_values(changes), student=student)
    assert not (tmp_path / "run").exists()
    compiled = {"inner.compiled": True, "routine.tries": 2, "routine.dropouts": (0.2,)}
    with pytest.raises(SettingsError, match=r"`routine.dropouts` must be empty with"):
        distill(data, tmp_path / "run", SMALL.with_values(compiled))


def test_a_recipe_of_before_has_no_dropout_and_a_wrong_one_is_refused():
    assert recipe_dropout(toy_artifact(recipe={})) == 0.0
    for wrong, message in [("much", "must be float, got str"), (1.5, r"must be below 1, got 1.5")]:
        with pytest.raises(ArtifactError, match=rf"`recipe.dropout` {message}"):
            recipe_dropout(toy_artifact(recipe={"dropout": wrong}))


def test_results_of_before_keep_their_names():
    settings = TINY.as_dict()
    now = named_by(settings)
    assert "dropout" not in now["inner"]
    assert "dropouts" not in now["routine"]
    assert now["teachers"]["dropout"] == settings["teachers"]["dropout"]
    assert named_by(DROPPING.as_dict())["inner"]["dropout"] == 0.3


def make_module(num_tokens):
    """A small torch module with dropout, that is a student once `from_module` has looked at it."""
    return torch.nn.Sequential(
        torch.nn.Embedding(num_tokens, 8),
        torch.nn.Dropout(0.1),
        torch.nn.Linear(8, 8),
        torch.nn.Tanh(),
        torch.nn.Linear(8, num_tokens),
    )


def test_modules_of_ones_own_drop_out_exactly_too(tmp_path):
    loop = distiller(tmp_path, DROPPING)
    student = from_module(make_module(loop.student.num_tokens), 6)
    problem = in_float64(replace(loop, student=student), DROPPING)
    assert problem.learner.dropout == 0.3
    member = problem.fresh_member(0)

    def outer_loss(params, meta):
        return sum(value.square().sum() for value in params.values())

    def value_at(decoder):
        synthetic = problem.start.with_factors({**problem.start.factors(), "decoder": decoder})
        return float(outer_loss(problem.advance(member, synthetic, 3).params, {}))

    window = problem.differentiate(member, problem.start, outer_loss)
    decoder = problem.start.decoder
    way = torch.randn(
        decoder.shape, generator=torch.Generator().manual_seed(1), dtype=decoder.dtype
    )
    moved = [value_at(decoder + sign * 1e-5 * way) for sign in (1, -1)]
    exact = float((window.gradients["decoder"] * way).sum())
    assert exact == pytest.approx((moved[0] - moved[1]) / 2e-5, rel=1e-5)
    assert window.value != float(
        outer_loss(replace(problem, dropout=0.0).advance(member, problem.start, 3).params, {})
    )
