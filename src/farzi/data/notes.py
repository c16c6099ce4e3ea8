"""What a reader of a result should know of the data: notes, and warnings of what looks wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from farzi.data.columns import shorten
from farzi.data.vocabulary import UNKNOWN, Vocabulary

if TYPE_CHECKING:
    from farzi.data.repeats import Repetition
    from farzi.data.sequences import Sequences
    from farzi.data.tokenizer import Tokenizer

__all__ = [
    "LargestShares",
    "count_unrankable",
    "held_out_notes",
    "log_notes",
    "text_notes",
    "unknown_share",
]

_GIANT = 0.2  # share of all events above which a user or an item is suspicious
_TIED = 0.5
_UNKNOWN_WORDS = 1 / 3


@dataclass(frozen=True)
class LargestShares:
    """How much of a log belongs to one user and to one item.

    Args:
        user: original id of the user with the most events.
        user_share: of all events, from 0 to 1.
        item: original id of the most frequent item.
        item_share: of all events, from 0 to 1.
    """

    user: int | str
    user_share: float
    item: int | str
    item_share: float

    @classmethod
    def of(
        cls, users: Sequence[int | str], sequences: Sequences, ids: Sequence[int | str]
    ) -> LargestShares:
        """Find both."""
        user = int(np.argmax(sequences.lengths))
        counts = sequences.token_counts(len(ids))
        item = int(np.argmax(counts))
        total = sequences.num_tokens
        return cls(
            users[user], sequences.lengths[user] / total, ids[item], int(counts[item]) / total
        )


def log_notes(
    largest: LargestShares,
    repetition: Repetition,
    tied: int,
    users: int,
    tie_col: str | None = None,
) -> tuple[list[str], list[str]]:
    """Notes and warnings of a whole log.

    Args:
        largest: the largest user and item.
        repetition: exact duplicates among others.
        tied: how many events have the time of the user's one before them.
        users: how many there are.
        tie_col: the column that decides between those; None: their place in the source.
    """
    notes = [
        f"the largest user has {largest.user_share:.1%} of all events, the most frequent item "
        f"{largest.item_share:.1%}"
    ]
    warnings = []
    shares = {
        "user": (largest.user, largest.user_share),
        "item": (largest.item, largest.item_share),
    }
    for role, (value, share) in shares.items():
        if share > _GIANT:
            warnings.append(
                f"{share:.0%} of all events have the {role} {shorten(repr(value), 60)}: if that "
                "stands for a missing value, leave such rows out or name another column with "
                f"--{role}-col"
            )
    share = tied / max(1, repetition.events - users)
    if share > _TIED:
        by_column = f"the column {shorten(str(tie_col))!r} decides"
        decides = "the order of the source decides" if tie_col is None else by_column
        notes.append(
            f"{share:.0%} of neighbouring events of a user have the same time: {decides} "
            "between them"
        )
    if repetition.duplicates:
        notes.append(
            f"exact duplicates (same user, item and time): {repetition.duplicates:,}, kept; "
            "--repeats first drops them"
        )
    return notes, warnings


def count_unrankable(part: Sequences, num_items: int) -> int:
    """Held-out users who had every item but their target, so that nothing is left to rank it with.

    Cost:
        time of one pass over the part; users with fewer events than items are not looked at.
    """
    candidates = np.flatnonzero(part.lengths >= num_items)
    return sum(len(np.unique(part[int(place)])) == num_items for place in candidates)


def held_out_notes(
    part: str, users: int, unknown_targets: int, unrankable: int
) -> tuple[list[str], list[str]]:
    """Notes and warnings of the validation or test users of a log.

    Args:
        part: `validation` or `test`.
        users: how many it has.
        unknown_targets: how many targets no training user ever had.
        unrankable: how many users have nothing left to rank their target with.
    """
    notes, warnings = [], []
    if unknown_targets:
        notes.append(
            f"{part}: no training user ever had {unknown_targets:,} of the {users:,} targets"
        )
    if unrankable:
        warnings.append(
            f"{part}: {unrankable:,} of {users:,} users had every item, so nothing is "
            "left to rank their target with; AUC leaves them out"
        )
    return notes, warnings


def unknown_share(
    parts: Iterable[Sequences], vocabulary: Vocabulary, unknown_word: str | None = UNKNOWN
) -> float:
    """Share of `<unk>` among the held-out tokens of a text, `<eos>` apart.

    Args:
        parts: the held-out sentences.
        vocabulary: of the text.
        unknown_word: what stands for a word that is not known; None: nothing does.
    """
    if unknown_word is None:
        return 0.0
    (unknown,) = vocabulary.encode([unknown_word])
    tokens = sentences = unknowns = 0
    for part in parts:
        tokens += part.num_tokens
        sentences += len(part)
        unknowns += int((part.tokens == unknown).sum())
    return unknowns / max(1, tokens - sentences)


def text_notes(share: float, tokenizer: Tokenizer | None = None) -> tuple[list[str], list[str]]:
    """Notes and warnings of a text.

    Args:
        share: of its held-out words that are not known.
        tokenizer: what cuts the text, where a tokenizer does.
    """
    unknown_word = UNKNOWN if tokenizer is None else tokenizer.unknown
    if tokenizer is not None and tokenizer.knows_bytes:
        return ["the tokenizer knows every word, as bytes where not as pieces of it"], []
    if unknown_word is None:
        return [], ["the tokenizer has no token for what it does not know, and may leave it out"]
    said = f"{share:.1%} of the held-out words are {shorten(unknown_word, 40)}"
    if share <= _UNKNOWN_WORDS:
        return [said], []
    if tokenizer is not None:
        return [], [f"{said}: the tokenizer is of another language, or of another kind of text"]
    return [], [f"{said}: see --vocabulary-size, and --tokens for text that is not cut by blanks"]
