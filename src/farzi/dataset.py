"""A distilled dataset as a PyTorch dataset: what any model of your own trains on.

    data = farzi.load("runs/ml-100k")
    for batch in torch.utils.data.DataLoader(data, batch_size=10, shuffle=True):
        logits = model(batch["tokens"])                     # soft tokens: tokens @ embedding.weight
        loss = farzi.soft_cross_entropy(logits, batch["labels"], batch["mask"])

Soft tokens and labels are what makes distilled data train so well. Hard tokens (`hard`) are for
tools that read nothing else, and train much worse; `top_k` is a middle way for the labels.
"""

from __future__ import annotations

import html
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from farzi.artifact import Artifact, read_artifact, write_artifact
from farzi.artifact.checks import printable
from farzi.data.vocabulary import Vocabulary

__all__ = ["DistilledDataset", "HardTokens", "TopK", "load", "save", "soft_cross_entropy"]


def load(path: str | os.PathLike[str]) -> DistilledDataset:
    """Read an artifact, or the run folder that holds one, as a PyTorch dataset.

    Args:
        path: the folder.

    Raises:
        ArtifactError: the folder is none, or is broken; one line that names file and field.

    Example:
        >>> import farzi
        >>> farzi.load("nowhere")
        Traceback (most recent call last):
        ...
        farzi.errors.ArtifactError: nowhere: there is no such folder.
    """
    return DistilledDataset(read_artifact(path))


def save(
    data: DistilledDataset | Artifact,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
) -> None:
    """Write a dataset as an artifact's folder, whole or not at all.

    Args:
        data: the dataset, or an artifact.
        path: the folder.
        overwrite: replace an artifact that is there.

    Raises:
        SettingsError: something is there already.
    """
    artifact = data if isinstance(data, Artifact) else data.artifact
    write_artifact(artifact, path, overwrite=overwrite)


