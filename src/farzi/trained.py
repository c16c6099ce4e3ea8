"""A trained model to use elsewhere: weights with their vocabulary, as a `torch.nn.Module`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from farzi.artifact.parquet import parse_column, render_parquet
from farzi.data.files import check_regular, replacing
from farzi.data.vocabulary import Vocabulary, end_of_sentence
from farzi.errors import ArtifactError, DataError
from farzi.models import Student, hidden_states, logits
from farzi.models.weights import load_weights, save_weights

__all__ = ["WEIGHTS", "TrainedModel", "load_model", "save_model"]

WEIGHTS = "weights.safetensors"
VOCABULARY = "vocabulary.parquet"

_MAX_VOCABULARY_BYTES = 1 << 32


def save_model(
    folder: str | os.PathLike[str],
    student: Student,
    params: Mapping[str, Tensor],
    vocabulary: Vocabulary,
    provenance: Mapping[str, Any],
) -> Path:
    """Write a trained student: its vocabulary, and weights that name it.

    Args:
        folder: where; weights that are there are replaced.
        student: the model.
        params: its weights.
        vocabulary: the original ids of its tokens.
        provenance: what it was trained on, JSON values.

    Returns:
        The weights file.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    content = render_parquet({"id": vocabulary.ids})
    with replacing(target / VOCABULARY) as draft:
        draft.write_bytes(content)
    save_weights(target / WEIGHTS, student, params, provenance)
    return target / WEIGHTS


def load_model(path: str | os.PathLike[str], student: Student | str | None = None) -> TrainedModel:
    """Load what `farzi train` wrote as an ordinary module, in evaluation mode.

    Args:
        path: the folder, or its weights file.
        student: the model, or what `--student` takes, where it is one of the user's own.

    Raises:
        SettingsError: the model is one of the user's own, and it is not given.
        ArtifactError: a file is missing or broken, or they do not fit each other.

    Example:
        >>> import farzi
        >>> model = farzi.load_model("models/small")  # doctest: +SKIP
        >>> model.scores([["B0001", "B0007"], ["B0007"]]).shape  # doctest: +SKIP
        torch.Size([2, 1683])
        >>> model.recommend([["B0001", "B0007"]], k=3)  # doctest: +SKIP
        [['B0044', 'B0003', 'B0012']]
    """
    place = Path(path)
    weights = place / WEIGHTS if place.is_dir() else place
    if place.is_dir():
        try:
            check_regular(weights)
        except OSError as error:
            raise ArtifactError(f"{weights}: not a weights file of farzi ({error}).") from None
    student, params, provenance = load_weights(weights, student)
    file = weights.parent / VOCABULARY
    try:
        if not os.path.lexists(file):
            raise ArtifactError(f"{file}: not there; train again to have it written.")
        check_regular(file, links=not place.is_dir())
        if (size := file.stat().st_size) > _MAX_VOCABULARY_BYTES:
            raise ValueError(f"{size:,} bytes are more than {_MAX_VOCABULARY_BYTES:,}")
        vocabulary = Vocabulary(
            tuple(parse_column(file.read_bytes(), "id", num_rows=student.num_tokens))
        )
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{file}: not the vocabulary of {weights.name} ({error}).") from None
    return TrainedModel(student, params, vocabulary, provenance).eval()


class TrainedModel(nn.Module):
    """A student with its weights and its vocabulary.

    Called with tokens it returns scores, as any module; `scores` and `recommend` take histories in
    original ids. Its weights stand in `state_dict()` under the names of the weights file.

    Args:
        student: the model.
        params: its weights.
        vocabulary: the original ids of its tokens.
        provenance: what it was trained on.
    """

    def __init__(
        self,
        student: Student,
        params: Mapping[str, Tensor],
        vocabulary: Vocabulary,
        provenance: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.student = student
        self.vocabulary = vocabulary
        self.provenance = dict(provenance)
        self._names = tuple(params)
        for name, value in params.items():
            *folders, leaf = name.split(".")
            owner: nn.Module = self
            for folder in ("weights", *folders):
                if not hasattr(owner, folder):
                    owner.add_module(folder, nn.Module())
                owner = getattr(owner, folder)
            owner.register_parameter(leaf, nn.Parameter(value.detach().clone()))

    @property
    def params(self) -> dict[str, Tensor]:
        """The weights by name, as a student's functions take them."""
        return {name: self.get_parameter(f"weights.{name}") for name in self._names}

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the scores of the next token after each place.

        Args:
            tokens: (B, L) int64, or soft (B, L, V); L is at most the context length.

        Returns:
            (B, L, V).
        """
        params, generator = self.params, None
        if self.training:
            seed = int(torch.randint(1 << 62, ()))
            generator = torch.Generator(tokens.device).manual_seed(seed)
        hidden = hidden_states(self.student, params, tokens, generator)
        return logits(self.student, params, hidden)

    @torch.no_grad()
    def scores(
        self, histories: Sequence[Sequence[int | str]], *, skip_unknown: bool = False
    ) -> Tensor:
        """Return the scores of every item as the next one after each history.

        Args:
            histories: original ids, the latest last; of a text, words, read as the start of a
                sentence. What is longer than the context is cut at its front.
            skip_unknown: leave out items that the model does not know, in place of an error.

        Returns:
            (B, V), in token order: `model.vocabulary.ids` names the columns.

        Raises:
            DataError: a history is empty, or has an item that the model does not know.
        """
        rows = [self._encode(number, ids, skip_unknown) for number, ids in enumerate(histories)]
        device = next(self.parameters()).device
        if not rows:
            return torch.zeros(0, self.vocabulary.size, device=device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)
        params = self.params
        hidden = hidden_states(self.student, params, tokens)
        last = hidden[torch.arange(len(rows), device=device), lengths - 1]
        return logits(self.student, params, last)

    def recommend(
        self,
        histories: Sequence[Sequence[int | str]],
        k: int = 10,
        *,
        leave_out_seen: bool = False,
        skip_unknown: bool = False,
    ) -> list[list[int | str]]:
        """Return the k best next items of each history, in original ids, the best first.

        Args:
            histories: as for `scores`.
            k: how many.
            leave_out_seen: leave out the items of the history.
            skip_unknown: as for `scores`.
        """
        if k < 1:
            raise ValueError(f"`k` must be an int >= 1, got {k}.")
        scores = self.scores(histories, skip_unknown=skip_unknown)
        if leave_out_seen:
            for row, history in zip(scores, histories, strict=True):
                known = [original for original in history if original in self.vocabulary]
                row[torch.from_numpy(self.vocabulary.encode(known)).long()] = -torch.inf
        found = scores.topk(min(k, self.vocabulary.size))
        return [
            self.vocabulary.decode(ids[values > -torch.inf].cpu().numpy())
            for ids, values in zip(found.indices, found.values, strict=True)
        ]

    def _encode(self, number: int, history: Sequence[int | str], skip_unknown: bool) -> Tensor:
        if isinstance(history, str):
            raise DataError(f"history {number} is a text; give a list of ids.")
        chosen = list(history)
        if skip_unknown:
            chosen = [original for original in chosen if original in self.vocabulary]
        if self.provenance.get("task") == "language":
            protocol = self.provenance.get("protocol") or {}
            chosen = [end_of_sentence(self.vocabulary, protocol), *chosen]
        if not chosen:
            raise DataError(f"history {number} is empty: there is nothing to go on from.")
        tokens = self.vocabulary.encode(chosen)[-self.student.context_length :]
        return torch.from_numpy(tokens.astype(np.int64))
