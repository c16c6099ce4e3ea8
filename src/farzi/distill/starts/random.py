"""Gaussian noise: the published start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from farzi.distill.starts.base import DECODER_RMS, StartInputs
from farzi.seeding import stream_seed
from farzi.synthetic import SyntheticSequences

__all__ = ["RandomStart", "random_start"]


@dataclass(frozen=True)
class RandomStart:
    """Gaussian noise: the published start; nothing real is in it.

    References:
        Sachdeva et al. 2023, arXiv 2310.09983.
    """

    name: ClassVar[str] = "random"
    needs_teachers: ClassVar[bool] = False

    @property
    def suggests(self) -> Mapping[str, Any]:
        """Nothing."""
        return {}

    def check(self, inputs: StartInputs) -> tuple[str, ...]:
        """Noise fits any source."""
        return ()

    def __call__(self, inputs: StartInputs) -> SyntheticSequences:
        """Noise of the size that is asked for."""
        start = random_start(
            inputs.num_sequences,
            inputs.length,
            inputs.latent_dim,
            inputs.num_tokens,
            labels=inputs.labels,
            seed=inputs.seed,
        )
        return replace(start, temperature=inputs.temperature)


def random_start(
    num: int, length: int, latent_dim: int, num_tokens: int, *, labels: bool, seed: int
) -> SyntheticSequences:
    """Gaussian noise: the published start."""
    generator = torch.Generator().manual_seed(stream_seed(seed, "start factors"))
    shape = (num, length, latent_dim)
    latent = torch.randn(shape, generator=generator)
    label_latent = torch.randn(shape, generator=generator) if labels else None
    decoder = torch.randn(latent_dim, num_tokens, generator=generator) * DECODER_RMS
    return SyntheticSequences(latent, decoder, label_latent)
