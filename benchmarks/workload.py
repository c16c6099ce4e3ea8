"""The workload every engine runs: the same numbers, whatever the library.

A student of 161,024 parameters: one pre-norm causal block (2 heads, width 64, GELU feed-forward
x4), learned positions added, three LayerNorms, tied embeddings of 1,683 tokens. The meta-parameters
are dense soft tokens, 25 sequences of length 50; Adam with rate 1e-3 and eps_root 1e-10; the outer
loss is hard cross-entropy on 32 random sequences of length 50.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "EPS_ROOT",
    "HEADS",
    "LENGTH",
    "LR",
    "SEQUENCES",
    "TOKENS",
    "WIDTH",
    "Run",
    "Workload",
    "make",
]

SEQUENCES, LENGTH, TOKENS, WIDTH, HEADS = 25, 50, 1683, 64, 2
OUTER_SEQUENCES = 32
LR, EPS_ROOT = 1e-3, 1e-10

Array = NDArray[np.float32]
Run = Callable[[], tuple[float, Array]]
"""One meta-gradient: the outer loss's value and its gradient for P."""


@dataclass(frozen=True)
class Workload:
    """Starting parameters, soft tokens P (25, 50, 1683), the outer loss's tokens (32, 50)."""

    params: dict[str, Array]
    P: Array
    tokens: NDArray[np.int64]

    @property
    def num_parameters(self) -> int:
        return sum(value.size for value in self.params.values())


def make(seed: int = 0) -> Workload:
    """Draw the workload; equal seeds give equal bits."""
    draw = np.random.default_rng(seed)

    def normal(*shape: int, scale: float) -> Array:
        return (draw.standard_normal(shape) * scale).astype(np.float32)

    def matrix(rows: int, columns: int) -> Array:
        return normal(rows, columns, scale=1 / math.sqrt(columns))

    ones, zeros = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)
    params = {
        "embedding": normal(TOKENS, WIDTH, scale=0.1),
        "position": normal(LENGTH, WIDTH, scale=0.1),
        "norm1.weight": ones.copy(),
        "norm1.bias": zeros.copy(),
        "qkv.weight": matrix(3 * WIDTH, WIDTH),
        "qkv.bias": np.zeros(3 * WIDTH, np.float32),
        "out.weight": matrix(WIDTH, WIDTH),
        "out.bias": zeros.copy(),
        "norm2.weight": ones.copy(),
        "norm2.bias": zeros.copy(),
        "up.weight": matrix(4 * WIDTH, WIDTH),
        "up.bias": np.zeros(4 * WIDTH, np.float32),
        "down.weight": matrix(WIDTH, 4 * WIDTH),
        "down.bias": zeros.copy(),
        "norm.weight": ones.copy(),
        "norm.bias": zeros.copy(),
    }
    logits = normal(SEQUENCES, LENGTH, TOKENS, scale=1.0)
    P = np.exp(logits - logits.max(-1, keepdims=True))
    P /= P.sum(-1, keepdims=True)
    tokens = draw.integers(0, TOKENS, (OUTER_SEQUENCES, LENGTH))
    return Workload(params, P, tokens)
