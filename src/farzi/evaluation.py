"""Scores of a student on held-out sequences: full ranking, or perplexity and accuracy.

Every event and every token that follows another is scored exactly once, however long its sequence:
sequences longer than the model's context are read in overlapping windows (`data.windows`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from farzi import metrics
from farzi.data.prepared import PreparedData
from farzi.data.sequences import Sequences
from farzi.data.vocabulary import end_of_sentence
from farzi.data.windows import Windows, windows_over
from farzi.errors import DataError, NonFiniteError
from farzi.models import Params, Student, hidden_states, logits
from farzi.models.fused.soft_head import embed

__all__ = [
    "Scores",
    "evaluate",
    "most_popular",
    "sequence_losses",
    "sequences_of",
    "to_look_at",
    "validation_loss",
]

Part = Literal["train", "validation", "test"]

MOST_LOOKED_AT = 10_000
"""Held-out sequences that a look during training reads at most."""

MOST_TOKENS_LOOKED_AT = 200_000
"""About how many tokens these have at most; a look at as many takes seconds."""


def sequences_of(data: PreparedData, part: Part) -> Sequences:
    """The sequences of one part as a student reads them.

    A sentence gets `<eos>` in front, as it would have inside a text, so that its first word is
    predicted, and scored, too.
    """
    sequences: Sequences = getattr(data, part)
    if data.task == "recommend":
        return sequences
    (eos,) = data.vocabulary.encode([end_of_sentence(data.vocabulary, data.protocol)])
    return Sequences.from_lists(
        [np.concatenate([np.array([eos], np.int32), sentence]) for sentence in sequences]
    )


@dataclass(frozen=True)
class Scores:
    """Metrics of one model on one part.

    Attributes:
        metrics: name to mean value.
        per_user: name to one value a user (ranking), or a sentence (language), for paired tests.
            Which users those are depends on the data alone, so two models' values pair up.
        counts: of a recommender `users`, `nothing_to_rank` (users who had every item but the
            target: they are left out of AUC), `targets_without_training` (targets that no training
            user had) and `events_scored`; of a language model `sentences` and `tokens_scored`.
    """

    metrics: dict[str, float]
    per_user: dict[str, npt.NDArray[np.float64]]
    counts: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The means, as JSON takes them."""
        return dict(self.metrics)


def evaluate(
    student: Student,
    params: Params,
    data: PreparedData,
    part: Part = "test",
    *,
    stride: int | None = None,
) -> Scores:
    """Score a student on one part of a source.

    Recommendation: each sequence's last item is ranked against the whole catalogue by a model that
    read up to `context_length` items before it; items already seen are left out or kept as the
    source says. `loss` is the mean over users of each user's mean next-item loss, in nats. It
    reads every event of a test user but the first, where the ranking reads one, and so tells
    models apart with few users.
    Language: every token after the first `<eos>` of a sentence is predicted, however long it is.

    Args:
        student: the model.
        params: its parameters.
        data: the prepared source.
        part: which sequences.
        stride: tokens that each further window over a long sequence adds; half the context when
            None.

    Raises:
        DataError: the part is empty, a sequence has fewer than two tokens, or the student's
            vocabulary is another.
    """
    if student.num_tokens != data.vocabulary.size:
        raise DataError(
            f"the model knows {student.num_tokens:,} tokens and {data.name} has "
            f"{data.vocabulary.size:,}: they do not belong together."
        )
    sequences = sequences_of(data, part)
    if not len(sequences):
        raise DataError(f"{data.name}: the {part} part is empty.")
    if int(sequences.lengths.min()) < 2:
        raise DataError(
            f"{data.name}: sequence {int(sequences.lengths.argmin())} of the {part} part has fewer "
            "than two tokens, so there is nothing to predict."
        )
    scored = _score_tokens(student, params, sequences, stride)
    if not np.isfinite(scored.losses).all():
        raise NonFiniteError("the losses of the model are not all finite: its weights diverged")
    if data.task == "language":
        return _evaluate_language(scored)

    def scores(chosen: npt.NDArray[np.int64]) -> Tensor:
        return _last_scores(student, params, sequences, chosen)

    ranked = _evaluate_ranking(scores, sequences, data)
    losses = scored.losses / scored.counts
    return Scores(
        ranked.metrics | {"loss": float(losses.mean())},
        ranked.per_user | {"loss": losses},
        ranked.counts | {"events_scored": int(scored.counts.sum())},
    )


