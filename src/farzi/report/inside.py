"""A look into distilled sequences: what they hold, beside the real sequences they stand for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from farzi.artifact import Artifact
from farzi.data.prepared import PreparedData
from farzi.data.sequences import Sequences
from farzi.privacy.likeness import nearest_real

__all__ = ["Cover", "Example", "Follower", "Inside", "Kind", "Place", "look_inside"]

NUM_EXAMPLES = 4
TOP = 5  # tokens told of each place, those of next to no probability left out
LEAST = 0.005
NUM_REAL = 36  # tokens told of a real sequence, where it has most in common
NUM_FOLLOWED = 18  # items in the picture of what follows what
NUM_POINTS = 350  # items in the picture of popularity
BINS = 24
MOST_REAL = 20_000  # real sequences among which the nearest is looked for

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Place:
    """One place of a synthetic sequence: its likeliest tokens and labels, title and probability."""

    tokens: tuple[tuple[str, float], ...]
    labels: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Example:
    """A synthetic sequence and the real one that is most like it.

    Args:
        index: which one, from 0.
        places: its places.
        nearest: titles of the nearest real sequence's tokens, and whether the synthetic one has
            each among its likeliest; empty where real sequences are not to be shown.
        likeness: cosine of the two, items weighted by how rare they are, from 0 to 1.
        shared: how many different tokens the two have in common.
        different: how many different tokens the synthetic one has.
    """

    index: int
    places: tuple[Place, ...]
    nearest: tuple[tuple[str, bool], ...]
    likeness: float
    shared: int
    different: int


@dataclass(frozen=True)
class Kind:
    """Soft tokens, or soft labels, of all sequences.

    Args:
        name: `tokens` or `labels`.
        mean_bits: mean entropy of a place.
        entropy: share of places in each of `BINS` bins from 0 to the most bits there can be.
        certain: share of places whose likeliest token has more than half.
        points: (real share, synthetic share, title) of items.
        rank_correlation: Spearman's, of the two shares over the catalogue.
    """

    name: str
    mean_bits: float
    entropy: tuple[float, ...]
    certain: float
    points: tuple[tuple[float, float, str], ...]
    rank_correlation: float


@dataclass(frozen=True)
class Follower:
    """What follows a popular item: (title, share) in real and in synthetic sequences."""

    name: str
    real: tuple[tuple[str, float], ...]
    synthetic: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Cover:
    """How much of the catalogue synthetic sequences reach.

    Args:
        what: what counts as reached, in words.
        items: how many items are.
        of_catalogue: their share of the catalogue.
        of_events: share of the real training events that are of them.
    """

    what: str
    items: int
    of_catalogue: float
    of_events: float


@dataclass(frozen=True)
class Inside:
    """All that the look finds."""

    max_bits: float
    kinds: tuple[Kind, ...]
    names: tuple[str, ...]
    follows_real: tuple[tuple[float, ...], ...]
    follows_synthetic: tuple[tuple[float, ...], ...]
    follow_correlation: float
    followers: tuple[Follower, ...]
    coverage: tuple[Cover, ...]
    examples: tuple[Example, ...]


def look_inside(
    artifact: Artifact,
    data: PreparedData,
    title: Callable[[int | str], str],
    *,
    real: bool = True,
) -> Inside:
    """Look into an artifact, beside the training part it was distilled from.

    Args:
        artifact: the distilled sequences.
        data: their source.
        title: what a person calls an original id.
        real: whether the nearest real sequences are told word for word.

    Cost:
        One decoded sequence (L, V) at a time.
    """
    size = artifact.vocabulary_size
    names = [title(original) for original in artifact.vocabulary]
    counts = np.bincount(data.train.tokens, minlength=size).astype(np.float64)
    popular = np.argsort(-counts, kind="stable")[:NUM_FOLLOWED]
    sums = _sums(artifact, popular)
    share = counts / counts.sum()
    kinds = tuple(_kind(name, sums, share, names) for name in sums.mass)
    follows = _follows(data.train, popular, size)
    synthetic = sums.follows / np.maximum(sums.followed[:, None], 1e-12)
    inner = follows[:, popular], synthetic[:, popular]
    return Inside(
        max_bits=math.log2(size),
        kinds=kinds,
        names=tuple(names[token] for token in popular),
        follows_real=tuple(map(tuple, inner[0].tolist())),
        follows_synthetic=tuple(map(tuple, inner[1].tolist())),
        follow_correlation=_correlation(follows.ravel(), synthetic.ravel()),
        followers=tuple(
            Follower(names[token], _best(follows[row], names), _best(synthetic[row], names))
            for row, token in enumerate(popular[:8])
        ),
        coverage=_coverage(sums, share),
        examples=_examples(artifact, data.train, names, sums, real=real),
    )


# ------------------------------------------------------------------------------ one pass over all


@dataclass
class _Sums:
    """What one pass over the sequences adds up: by `tokens` and, where there are any, `labels`."""

    mass: dict[str, Floats]
    entropies: dict[str, list[Floats]]
    highest: dict[str, list[Floats]]
    likeliest: NDArray[np.bool_]
    bags: Floats
    follows: Floats
    followed: Floats
    places: int = 0


def _sums(artifact: Artifact, popular: NDArray[np.int64]) -> _Sums:
    """Decode every sequence once."""
    size, few = artifact.vocabulary_size, artifact.synthetic
    kinds = ["tokens", *(["labels"] if artifact.label_latent is not None else [])]
    sums = _Sums(
        mass={kind: np.zeros(size) for kind in kinds},
        entropies={kind: [] for kind in kinds},
        highest={kind: [] for kind in kinds},
        likeliest=np.zeros(size, np.bool_),
        bags=np.zeros((artifact.num_sequences, size), np.float32),
        follows=np.zeros((len(popular), size)),
        followed=np.zeros(len(popular)),
    )
    for index, length in enumerate(_lengths(artifact)):
        chosen = torch.tensor([index])
        tokens = few.probabilities(chosen)[0, :length].double().numpy()
        labels = few.labels(chosen)
        soft = {"tokens": tokens}
        if labels is not None:
            soft["labels"] = labels[0, :length].double().numpy()
        for kind, rows in soft.items():
            sums.mass[kind] += rows.sum(0)
            sums.entropies[kind].append(-(rows * np.log2(np.maximum(rows, 1e-300))).sum(1))
            sums.highest[kind].append(rows.max(1))
        sums.likeliest[tokens.argmax(1)] = True
        sums.bags[index] = tokens.sum(0)
        now, then = (tokens, soft["labels"]) if labels is not None else (tokens[:-1], tokens[1:])
        sums.follows += now[:, popular].T @ then
        sums.followed += now[:, popular].sum(0)
        sums.places += length
    return sums


def _lengths(artifact: Artifact) -> list[int]:
    if artifact.lengths is None:
        return [artifact.length] * artifact.num_sequences
    return [int(length) for length in artifact.lengths]


def _kind(name: str, sums: _Sums, share: Floats, names: Sequence[str]) -> Kind:
    entropies, highest = (np.concatenate(parts[name]) for parts in (sums.entropies, sums.highest))
    most = math.log2(len(share))
    histogram, _ = np.histogram(np.clip(entropies, 0, most), bins=BINS, range=(0.0, most))
    own = sums.mass[name] / sums.mass[name].sum()
    order = np.argsort(-share, kind="stable")
    order = order[share[order] > 0]
    # More of the popular ones, and never more than the page can carry.
    chosen = order[np.unique(np.geomspace(1, len(order), NUM_POINTS).astype(np.int64) - 1)]
    return Kind(
        name=name,
        mean_bits=float(entropies.mean()),
        entropy=tuple((histogram / len(entropies)).tolist()),
        certain=float((highest > 0.5).mean()),
        points=tuple((float(share[n]), float(own[n]), names[n]) for n in chosen),
        rank_correlation=_correlation(_ranks(share), _ranks(own)),
    )


def _coverage(sums: _Sums, share: Floats) -> tuple[Cover, ...]:
    def cover(what: str, reached: NDArray[np.bool_]) -> Cover:
        return Cover(what, int(reached.sum()), float(reached.mean()), float(share[reached].sum()))

    parts = [
        cover("the likeliest token at one place or more", sums.likeliest),
        cover("expected at least once among the tokens", sums.mass["tokens"] >= 1),
    ]
    if "labels" in sums.mass:
        parts.append(cover("expected at least once among the labels", sums.mass["labels"] >= 1))
    return tuple(parts)


# -------------------------------------------------------------------------------- real sequences


def _follows(sequences: Sequences, popular: NDArray[np.int64], size: int) -> Floats:
    """(len(popular), V): how often each token comes right after a popular one, as shares."""
    tokens = np.asarray(sequences.tokens, dtype=np.int64)
    inside = np.ones(max(0, len(tokens) - 1), np.bool_)
    inside[np.asarray(sequences.offsets[1:-1]) - 1] = False
    place = np.full(size, -1, np.int64)
    place[popular] = np.arange(len(popular))
    rows, nexts = place[tokens[:-1]], tokens[1:]
    kept = inside & (rows >= 0)
    pairs = np.bincount(rows[kept] * size + nexts[kept], minlength=len(popular) * size)
    table = pairs.reshape(len(popular), size).astype(np.float64)
    shares: Floats = table / np.maximum(table.sum(1, keepdims=True), 1.0)
    return shares


def _best(shares: Floats, names: Sequence[str], count: int = 3) -> tuple[tuple[str, float], ...]:
    order = np.argsort(-shares, kind="stable")[:count]
    return tuple((names[token], float(shares[token])) for token in order if shares[token] > 0)


def _examples(
    artifact: Artifact, sequences: Sequences, names: Sequence[str], sums: _Sums, *, real: bool
) -> tuple[Example, ...]:
    """A few sequences from all over the set, each with its nearest real one."""
    chosen = np.unique(np.linspace(0, artifact.num_sequences - 1, NUM_EXAMPLES).astype(int))
    nearest, likeness = nearest_real(sequences, sums.bags[chosen], MOST_REAL)
    lengths = _lengths(artifact)
    examples = []
    for index, neighbour, cosine in zip(chosen.tolist(), nearest, likeness, strict=True):
        places = _places(artifact, index, lengths[index], names)
        own = {place.tokens[0][0] for place in places}
        row = [names[token] for token in np.asarray(sequences[int(neighbour)]).tolist()]
        common = own & set(row)
        examples.append(
            Example(
                index=index,
                places=places,
                nearest=_excerpt(row, own) if real else (),
                likeness=float(cosine),
                shared=len(common),
                different=len(own),
            )
        )
    return tuple(examples)


def _excerpt(row: list[str], own: set[str]) -> tuple[tuple[str, bool], ...]:
    """The stretch of a real sequence that has most in common with a synthetic one."""
    sums = np.concatenate([[0], np.cumsum([name in own for name in row])])
    starts = range(max(1, len(row) - NUM_REAL + 1))
    best = max(starts, key=lambda start: int(sums[min(len(row), start + NUM_REAL)] - sums[start]))
    chosen = [(name, name in own) for name in row[best : best + NUM_REAL]]
    before = [("…", False)] if best else []
    return (*before, *chosen, *([("…", False)] if best + NUM_REAL < len(row) else []))


def _places(artifact: Artifact, index: int, length: int, names: Sequence[str]) -> tuple[Place, ...]:
    chosen, few = torch.tensor([index]), artifact.synthetic
    tokens = _top(few.probabilities(chosen)[0, :length], names)
    soft = few.labels(chosen)
    labels: list[tuple[tuple[str, float], ...]] = [()] * length
    if soft is not None:
        labels = _top(soft[0, :length], names)
    return tuple(Place(*pair) for pair in zip(tokens, labels, strict=True))


def _top(rows: torch.Tensor, names: Sequence[str]) -> list[tuple[tuple[str, float], ...]]:
    values, ids = rows.topk(min(TOP, rows.shape[1]), dim=-1)
    return [
        tuple(
            (names[token], value)
            for place, (token, value) in enumerate(zip(row_ids, row, strict=True))
            if place == 0 or value >= LEAST
        )
        for row_ids, row in zip(ids.tolist(), values.tolist(), strict=True)
    ]


# ------------------------------------------------------------------------------------- numbers


def _ranks(values: Floats) -> Floats:
    """Ranks from 0, the mean rank where values are the same."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    middle: Floats = ends - (counts + 1) / 2
    ranks: Floats = middle[inverse]
    return ranks


def _correlation(first: Floats, second: Floats) -> float:
    """Pearson's correlation; 0 where one of the two does not vary."""
    a, b = first - first.mean(), second - second.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale else 0.0
