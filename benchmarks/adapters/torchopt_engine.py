"""torchopt's differentiable MetaAdam."""

from __future__ import annotations

import torch
import torchopt

from benchmarks.adapters.torch_student import Student, tensors
from benchmarks.workload import EPS_ROOT, LR, Run, Workload


def build(workload: Workload, steps: int, head: str) -> Run:
    params, P, tokens = tensors(workload)

    def run():
        soft = P.detach().requires_grad_()
        student = Student({name: value.clone() for name, value in params.items()}, head)
        optimizer = torchopt.MetaAdam(student, lr=LR, eps_root=EPS_ROOT, use_accelerated_op=False)
        for _ in range(steps):
            optimizer.step(student(soft))
        value = student(None, tokens)
        (gradient,) = torch.autograd.grad(value, soft)
        return value.item(), gradient.numpy()

    return run