def most_popular(data: PreparedData, part: Part = "test") -> Scores:
    """Score the ranking by training counts: what every model must beat."""
    counts = np.bincount(data.train.tokens, minlength=data.vocabulary.size)
    popularity = torch.from_numpy(counts.astype(np.float32))
    return _evaluate_ranking(
        lambda chosen: popularity.expand(len(chosen), -1), getattr(data, part), data
    )


def validation_loss(
    student: Student, params: Params, sequences: Sequences, *, stride: int | None = None
) -> float:
    """Mean loss of every token that follows another, each counted once, in nats.

    Every event of a validation user counts, not the last alone: with few users the choice would
    otherwise follow their noise. Sequences longer than the context are read in windows; pass fewer
    sequences where a look must be cheaper.

    Args:
        student: the model.
        params: its parameters.
        sequences: held-out sequences.
        stride: as for `evaluate`.

    Raises:
        DataError: no sequence has two tokens or more.
    """
    scored = _score_tokens(student, params, sequences, stride)
    if not scored.counts.sum():
        raise DataError("no sequence has two tokens or more, so there is no loss to compute.")
    return float(scored.losses.sum() / scored.counts.sum())


def sequence_losses(
    student: Student, params: Params, sequences: Sequences, *, stride: int | None = None
) -> npt.NDArray[np.float64]:
    """Mean loss of each sequence's predicted tokens, in nats, (num_sequences,).

    Args:
        student: the model.
        params: its parameters.
        sequences: each of two tokens or more.
        stride: as for `evaluate`.
    """
    scored = _score_tokens(student, params, sequences, stride)
    means: npt.NDArray[np.float64] = scored.losses / scored.counts
    return means


def to_look_at(
    sequences: Sequences, most: int = MOST_LOOKED_AT, most_tokens: int = MOST_TOKENS_LOOKED_AT
) -> Sequences:
    """The held-out sequences that a look during training reads: all, or evenly spaced ones.

    A look at the hundred thousands of validation users of a large log would take longer than the
    training between two looks.

    Args:
        sequences: held-out sequences.
        most: how many are read at most.
        most_tokens: about how many tokens they have at most.

    Example:
        >>> from farzi.data import Sequences
        >>> from farzi.evaluation import to_look_at
        >>> five = Sequences.from_lists([[0, 1], [1, 2], [2, 3], [3, 4], [4, 5]])
        >>> [each.tolist() for each in to_look_at(five, 3)]
        [[0, 1], [2, 3], [4, 5]]
    """
    share = min(1.0, most_tokens / max(1, sequences.num_tokens))
    number = min(most, max(1, int(share * len(sequences))))
    if len(sequences) <= number:
        return sequences
    return sequences.take(np.linspace(0, len(sequences) - 1, number).round().astype(np.int64))


@dataclass(frozen=True)
class _TokenScores:
    """Sums over the predicted tokens of each sequence, each (num_sequences,)."""

    losses: npt.NDArray[np.float64]
    correct: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]


