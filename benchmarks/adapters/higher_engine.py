"""higher's patched module and differentiable Adam, which has no eps_root."""

from __future__ import annotations

import higher
import torch

from benchmarks.adapters.torch_student import Student, tensors
from benchmarks.workload import LR, Run, Workload


def build(workload: Workload, steps: int, head: str) -> Run:
    params, P, tokens = tensors(workload)

    def run():
        soft = P.detach().requires_grad_()
        student = Student({name: value.clone() for name, value in params.items()}, head)
        adam = torch.optim.Adam(student.parameters(), lr=LR)
        with higher.innerloop_ctx(student, adam) as (patched, differentiable):
            for _ in range(steps):
                differentiable.step(patched(soft))
            value = patched(None, tokens)
            (gradient,) = torch.autograd.grad(value, soft)
        return value.item(), gradient.numpy()

    return run
