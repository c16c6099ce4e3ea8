"""Gradient matching: at each step, synthetic sequences push a student as real ones would (DC)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from farzi.distill.objectives.meta_matching import real_loss
from farzi.distill.problem import Member, Problem, Window, pulled_to_factors
from farzi.errors import NonFiniteError
from farzi.synthetic import SyntheticSequences
from farzi.training import Batch

__all__ = ["GradientMatching", "gradient_distance"]


@dataclass(frozen=True)
class GradientMatching:
    """The distance between the gradients of the real and of the synthetic loss along a run.

        min over Z, M of  E sum_t D( grad L_D(theta_t), grad L_Dsyn(theta_t) ),
        theta_{t+1} = Opt(theta_t, grad L_Dsyn(theta_t))

    with D the sum over tensors of 1 - cosine. The weights theta_t are taken as they are: nothing is
    differentiated through the steps between them. The value is the mean over the window, in
    [0, 2 x number of tensors]. The real sequences of an outer step are dealt out to the steps of
    the window, so that every objective reads the same number of them.

    Cost:
        A window reads as many real sequences as one of meta-matching; memory does not grow with it.

    References:
        Zhao et al. 2021, arXiv 2006.05929; with this factorisation, Sachdeva et al. 2023, arXiv
        2310.09983, appendix C.5.
    """

    name: ClassVar[str] = "gradient_matching"
    goes_on: ClassVar[bool] = True

    @property
    def needs_teachers(self) -> bool:
        """No."""
        return False

    def begin(self, problem: Problem, seed: int) -> Member:
        """A student with fresh weights."""
        return problem.fresh_member(seed)

    def window(
        self, problem: Problem, member: Member, synthetic: SyntheticSequences, number: int
    ) -> Window:
        """The mean distance over a window of inner steps, and its gradient."""
        inner_loss = problem.inner_loss(member.seed)
        batch = problem.real_batch(number)
        factors, soft = problem.leaves(synthetic)
        read = {name: value.detach().requires_grad_() for name, value in soft.items()}
        total = {name: torch.zeros_like(value) for name, value in read.items()}
        value = 0.0
        for place in range(problem.window):
            outer_loss = real_loss(problem.student, _dealt(batch, place, problem.window))
            params = {name: w.detach().requires_grad_() for name, w in member.params.items()}
            real = _gradient(outer_loss(params, read), params)
            ours = _gradient(inner_loss(params, read, member.age), params, differentiable=True)
            distance = gradient_distance(ours, real)
            pulled = torch.autograd.grad(distance, list(read.values()))
            for name, gradient in zip(read, pulled, strict=True):
                total[name] += gradient / problem.window
            value += float(distance.detach()) / problem.window
            member = problem.advance(member, synthetic, 1, read)
        gradients = pulled_to_factors(factors, soft, total)
        for name, gradient in gradients.items():
            if not bool(torch.isfinite(gradient).all()):
                raise NonFiniteError(f"the gradient for {name} is not finite.", tensor=name)
        return Window(value, gradients, member)


def gradient_distance(ours: Mapping[str, Tensor], real: Mapping[str, Tensor]) -> Tensor:
    """The sum over tensors of 1 - cosine; a tensor whose gradients are both 0 counts 0.

    Example:
        >>> import torch
        >>> from farzi.distill.objectives.gradient_matching import gradient_distance
        >>> along, across = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0])
        >>> float(gradient_distance({"w": along}, {"w": across}))
        1.0
    """
    distances = []
    for name, gradient in ours.items():
        if not bool(gradient.detach().any()) and not bool(real[name].any()):
            continue
        norms = gradient.norm() * real[name].norm()
        distances.append(1 - (gradient * real[name]).sum() / (norms + 1e-30))
    if not distances:
        raise NonFiniteError("every gradient of a student is zero.")
    return torch.stack(distances).sum()


def _dealt(batch: Batch, place: int, num_places: int) -> Batch:
    """The sequences of a batch that one of `num_places` steps reads: one at least."""
    rows = torch.arange(place % len(batch.formed), len(batch.formed), num_places)
    mask = None if batch.mask is None else batch.mask[rows]
    return Batch(batch.formed[rows], mask=mask)


def _gradient(
    loss: Tensor, params: Mapping[str, Tensor], *, differentiable: bool = False
) -> dict[str, Tensor]:
    pulled = torch.autograd.grad(
        loss, list(params.values()), create_graph=differentiable, allow_unused=True
    )
    return {
        name: torch.zeros_like(param) if gradient is None else gradient
        for (name, param), gradient in zip(params.items(), pulled, strict=True)
    }
