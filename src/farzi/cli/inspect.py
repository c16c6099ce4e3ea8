"""`farzi inspect`: what an artifact holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from farzi.artifact import Artifact, read_artifact
from farzi.artifact.checks import printable
from farzi.cli._common import DEFAULT_OUTPUT, Output

__all__ = ["inspect"]


def inspect(
    artifact: Path,
    /,
    *,
    sequences: int = 3,
    tokens: int = 8,
    top: int = 3,
    output: Output = DEFAULT_OUTPUT,
) -> None:
    """Show what an artifact holds.

    The artifact is checked first, in full; one that fails is refused with what is wrong.

    Args:
        artifact: an artifact's folder, or the run folder that holds one.
        sequences: how many sequences to show.
        tokens: how many places of each to show, from its first.
        top: how many of the likeliest original ids to show at each place.

    Example:
        farzi inspect runs/ml-100k
        farzi inspect runs/ml-100k --sequences 1 --tokens 50 --json
    """
    for name, number in {"sequences": sequences, "tokens": tokens, "top": top}.items():
        if number < 0:
            raise ValueError(f"`{name}` must be an int >= 0, got {number}.")
    found = read_artifact(artifact)
    payload = {
        "sizes": _sizes(found),
        "tokens": "hard" if found.has_hard_tokens else "soft",
        "dtype": found.dtype,
        "temperature": found.temperature,
        "learned": {name: _summary(tensor) for name, tensor in found.learned.items()},
        "recipe": found.recipe,
        "source": found.source,
        "scores": found.scores,
        "entropy_bits": _entropy_bits(found),
        "examples": [
            _example(found, index, tokens, min(top, found.vocabulary_size))
            for index in range(min(sequences, found.num_sequences))
        ],
    }
    output.result(payload, text=_render(payload))


def _sizes(artifact: Artifact) -> dict[str, int]:
    return {
        "sequences": artifact.num_sequences,
        "length": artifact.length,
        "tokens": artifact.num_tokens,
        "bytes": artifact.num_bytes,
        "rank": artifact.rank,
        "vocabulary": artifact.vocabulary_size,
    }


def _summary(tensor: torch.Tensor) -> float | dict[str, Any]:
    """Return a scalar as it is, and of anything larger its shape and range."""
    if tensor.ndim == 0:
        return float(tensor)
    return {"shape": list(tensor.shape), "low": float(tensor.min()), "high": float(tensor.max())}


def _entropy_bits(artifact: Artifact) -> dict[str, float]:
    """Return the mean entropy of the soft tokens and labels, and that of a uniform one."""
    synthetic = artifact.synthetic
    mask = synthetic.mask()
    kept = mask if mask is not None else torch.ones(artifact.latent.shape[:2], dtype=torch.bool)
    means = {"uniform": math.log2(artifact.vocabulary_size)}
    kinds = {"tokens": synthetic.tokens, "labels": synthetic.labels}
    if artifact.has_hard_tokens:
        means["tokens"] = 0.0
        del kinds["tokens"]
    for kind, soft in kinds.items():
        total = 0.0
        for index in range(artifact.num_sequences):
            rows = soft(torch.tensor([index]))
            if rows is None:
                break
            total -= float(torch.special.xlogy(rows[0], rows[0]).sum(-1)[kept[index]].sum())
        else:
            means[kind] = total / math.log(2) / artifact.num_tokens
    return means


def _example(artifact: Artifact, index: int, num_tokens: int, top: int) -> list[dict[str, Any]]:
    """Return the likeliest original ids at the first places of one sequence."""
    length = artifact.length if artifact.lengths is None else int(artifact.lengths[index])
    soft = artifact.synthetic.tokens(torch.tensor([index]))[0, : min(length, num_tokens)]
    if artifact.has_hard_tokens:
        return [{"ids": [artifact.vocabulary[token]], "probabilities": [1.0]} for token in soft]
    probabilities, ids = soft.topk(top, dim=-1)
    return [
        {
            "ids": [artifact.vocabulary[token] for token in row_ids],
            "probabilities": [round(value, 4) for value in row],
        }
        for row_ids, row in zip(ids.tolist(), probabilities.tolist(), strict=True)
    ]


def _render(payload: Mapping[str, Any]) -> str:
    sizes, source, entropy = payload["sizes"], payload["source"], payload["entropy_bits"]
    lines = [
        f"{source['name']}: {sizes['sequences']:,} sequences of {sizes['length']:,}, "
        f"{sizes['tokens']:,} tokens, {sizes['bytes']:,} bytes "
        f"(rank {sizes['rank']:,}, vocabulary {sizes['vocabulary']:,})",
        f"source       {_inline({k: v for k, v in source.items() if k != 'protocol'})}",
        f"protocol     {_inline(source['protocol'])}",
        f"recipe       {_inline(payload['recipe'])}",
        f"temperature  {payload['temperature']:g}",
        f"stored       tokens {payload['tokens']}, factors {payload['dtype']}",
        *([f"learned      {_inline(payload['learned'])}"] if payload["learned"] else []),
        *([f"scores       {_inline(payload['scores'])}"] if payload["scores"] else []),
        "entropy      "
        + ", ".join(f"{kind} {bits:.2f} bits" for kind, bits in sorted(entropy.items())),
    ]
    for number, example in enumerate(payload["examples"]):
        lines.append(f"sequence {number}")
        for place, step in enumerate(example):
            likeliest = zip(step["ids"], step["probabilities"], strict=True)
            shown = "  ".join(
                f"{original} {probability:.2f}" for original, probability in likeliest
            )
            lines.append(f"  {place:3}  {shown}")
    return "\n".join(printable(line) for line in lines)


def _inline(value: Any) -> str:
    """Return nested settings on one line: `student sasrec, optimizer (name adam, lr 0.01)`."""
    if isinstance(value, Mapping):
        parts = (
            f"{name} ({_inline(item)})" if isinstance(item, Mapping) else f"{name} {_inline(item)}"
            for name, item in value.items()
        )
        return ", ".join(parts)
    if isinstance(value, list):
        return "/".join(_inline(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
