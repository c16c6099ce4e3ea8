"""What a call of `metagradient` will take, before it is made."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from farzi.metagrad.adjoints import Adjoint, Auto, Direct
from farzi.metagrad.guards import ordinary_modes
from farzi.metagrad.inner_loop import InnerLoss, gradient, inner_loop
from farzi.metagrad.memory import peak_bytes
from farzi.metagrad.metagradient import OuterLoss, metagradient
from farzi.metagrad.optimizers import HyperSetting, Optimizer
from farzi.metagrad.rule import PullBack
from farzi.metagrad.schedule import mapped
from farzi.metagrad.update import State

__all__ = ["Estimate", "estimate"]

_TRIAL_STEPS = 3


@dataclass(frozen=True)
class Estimate:
    """What a call will take.

    Attributes:
        adjoint: name of the adjoint that will run.
        reason: why, where it was chosen.
        num_bytes: most bytes of tensors held at once, above those held before the call.
        state_bytes: those of the trajectory among them.
        recomputed_steps: inner steps that will be taken again; exact.
        wall_s: seconds.
    """

    adjoint: str
    reason: str
    num_bytes: int
    state_bytes: int
    recomputed_steps: int
    wall_s: float


@ordinary_modes()
def estimate(
    inner_loss: InnerLoss,
    outer_loss: OuterLoss,
    params: Mapping[str, Tensor],
    meta: Mapping[str, Tensor],
    *,
    steps: int,
    optimizer: Optimizer,
    adjoint: Adjoint | None = None,
    window: int | None = None,
    state: State | None = None,
    first_step: int = 0,
    seed: int | None = None,
    has_aux: bool = False,
    batched: bool = False,
    clip_norm: HyperSetting | None = None,
    micro_batches: int = 1,
    pull_back: PullBack | None = None,
) -> Estimate:
    """Bytes, recomputed steps and seconds of a `metagradient` call with the same arguments.

    Bytes and seconds come from a few trial steps; the number of recomputed steps is exact.

    Example:
        >>> import torch
        >>> from farzi.metagrad import Adam, Checkpointed, estimate
        >>> def loss(params, meta):
        ...     return (params["w"] - meta["x"]).square().sum()
        >>> estimate(
        ...     lambda params, meta, step: loss(params, meta), loss,
        ...     {"w": torch.ones(3)}, {"x": torch.zeros(3)},
        ...     steps=200, optimizer=Adam(eps_root=1e-8), adjoint=Checkpointed(slots=8),
        ... ).recomputed_steps
        381
    """
    shared: dict[str, Any] = {"state": state, "first_step": first_step, "seed": seed}
    shared |= {"batched": batched, "micro_batches": micro_batches, "pull_back": pull_back}
    given: dict[str, Any] = {"optimizer": optimizer, "clip_norm": clip_norm}
    bound = None if clip_norm is None else _constant(clip_norm, steps)
    short = shared | {"optimizer": _constant_optimizer(optimizer, steps), "clip_norm": bound}
    loop = inner_loop(
        inner_loss,
        params,
        meta,
        steps=steps,
        window=window,
        **shared,
        **given,
    )
    adjoint = Auto() if adjoint is None else adjoint
    chosen, reason = adjoint.choose(loop) if isinstance(adjoint, Auto) else (adjoint, "asked for")
    length = loop.steps - loop.begin

    def trial(num_steps: int) -> tuple[float, int]:
        """Seconds and bytes beyond the trajectory's of a short call."""
        arguments = (inner_loss, outer_loss, params, meta)
        settings = {"steps": num_steps, "adjoint": chosen, "has_aux": has_aux, **short}
        with peak_bytes(loop.layout.device) as peak:
            metagradient(*arguments, **settings)
        trial_loop = inner_loop(inner_loss, params, meta, steps=num_steps, **short)
        wall_s = metagradient(*arguments, **settings).stats.wall_s
        return wall_s, peak.num_bytes - chosen.plan(trial_loop).state_bytes

    one_s, one_bytes = trial(1)
    few_s, few_bytes = trial(_TRIAL_STEPS)
    plan = chosen.plan(loop)
    state_bytes = plan.state_bytes
    if isinstance(chosen, Direct):
        state_bytes += (few_bytes - one_bytes) * (length - _TRIAL_STEPS) // (_TRIAL_STEPS - 1)
    step_s = max(few_s - one_s, 0.0) / (_TRIAL_STEPS - 1)
    forward_s = _forward_seconds(loop)
    again = loop.begin + plan.recomputed_steps
    return Estimate(
        adjoint=chosen.name,
        reason=reason,
        num_bytes=state_bytes + few_bytes,
        state_bytes=state_bytes,
        recomputed_steps=plan.recomputed_steps,
        wall_s=one_s + step_s * (length - 1) + forward_s * again,
    )


def _constant(setting: HyperSetting, steps: int) -> HyperSetting:
    """`setting` with each schedule that is a tensor replaced by its mean."""
    return mapped(
        setting,
        lambda value: (
            value.mean() if isinstance(value, Tensor) and value.shape == (steps,) else value
        ),
    )


def _constant_optimizer(optimizer: Optimizer, steps: int) -> Optimizer:
    """`optimizer` with schedules that fit a run of any length."""
    schedules = {
        name: _constant(setting, steps)
        for name, setting in optimizer.hyper.items()
        if isinstance(setting, Tensor | Mapping)
    }
    return dataclasses.replace(optimizer, **schedules) if schedules else optimizer  # type: ignore[type-var]


def _forward_seconds(loop: Any) -> float:
    """Seconds of one inner gradient."""
    gradient(loop, loop.start.param, 1, record=False)
    started = time.perf_counter()
    gradient(loop, loop.start.param, 1, record=False)
    if loop.layout.device.type == "cuda":
        torch.cuda.synchronize(loop.layout.device)
    return time.perf_counter() - started
