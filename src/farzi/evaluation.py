"""Scores of a student on held-out sequences: full ranking, or perplexity and accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from farzi import metrics
from farzi.data.prepared import PreparedData
from farzi.data.sequences import Sequences
from farzi.errors import DataError
from farzi.models import Params, Student, hidden_states, logits

__all__ = [
    "EOS",
    "Scores",
    "evaluate",
    "most_popular",
    "sequences_of",
    "validation_loss",
]

EOS = "<eos>"
Part = Literal["train", "validation", "test"]


def sequences_of(data: PreparedData, part: Part) -> Sequences:
    """The sequences of one part as a student reads them.

    A sentence gets `<eos>` in front, as it would have inside a text, so that its first word is
    predicted, and scored, too.
    """
    sequences: Sequences = getattr(data, part)
    if data.task == "recommend":
        return sequences
    (eos,) = data.vocabulary.encode([EOS])
    return Sequences.from_lists(
        [np.concatenate([np.array([eos], np.int32), sentence]) for sentence in sequences]
    )


@dataclass(frozen=True)
class Scores:
    """Metrics of one model on one part.

    Attributes:
        metrics: name to mean value.
        per_user: name to one value a user (ranking), or a sentence (language), for paired tests.
    """

    metrics: dict[str, float]
    per_user: dict[str, npt.NDArray[np.float64]]

    def as_dict(self) -> dict[str, Any]:
        """The means, as JSON takes them."""
        return dict(self.metrics)


def evaluate(student: Student, params: Params, data: PreparedData, part: Part = "test") -> Scores:
    """Score a student on one part of a source.

    Recommendation: each sequence's last item is ranked against the whole catalogue by a model that
    read up to `context_length` items before it; items already seen are left out or kept as the
    source says. `loss` is the mean next-item loss over all its positions: it reads every event of
    a test user, where the ranking reads one, and so tells models apart with few users.
    Language: every token after the first `<eos>` of a sentence is predicted.

    Args:
        student: the model.
        params: its parameters.
        data: the prepared source.
        part: which sequences.

    Raises:
        DataError: the part is empty or the student's vocabulary is another.
    """
    if student.num_tokens != data.vocabulary.size:
        raise DataError(
            f"the model knows {student.num_tokens:,} tokens and {data.name} has "
            f"{data.vocabulary.size:,}: they do not belong together."
        )
    sequences = sequences_of(data, part)
    if not len(sequences):
        raise DataError(f"{data.name}: the {part} part is empty.")
    if data.task == "language":
        return _evaluate_language(student, params, sequences)

    def scores(chosen: npt.NDArray[np.int64]) -> Tensor:
        return _last_scores(student, params, sequences, chosen)

    ranked = _evaluate_ranking(
        scores, sequences, student.num_tokens, data.seen_items == "leave-out"
    )
    losses = _user_losses(student, params, sequences)
    return Scores(
        ranked.metrics | {"loss": float(losses.mean())}, ranked.per_user | {"loss": losses}
    )


def most_popular(data: PreparedData, part: Part = "test") -> Scores:
    """Score the ranking by training counts: what every model must beat."""
    counts = np.bincount(data.train.tokens, minlength=data.vocabulary.size)
    popularity = torch.from_numpy(counts.astype(np.float32))
    return _evaluate_ranking(
        lambda chosen: popularity.expand(len(chosen), -1).clone(),
        getattr(data, part),
        data.vocabulary.size,
        data.seen_items == "leave-out",
    )


@torch.no_grad()
def validation_loss(
    student: Student, params: Params, sequences: Sequences, batch_size: int = 256
) -> float:
    """Mean next-token loss over the last `context_length` targets of each sequence, in nats.

    Every event of a validation user counts, not the last alone: with few users the choice would
    otherwise follow their noise.
    """
    total, count = 0.0, 0
    for start in range(0, len(sequences), batch_size):
        chosen = np.arange(start, min(start + batch_size, len(sequences)))
        nll, mask, _ = _token_nll(student, params, sequences, chosen)
        total += float(nll.double().mul(mask).sum())
        count += int(mask.sum())
    if not count:
        raise DataError("no sequence has two tokens or more, so there is no loss to compute.")
    return total / count


def _token_nll(
    student: Student, params: Params, sequences: Sequences, chosen: npt.NDArray[np.int64]
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of every next token, which of them are real, and whether each was the top guess."""
    device = student.embedding(params).device
    length = min(int(sequences.lengths[chosen].max()), student.context_length + 1)
    padded, real = sequences.padded(chosen, length)
    tokens = torch.from_numpy(padded).to(device)
    mask = torch.from_numpy(real).to(device)
    scores = logits(student, params, hidden_states(student, params, tokens[:, :-1]))
    target = tokens[:, 1:, None]
    own = scores.gather(-1, target)
    nll = (scores.logsumexp(-1, keepdim=True) - own)[..., 0]
    return nll, mask[:, 1:], (own >= scores.amax(-1, keepdim=True))[..., 0]


