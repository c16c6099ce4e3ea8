"""The published adjoint of Adam, for comparison: right for one step, not afterwards.

metagradient(..., optimizer=Adam(...), pull_back=paper_rule)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from farzi.metagrad.flat import FlatState, Layout
from farzi.metagrad.fused import adam_moments
from farzi.metagrad.optimizers import Adam, Optimizer
from farzi.metagrad.update import Pulled

__all__ = ["paper_rule"]


def paper_rule(
    optimizer: Optimizer,
    layout: Layout,
    before: FlatState,
    after: Sequence[Tensor] | None,
    grad: Tensor,
    hyper: Mapping[str, float],
    step: int,
    d_param: Tensor,
    d_accumulators: Sequence[Tensor],
) -> Pulled:
    """Algorithm 1, line 13, of the Farzi paper: in place of the step's vector-Jacobian product.

    It has no cotangent of v; its part is folded into that of m, as if v_t were a function of m_t.
    It defines no gradients of hyper-parameters.

    Raises:
        ValueError: the optimiser is not `Adam`.

    References:
        Sachdeva et al., Farzi Data, 2023, https://arxiv.org/abs/2310.09983
    """
    if not isinstance(optimizer, Adam):
        name = type(optimizer).__name__
        raise ValueError(f"`pull_back` must not be paper_rule with {name}: it is a rule for Adam.")
    lr, b1, b2, decay = hyper["lr"], hyper["b1"], hyper["b2"], hyper["weight_decay"]
    c1, c2 = 1 - b1**step, 1 - b2**step
    h = torch.add(grad, before.param, alpha=decay) if decay else grad
    m, v = adam_moments(h, before.accumulators, hyper) if after is None else after
    root = (v + c2 * hyper["eps_root"]).sqrt_()
    r = root + hyper["eps"] * c2**0.5
    folded = (1 - b2) / (1 - b1) * m * h / (root * r.square()) - 1 / r
    dm = d_accumulators[0] + lr * c2**0.5 / c1 * folded * d_param
    u = (1 - b1) * dm
    d_before = torch.add(d_param, u, alpha=decay) if decay else d_param
    return Pulled(u, d_before, (dm.mul_(b1), d_accumulators[1]), None)
