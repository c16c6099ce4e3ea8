"""Hand-written updates: the same mathematics as an optimiser's definition, in fewer passes.

They are optimisations of `farzi.metagrad.update`, tested against it, and used where the optimiser
is exactly of the type they were written for. On CPU in float32 each is one compiled pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from farzi.native import kernels_for

__all__ = ["adam_moments", "adam_pull_back", "adam_update"]


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
    kernels = kernels_for(param, *accumulators, grad)
    if kernels is not None:
        new_param, *moments = (torch.empty_like(param) for _ in range(3))
        given = (param, *accumulators, grad.contiguous())
        constants = _constants(hyper, step, decoupled)
        kernels.run("adam_update", param.numel(), constants, *given, new_param, *moments)
        return new_param, tuple(moments)
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


def _constants(hyper: Mapping[str, float], step: int, decoupled: bool) -> Tensor:
    """What the kernels read of the hyper-parameters, in the order of `adam` in kernels/adam.c."""
    lr, b1, b2, decay = hyper["lr"], hyper["b1"], hyper["b2"], hyper["weight_decay"]
    moments = (b1, b2, 1 - b1, 1 - b2)
    rates = (lr / (1 - b1**step), 1 / (1 - b2**step), hyper["eps"], hyper["eps_root"])
    decays = (0.0, 1 - lr * decay, 1.0) if decoupled else (decay, 1.0, 0.0)
    return torch.tensor((*moments, *rates, *decays), dtype=torch.float32)


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
    pass_back = _plain_pull_back
    if kernels_for(param, *accumulators, *(after or ()), grad, d_param, *d_accumulators):
        pass_back = _compiled_pull_back
    u, d_before, d_moments, sums = pass_back(
        param, accumulators, after, grad, hyper, step, d_param, d_accumulators, decoupled
    )
    return u, d_before, d_moments, _hyper_cotangents(sums, hyper, step, decoupled)


def _compiled_pull_back(
    param: Tensor,
    accumulators: Sequence[Tensor],
    after: Sequence[Tensor] | None,
    grad: Tensor,
    hyper: Mapping[str, float],
    step: int,
    d_param: Tensor,
    d_accumulators: Sequence[Tensor],
    decoupled: bool,
) -> tuple[Tensor, Tensor, tuple[Tensor, ...], Tensor]:
    """The cotangents but the hyper-parameters', and the sums that those are made of."""
    kernels = kernels_for()
    assert kernels is not None
    u, d_before, dm, dv = (torch.empty_like(param) for _ in range(4))
    sums = torch.empty(9, dtype=torch.float64)
    given = (param, *accumulators, *(after or (None, None)), grad, d_param, *d_accumulators)
    kernels.run(
        "adam_pull_back",
        param.numel(),
        _constants(hyper, step, decoupled),
        *(None if x is None else x.contiguous() for x in given),
        *(u, d_before, dm, dv, sums),
    )
    return u, d_before, (dm, dv), sums


def _plain_pull_back(
    param: Tensor,
    accumulators: Sequence[Tensor],
    after: Sequence[Tensor] | None,
    grad: Tensor,
    hyper: Mapping[str, float],
    step: int,
    d_param: Tensor,
    d_accumulators: Sequence[Tensor],
    decoupled: bool,
) -> tuple[Tensor, Tensor, tuple[Tensor, ...], Tensor]:
    """What `_compiled_pull_back` gives, in torch operations."""
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
    if decoupled:
        d_before = torch.mul(d_param, 1 - lr * decay) if decay else d_param
    else:
        d_before = torch.add(d_param, u, alpha=decay) if decay else d_param
    return u, d_before, (dm.mul_(b1), dv.mul_(b2)), torch.stack(dots).double()


def _hyper_cotangents(
    sums: Tensor, hyper: Mapping[str, float], step: int, decoupled: bool
) -> Tensor:
    """The cotangents of lr, b1, b2, eps, eps_root and weight_decay."""
    lr, b1, b2, decay = hyper["lr"], hyper["b1"], hyper["b2"], hyper["weight_decay"]
    c1, c2 = 1 - b1**step, 1 - b2**step
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
    return torch.tensor(weights, dtype=torch.float64, device=sums.device) @ sums
