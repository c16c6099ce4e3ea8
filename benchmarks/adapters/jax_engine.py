"""JAX: optax Adam under lax.scan, with and without jax.checkpoint around the step."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.workload import EPS_ROOT, HEADS, LENGTH, LR, WIDTH, Run, Workload

MASK = jnp.tril(jnp.ones((LENGTH, LENGTH), bool))


def layer_norm(x, weight, bias):
    mean = x.mean(-1, keepdims=True)
    var = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(var + 1e-5) * weight + bias


def hidden(p, X):
    batch, length, _ = X.shape
    x = X + p["position"]
    y = layer_norm(x, p["norm1.weight"], p["norm1.bias"])
    qkv = (y @ p["qkv.weight"].T + p["qkv.bias"]).reshape(batch, length, 3, HEADS, -1)
    q, k, v = jnp.transpose(qkv, (2, 0, 3, 1, 4))
    scores = (q @ jnp.swapaxes(k, -1, -2)) / math.sqrt(WIDTH // HEADS)
    weights = jax.nn.softmax(jnp.where(MASK, scores, -jnp.inf), -1)
    mixed = jnp.transpose(weights @ v, (0, 2, 1, 3)).reshape(X.shape)
    x = x + mixed @ p["out.weight"].T + p["out.bias"]
    y = layer_norm(x, p["norm2.weight"], p["norm2.bias"])
    y = jax.nn.gelu(y @ p["up.weight"].T + p["up.bias"], approximate=False)
    x = x + y @ p["down.weight"].T + p["down.bias"]
    return layer_norm(x, p["norm.weight"], p["norm.bias"])


def log_softmax_loss(p, P):
    E = p["embedding"]
    logits = hidden(p, P @ E)[:, :-1] @ E.T
    return -(P[:, 1:] * jax.nn.log_softmax(logits)).sum(-1).mean()


def logsumexp_loss(p, P):
    E = p["embedding"]
    X = P @ E
    H = hidden(p, X)[:, :-1]
    return (jax.nn.logsumexp(H @ E.T, -1) - (H * X[:, 1:]).sum(-1)).mean()


def outer_loss(p, tokens):
    E = p["embedding"]
    logits = hidden(p, E[tokens])[:, :-1] @ E.T
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()


def build(workload: Workload, steps: int, head: str, *, rematerialise: bool = False) -> Run:
    inner = {"log_softmax": log_softmax_loss, "logsumexp": logsumexp_loss}[head]
    params = {name: jnp.asarray(value) for name, value in workload.params.items()}
    P, tokens = jnp.asarray(workload.P), jnp.asarray(workload.tokens)
    adam = optax.adam(LR, eps_root=EPS_ROOT)

    def unrolled(P):
        def step(carry, _):
            p, state = carry
            updates, state = adam.update(jax.grad(inner)(p, P), state, p)
            return (optax.apply_updates(p, updates), state), None

        body = jax.checkpoint(step) if rematerialise else step
        (p, _), _ = jax.lax.scan(body, (params, adam.init(params)), None, length=steps)
        return outer_loss(p, tokens)

    compiled = jax.jit(jax.value_and_grad(unrolled)).lower(P).compile()

    def run():
        value, gradient = compiled(P)
        gradient.block_until_ready()
        return float(value), np.asarray(gradient)

    return run
