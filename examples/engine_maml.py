"""MAML (Finn et al., 2017): starting weights from which five steps learn a new sine.

`param_grads` is the gradient of the loss after training for the weights before it."""

import math
from functools import partial

import torch

from farzi.metagrad import SGD, functional, metagradient, unroll

draw = torch.Generator().manual_seed(0)
torch.manual_seed(0)
layers = [torch.nn.Linear(1, 32), torch.nn.Tanh(), torch.nn.Linear(32, 32), torch.nn.Tanh()]
apply, start = functional(torch.nn.Sequential(*layers, torch.nn.Linear(32, 1)))
OPTIMIZER, STEPS = SGD(lr=0.02), 5


def task():
    """Ten points to learn from, ten to be judged on."""
    amplitude, phase = torch.rand(2, generator=draw) * torch.tensor([4.9, math.pi])
    x = torch.rand(20, 1, generator=draw) * 10 - 5
    y = (0.1 + amplitude) * torch.sin(x + phase)
    return {"x": x[:10], "y": y[:10]}, {"x": x[10:], "y": y[10:]}


def error(params, data):
    return (apply(params, data["x"]) - data["y"]).square().mean()


def inner(params, meta, step):
    return error(params, meta)


def after_training(params, tasks):
    """Mean loss on the points to be judged on, after five steps on the others."""
    settings = {"steps": STEPS, "optimizer": OPTIMIZER}
    trained = [unroll(inner, params, seen, **settings)[0] for seen, _ in tasks]
    return sum(float(error(p, held)) for p, (_, held) in zip(trained, tasks, strict=True)) / 20


new_tasks = [task() for _ in range(20)]
before = after_training(start, new_tasks)
params = {name: value.clone().requires_grad_() for name, value in start.items()}
outer_optimizer = torch.optim.Adam(params.values(), lr=0.005)
for _ in range(80):
    for seen, held in [task() for _ in range(4)]:
        outer = partial(lambda held, params, meta: error(params, held), held)
        result = metagradient(inner, outer, params, seen, steps=STEPS, optimizer=OPTIMIZER)
        for name, value in params.items():
            value.grad = (0 if value.grad is None else value.grad) + result.param_grads[name] / 4
    outer_optimizer.step()
    outer_optimizer.zero_grad()
after = after_training({name: value.detach() for name, value in params.items()}, new_tasks)
print(f"loss on new tasks after {STEPS} steps: {before:.2f} at random, {after:.2f} learned")
