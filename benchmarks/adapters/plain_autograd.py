"""Autograd through a hand-unrolled Adam."""

from __future__ import annotations

import torch

from benchmarks.adapters.torch_student import HEAD_LOSSES, outer_loss, tensors
from benchmarks.workload import EPS_ROOT, LR, Run, Workload

B1, B2, EPS = 0.9, 0.999, 1e-8


def build(workload: Workload, steps: int, head: str) -> Run:
    params, P, tokens = tensors(workload)
    loss = HEAD_LOSSES[head]

    def run():
        soft = P.detach().requires_grad_()
        w = {name: value.detach().requires_grad_() for name, value in params.items()}
        m = {name: torch.zeros_like(value) for name, value in w.items()}
        v = dict(m)
        for step in range(1, steps + 1):
            grads = torch.autograd.grad(loss(w, soft), list(w.values()), create_graph=True)
            c1, c2 = 1 - B1**step, 1 - B2**step
            for name, g in zip(list(w), grads, strict=True):
                m[name] = B1 * m[name] + (1 - B1) * g
                v[name] = B2 * v[name] + (1 - B2) * g * g
                root = (v[name] / c2 + EPS_ROOT).sqrt()
                w[name] = w[name] - LR * (m[name] / c1) / (root + EPS)
        value = outer_loss(w, tokens)
        (gradient,) = torch.autograd.grad(value, soft)
        return value.item(), gradient.numpy()

    return run
