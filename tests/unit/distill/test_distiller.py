"""The outer loop's gradient is the gradient of what it says it lowers."""

import functools

import pytest
import torch

from farzi.distill.distiller import _agreement
from farzi.metagrad import CompiledLoss
from toy import TINY, distiller


def test_ages_are_staggered_and_students_are_begun_anew(tmp_path):
    loop = distiller(tmp_path)
    state = loop.begin()
    assert [member.age for member in state.members] == [0, 3]
    state, record = loop.step(state)
    assert record["ages"] == [3]
    state, record = loop.step(state)
    assert record["ages"] == [6]
    assert state.members[1].age == 0
    assert state.num_begun == 3


def test_the_window_gradient_agrees_with_central_differences(tmp_path):
    loop = distiller(tmp_path)
    double = {name: block.double() for name, block in loop.start.factors().items()}
    synthetic = loop.start.with_factors(double)
    state = loop.begin()
    member = state.members[1]
    member = type(member)(
        {name: value.double() for name, value in member.params.items()},
        {key: {n: v.double() for n, v in values.items()} for key, values in member.state.items()},
        member.age,
        member.seed,
    )
    objective, problem = loop.settings.objective, loop.problem
    window = objective.window(problem, member, synthetic, 0)
    for name, gradient in window.gradients.items():
        direction = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(1)).double()
        step = 1e-5
        ahead, behind = (
            objective.window(
                problem,
                member,
                synthetic.with_factors({**double, name: double[name] + s * direction}),
                0,
            ).value
            for s in (step, -step)
        )
        numeric = (ahead - behind) / (2 * step)
        analytic = float((gradient * direction).sum())
        assert abs(analytic - numeric) <= 1e-5 * abs(numeric) + 1e-9, name
    assert window.value > 0


def test_agreement_is_the_mean_cosine_over_pairs_of_starts():
    gradients = [
        {"latent": torch.tensor([[3.0], [4.0]]), "decoder": torch.tensor([1.0, 0.0])},
        {"latent": torch.tensor([[4.0], [3.0]]), "decoder": torch.tensor([0.0, 2.0])},
        {"latent": torch.tensor([[-3.0], [-4.0]]), "decoder": torch.tensor([5.0, 0.0])},
    ]
    found = _agreement(gradients)
    assert found["latent"] == pytest.approx((24 / 25 - 1 - 24 / 25) / 3)
    assert found["decoder"] == pytest.approx((0 + 1 + 0) / 3)
    assert _agreement(gradients[:1]) == {}


def test_a_student_that_diverges_is_begun_anew(tmp_path):
    loop = distiller(tmp_path)
    state = loop.begin()
    broken = state.members[0]
    bad = {name: torch.full_like(value, torch.nan) for name, value in broken.params.items()}
    members = (type(broken)(bad, None, 0, broken.seed), state.members[1])
    state = type(state)(**{**state.__dict__, "members": members})
    before = state.synthetic
    state, record = loop.step(state)
    assert record["restarted"]
    assert "outer_loss" not in record
    assert all(bool(torch.isfinite(value).all()) for value in state.members[0].params.values())
    assert state.synthetic is before


@pytest.mark.parametrize("batch", [2, 4])  # mini-batches, and all rows at every step
def test_compiled_students_give_the_same_steps(tmp_path, monkeypatch, batch):
    quick = functools.partial(CompiledLoss, backend="aot_eager")
    monkeypatch.setattr("farzi.distill.problem.CompiledLoss", quick)
    settings = TINY.with_values({"inner.batch_size": batch})
    plain = distiller(tmp_path, settings)
    compiled = distiller(tmp_path, settings.with_values({"inner.compiled": True}))
    state, fast = plain.begin(), compiled.begin()
    for _ in range(3):
        (state, _), (fast, _) = plain.step(state), compiled.step(fast)
    assert len(compiled.problem._loss._programs) == 1
    for name, block in state.synthetic.factors().items():
        torch.testing.assert_close(fast.synthetic.factors()[name], block, rtol=1e-4, atol=1e-5)