class DistilledDataset(Dataset[dict[str, Tensor]]):
    """Synthetic sequences as a map-style dataset: one item a sequence, for any `DataLoader`.

    An item is a dict, and a batch of B the same with B in front:

    - `tokens`: the input, soft (L, V) float32, each row a probability over the vocabulary; or
      (L,) int64 where the artifact keeps its tokens as ids.
    - `labels`: soft (L, V) float32, row t the target of position t.
    - `mask`: bool (L,), True where the position counts.

    Where an artifact has no labels of its own each token is the label of the one before, so an item
    has one row less than the artifact.

    Args:
        artifact: as `farzi.artifact.read_artifact` returns it.

    Cost:
        L V floats an item, twice with labels: decoded when they are read, never all at once.

    Example:
        >>> import farzi
        >>> data = farzi.load("runs/ml-100k")  # doctest: +SKIP
        >>> loader = torch.utils.data.DataLoader(data, batch_size=10)  # doctest: +SKIP
    """

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.synthetic = artifact.synthetic
        self.vocabulary = Vocabulary(tuple(artifact.vocabulary))

    @property
    def vocabulary_size(self) -> int:
        """V, the number of ids that there are."""
        return self.artifact.vocabulary_size

    @property
    def length(self) -> int:
        """L, the rows of an item: the context that a model must be able to read."""
        return self.artifact.length - (self.artifact.label_latent is None)

    def __len__(self) -> int:
        return self.artifact.num_sequences

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"`index` must be below {len(self)}, got {index}.")
        return {name: part[0] for name, part in self.batch([index % len(self)]).items()}

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        """Return several items, decoded at once; `DataLoader` asks for them so."""
        batch = self.batch(indices)
        return [{name: part[row] for name, part in batch.items()} for row in range(len(indices))]

    def batch(self, indices: Sequence[int] | Tensor | None = None) -> dict[str, Tensor]:
        """Return `tokens`, `labels` and `mask` of some sequences, of all when None."""
        device = self.synthetic.decoder.device
        if indices is None:
            indices = range(len(self))
        chosen = torch.as_tensor(list(indices), dtype=torch.int64, device=device)
        tokens, labels = self.synthetic.tokens(chosen), self.synthetic.labels(chosen)
        mask = self.synthetic.mask(chosen)
        if mask is None:
            mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=device)
        if labels is None:
            tokens, labels, mask = tokens[:, :-1], tokens[:, 1:], mask[:, 1:]
        return {"tokens": tokens, "labels": labels, "mask": mask}

    def to(self, device: torch.device | str) -> DistilledDataset:
        """Return the same dataset with its factors on another device."""
        moved = DistilledDataset(self.artifact)
        few = self.synthetic
        moved.synthetic = replace(
            few,
            latent=few.latent.to(device),
            decoder=few.decoder.to(device),
            label_latent=None if few.label_latent is None else few.label_latent.to(device),
            lengths=None if few.lengths is None else few.lengths.to(device),
        )
        return moved

    # ------------------------------------------------------------------------------ original ids

    def encode(self, originals: Iterable[int | str]) -> Tensor:
        """Return the tokens of original ids, int64; a word that is not known is `<unk>`.

        Raises:
            DataError: an item is not in the catalogue.
        """
        return torch.from_numpy(self.vocabulary.encode(originals)).long()

    def decode(self, tokens: Tensor | Sequence[int]) -> list[int | str]:
        """Return the original ids of tokens.

        Raises:
            ValueError: a token is not below the vocabulary's size.
        """
        return self.vocabulary.decode(torch.as_tensor(tokens).cpu().numpy())

    # ------------------------------------------------------------------------- for other tools

    def hard(self, samples: int | None = None, seed: int = 0) -> HardTokens:
        """Return hard tokens: the likeliest at each place, or some drawn for each sequence.

        A model trained on hard tokens alone is much worse than one trained on the soft ones.

        Args:
            samples: how many to draw of each sequence; None: the likeliest token at each place.
            seed: of the draws.

        Raises:
            ValueError: `samples` is below 1.
        """
        if samples is not None and samples < 1:
            raise ValueError(f"`samples` must be an int >= 1, got {samples}.")
        copies = samples or 1
        generator = torch.Generator().manual_seed(seed)
        rows = []
        for index in range(len(self)):
            soft = self.synthetic.tokens(torch.tensor([index]))[0].detach().cpu()
            if soft.dim() == 1:
                rows.append(soft.expand(copies, -1))
            elif samples is None:
                rows.append(soft.argmax(-1)[None])
            else:
                rows.append(torch.multinomial(soft, samples, True, generator=generator).T)
        mask = self.synthetic.mask()
        if mask is None:
            mask = torch.ones(len(self), self.artifact.length, dtype=torch.bool)
        return HardTokens(
            tokens=torch.cat(rows),
            mask=mask.cpu().repeat_interleave(copies, 0),
            sequence=torch.arange(len(self)).repeat_interleave(copies),
            vocabulary=self.vocabulary,
        )

    def top_k(self, k: int, of: Literal["labels", "tokens"] = "labels") -> TopK:
        """Return the k likeliest ids at each place, with their probabilities.

        Args:
            k: how many; the whole vocabulary where it is smaller.
            of: the soft labels (row t the target of position t), or the soft tokens.

        Raises:
            ValueError: `k` is below 1.
        """
        if k < 1:
            raise ValueError(f"`k` must be an int >= 1, got {k}.")
        k = min(k, self.artifact.vocabulary_size)
        best, masks = [], []
        for index in range(len(self)):
            item = self.batch([index])
            soft = item[of].detach()
            if soft.dim() == 2:
                soft = torch.nn.functional.one_hot(soft, self.artifact.vocabulary_size).float()
            best.append(soft.topk(k))
            masks.append(item["mask"])
        return TopK(
            ids=torch.cat([found.indices for found in best]).cpu(),
            probabilities=torch.cat([found.values for found in best]).cpu(),
            mask=torch.cat(masks).cpu(),
            vocabulary=self.vocabulary,
        )

    # ----------------------------------------------------------------------------- to look at

    def __repr__(self) -> str:
        found = self.artifact
        return (
            f"DistilledDataset({found.source['name']!r}: {found.num_sequences:,} sequences of "
            f"{found.length:,}, vocabulary {found.vocabulary_size:,}, {found.num_bytes:,} bytes)"
        )

    def _repr_html_(self) -> str:
        """Show the first places of a few sequences, as a notebook prints it."""
        few, places, top = min(3, len(self)), min(8, self.artifact.length), 3
        rows = []
        for index in range(few):
            length = self.artifact.length
            if self.artifact.lengths is not None:
                length = int(self.artifact.lengths[index])
            soft = self.synthetic.tokens(torch.tensor([index]))[0, : min(places, length)]
            cells = "".join(f"<td>{self._describe(row, top)}</td>" for row in soft)
            rows.append(f"<tr><th>{index}</th>{cells}</tr>")
        head = "".join(f"<th>{place}</th>" for place in range(places))
        return (
            f"<p>{html.escape(printable(repr(self)))}</p>"
            f"<table><thead><tr><th>sequence</th>{head}</tr></thead>"
            f"<tbody>{''.join(rows)}</tbody></table>"
        )

    def _describe(self, soft: Tensor, top: int) -> str:
        """Return the likeliest ids of a place with their probabilities, as HTML."""
        if soft.dim() == 0:
            return html.escape(printable(str(self.vocabulary.ids[int(soft)])))
        values, ids = soft.topk(min(top, len(soft)))
        return "<br>".join(
            f"{html.escape(printable(str(self.vocabulary.ids[token])))} {value:.2f}"
            for token, value in zip(ids.tolist(), values.tolist(), strict=True)
        )


