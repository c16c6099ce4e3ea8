"""Which training points carry a wrong label? Weights on the points, learned through training.

A third of the labels are wrong. The gradient of the validation loss after 40 steps of Adam, with
respect to a weight on each training point, says which points to trust less.
"""

import torch

from farzi.metagrad import Adam, functional, metagradient

torch.manual_seed(0)
direction = torch.randn(5)
x, x_val = torch.randn(90, 5), torch.randn(200, 5)
y, y_val = (x @ direction > 0).float(), (x_val @ direction > 0).float()
wrong = torch.arange(90) < 30
y[wrong] = 1 - y[wrong]

apply, params = functional(
    torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
)


def losses(params, x, y):
    return torch.nn.functional.binary_cross_entropy_with_logits(
        apply(params, x)[:, 0], y, reduction="none"
    )


def inner(params, meta, step):
    return (torch.sigmoid(meta["weight"]) * losses(params, x, y)).mean()


def outer(params, meta):
    right = ((apply(params, x_val)[:, 0] > 0).float() == y_val).float().mean()
    return losses(params, x_val, y_val).mean(), {"accuracy": right}


weight, history = torch.zeros(90), []
for _ in range(25):
    result = metagradient(
        inner,
        outer,
        params,
        {"weight": weight},
        steps=40,
        optimizer=Adam(lr=0.03, eps_root=1e-8),
        has_aux=True,
    )
    history.append(float(result.metrics["accuracy"]))
    gradient = result.meta_grads["weight"]
    weight = weight - 0.5 * gradient / gradient.square().mean().sqrt()

trusted_less = weight < weight.median()
found = float(trusted_less[wrong].float().mean())
print(
    f"accuracy on validation: {history[0]:.3f} with equal weights, {history[-1]:.3f} with learned"
)
print(f"{found:.0%} of the wrong labels are in the half that is trusted less")
