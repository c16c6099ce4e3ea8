"""Where latents and decoder begin: noise, real sequences, or a teacher's own predictions."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from farzi.data.sequences import Sequences
from farzi.errors import DataError
from farzi.models import Params, Student
from farzi.models.fused.soft_head import embed
from farzi.synthetic import SyntheticSequences

__all__ = [
    "RowChoice",
    "Rows",
    "choose_rows",
    "fit_latents",
    "mean_logits",
    "random_start",
    "real_start",
    "teacher_start",
]

RowChoice: TypeAlias = Literal["ends", "joined", "pieces"]

DECODER_RMS = 0.27  # a decoder of this size and latents of size 1 to 10 move at a common rate


@dataclass(frozen=True)
class Rows:
    """Real sequences that a start is built from.

    Attributes:
        tokens: int64 (S, L), right padded with 0.
        following: int64 (S, L), the token after each position.
        lengths: int64 (S,), positions that are real.
    """

    tokens: Tensor
    following: Tensor
    lengths: Tensor

    @property
    def mask(self) -> Tensor:
        """Real positions, bool (S, L)."""
        return torch.arange(self.tokens.shape[1]) < self.lengths[:, None]


def choose_rows(
    sequences: Sequences,
    num: int,
    length: int,
    generator: np.random.Generator,
    *,
    how: RowChoice,
) -> Rows:
    """Draw `num` rows of up to `length` positions from training sequences.

    Args:
        sequences: training sequences only.
        num: rows S.
        length: positions L.
        generator: draws them.
        how: `ends`: a row is the end of one sequence, drawn among those that fill a row, or the
            longest where too few do. `joined`: whole sequences joined until a row is full
            (sentences). `pieces`: stretches of L/5 to L/2 events of many sequences, joined, chosen
            one after the other for tokens that are frequent and not yet in many rows.

    Raises:
        DataError: there are fewer than `num` sequences, or pieces of them.
    """
    if how == "joined":
        rows = _joined(sequences, num, length + 1, generator)
    elif how == "pieces":
        rows = _joined_pieces(sequences, num, length + 1, generator)
    else:
        _refuse_fewer(num, len(sequences), "training sequences")
        by_length = np.argsort(-sequences.lengths, kind="stable")
        num_full = int((sequences.lengths > length).sum())
        among = by_length[: max(num, num_full)]
        chosen = generator.permutation(among)[:num]
        rows = [sequences[int(index)][-(length + 1) :] for index in chosen]
    tokens, mask = Sequences.from_lists(rows).padded(np.arange(num), length + 1)
    both = torch.from_numpy(tokens)
    return Rows(both[:, :-1], both[:, 1:], torch.from_numpy(mask.sum(1) - 1))


def _refuse_fewer(num: int, available: int, what: str) -> None:
    if available < num:
        raise DataError(
            f"{num} synthetic sequences start from as many real ones, and there are "
            f"{available} {what}; make fewer."
        )


def _joined(
    sequences: Sequences, num: int, size: int, generator: np.random.Generator
) -> list[np.ndarray]:
    """Whole sequences joined until each row is full; they begin with the same mark."""
    order = generator.permutation(len(sequences))
    rows, position = [], 0
    for _ in range(num):
        parts: list[np.ndarray] = []
        while sum(map(len, parts)) < size:
            sentence = sequences[int(order[position % len(order)])]
            parts.append(sentence if not parts else sentence[1:])
            position += 1
        rows.append(np.concatenate(parts)[:size])
    return rows


def _joined_pieces(
    sequences: Sequences, num: int, size: int, generator: np.random.Generator
) -> list[np.ndarray]:
    """Rows joined from pieces of many sequences, chosen to hold many different tokens.

    A token is worth the root of its frequency, divided by one more than the number of chosen pieces
    that hold it; a piece, the sum over its distinct tokens divided by its length. What a piece is
    worth only falls, so a heap whose top is weighed anew gives the best one.
    """
    shortest, longest = max(2, size // 5), max(2, size // 2)
    pieces = []
    for index in range(len(sequences)):
        sequence = sequences[index]
        end = len(sequence)
        while end >= shortest:
            begin = max(0, end - int(generator.integers(shortest, longest + 1)))
            pieces.append(sequence[begin:end])
            end = begin
    _refuse_fewer(num, len(pieces), f"pieces of {shortest} events or more")
    frequency = np.bincount(sequences.tokens)
    chosen_with = np.zeros(len(frequency))

    def worth(piece: np.ndarray) -> float:
        distinct = np.unique(piece)
        return float((np.sqrt(frequency[distinct]) / (1 + chosen_with[distinct])).sum()) / len(
            piece
        )

    heap = [(-worth(piece), index) for index, piece in enumerate(pieces)]
    heapq.heapify(heap)
    chosen: list[np.ndarray] = []
    total = 0
    while heap and (total < num * size or len(chosen) < num):
        _, index = heapq.heappop(heap)
        now = -worth(pieces[index])
        if heap and now > heap[0][0]:
            heapq.heappush(heap, (now, index))
            continue
        chosen.append(pieces[index])
        total += len(pieces[index])
        chosen_with[np.unique(pieces[index])] += 1
    order = generator.permutation(len(chosen))
    tokens = np.concatenate([chosen[int(index)] for index in order])[: num * size]
    return np.array_split(tokens, num)


def random_start(
    num: int, length: int, latent_dim: int, num_tokens: int, *, labels: bool, seed: int
) -> SyntheticSequences:
    """Gaussian noise: the published start."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num, length, latent_dim)
    latent = torch.randn(shape, generator=generator)
    label_latent = torch.randn(shape, generator=generator) if labels else None
    decoder = torch.randn(latent_dim, num_tokens, generator=generator) * DECODER_RMS
    return SyntheticSequences(latent, decoder, label_latent)


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
        torch.manual_seed(seed)
        u, s, _ = torch.svd_lowrank(damped, q=min(latent_dim + 8, num_tokens), niter=4)
    factors = (u * s.sqrt())[:, : latent_dim - 1].T
    decoder = torch.cat([popularity[None], factors])
    decoder = decoder / decoder.square().mean(1, keepdim=True).sqrt() * DECODER_RMS
    latent = fit_latents(decoder, rows.tokens)
    label_latent = fit_latents(decoder, rows.following) if labels else None
    return SyntheticSequences(latent, decoder, label_latent, rows.lengths)


