"""farzi.metagrad, with its soft head or (generic) with the plain operations every peer runs."""

from __future__ import annotations

from benchmarks.adapters.torch_student import HEAD_LOSSES, outer_loss, tensors
from benchmarks.workload import EPS_ROOT, HEADS, LR, Run, Workload
from farzi.metagrad import Adam, Checkpointed, CompiledLoss, Reversible, Stored, metagradient
from farzi.models.blocks import PARTS, pre_norm_block
from farzi.models.fused.ops import layer_norm
from farzi.models.fused.soft_head import embed, next_token_loss

ADJOINTS = {
    "Stored": Stored(),
    "Stored graphs": Stored(graphs=True),
    "Stored compiled": Stored(),
    "Reversible": Reversible(),
    "Checkpointed": Checkpointed(),
}


COMPILED = {
    head: CompiledLoss(lambda p, meta, inputs, loss=loss: loss(p, meta["P"]))
    for head, loss in HEAD_LOSSES.items()
}
"""Compiled by the first call in a process, which is not timed."""


def hidden(p, X):
    parts = {f"block.{part}": p[".".join(part.split(".")[-2:])] for part in PARTS}
    block = pre_norm_block(
        parts,
        "block",
        X + p["position"],
        num_heads=HEADS,
        activation="gelu",
        rate=0.0,
        generator=None,
    )
    return layer_norm(block, p["norm.weight"], p["norm.bias"])


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

    def inner_loss(p, meta, step):
        return inner(p, meta["P"])

    if "compiled" in engine:
        inner_loss = COMPILED[head]

    def run():
        result = metagradient(
            inner_loss,
            lambda p, meta: outer(p, tokens),
            params,
            {"P": P},
            steps=steps,
            optimizer=Adam(lr=LR, eps_root=EPS_ROOT),
            adjoint=adjoint,
        )
        return result.value.item(), result.meta_grads["P"].numpy()

    return run
