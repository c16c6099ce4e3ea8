"""What changes gradients before the optimiser sees them, against autograd over plain operations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from farzi.errors import NotReversibleError, StochasticLossError
from farzi.metagrad import (
    SGD,
    Adam,
    AdamW,
    Auto,
    Checkpointed,
    CompiledLoss,
    Direct,
    Reversible,
    RMSprop,
    Stored,
    estimate,
    init_state,
    metagradient,
    smoothness,
    unroll,
    update,
)

Tensors = dict[str, Tensor]
STEPS = 12
FLOAT = [Direct(), Stored(), Stored(graphs=True), Checkpointed(slots=3), Auto()]
FIXED = [Stored(arithmetic="fixed"), Checkpointed(slots=3, arithmetic="fixed"), Reversible()]


def cosine(step: int) -> float:
    return 0.02 * (1 + math.cos(math.pi * step / STEPS))


RATES = {"hidden": 0.02, "*": 0.05}
DECAYS = {"bias": 0.0, "*": 0.3}
CASES: dict[str, dict[str, Any]] = {
    "a clipped norm": {"lr": 0.02, "weight_decay": 0.1, "clip_norm": 0.3},
    "a scheduled bound": {
        "lr": 0.02,
        "weight_decay": 0.1,
        "clip_norm": torch.linspace(0.2, 1.5, STEPS, dtype=torch.float64),
    },
    "groups": {"lr": RATES, "weight_decay": DECAYS},
    "groups with schedules": {
        "lr": {"hidden": cosine, "o*": torch.linspace(0.01, 0.03, STEPS).double(), "bias": 0.05},
        "weight_decay": DECAYS,
    },
    "a function of the step": {"lr": cosine, "weight_decay": lambda step: 0.1 / (1 + step)},
    "micro-batches": {"lr": 0.02, "weight_decay": 0.1, "micro_batches": 3},
    "all together": {
        "lr": {"hidden": cosine, "*": 0.03},
        "weight_decay": DECAYS,
        "clip_norm": 0.25,
        "micro_batches": 2,
    },
}


def part_loss(toy: Any) -> Callable[..., Tensor]:
    """The inner loss, which takes other points for each part of a step."""

    def inner(params: Tensors, meta: Tensors, step: int, part: int = 0) -> Tensor:
        loss: Tensor = toy.inner(params, meta, step + 2 * part)
        return loss * (1 + 0.1 * part)

    return inner


def split(case: Mapping[str, Any]) -> tuple[AdamW, dict[str, Any]]:
    own = {name: case[name] for name in ("lr", "weight_decay")}
    more = {name: value for name, value in case.items() if name not in own}
    return AdamW(eps_root=1e-6, **own), more


def run(toy: Any, case: Mapping[str, Any], adjoint: Any, **others: Any) -> Any:
    optimizer, more = split(case)
    arguments = (part_loss(toy), toy.outer, toy.params, toy.meta)
    return metagradient(
        *arguments, steps=STEPS, optimizer=optimizer, adjoint=adjoint, **more, **others
    )


def leaf(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: leaf(one) for key, one in value.items()}
    if callable(value):
        value = [value(step) for step in range(STEPS)]
    return torch.as_tensor(value, dtype=torch.float64).clone().requires_grad_()


def at(leaves: Any, tensor: str, step: int) -> Any:
    """What `tensor` reads of a hyper-parameter's leaves at a step."""
    if isinstance(leaves, dict):
        key = next(k for k in leaves if k in (tensor, "*") or tensor.startswith(k.rstrip("*")))
        return at(leaves[key], tensor, step)
    return leaves[step] if leaves.ndim else leaves