@torch.no_grad()
def teacher_start(
    student: Student, teachers: Sequence[Params], rows: Rows, latent_dim: int, *, labels: bool
) -> SyntheticSequences:
    """The teachers' predictions along real rows: hidden states times embedding tables.

    Exact where the rank is the sum of their widths or more; below, the leading factors of their
    mean logits. With labels the tokens are fitted to the real ones and the predictions become the
    labels.

    Args:
        student: the teachers' architecture.
        teachers: weights of each.
        rows: real rows of training users.
        latent_dim: rank K.
        labels: whether labels are kept apart from tokens.
    """
    length = rows.tokens.shape[1] if labels else rows.tokens.shape[1] - 1
    hidden, table = mean_logits(student, teachers, rows.tokens[:, :length])
    if latent_dim < table.shape[1]:
        latent, decoder = _leading_factors(hidden, table, rows.mask[:, :length], latent_dim)
    else:
        extra = latent_dim - table.shape[1]
        latent = torch.nn.functional.pad(hidden, (0, extra))
        decoder = torch.nn.functional.pad(table.T, (0, 0, 0, extra)).contiguous()
    scale = DECODER_RMS / decoder.square().mean().sqrt()
    latent, decoder = latent / scale, decoder * scale
    if labels:
        return SyntheticSequences(fit_latents(decoder, rows.tokens), decoder, latent, rows.lengths)
    first = fit_latents(decoder, rows.tokens[:, :1])
    return SyntheticSequences(torch.cat([first, latent], 1), decoder, lengths=rows.lengths)


@torch.no_grad()
def mean_logits(
    student: Student, teachers: Sequence[Params], tokens: Tensor
) -> tuple[Tensor, Tensor]:
    """Factors of the mean of several models' logits: H (B, L, n W) and E (V, n W) of n models.

    Up to a constant a position, mean logits are mean log-probabilities: softmax(H E^T) is the
    normalised geometric mean of the predictions.
    """
    hidden = [
        student.hidden(params, embed(tokens, student.embedding(params))) / len(teachers)
        for params in teachers
    ]
    return torch.cat(hidden, -1), torch.cat([student.embedding(params) for params in teachers], 1)


def _leading_factors(
    hidden: Tensor, table: Tensor, mask: Tensor, rank: int
) -> tuple[Tensor, Tensor]:
    """Rank-K factors of the logits, centred over tokens, as seen at the real positions.

    With E = Q R, the logits H E^T = (H R^T) Q^T are as far apart as H R^T, so the directions
    come from an SVD of W columns.
    """
    basis, triangle = torch.linalg.qr(table - table.mean(0))
    seen = hidden @ triangle.T
    directions = torch.linalg.svd(seen[mask], full_matrices=False).Vh[:rank]
    return seen @ directions.T, directions @ basis.T


def fit_latents(
    decoder: Tensor, tokens: Tensor, *, steps: int = 150, lr: float = 0.3, decay: float = 1e-4
) -> Tensor:
    """Latents whose soft tokens are as near to `tokens` as the decoder lets them be.

    Minimises the cross-entropy plus `decay` times the squared norm, each position by itself.

    Args:
        decoder: M (K, V).
        tokens: int64 (S, L).
        steps: of Adam.
        lr: its step size.
        decay: keeps latents finite where a token can be had exactly.

    Returns:
        Z (S, L, K).

    Cost:
        steps times three products (S L, K) x (K, V), over distinct tokens only.
    """
    distinct, place = torch.unique(tokens, return_inverse=True)
    with torch.enable_grad():
        latent = torch.zeros(len(distinct), decoder.shape[0], requires_grad=True)
        optimizer = torch.optim.Adam([latent], lr)
        for _ in range(steps):
            logits = latent @ decoder
            own = logits.gather(1, distinct[:, None])[:, 0]
            loss = (logits.logsumexp(-1) - own).sum() + decay * latent.square().sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return latent.detach()[place]