def _score_tokens(
    student: Student, params: Params, sequences: Sequences, stride: int | None
) -> _TokenScores:
    """Score every token that follows another once.

    Windows of similar length are read together, and logits are formed for a block of scored
    positions at a time, so memory does not grow with the vocabulary times the batch.
    """
    windows = windows_over(sequences.lengths, student.context_length, stride)
    losses = np.zeros(len(sequences))
    correct = np.zeros(len(sequences))
    counts = np.zeros(len(sequences), np.int64)
    with torch.no_grad():
        table, head = student.embedding(params), student.head(params)
        device = table.device
        block = _logit_rows(student.num_tokens, table)
        for chosen in _window_batches(windows, student.width, device):
            tokens, scored = _padded(sequences, windows, chosen)
            owners = np.repeat(windows.sequences[chosen], scored.sum(1))
            hidden = student.hidden(params, embed(tokens[:, :-1].to(device), table))
            positions = torch.from_numpy(scored)
            targets = tokens[:, 1:][positions].to(device)
            hidden = hidden[positions.to(device)]
            for first in range(0, len(owners), block):
                part = slice(first, first + block)
                scores = head.scores(hidden[part])
                own = scores.gather(-1, targets[part, None])[:, 0]
                nll = scores.logsumexp(-1) - own
                np.add.at(losses, owners[part], nll.double().cpu().numpy())
                np.add.at(correct, owners[part], _guessed(scores, own).cpu().numpy())
            np.add.at(counts, owners, 1)
    return _TokenScores(losses, correct, counts)


def _guessed(scores: Tensor, own: Tensor) -> Tensor:
    """Chance (rows,) that the highest score, ties broken at random, is the target's."""
    guessed = (own >= scores.amax(-1)).double()
    (first,) = guessed.nonzero(as_tuple=True)
    guessed[first] /= (scores[first] == own[first, None]).sum(-1)
    return guessed


_LOGIT_BYTES = {"cpu": 1 << 20, "cuda": 1 << 28}
"""Logits that exist at one time, where they are those of enough positions."""
_LOGIT_ROWS = 32
"""Enough: with fewer, reading the table of embeddings takes longer than the products."""
_RANKED_ITEMS = 1 << 23
"""Scores, users times items, that are ranked at one time."""
_ACTIVATION_BYTES = {"cpu": 1 << 24, "cuda": 1 << 29}
"""About what one layer's activations of a batch of windows may take."""


def _logit_rows(width: int, like: Tensor) -> int:
    """Positions whose logits exist at one time: `_LOGIT_ROWS` at eight times the budget at most."""
    most = {name: 8 * budget for name, budget in _LOGIT_BYTES.items()}
    fewest = min(_LOGIT_ROWS, _rows_within(most, width, like))
    return max(fewest, _rows_within(_LOGIT_BYTES, width, like))


