"""Synthetic sequences: a latent summary times a token decoder.

    P = softmax(Z M / tau)            soft tokens (S, L, V), read by the student
    Q = softmax(Y M / tau)            soft labels (S, L, V), row t the target of position t

Without label latents Y each soft token is also the label of the position before it, which is the
format of Sachdeva et al. (2023). With them the tokens may stay near real ones while the labels say
how sure one can be: at equal rank that trains far better students (docs/decisions/soft-labels.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from farzi.models.fused.factored import FactoredTokens

__all__ = ["MOST_FORMED", "SyntheticSequences"]

MOST_FORMED = 1 << 26
"""Most elements of a batch's soft tokens that are formed for a loss (256 MiB); larger batches are
read from their factors, which takes longer and next to no memory."""


@dataclass(frozen=True)
class SyntheticSequences:
    """A few soft-token sequences in factored form.

    Args:
        latent: Z (S, L, K), float; or hard tokens (S, L), int64, which are read as they are and
            need `label_latent`.
        decoder: M (K, V), float.
        label_latent: Y (S, L, K), or None where each token is the label of the one before.
        lengths: int64 (S,), real positions of each sequence; None when all have L.
        temperature: tau > 0.

    Raises:
        ValueError: shapes do not fit or the temperature is not positive.

    Example:
        >>> import torch
        >>> from farzi.synthetic import SyntheticSequences
        >>> few = SyntheticSequences(torch.zeros(2, 3, 4), torch.ones(4, 5))
        >>> few.tokens().shape, float(few.tokens()[0, 0, 0])
        (torch.Size([2, 3, 5]), 0.20000000298023224)

    References:
        Sachdeva et al. 2023, arXiv 2310.09983.
    """

    latent: Tensor
    decoder: Tensor
    label_latent: Tensor | None = None
    lengths: Tensor | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.latent.dim() != (2 if self.has_hard_tokens else 3):
            raise ValueError(
                "`latent` must be (S, L, K), or int64 (S, L), "
                f"got shape {tuple(self.latent.shape)}."
            )
        if self.has_hard_tokens and self.label_latent is None:
            raise ValueError("`label_latent` must be given where `latent` holds hard tokens.")
        rank = self.latent.shape[2] if self.label_latent is None else self.label_latent.shape[-1]
        if self.decoder.dim() != 2 or self.decoder.shape[0] != rank:
            raise ValueError(
                f"`decoder` must be (K, V) with K = {rank}, got shape {tuple(self.decoder.shape)}."
            )
        expected = (self.num_sequences, self.length, rank)
        for name in ("latent", "label_latent"):
            factor = getattr(self, name)
            if factor is not None and factor.dim() == 3 and tuple(factor.shape) != expected:
                raise ValueError(f"`{name}` must be {expected}, got {tuple(factor.shape)}.")
        if self.lengths is not None and self.lengths.shape != self.latent.shape[:1]:
            raise ValueError(
                f"`lengths` must be ({self.latent.shape[0]},), got {tuple(self.lengths.shape)}."
            )
        if not self.temperature > 0:
            raise ValueError(f"`temperature` must be > 0, got {self.temperature}.")

    @property
    def has_hard_tokens(self) -> bool:
        """Whether the tokens are ids, as they would be in real sequences."""
        return not self.latent.is_floating_point()

    @property
    def num_sequences(self) -> int:
        """S."""
        return self.latent.shape[0]

    @property
    def length(self) -> int:
        """L."""
        return self.latent.shape[1]

    @property
    def num_tokens(self) -> int:
        """Vocabulary size V."""
        return self.decoder.shape[1]

    @property
    def num_bytes(self) -> int:
        """Bytes of the factors."""
        parts = (self.latent, self.decoder, self.label_latent, self.lengths)
        return sum(part.numel() * part.element_size() for part in parts if part is not None)

    def tokens(self, indices: Tensor | None = None) -> Tensor:
        """Soft tokens P of the sequences at `indices` (all when None), (B, L, V).

        Where tokens are hard, their ids, int64 (B, L): a loss reads either.
        """
        if self.has_hard_tokens:
            return self.latent if indices is None else self.latent[indices]
        return self._soft(self.latent, indices)

    def probabilities(self, indices: Tensor | None = None) -> Tensor:
        """Tokens at `indices` as probabilities (B, L, V): ids as a one among zeros."""
        tokens = self.tokens(indices)
        if self.has_hard_tokens:
            return torch.nn.functional.one_hot(tokens, self.num_tokens).to(self.decoder.dtype)
        return tokens

    def labels(self, indices: Tensor | None = None) -> Tensor | None:
        """Soft labels Q of the sequences at `indices`, (B, L, V); None where tokens are labels."""
        return None if self.label_latent is None else self._soft(self.label_latent, indices)

    def to_read(
        self, indices: Tensor | None = None
    ) -> tuple[Tensor | FactoredTokens, Tensor | FactoredTokens | None]:
        """Tokens and labels of the sequences at `indices` as `sequence_loss` takes them.

        Formed where a batch has at most `MOST_FORMED` elements, else as their factors.
        """
        rows = self.num_sequences if indices is None else len(indices)
        if rows * self.length * self.num_tokens <= MOST_FORMED:
            return self.tokens(indices), self.labels(indices)
        hard, labels = self.has_hard_tokens, self.label_latent
        return (
            self.tokens(indices) if hard else self._factored(self.latent, indices),
            None if labels is None else self._factored(labels, indices),
        )

    def _factored(self, latent: Tensor, indices: Tensor | None) -> FactoredTokens:
        chosen = latent if indices is None else latent[indices]
        return FactoredTokens(chosen, self.decoder / self.temperature)

    def mask(self, indices: Tensor | None = None) -> Tensor | None:
        """Real positions of the sequences at `indices`, bool (B, L); None when all are."""
        if self.lengths is None:
            return None
        lengths = self.lengths if indices is None else self.lengths[indices]
        return torch.arange(self.length, device=lengths.device) < lengths[:, None]

    def factors(self) -> dict[str, Tensor]:
        """The learnable tensors by name: the meta-parameters of a distillation."""
        named = {
            "latent": None if self.has_hard_tokens else self.latent,
            "decoder": self.decoder,
            "labels": self.label_latent,
        }
        return {name: factor for name, factor in named.items() if factor is not None}

    def with_factors(self, factors: Mapping[str, Tensor]) -> SyntheticSequences:
        """The same sequences with other factors, as `factors` names them."""
        return replace(
            self,
            latent=factors.get("latent", self.latent),
            decoder=factors["decoder"],
            label_latent=factors.get("labels"),
        )

    def _soft(self, latent: Tensor, indices: Tensor | None) -> Tensor:
        chosen = latent if indices is None else latent[indices]
        return (chosen @ self.decoder / self.temperature).softmax(-1)
