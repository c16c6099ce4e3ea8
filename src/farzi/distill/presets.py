"""What suits which source, task, format and choice where nothing else is asked for.

The command line and Python read the same: `distill(data, out)` and `farzi distill SOURCE` are
one run. What is given goes before a preset, and a preset before the defaults of
`farzi.distill.settings`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from farzi.data.prepared import PreparedData
from farzi.data.sources import SOURCES, Task
from farzi.distill.settings import CHOICES, DistillSettings
from farzi.distill.starts.base import StartRows, row_choice
from farzi.distill.starts.rows import most_rows
from farzi.errors import SettingsError

__all__ = ["chosen", "default_size", "many_rows", "no_outer_steps", "parse_size", "preset"]

MOST = 50
"""Most sequences, and most tokens of one, that are made where no size is asked for."""

SHARE = 0.02
"""Most of the training events that the tokens are then, where that is enough to learn from."""

FEWEST_TOKENS = 500
"""What is enough; but no more than a quarter of the events."""

LANGUAGE = {
    "student.name": "transformer",
    "teachers.max_epochs": 12,
    "teachers.batch_size": 128,
    "latent_dim": 24,
}

TOKENS_ALONE = {
    # Without labels of their own, tokens begin far from what they can be, and take longer steps.
    "outer.steps": 200,
    "outer.lr_latent": 0.02,
    "outer.lr_decoder": 0.01,
    "latent_dim": 24,
}

MANY_ROWS = 400
"""Rows of text for which one good teacher was seen to be better; fifty were better without."""

ONE_GOOD_TEACHER = {
    # As students of all data are trained. Fewer rows do not hold what such a teacher knows.
    "teachers.num_runs": 1,
    "teachers.dropout": 0.0,
    "teachers.smoothing": 0.0,
    "teachers.schedule": "linear",
}

NO_OUTER_STEPS = {"outer.steps": 0, "start.tokens": "ids"}
"""Teachers, rows and labels alone. Tokens that nothing changes are as good as ids, and smaller."""

NOTHING_TO_WIN = frozenset({"ml-100k"})
"""Sources on which outer steps were seen to win nothing once students train to their end."""

OF_A_CHOICE: Mapping[str, Mapping[str, Any]] = {
    "inner.optimizer=adam": {"lr": 0.02, "eps_root": 1e-7},
    "inner.optimizer=adamw": {"lr": 0.02, "eps_root": 1e-7, "weight_decay": 1e-4},
    "inner.optimizer=rmsprop": {"lr": 0.01, "eps_root": 1e-7},
    "inner.optimizer=adagrad": {"lr": 0.1, "eps_root": 1e-7},
    "inner.optimizer=sgd": {"lr": 1.0, "momentum": 0.9},
}


def preset(name: str, task: Task, *, labels: bool = True) -> dict[str, Any]:
    """Settings for a source, by dotted names.

    Args:
        name: of the source.
        task: what it is for.
        labels: whether there are labels apart from the tokens.

    Example:
        >>> from farzi.distill.presets import preset
        >>> preset("ml-100k", "recommend")
        {'num_sequences': 50, 'length': 50}
    """
    known = SOURCES.get(name)
    values: dict[str, Any] = {} if known is None else parse_size(known.size)
    if task == "language":
        values |= LANGUAGE
    if not labels:
        values |= TOKENS_ALONE
    return values


def many_rows(data: PreparedData, settings: DistillSettings) -> dict[str, Any]:
    """What suits many rows of text with labels, by dotted names; nothing for all else.

    One teacher, trained as students of all data are, and the rank that its logits have: the width,
    and one for the bias.

    Args:
        data: the prepared source.
        settings: what is settled without it.
    """
    taught = settings.labels and settings.start.needs_teachers and not settings.teachers.student
    if data.task != "language" or not taught or settings.num_sequences < MANY_ROWS:
        return {}
    student = settings.student.build(data.vocabulary.size, settings.length)
    return {**ONE_GOOD_TEACHER, "latent_dim": student.width + 1}


def no_outer_steps(
    data: PreparedData, settings: DistillSettings, asked: Collection[str]
) -> dict[str, Any]:
    """Leave the outer loop out where it was seen to win nothing, by dotted names.

    On MovieLens-100k, and on many rows of text (docs/choosing.md says from which results). Whoever
    asks for anything of the outer loop gets it.

    Args:
        data: the prepared source.
        settings: what is settled without it.
        asked: names of the settings that were asked for.
    """
    of_the_loop = ("outer", "objective", "start.tokens")
    if any(name == own or name.startswith(f"{own}.") for name in asked for own in of_the_loop):
        return {}
    if not settings.labels or not settings.start.needs_teachers:
        return {}
    many = data.task == "language" and settings.num_sequences >= MANY_ROWS
    return dict(NO_OUTER_STEPS) if many or data.name in NOTHING_TO_WIN else {}


def default_size(
    data: PreparedData,
    *,
    num_sequences: int | None = None,
    length: int | None = None,
    labels: bool = True,
    rows: StartRows = "auto",
) -> dict[str, int]:
    """A size that fits a source which none is known for.

    2 % of the training events, but at least 500 tokens, at most a quarter of the events and at most
    50x50; as long as most of the histories, rather more sequences than positions, and never more
    than the source has rows for.

    Args:
        data: the prepared source; its training part only.
        num_sequences: where that is settled.
        length: where that is settled.
        labels: whether there are labels apart from the tokens.
        rows: which real rows the sequences begin from.
    """
    lengths = data.train.lengths
    events = int(lengths.sum())
    tokens = min(max(SHARE * events, FEWEST_TOKENS), events / 4, MOST * MOST)
    if length is None:
        usual = int(np.quantile(lengths, 0.9)) if len(lengths) else 0
        square = int(tokens / num_sequences if num_sequences else math.sqrt(tokens))
        length = max(3, min(MOST, usual, square))
    if num_sequences is None:
        there = most_rows(lengths, length, how=row_choice(rows, data.task, labels))
        num_sequences = max(1, min(MOST, int(tokens / length), there))
    return {"num_sequences": num_sequences, "length": length}


def chosen(choice: str, name: str) -> Any:
    """The value called `name` of a choice, with what suits it.

    Raises:
        SettingsError: there is none of that name.

    Example:
        >>> from farzi.distill.presets import chosen
        >>> chosen("inner.optimizer", "sgd").momentum
        0.9
    """
    return CHOICES[choice][name](**OF_A_CHOICE.get(f"{choice}={name}", {}))


def parse_size(size: str | None) -> dict[str, Any]:
    """`50x20` as settings: sequences x length.

    Raises:
        SettingsError: it is not of that form.
    """
    if size is None:
        return {}
    match = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,4})", size)
    if match is None:
        raise SettingsError(f"--size must be SEQUENCESxLENGTH such as 50x50, got {size!r}.")
    return {"num_sequences": int(match[1]), "length": int(match[2])}
