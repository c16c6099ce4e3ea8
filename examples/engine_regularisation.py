"""Learn how strongly to regularise each input, where ten matter and forty are noise.

The strength of an L2 penalty on each weight is a meta-parameter; the outer loss is that of
validation rows.
"""

import torch

from farzi.metagrad import Adam, metagradient, unroll

torch.manual_seed(0)
truth = torch.cat([torch.randn(10), torch.zeros(40)])


def rows(count):
    x = torch.randn(count, 50)
    return x, x @ truth + 0.5 * torch.randn(count)


(x, y), (x_val, y_val), (x_test, y_test) = rows(60), rows(60), rows(500)
START, STEPS = {"w": torch.zeros(50)}, 100
OPTIMIZER = Adam(lr=0.05, eps_root=1e-8)


def error(params, x, y):
    return (x @ params["w"] - y).square().mean()


def inner(params, meta, step):
    penalty = (meta["log_strength"].exp() * params["w"].square()).sum()
    return error(params, x, y) + penalty


def test_error(log_strength):
    params, _ = unroll(
        inner, START, {"log_strength": log_strength}, steps=STEPS, optimizer=OPTIMIZER
    )
    return float(error(params, x_test, y_test))


def held_out(params, meta):
    return error(params, x_val, y_val)


log_strength = torch.full((50,), -4.0, requires_grad=True)
outer_optimizer = torch.optim.Adam([log_strength], lr=0.15)
for _ in range(40):
    log_strength.grad = metagradient(
        inner, held_out, START, {"log_strength": log_strength}, steps=STEPS, optimizer=OPTIMIZER
    ).meta_grads["log_strength"]
    outer_optimizer.step()
learned = log_strength.detach()
one_for_all = min(test_error(torch.full((50,), s)) for s in (-20.0, -5.0, -4.0, -3.0, -2.0, -1.0))
each_its_own = test_error(learned)
print(f"test error: {one_for_all:.2f} with the best single strength, {each_its_own:.2f} learned")
print(
    f"log strength: {learned[:10].mean():.1f} of what matters, {learned[10:].mean():.1f} of noise"
)
