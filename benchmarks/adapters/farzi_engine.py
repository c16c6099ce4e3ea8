"""farzi.metagrad, with its soft head or (generic) with the plain operations every peer runs."""

from __future__ import annotations

from benchmarks.adapters.torch_student import HEAD_LOSSES, outer_loss, tensors
from benchmarks.workload import EPS_ROOT, HEADS, LR, Run, Workload
from farzi.metagrad import Adam, Checkpointed, Reversible, Stored, metagradient
from farzi.models.ops import causal_attention, gelu, layer_norm, linear
from farzi.models.soft_head import embed, next_token_loss

ADJOINTS = {
    "Stored": Stored(),
    "Stored graphs": Stored(graphs=True),
    "Reversible": Reversible(),
    "Checkpointed": Checkpointed(),
}


def hidden(p, X):
    x = X + p["position"]
    y = layer_norm(x, p["norm1.weight"], p["norm1.bias"])
    mixed = causal_attention(linear(y, p["qkv.weight"], p["qkv.bias"]), HEADS)
    x = x + linear(mixed, p["out.weight"], p["out.bias"])
    y = layer_norm(x, p["norm2.weight"], p["norm2.bias"])
    x = x + linear(gelu(linear(y, p["up.weight"], p["up.bias"])), p["down.weight"], p["down.bias"])
    return layer_norm(x, p["norm.weight"], p["norm.bias"])


def soft_head_loss(p, tokens):
    E = p["embedding"]
    X = embed(tokens, E)
    return next_token_loss(hidden(p, X), E, X)


def build(workload: Workload, steps: int, head: str, *, engine: str) -> Run:
    params, P, tokens = tensors(workload)
    adjoint = ADJOINTS[engine.removeprefix("farzi ").partition(",")[0]]
    generic = engine.endswith("generic")
    inner = HEAD_LOSSES[head] if generic else soft_head_loss
    outer = outer_loss if generic else soft_head_loss

    def run():
        result = metagradient(
            lambda p, meta, step: inner(p, meta["P"]),
            lambda p, meta: outer(p, tokens),
            params,
            {"P": P},
            steps=steps,
            optimizer=Adam(lr=LR, eps_root=EPS_ROOT),
            adjoint=adjoint,
        )
        return result.value.item(), result.meta_grads["P"].numpy()

    return run
