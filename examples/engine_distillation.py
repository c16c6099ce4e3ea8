"""Distil 300 points into 6: a model trained on the six does what one trained on all does.

The points and their soft labels are the meta-parameters. Each outer step begins from other weights.
"""

import math

import torch

from farzi.metagrad import Adam, metagradient, unroll

torch.manual_seed(0)
angle = torch.rand(600) * math.pi
upper = torch.rand(600) < 0.5
moons = torch.stack([angle.cos(), angle.sin()], 1)
moons[~upper] = torch.tensor([1.0, 0.5]) - moons[~upper]
x, y = moons + 0.1 * torch.randn(600, 2), upper.long()
x_test, y_test, x, y = x[300:], y[300:], x[:300], y[:300]
OPTIMIZER, STEPS = Adam(lr=0.05, eps_root=1e-6), 40


def fresh(seed):
    draw = torch.Generator().manual_seed(seed)
    shapes = {"w": (2, 16), "b": (16,), "out": (16, 2)}
    return {k: torch.randn(s, generator=draw) / math.sqrt(s[0]) for k, s in shapes.items()}


def logits(params, x):
    return torch.tanh(x @ params["w"] + params["b"]) @ params["out"]


def inner(params, meta, step):
    return torch.nn.functional.cross_entropy(logits(params, meta["x"]), meta["y"].softmax(1))


def outer(params, meta):
    return torch.nn.functional.cross_entropy(logits(params, x), y)


def accuracy(points):
    """On test points, of five fresh models trained on `points`; their mean."""
    settings = {"steps": STEPS, "optimizer": OPTIMIZER}
    trained = [unroll(inner, fresh(1000 + n), points, **settings)[0] for n in range(5)]
    return sum(float((logits(p, x_test).argmax(1) == y_test).float().mean()) for p in trained) / 5


rows = torch.cat([(y == label).nonzero()[:3, 0] for label in (0, 1)])
real = {"x": x[rows], "y": 4.0 * torch.nn.functional.one_hot(y[rows], 2)}
points = {name: value.clone().requires_grad_() for name, value in real.items()}
outer_optimizer = torch.optim.Adam(points.values(), lr=0.05)
for step in range(40):
    result = metagradient(inner, outer, fresh(step), points, steps=STEPS, optimizer=OPTIMIZER)
    for name, value in points.items():
        value.grad = result.meta_grads[name]
    outer_optimizer.step()
distilled = accuracy({name: value.detach() for name, value in points.items()})
everything = accuracy({"x": x, "y": 20.0 * torch.nn.functional.one_hot(y, 2)})
print(f"accuracy: {accuracy(real):.3f} from six real points, {distilled:.3f} from six distilled,")
print(f"{everything:.3f} from all 300")
