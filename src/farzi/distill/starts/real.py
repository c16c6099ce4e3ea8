"""Real sequences, as near as rank K comes to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from farzi.data.sequences import Sequences
from farzi.distill.starts.base import DECODER_RMS, StartInputs, StartRows, fit_latents
from farzi.distill.starts.rows import Rows
from farzi.seeding import stream_seed
from farzi.synthetic import SyntheticSequences

__all__ = ["RealStart", "real_start"]


@dataclass(frozen=True)
class RealStart:
    """Real rows and a decoder of co-occurrences; needs no model.

    Args:
        rows: which real rows.
    """

    name: ClassVar[str] = "real"
    needs_teachers: ClassVar[bool] = False

    rows: StartRows = "auto"

    @property
    def suggests(self) -> Mapping[str, Any]:
        """Nothing."""
        return {}

    def check(self, inputs: StartInputs) -> tuple[str, ...]:
        """Raise where there are too few real rows."""
        inputs.rows(self.rows)
        return ()

    def __call__(self, inputs: StartInputs) -> SyntheticSequences:
        """Real rows of training users, fitted."""
        start = real_start(
            inputs.train_sequences,
            inputs.rows(self.rows),
            inputs.latent_dim,
            inputs.num_tokens,
            labels=inputs.labels,
            seed=inputs.seed,
        )
        return inputs.at_temperature(start)


def real_start(
    sequences: Sequences,
    rows: Rows,
    latent_dim: int,
    num_tokens: int,
    *,
    labels: bool,
    seed: int,
    window: int = 5,
) -> SyntheticSequences:
    """Real sequences, as near as rank K comes to them.

    The decoder holds the log of popularity and the leading factors of the damped co-occurrence
    within `window` events; latents are fitted to the rows' tokens by cross-entropy.
    """
    pairs: list[np.ndarray] = []
    tokens, ends = np.asarray(sequences.tokens, np.int64), sequences.offsets[1:]
    owner = np.searchsorted(ends, np.arange(len(tokens)), side="right")
    for gap in range(1, window + 1):
        same = owner[:-gap] == owner[gap:]
        pairs.append(np.stack([tokens[:-gap][same], tokens[gap:][same]]))
    index = torch.from_numpy(np.concatenate(pairs, axis=1))
    index = torch.cat([index, index.flip(0)], 1)
    counts = torch.sparse_coo_tensor(
        index, torch.ones(index.shape[1]), (num_tokens, num_tokens), check_invariants=True
    ).coalesce()
    damped = torch.sparse_coo_tensor(
        counts.indices(), counts.values().log1p(), counts.shape, check_invariants=True
    )
    popularity = torch.bincount(torch.from_numpy(tokens), minlength=num_tokens).float().log1p()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "start factors"))
        u, s, _ = torch.svd_lowrank(damped, q=min(latent_dim + 8, num_tokens), niter=4)
    factors = (u * s.sqrt())[:, : latent_dim - 1].T
    decoder = torch.cat([popularity[None], factors])
    decoder = decoder / decoder.square().mean(1, keepdim=True).sqrt() * DECODER_RMS
    latent = fit_latents(decoder, rows.tokens)
    label_latent = fit_latents(decoder, rows.following) if labels else None
    return SyntheticSequences(latent, decoder, label_latent, rows.lengths)