def reference(toy: Any, case: Mapping[str, Any]) -> dict[str, Any]:
    """AdamW written out for each tensor, differentiated by autograd in float64."""
    hyper = {name: leaf(value) for name, value in case.items() if name != "micro_batches"}
    parts = case.get("micro_batches", 1)
    start = {name: x.clone().requires_grad_() for name, x in toy.params.items()}
    meta = {name: x.clone().requires_grad_() for name, x in toy.meta.items()}
    params = dict(start)
    m = {name: torch.zeros_like(x) for name, x in params.items()}
    v = {name: torch.zeros_like(x) for name, x in params.items()}
    for i in range(STEPS):
        losses = [part_loss(toy)(params, meta, i, part) for part in range(parts)]
        loss = torch.stack(losses).mean()
        grads = dict(
            zip(params, torch.autograd.grad(loss, params.values(), create_graph=True), strict=True)
        )
        if "clip_norm" in hyper:
            norm = torch.cat([g.reshape(-1) for g in grads.values()]).norm()
            scale = (at(hyper["clip_norm"], "", i) / (norm + 1e-6)).clamp(max=1.0)
            grads = {name: g * scale for name, g in grads.items()}
        for name, g in grads.items():
            lr, decay = at(hyper["lr"], name, i), at(hyper["weight_decay"], name, i)
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.999 * v[name] + 0.001 * g.square()
            root = (v[name] / (1 - 0.999 ** (i + 1)) + 1e-6).sqrt()
            delta = lr * m[name] / (1 - 0.9 ** (i + 1)) / (root + 1e-8)
            params[name] = params[name] * (1 - lr * decay) - delta
    value = toy.outer(params, meta)
    flat = {
        **{f"param {k}": x for k, x in start.items()},
        **{f"meta {k}": x for k, x in meta.items()},
        **flattened(hyper),
    }
    grads = torch.autograd.grad(value, list(flat.values()))
    return {"value": value, "params": params, **dict(zip(flat, grads, strict=True))}


def flattened(hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    flat = {}
    for name, value in hyper.items():
        if isinstance(value, Mapping):
            flat |= {f"{name} {key}": one for key, one in value.items()}
        else:
            flat[name] = value
    return flat


def assert_close(result: Any, expected: Mapping[str, Any], tolerance: float) -> None:
    own = {
        **{f"param {k}": x for k, x in result.param_grads.items()},
        **{f"meta {k}": x for k, x in result.meta_grads.items()},
        **{
            name: x
            for name, x in flattened(result.hyper_grads).items()
            if name in expected or name.startswith("clip")
        },
    }
    assert set(own) == set(expected) - {"value", "params"}
    for name, gradient in own.items():
        size = float(expected[name].norm())
        assert size > 1e-6, name
        error = float((gradient.double() - expected[name]).norm()) / size
        assert error < tolerance, (name, error)


@pytest.mark.parametrize("case", CASES)
def test_float_adjoints_equal_autograd(case: str, toy: Callable[..., Any]) -> None:
    problem = toy()
    expected = reference(problem, CASES[case])
    for adjoint in FLOAT:
        result = run(problem, CASES[case], adjoint)
        assert_close(result, expected, 1e-9)
        torch.testing.assert_close(result.final_params, expected["params"], rtol=1e-11, atol=1e-12)
        assert list(result.final_params) == list(problem.params)


@pytest.mark.parametrize("case", CASES)
def test_fixed_point_adjoints_equal_their_reference(case: str, toy: Callable[..., Any]) -> None:
    problem = toy()
    direct = run(problem, CASES[case], Direct(arithmetic="fixed"))
    gradients = {
        **{f"param {k}": x for k, x in direct.param_grads.items()},
        **{f"meta {k}": x for k, x in direct.meta_grads.items()},
        **{k: x for k, x in flattened(direct.hyper_grads).items() if k[:2] in ("lr", "we", "cl")},
    }
    for adjoint in FIXED:
        result = run(problem, CASES[case], adjoint)
        assert torch.equal(result.value, direct.value)
        assert_close(result, gradients, 1e-9)
    assert_close(direct, reference(problem, CASES[case]), 1e-5)  # rounding, not the adjoint


@pytest.mark.parametrize("window", [None, 5])
def test_stored_and_checkpointed_are_equal_bit_for_bit(
    window: int | None, toy: Callable[..., Any]
) -> None:
    one, other = (
        run(toy(), CASES["all together"], adjoint, window=window)
        for adjoint in (Stored(), Checkpointed(slots=2))
    )
    for kind in ("meta_grads", "param_grads", "final_params"):
        for name, x in getattr(one, kind).items():
            assert torch.equal(getattr(other, kind)[name], x)
    assert torch.equal(one.hyper_grads["clip_norm"], other.hyper_grads["clip_norm"])


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(lr={"hidden": 0.1, "*": 0.05}, momentum={"bias": 0.7, "*": 0.8}),
        RMSprop(lr={"hidden": 0.003, "*": 0.001}, eps_root=1e-4, momentum=0.8),
        Adam(lr=0.02, b1={"out": 0.8, "*": 0.9}, eps_root={"out": 1e-5, "*": 1e-6}),
    ],
    ids=lambda optimizer: type(optimizer).__name__,
)
def test_other_optimisers_and_hyper_parameters(
    optimizer: Any, toy: Callable[..., Any], relative_error: Callable[..., float]
) -> None:
    problem = toy()

    def called(adjoint: Any) -> Any:
        arguments = (problem.inner, problem.outer, problem.params, problem.meta)
        return metagradient(
            *arguments, steps=STEPS, optimizer=optimizer, adjoint=adjoint, clip_norm=0.5
        )

    kinds = ("meta_grads", "param_grads")
    for reference_, others in ((Direct(), FLOAT[1:]), (Direct(arithmetic="fixed"), FIXED)):
        direct = called(reference_)
        for adjoint in others:
            result = called(adjoint)
            assert relative_error(result, direct, kinds) < 1e-9
            for name, gradient in flattened(direct.hyper_grads).items():
                mine = flattened(result.hyper_grads)[name]
                torch.testing.assert_close(mine, gradient, rtol=1e-8, atol=1e-14)


