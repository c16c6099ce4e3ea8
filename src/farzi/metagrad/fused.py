"""Hand-written updates: the same mathematics as an optimiser's definition, in fewer passes.

They are optimisations of `farzi.metagrad.update`, tested against it, and used where the optimiser
is exactly of the type they were written for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["adam_moments", "adam_pull_back", "adam_update", "paper_pull_back"]


def _decayed_gradient(grad: Tensor, param: Tensor, weight_decay: float) -> Tensor:
    return torch.add(grad, param, alpha=weight_decay) if weight_decay else grad


def adam_moments(
    h: Tensor, accumulators: Sequence[Tensor], hyper: Mapping[str, float]
) -> tuple[Tensor, Tensor]:
    """m_t and v_t from m_{t-1}, v_{t-1} and the gradient h."""
    m, v = accumulators
    b1, b2 = hyper["b1"], hyper["b2"]
    return torch.mul(m, b1).add_(h, alpha=1 - b1), torch.mul(v, b2).addcmul_(h, h, value=1 - b2)


def adam_update(
    param: Tensor,
    accumulators: Sequence[Tensor],
    grad: Tensor,
    hyper: Mapping[str, float],
    step: int,
    *,
    decoupled: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One step of Adam, or of AdamW with `decoupled`."""
    decay = hyper["weight_decay"]
    h = grad if decoupled else _decayed_gradient(grad, param, decay)
    m, v = adam_moments(h, accumulators, hyper)
    c1, c2 = 1 - hyper["b1"] ** step, 1 - hyper["b2"] ** step
    r = torch.div(v, c2)
    if hyper["eps_root"]:
        r.add_(hyper["eps_root"])
    r.sqrt_().add_(hyper["eps"])
    if decoupled and decay:
        moved = torch.mul(param, 1 - hyper["lr"] * decay).addcdiv_(m, r, value=-hyper["lr"] / c1)
    else:
        moved = torch.addcdiv(param, m, r, value=-hyper["lr"] / c1)
    return moved, (m, v)


def adam_pull_back(
    param: Tensor,
    accumulators: Sequence[Tensor],
    after: Sequence[Tensor] | None,
    grad: Tensor,
    hyper: Mapping[str, float],
    step: int,
    d_param: Tensor,
    d_accumulators: Sequence[Tensor],
    *,
    decoupled: bool = False,
) -> tuple[Tensor, Tensor, tuple[Tensor, ...], Tensor]:
    """The vector-Jacobian product of `adam_update`; the derivation is in `docs/maths.md`.

    Returns the cotangents of the gradient, the parameter, the accumulators, and of lr, b1, b2, eps,
    eps_root and weight_decay.
    """
    lr, b1, b2, decay = hyper["lr"], hyper["b1"], hyper["b2"], hyper["weight_decay"]
    c1, c2 = 1 - b1**step, 1 - b2**step
    h = grad if decoupled else _decayed_gradient(grad, param, decay)
    m, v = adam_moments(h, accumulators, hyper) if after is None else after
    s = torch.div(v, c2).add_(hyper["eps_root"]).sqrt_()
    q = torch.add(s, hyper["eps"])
    q = torch.div(d_param, q, out=q)
    dm = torch.add(d_accumulators[0], q, alpha=-lr / c1)
    along_m = torch.dot(m, q)
    # q is dw / r; from here it is (lr / c1) m dw / r^2, the cotangent of r.
    q.mul_(m).div_(torch.add(s, hyper["eps"])).mul_(lr / c1)
    d_eps = q.sum()
    z = q.div_(s).mul_(0.5)
    dv = torch.add(d_accumulators[1], z, alpha=1 / c2)
    t = torch.mul(h, dv)
    u = torch.mul(dm, 1 - b1).add_(t, alpha=2 * (1 - b2))
    dots = [
        along_m,
        d_eps,
        z.sum(),
        torch.dot(z, v),
        torch.dot(accumulators[0], dm),
        torch.dot(h, dm),
        torch.dot(accumulators[1], dv),
        torch.dot(h, t),
        torch.dot(param, d_param if decoupled else u),
    ]
    # How b1 and b2 enter through c1 = 1 - b1^t and c2 = 1 - b2^t.
    via_c1 = -step * b1 ** (step - 1) * lr / c1**2
    via_c2 = step * b2 ** (step - 1) / c2**2
    weights = [
        [-1 / c1, 0, 0, 0, 0, 0, 0, 0, -decay if decoupled else 0],
        [via_c1, 0, 0, 0, 1, -1, 0, 0, 0],
        [0, 0, 0, via_c2, 0, 0, 1, -1, 0],
        [0, 1, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, -lr if decoupled else 1],
    ]
    products = torch.stack(dots).double()
    d_hyper = torch.tensor(weights, dtype=torch.float64, device=param.device) @ products
    if decoupled:
        d_before = torch.mul(d_param, 1 - lr * decay) if decay else d_param
    else:
        d_before = torch.add(d_param, u, alpha=decay) if decay else d_param
    return u, d_before, (dm.mul_(b1), dv.mul_(b2)), d_hyper


def paper_pull_back(
    param: Tensor,
    accumulators: Sequence[Tensor],
    after: Sequence[Tensor] | None,
    grad: Tensor,
    hyper: Mapping[str, float],
    step: int,
    d_param: Tensor,
    d_accumulators: Sequence[Tensor],
) -> tuple[Tensor, Tensor, tuple[Tensor, ...], None]:
    """The published rule for Adam (Algorithm 1, line 13): right for one step, not afterwards.

    It has no cotangent of v; its part is folded into that of m, as if v_t were a function of m_t.
    """
    lr, b1, b2, decay = hyper["lr"], hyper["b1"], hyper["b2"], hyper["weight_decay"]
    c1, c2 = 1 - b1**step, 1 - b2**step
    h = _decayed_gradient(grad, param, decay)
    m, v = adam_moments(h, accumulators, hyper) if after is None else after
    root = (v + c2 * hyper["eps_root"]).sqrt_()
    r = root + hyper["eps"] * c2**0.5
    folded = (1 - b2) / (1 - b1) * m * h / (root * r.square()) - 1 / r
    dm = d_accumulators[0] + lr * c2**0.5 / c1 * folded * d_param
    u = (1 - b1) * dm
    d_before = torch.add(d_param, u, alpha=decay) if decay else d_param
    return u, d_before, (dm.mul_(b1), d_accumulators[1]), None