@torch.no_grad()
def _user_losses(
    student: Student, params: Params, sequences: Sequences, batch_size: int = 256
) -> npt.NDArray[np.float64]:
    """Mean next-token loss of each sequence, in nats."""
    losses = []
    for start in range(0, len(sequences), batch_size):
        chosen = np.arange(start, min(start + batch_size, len(sequences)))
        nll, mask, _ = _token_nll(student, params, sequences, chosen)
        losses.append(((nll.double() * mask).sum(1) / mask.sum(1)).cpu().numpy())
    return np.concatenate(losses)


@torch.no_grad()
def _last_scores(
    student: Student, params: Params, sequences: Sequences, chosen: npt.NDArray[np.int64]
) -> Tensor:
    """Scores (B, V) of the next item after each context."""
    device = student.embedding(params).device
    contexts = Sequences.from_lists([sequences[int(index)][:-1] for index in chosen])
    padded, real = contexts.padded(np.arange(len(chosen)), student.context_length)
    tokens, mask = torch.from_numpy(padded), torch.from_numpy(real)
    hidden = hidden_states(student, params, tokens.to(device))
    last = hidden[torch.arange(len(chosen)), mask.sum(1).to(device) - 1]
    return logits(student, params, last).cpu()


def _evaluate_ranking(
    scores_of: Callable[[npt.NDArray[np.int64]], Tensor],
    sequences: Sequences,
    num_items: int,
    leave_out: bool,
    batch_size: int = 512,
) -> Scores:
    ranks, candidates = [], []
    for start in range(0, len(sequences), batch_size):
        chosen = np.arange(start, min(start + batch_size, len(sequences)))
        targets = torch.tensor([int(sequences[int(index)][-1]) for index in chosen])
        exclude = None
        if leave_out:
            exclude = torch.zeros(len(chosen), num_items, dtype=torch.bool)
            for row, index in enumerate(chosen):
                exclude[row, torch.from_numpy(sequences[int(index)][:-1].astype(np.int64))] = True
        ranks.append(metrics.target_ranks(scores_of(chosen), targets, exclude))
        candidates.append(metrics.count_candidates(targets, num_items, exclude))
    rank, count = torch.cat(ranks), torch.cat(candidates)
    per_user = {
        "HR@10": metrics.hit_rate(rank, 10, per_user=True),
        "HR@100": metrics.hit_rate(rank, 100, per_user=True),
        "nDCG@10": metrics.ndcg(rank, 10, per_user=True),
        "nDCG@100": metrics.ndcg(rank, 100, per_user=True),
        "MRR": metrics.mrr(rank, per_user=True),
        "AUC": metrics.auc(rank, count, per_user=True),
    }
    return Scores({name: float(values.mean()) for name, values in per_user.items()}, per_user)


@torch.no_grad()
def _evaluate_language(
    student: Student, params: Params, sequences: Sequences, batch_size: int = 256
) -> Scores:
    sums, counts, correct = [], [], []
    for start in range(0, len(sequences), batch_size):
        chosen = np.arange(start, min(start + batch_size, len(sequences)))
        nll, mask, right = _token_nll(student, params, sequences, chosen)
        sums.append((nll.double() * mask).sum(1))
        counts.append(mask.sum(1))
        correct.append((right & mask).sum(1))
    total, number, hits = (torch.cat(parts).cpu().numpy() for parts in (sums, counts, correct))
    return Scores(
        {
            "perplexity": metrics.perplexity(total, number),
            "sentence_perplexity": metrics.sentence_perplexity(total, number),
            "accuracy": metrics.accuracy(hits, number),
        },
        {"loss": total / number, "accuracy": hits / number},
    )


def rounded(values: Mapping[str, float], digits: int = 6) -> dict[str, float]:
    """Values rounded for a file that is to be the same byte for byte."""
    return {name: round(value, digits) for name, value in values.items()}