def _rows_within(budgets: Mapping[str, int], width: int, like: Tensor) -> int:
    """How many rows of `width` floats fit into the budget of the device of `like`."""
    return max(1, _budget(budgets, like.device) // (width * like.element_size()))


def _budget(budgets: Mapping[str, int], device: torch.device) -> int:
    return budgets["cpu" if device.type == "cpu" else "cuda"]


def _window_batches(
    windows: Windows, width: int, device: torch.device
) -> Iterator[npt.NDArray[np.int64]]:
    """Indices of windows that are read together, shortest first."""
    order = np.argsort(windows.lengths, kind="stable")
    budget = _budget(_ACTIVATION_BYTES, device)
    start = 0
    while start < len(order):
        # The longest of a batch decides; it is no shorter than the first, so look ahead once.
        count = _windows_within(budget, int(windows.lengths[order[start]]), width)
        longest = int(windows.lengths[order[min(start + count, len(order)) - 1]])
        stop = start + min(count, _windows_within(budget, longest, width))
        yield order[start:stop]
        start = stop


def _windows_within(budget: int, length: int, width: int) -> int:
    """Windows of this length whose attention and feed-forward layer fit into the budget."""
    return max(1, budget // (4 * length * (length + 8 * width)))


def _padded(
    sequences: Sequences, windows: Windows, chosen: npt.NDArray[np.int64]
) -> tuple[Tensor, npt.NDArray[np.bool_]]:
    """Tokens of windows with the target after the last, (B, L + 1), and what is scored (B, L)."""
    lengths = windows.lengths[chosen]
    steps = np.arange(int(lengths.max()) + 1)
    real = steps <= lengths[:, None]
    begin = sequences.offsets[windows.sequences[chosen]] + windows.starts[chosen]
    tokens = np.zeros(real.shape, np.int64)
    tokens[real] = sequences.tokens[(begin[:, None] + steps)[real]]
    scored = real[:, 1:] & (steps[:-1] >= windows.firsts[chosen, None])
    return torch.from_numpy(tokens), scored


def _last_scores(
    student: Student, params: Params, sequences: Sequences, chosen: npt.NDArray[np.int64]
) -> Tensor:
    """Scores (B, V) of the next item after each context."""
    device = student.embedding(params).device
    contexts = sequences.take(chosen).without_last(1)
    padded, real = contexts.padded(np.arange(len(chosen)), student.context_length)
    last = torch.from_numpy(real.sum(1) - 1).to(device)
    with torch.no_grad():
        hidden = hidden_states(student, params, torch.from_numpy(padded).to(device))
        return logits(student, params, hidden[torch.arange(len(chosen)), last]).cpu()


def _evaluate_ranking(
    scores_of: Callable[[npt.NDArray[np.int64]], Tensor],
    sequences: Sequences,
    data: PreparedData,
    batch_size: int = 512,
) -> Scores:
    num_items, leave_out = data.vocabulary.size, data.seen_items == "leave-out"
    batch_size = max(1, min(batch_size, _RANKED_ITEMS // num_items))
    # Made whole: small blocks kept from every batch would lie in the space of its large ones, and
    # the next batch's would need new space, until memory is full.
    rank = torch.empty(len(sequences), dtype=torch.float64)
    count = torch.empty(len(sequences), dtype=torch.int64)
    for start in range(0, len(sequences), batch_size):
        chosen = np.arange(start, min(start + batch_size, len(sequences)))
        targets = torch.tensor([int(sequences[int(index)][-1]) for index in chosen])
        exclude = None
        if leave_out:
            exclude = torch.zeros(len(chosen), num_items, dtype=torch.bool)
            for row, index in enumerate(chosen):
                exclude[row, torch.from_numpy(sequences[int(index)][:-1].astype(np.int64))] = True
        part = slice(start, start + len(chosen))
        rank[part] = metrics.target_ranks(scores_of(chosen), targets, exclude)
        count[part] = metrics.count_candidates(targets, num_items, exclude)
    choice = count > 1  # a user who had every other item: the target is alone, and AUC is 0 / 0
    per_user = {
        "HR@10": metrics.hit_rate(rank, 10, per_user=True),
        "HR@100": metrics.hit_rate(rank, 100, per_user=True),
        "nDCG@10": metrics.ndcg(rank, 10, per_user=True),
        "nDCG@100": metrics.ndcg(rank, 100, per_user=True),
        "MRR": metrics.mrr(rank, per_user=True),
    }
    if choice.any():
        per_user["AUC"] = metrics.auc(rank[choice], count[choice], per_user=True)
    means = {name: float(values.mean()) for name, values in per_user.items()}
    known = np.zeros(num_items, np.bool_)
    known[data.train.tokens] = True
    counts = {
        "users": len(rank),
        "nothing_to_rank": int((~choice).sum()),
        "targets_without_training": int(
            (~known[sequences.tokens[sequences.offsets[1:] - 1]]).sum()
        ),
    }
    return Scores(means, per_user, counts)


def _evaluate_language(scored: _TokenScores) -> Scores:
    total, number, hits = scored.losses, scored.counts, scored.correct
    return Scores(
        {
            "perplexity": metrics.perplexity(total, number),
            "sentence_perplexity": metrics.sentence_perplexity(total, number),
            "accuracy": metrics.accuracy(hits, number),
        },
        {"loss": total / number, "accuracy": hits / number},
        {"sentences": len(number), "tokens_scored": int(number.sum())},
    )


def rounded(values: Mapping[str, float], digits: int = 6) -> dict[str, float]:
    """Values rounded for a file that is to be the same byte for byte."""
    return {name: round(value, digits) for name, value in values.items()}