def test_several_starts_are_clipped_each_by_its_own_norm(toy: Callable[..., Any]) -> None:
    problem = toy()
    starts = [{k: scale * x for k, x in problem.params.items()} for scale in (1.0, 0.3, 2.0)]
    stacked = {k: torch.stack([start[k] for start in starts]) for k in problem.params}
    optimizer = AdamW(lr={"hidden": 0.02, "*": 0.05}, eps_root=1e-6)
    shared: dict[str, Any] = {"steps": STEPS, "optimizer": optimizer, "clip_norm": 0.5}
    for adjoint in (Stored(), Direct(), Reversible()):
        together = metagradient(
            problem.inner,
            problem.outer,
            stacked,
            problem.meta,
            batched=True,
            adjoint=adjoint,
            **shared,
        )
        total = 0.0
        for n, start in enumerate(starts):
            alone = metagradient(
                problem.inner, problem.outer, start, problem.meta, adjoint=adjoint, **shared
            )
            for name, gradient in alone.meta_grads.items():
                tolerance = {"rtol": 1e-9, "atol": 1e-11}
                if adjoint == Reversible():  # the starts share their scales: another rounding
                    tolerance = {"rtol": 1e-6, "atol": 1e-8}
                torch.testing.assert_close(together.meta_grads[name][n], gradient, **tolerance)
            total += float(alone.hyper_grads["clip_norm"])
        assert float(together.hyper_grads["clip_norm"]) == pytest.approx(total, rel=1e-6)


