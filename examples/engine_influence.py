"""How much does each training point help? Predicted from one run, checked by leaving points out.

The gradient of the validation loss for a point's weight, times -1, predicts how the loss changes
when the point is left out. Then every point is left out in turn and the model trained again.
"""

import torch

from farzi.metagrad import AdamW, functional, metagradient, unroll

torch.manual_seed(0)
x, x_val = torch.randn(40, 3), torch.randn(100, 3)
direction = torch.tensor([1.0, -2.0, 0.5])
y = torch.tanh(x @ direction) + 0.3 * torch.randn(40)
y_val = torch.tanh(x_val @ direction)
apply, params = functional(
    torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()
)
x, x_val, y, y_val = (t.double() for t in (x, x_val, y, y_val))
settings = {
    "steps": 60,
    "optimizer": AdamW(
        lr={"*.bias": 0.005, "*": 0.01}, weight_decay={"*.bias": 0.0, "*": 0.01}, eps_root=1e-6
    ),
    "clip_norm": 1.0,
}


def inner(params, meta, step):
    return (meta["weight"] * (apply(params, x)[:, 0] - y).square()).sum() / 40


def outer(params, meta):
    return (apply(params, x_val)[:, 0] - y_val).square().mean()


everyone = torch.ones(40, dtype=torch.float64)
result = metagradient(inner, outer, params, {"weight": everyone}, **settings)
predicted = -result.meta_grads["weight"]


def change_without(point):
    weight = everyone.clone()
    weight[point] = 0.0
    trained, _ = unroll(inner, params, {"weight": weight}, **settings)
    return float(outer(trained, {}) - result.value)


observed = torch.tensor([change_without(point) for point in range(40)], dtype=torch.float64)
correlation = float(torch.corrcoef(torch.stack([predicted, observed]))[0, 1])
print(f"validation loss: {float(result.value):.4f}")
print(f"correlation of predicted and observed change over 40 points left out: {correlation:.3f}")
