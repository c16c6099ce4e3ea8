"""Whether a right meta-gradient is of use: what to look at when a run explodes.

The gradient of a long unroll is exact for one start. It is of use where a small step along it
changes the outer loss as predicted, and where gradients from different starts agree.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from farzi.errors import NonFiniteError
from farzi.metagrad.adjoints import Adjoint
from farzi.metagrad.inner_loop import InnerLoss, Tensors, positive_int
from farzi.metagrad.metagradient import MetaGradient, OuterLoss, metagradient
from farzi.metagrad.optimizers import HyperSetting, Optimizer
from farzi.metagrad.schedule import mapped

__all__ = ["Agreement", "Smoothness", "agreement", "random_window", "smoothness"]


@dataclass(frozen=True)
class Agreement:
    """How far meta-gradients from several starts agree on one tensor of `meta`.

    Attributes:
        cosine: mean cosine between the gradients of two starts, in [-1, 1]; 1 for a single start.
        norm: mean norm of a start's gradient.
        mean_norm: norm of the mean gradient.
    """

    cosine: float
    norm: float
    mean_norm: float


@dataclass(frozen=True)
class Smoothness:
    """One line of the diagnostic.

    Attributes:
        change: what was changed in the run, "as asked" for nothing.
        value: mean outer loss over the starts.
        predicted: mean change of the outer loss that the mean gradient predicts for the step.
        observed: mean change that the step brought; NaN where a run broke.
        agreement: for each tensor of `meta`.
    """

    change: str
    value: float
    predicted: float
    observed: float
    agreement: Mapping[str, Agreement]

    @property
    def ratio(self) -> float:
        """Observed over predicted change: near 1 where the gradient tells the truth."""
        return self.observed / self.predicted if self.predicted else float("nan")


def agreement(gradients: Sequence[Mapping[str, Tensor]]) -> dict[str, Agreement]:
    """How far `gradients`, one mapping a start, agree on each tensor.

    Example:
        >>> import torch
        >>> from farzi.metagrad import agreement
        >>> one, other = {"x": torch.tensor([1.0, 0.0])}, {"x": torch.tensor([1.0, 1.0])}
        >>> round(agreement([one, other])["x"].cosine, 4)
        0.7071
    """
    if not gradients:
        raise ValueError("`gradients` must hold at least one start's, got none.")
    result = {}
    for name in gradients[0]:
        rows = torch.stack([gradient[name].double().reshape(-1) for gradient in gradients])
        norms = rows.norm(dim=1)
        unit = rows / norms.clamp_min(torch.finfo(torch.float64).tiny)[:, None]
        count = len(gradients)
        pairs = (unit.sum(0).square().sum() - unit.square().sum()) / max(count * (count - 1), 1)
        result[name] = Agreement(
            cosine=pairs.item() if count > 1 else 1.0,
            norm=norms.mean().item(),
            mean_norm=rows.mean(0).norm().item(),
        )
    return result


def smoothness(
    inner_loss: InnerLoss,
    outer_loss: OuterLoss,
    starts: Sequence[Mapping[str, Tensor]],
    meta: Mapping[str, Tensor],
    *,
    steps: int,
    optimizer: Optimizer,
    relative_step: float = 1e-3,
    window: int | None = None,
    seed: int | None = None,
    adjoint: Adjoint | None = None,
    compare: bool = True,
    clip_norm: HyperSetting | None = None,
    micro_batches: int = 1,
) -> list[Smoothness]:
    """Whether the meta-gradient predicts the outer loss along it, and whether starts agree.

    For the run as asked and, with `compare`, for a larger `eps_root` (10x and 100x, from at least
    1e-8), half the learning rate, and half the window, each alone. A step against the mean gradient
    is taken, `relative_step` of the size of `meta`, each tensor by its own size, and every start is
    run again.

    Args:
        inner_loss: as in `metagradient`.
        outer_loss: as in `metagradient`, without metrics.
        starts: starting weights, one mapping a start; two or more to see agreement.
        meta: as in `metagradient`.
        steps: as in `metagradient`.
        optimizer: as in `metagradient`.
        relative_step: norm of the step over the norm of each tensor of `meta`.
        window: as in `metagradient`.
        seed: as in `metagradient`.
        adjoint: as in `metagradient`.
        compare: whether to try the changes too.
        clip_norm: as in `metagradient`.
        micro_batches: as in `metagradient`.

    Returns:
        One `Smoothness` a run: "as asked" first.

    Cost:
        One meta-gradient and one training run a start and change.
    """
    if not starts:
        raise ValueError("`starts` must hold at least one start, got none.")
    if not relative_step > 0:
        raise ValueError(f"`relative_step` must be above 0, got {relative_step}.")
    shared: dict[str, Any] = {"steps": steps, "seed": seed, "adjoint": adjoint}
    shared |= {"clip_norm": clip_norm, "micro_batches": micro_batches}
    runs: list[tuple[str, Optimizer, int | None]] = [("as asked", optimizer, window)]
    if compare:
        runs += [(change, changed, window) for change, changed in _smoother(optimizer)]
        half = (steps if window is None else window) // 2
        if half >= 1:
            runs.append((f"window {half}", optimizer, half))
    return [
        _one(inner_loss, outer_loss, starts, meta, change, relative_step, shared | more)
        for change, chosen, length in runs
        for more in [{"optimizer": chosen, "window": length}]
    ]


def _smoother(optimizer: Optimizer) -> list[tuple[str, Optimizer]]:
    """The optimiser with a larger eps_root, and with half the learning rate."""
    hyper = optimizer.hyper
    changes: list[tuple[str, dict[str, HyperSetting]]] = []
    if "eps_root" in hyper:
        for factor in (10, 100):
            larger = mapped(hyper["eps_root"], partial(_larger, factor))
            changes.append((f"eps_root x{factor}", {"eps_root": larger}))
    if "lr" in hyper:
        changes.append(("lr / 2", {"lr": mapped(hyper["lr"], lambda rate: rate / 2)}))
    return [
        (change, dataclasses.replace(optimizer, **values))  # type: ignore[type-var]
        for change, values in changes
    ]


def _larger(factor: int, eps_root: float | Tensor) -> float | Tensor:
    """`factor` times an eps_root; a float counts as 1e-9 at least."""
    return factor * (eps_root if isinstance(eps_root, Tensor) else max(eps_root, 1e-9))


def _one(
    inner_loss: InnerLoss,
    outer_loss: OuterLoss,
    starts: Sequence[Mapping[str, Tensor]],
    meta: Mapping[str, Tensor],
    change: str,
    relative_step: float,
    settings: Mapping[str, Any],
) -> Smoothness:
    def run(start: Mapping[str, Tensor], at: Mapping[str, Tensor], **more: Any) -> MetaGradient:
        return metagradient(inner_loss, outer_loss, start, at, **{**settings, **more})

    results = [run(start, meta) for start in starts]
    gradients = [result.meta_grads for result in results]
    step = _step_against(gradients, meta, relative_step)
    predicted = statistics.fmean(
        sum((gradient[name] * step[name]).sum().item() for name in meta) for gradient in gradients
    )
    moved = {name: tensor.detach() + step[name] for name, tensor in meta.items()}
    try:
        values = [run(start, moved, window=1).value.item() for start in starts]
        observed = statistics.fmean(
            value - result.value.item() for value, result in zip(values, results, strict=True)
        )
    except NonFiniteError:
        observed = float("nan")
    return Smoothness(
        change=change,
        value=statistics.fmean(result.value.item() for result in results),
        predicted=predicted,
        observed=observed,
        agreement=agreement(gradients),
    )


def _step_against(
    gradients: Sequence[Mapping[str, Tensor]], meta: Mapping[str, Tensor], relative_step: float
) -> Tensors:
    """A step against the mean gradient, `relative_step` of each tensor's own size."""
    step = {}
    for name, tensor in meta.items():
        mean = torch.stack([gradient[name] for gradient in gradients]).mean(0)
        norm, size = mean.norm().item(), tensor.norm().item() or 1.0
        step[name] = mean * (-relative_step * size / norm if norm else 0.0)
    return step


def random_window(
    horizon: int, window: int, *, generator: torch.Generator | None = None
) -> dict[str, int]:
    """A window of `window` steps that ends anywhere in a run of `horizon` (RaT-BPTT).

    Returns `steps` and `window` for `metagradient`: train to a random length, differentiate the
    last `window` steps.

    Args:
        horizon: the longest run, the length for which students are trained.
        window: steps to differentiate.
        generator: where the length is drawn from; None for torch's global one.

    Example:
        >>> import torch
        >>> from farzi.metagrad import random_window
        >>> draw = torch.Generator().manual_seed(0)
        >>> random_window(160, 25, generator=draw)
        {'steps': 117, 'window': 25}

    References:
        Feng et al., Embarrassingly simple dataset distillation, ICLR 2024.
    """
    positive_int(horizon, "horizon")
    if positive_int(window, "window") > horizon:
        raise ValueError(f"`window` must be at most `horizon` = {horizon}, got {window}.")
    steps = torch.randint(window, horizon + 1, (), generator=generator).item()
    return {"steps": int(steps), "window": window}