def test_training_equals_torch(toy: Callable[..., Any]) -> None:
    problem = toy()
    theirs = {name: x.clone().requires_grad_() for name, x in problem.params.items()}
    groups = [
        {"params": [theirs["hidden"], theirs["out"]], "weight_decay": 0.3},
        {"params": [theirs["bias"]], "weight_decay": 0.0},
    ]
    torch_optimizer = torch.optim.AdamW(groups, lr=0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(torch_optimizer, lambda step: 0.9**step)
    for step in range(STEPS):
        torch_optimizer.zero_grad()
        for part in range(2):
            (part_loss(problem)(theirs, problem.meta, step, part) / 2).backward()
        torch.nn.utils.clip_grad_norm_(list(theirs.values()), 0.4)
        torch_optimizer.step()
        schedule.step()
    optimizer = AdamW(lr=lambda step: 0.02 * 0.9**step, weight_decay={"bias": 0.0, "*": 0.3})
    trained, state = unroll(
        part_loss(problem),
        problem.params,
        problem.meta,
        steps=STEPS,
        optimizer=optimizer,
        clip_norm=0.4,
        micro_batches=2,
    )
    for name, x in theirs.items():
        torch.testing.assert_close(trained[name], x.detach(), rtol=1e-11, atol=1e-13)
    params, mine = dict(problem.params), init_state(optimizer, problem.params)
    for step in range(STEPS):
        leaves = {name: x.clone().requires_grad_() for name, x in params.items()}
        loss = sum(part_loss(problem)(leaves, problem.meta, step, part) / 2 for part in range(2))
        grads = dict(zip(leaves, torch.autograd.grad(loss, leaves.values()), strict=True))
        params, mine = update(optimizer, params, grads, mine, step + 1, clip_norm=0.4)
    torch.testing.assert_close(params, trained, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(mine, state, rtol=1e-11, atol=1e-13)


def test_two_calls_equal_one_long_one(toy: Callable[..., Any]) -> None:
    problem = toy()
    optimizer, more = split({**CASES["all together"], "clip_norm": lambda step: 0.2 + 0.01 * step})
    shared: dict[str, Any] = {"optimizer": optimizer, **more}
    arguments = (part_loss(problem), problem.outer)
    long = metagradient(*arguments, problem.params, problem.meta, steps=STEPS, **shared)
    half, state = unroll(part_loss(problem), problem.params, problem.meta, steps=5, **shared)
    rest = metagradient(
        *arguments, half, problem.meta, steps=STEPS - 5, first_step=5, state=state, **shared
    )
    for name, x in long.final_params.items():
        assert torch.equal(rest.final_params[name], x)
    clip = long.hyper_grads["clip_norm"]
    assert clip.shape == (STEPS,)
    torch.testing.assert_close(rest.hyper_grads["clip_norm"], clip[5:], rtol=1e-12, atol=1e-14)


def test_a_bound_that_is_never_reached_changes_nothing(toy: Callable[..., Any]) -> None:
    for adjoint in (Stored(), Reversible()):
        plain = run(toy(), {"lr": 0.02, "weight_decay": 0.1}, adjoint)
        loose = run(toy(), {"lr": 0.02, "weight_decay": 0.1, "clip_norm": 1e6}, adjoint)
        assert float(loose.hyper_grads["clip_norm"]) == 0.0
        for name, x in plain.meta_grads.items():
            assert torch.equal(loose.meta_grads[name], x)


def test_a_compiled_loss_in_micro_batches(toy: Callable[..., Any]) -> None:
    problem = toy()

    def loss(params: Tensors, meta: Tensors, inputs: Tensors) -> Tensor:
        predicted = problem.predict(params, meta["points"][inputs["rows"]])
        return (predicted - meta["targets"][inputs["rows"]]).square().mean()

    def rows(step: int, part: int) -> Tensors:
        return {"rows": torch.arange(3) + (step + part) % 3}

    def inner(params: Tensors, meta: Tensors, step: int, part: int) -> Tensor:
        return loss(params, meta, rows(step, part))

    one, other = (
        metagradient(
            chosen,
            problem.outer,
            problem.params,
            problem.meta,
            steps=4,
            optimizer=Adam(lr=0.02, eps_root=1e-6),
            micro_batches=2,
            clip_norm=0.5,
        )
        for chosen in (inner, CompiledLoss(loss, rows, backend="eager"))
    )
    torch.testing.assert_close(one.meta_grads, other.meta_grads, rtol=1e-10, atol=1e-12)


def test_dropout_differs_between_the_parts_of_a_step(toy: Callable[..., Any]) -> None:
    problem = toy()

    def inner(params: Tensors, meta: Tensors, step: int, part: int) -> Tensor:
        kept = torch.nn.functional.dropout(meta["points"], 0.5)
        return problem.inner(params, {**meta, "points": kept}, step)

    def called(adjoint: Any, seed: int | None) -> Any:
        arguments = (inner, problem.outer, problem.params, problem.meta)
        return metagradient(
            *arguments,
            steps=4,
            optimizer=Adam(lr=0.02, eps_root=1e-6),
            micro_batches=2,
            adjoint=adjoint,
            seed=seed,
        )

    direct = called(Direct(), 3)
    for adjoint in (Stored(), Checkpointed(slots=2)):
        torch.testing.assert_close(called(adjoint, 3).meta_grads, direct.meta_grads)
    with pytest.raises(StochasticLossError):
        called(Stored(), None)


def test_estimate_and_smoothness_take_the_same(toy: Callable[..., Any]) -> None:
    problem = toy()
    optimizer, more = split(CASES["groups with schedules"] | {"clip_norm": 0.3, "micro_batches": 2})
    arguments = (part_loss(problem), problem.outer)
    shared: dict[str, Any] = {"steps": STEPS, "optimizer": optimizer, **more}
    told = estimate(
        *arguments, problem.params, problem.meta, adjoint=Checkpointed(slots=3), **shared
    )
    taken = metagradient(
        *arguments, problem.params, problem.meta, adjoint=Checkpointed(slots=3), **shared
    )
    assert told.recomputed_steps == taken.stats.recomputed_steps
    runs = smoothness(*arguments, [problem.params], problem.meta, **shared)
    assert {one.change for one in runs} >= {"as asked", "lr / 2", "eps_root x10"}
    assert runs[0].value != runs[3].value


def test_a_decay_that_cannot_be_undone_in_one_group(toy: Callable[..., Any]) -> None:
    problem = toy()
    with pytest.raises(NotReversibleError, match="velocity"):
        metagradient(
            problem.inner,
            problem.outer,
            problem.params,
            problem.meta,
            steps=2,
            optimizer=SGD(lr=0.1, momentum={"bias": 0.5, "*": 0.9}),
            adjoint=Reversible(),
        )


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"optimizer": Adam(lr={"hidden": 0.1})}, "`lr` has no value for the tensor `bias`"),
        (
            {"optimizer": Adam(lr={"*": 0.1, "head": 0.2})},
            r"`lr\['head'\]` is for no tensor",
        ),
        ({"optimizer": Adam(lr={"*": "fast"})}, r"`lr\['\*'\]` must be a float"),
        ({"optimizer": Adam(lr=lambda step: "fast")}, "`lr` must return a float for every step"),
        ({"optimizer": Adam(lr=lambda step: float("nan"))}, "`lr` must be finite"),
        ({"clip_norm": 0.0}, "`clip_norm` must be above 0"),
        ({"clip_norm": {"*": 1.0}}, "`clip_norm` bounds the norm of all gradients"),
        ({"micro_batches": 0}, "`micro_batches` must be an int >= 1"),
    ],
)
def test_bad_arguments(settings: Any, says: str, toy: Callable[..., Any]) -> None:
    problem = toy()
    with pytest.raises(ValueError, match=says):
        metagradient(
            problem.inner,
            problem.outer,
            problem.params,
            problem.meta,
            **{"steps": 2, "optimizer": Adam(), **settings},
        )