@dataclass(frozen=True)
class HardTokens(Dataset[dict[str, Tensor]]):
    """Hard tokens of a distilled dataset, for tools that read nothing else.

    Attributes:
        tokens: (N, L) int64.
        mask: bool (N, L), True where a token is real.
        sequence: (N,), the synthetic sequence that each row was made of.
        vocabulary: token to original id.
    """

    tokens: Tensor
    mask: Tensor
    sequence: Tensor
    vocabulary: Vocabulary

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"tokens": self.tokens[index], "mask": self.mask[index]}

    def originals(self) -> list[list[int | str]]:
        """Return each row's real tokens in original ids."""
        return [
            self.vocabulary.decode(row[real].numpy())
            for row, real in zip(self.tokens, self.mask, strict=True)
        ]

    @property
    def coverage(self) -> float:
        """The share of the vocabulary that is among the tokens."""
        return len(torch.unique(self.tokens[self.mask])) / self.vocabulary.size


@dataclass(frozen=True)
class TopK:
    """The likeliest tokens at each place.

    Attributes:
        ids: (S, L, k) int64, the likeliest first.
        probabilities: (S, L, k) float32; what is missing to 1 lies on the other tokens.
        mask: bool (S, L), True where the place counts.
        vocabulary: token to original id.
    """

    ids: Tensor
    probabilities: Tensor
    mask: Tensor
    vocabulary: Vocabulary

    @property
    def kept(self) -> float:
        """The mean probability that the k likeliest hold together."""
        return float(self.probabilities.sum(-1)[self.mask].mean())


def soft_cross_entropy(logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean cross-entropy against soft labels.

    Args:
        logits: (B, L, V).
        labels: (B, L, V), each row a probability.
        mask: bool (B, L), True where the position counts; None when all do.

    Returns:
        A scalar, in nats a position.

    Example:
        >>> import torch
        >>> from farzi import soft_cross_entropy
        >>> labels = torch.tensor([[[0.5, 0.5], [1.0, 0.0]]])
        >>> round(float(soft_cross_entropy(torch.zeros(1, 2, 2), labels)), 4)
        0.6931
    """
    losses = -(labels * logits.log_softmax(-1)).sum(-1)
    return losses.mean() if mask is None else losses[mask].mean()
