"""Learn the step sizes of SGD, one for each of 30 steps, and the bound of the gradient's norm.

Hyper-parameters are tensors like any other: `hyper_grads` has the shape of what was given.
"""

import torch

from farzi.metagrad import SGD, functional, metagradient

torch.manual_seed(0)
x, x_val = torch.rand(64, 1) * 6 - 3, torch.rand(64, 1) * 6 - 3
y, y_val = torch.sin(x), torch.sin(x_val)
apply, params = functional(
    torch.nn.Sequential(torch.nn.Linear(1, 24), torch.nn.Tanh(), torch.nn.Linear(24, 1))
)


def train(log_rates, log_bound):
    """The validation loss after 30 steps, and its gradient for both."""
    rates, bound = log_rates.exp(), log_bound.exp()
    result = metagradient(
        lambda params, meta, step: (apply(params, x) - y).square().mean(),
        lambda params, meta: (apply(params, x_val) - y_val).square().mean(),
        params,
        {},
        steps=30,
        optimizer=SGD(lr=rates, momentum=0.8),
        clip_norm=bound,
    )
    hyper = result.hyper_grads
    return float(result.value), hyper["lr"] * rates, hyper["clip_norm"] * bound


log_rates, log_bound, history = torch.full((30,), 0.02).log(), torch.tensor(1.0).log(), []
for _ in range(25):
    value, for_rates, for_bound = train(log_rates, log_bound)
    history.append(value)
    scale = torch.cat([for_rates, for_bound[None]]).norm()
    log_rates, log_bound = log_rates - 0.5 * for_rates / scale, log_bound - 0.5 * for_bound / scale

best = min(history)
print(f"validation loss after 30 steps: {history[0]:.3f} as set, {best:.3f} at best")
print(f"first and last rate: {log_rates[0].exp():.3f}, {log_rates[-1].exp():.3f}")
print(f"bound of the norm: {log_bound.exp():.2f}")
