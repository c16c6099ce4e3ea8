"""Rung 4: `Checkpointed` equal to `Stored` bit for bit, in the optimal number of steps."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from farzi.metagrad import Adam, Checkpointed, Stored, metagradient
from farzi.metagrad.adjoints.checkpointed import fewest_slots, forward_steps, schedule


def run(problem: Any, **settings: Any) -> Any:
    settings = {"optimizer": Adam(lr=0.02, eps_root=1e-6), **settings}
    return metagradient(problem.inner, problem.outer, problem.params, problem.meta, **settings)


@functools.cache
def least_steps(length: int, slots: int) -> int:
    """Dynamic programme: steps taken to reverse `length` steps with `slots` states."""
    if length == 1:
        return 0
    if slots == 1:
        return length * (length - 1) // 2
    return min(
        k + least_steps(length - k, slots - 1) + least_steps(k, slots) for k in range(1, length)
    )


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("length", [1, 2, 3, 7, 16, 33, 60])
def test_schedule_is_legal_and_optimal(length: int, slots: int) -> None:
    kept: set[int] = set()
    at, reversed_, advances, most = 0, [], 0, 0
    for verb, k in schedule(length, slots):
        if verb == "store":
            assert k == at
            kept.add(k)
        elif verb == "load":
            assert k in kept
            at = k
        elif verb == "drop":
            kept.remove(k)
        elif verb == "advance":
            assert k == at
            at += 1
            advances += 1
        else:
            assert k == at
            reversed_.append(k)
        most = max(most, len(kept))
    assert reversed_ == list(reversed(range(length)))
    assert not kept
    assert most <= slots
    assert advances == forward_steps(length, slots) == least_steps(length, slots)


def test_200_steps_with_8_slots_take_580() -> None:
    assert forward_steps(200, 8) == 580
    assert sum(verb == "advance" for verb, _ in schedule(200, 8)) == 580


def test_long_schedules_stay_optimal() -> None:
    assert sum(verb == "advance" for verb, _ in schedule(3000, 12)) == forward_steps(3000, 12)


def test_recomputed_steps_are_counted(toy: Callable[..., Any]) -> None:
    problem, seen = toy(), []

    def inner(params: Any, meta: Any, step: int) -> Any:
        seen.append(step)
        return problem.inner(params, meta, step)

    result = metagradient(
        inner,
        problem.outer,
        problem.params,
        problem.meta,
        steps=200,
        optimizer=Adam(lr=0.01, eps_root=1e-6),
        adjoint=Checkpointed(slots=8),
    )
    assert result.stats.recomputed_steps == 381
    assert result.stats.forward_steps == 580 + 1  # one more for the final weights
    assert len(seen) == 581 + 200
    assert seen[:200] == list(range(200))
    assert result.stats.state_bytes == 8 * 3 * 8 * (15 + 5 + 10)


@pytest.mark.parametrize("on", ["memory", "cpu", "disk"])
@pytest.mark.parametrize(("steps", "slots"), [(1, 1), (2, 5), (5, 1), (20, 3), (64, 4)])
def test_equals_stored_bit_for_bit(
    on: Any, steps: int, slots: int, toy: Callable[..., Any]
) -> None:
    stored = run(toy(), steps=steps, adjoint=Stored())
    checkpointed = run(toy(), steps=steps, adjoint=Checkpointed(slots=slots, on=on))
    for kind in ("meta_grads", "param_grads", "hyper_grads", "final_params"):
        for key, expected in getattr(stored, kind).items():
            assert torch.equal(getattr(checkpointed, kind)[key], expected), (kind, key)


def test_window_counts_only_its_own_recomputation(toy: Callable[..., Any]) -> None:
    stored = run(toy(), steps=30, window=10)
    checkpointed = run(toy(), steps=30, window=10, adjoint=Checkpointed(slots=2))
    assert checkpointed.stats.recomputed_steps == forward_steps(10, 2) - 9
    for key, expected in stored.param_grads.items():
        assert torch.equal(checkpointed.param_grads[key], expected)


def test_default_slots_run_no_step_more_than_three_times(toy: Callable[..., Any]) -> None:
    assert fewest_slots(200) == 9
    stats = run(toy(), steps=60, adjoint=Checkpointed()).stats
    assert stats.forward_steps <= 3 * 60


@pytest.mark.parametrize("bad", [{"slots": 0}, {"slots": True}, {"on": "tape"}])
def test_bad_arguments(bad: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Checkpointed(**bad)
