"""Every random stream by name: what is drawn is a function of the seed, the stream and a place.

Two streams of one seed never share a draw, whatever numbers follow: the name of the stream is part
of the entropy. A new purpose is one line in `STREAMS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    import numpy as np

__all__ = ["STREAMS", "Stream", "stream", "stream_seed"]

Stream: TypeAlias = Literal[
    "order",
    "windows",
    "shift",
    "dropout",
    "weights",
    "pool weights",
    "pool dropout",
    "outer batch",
    "start weights",
    "start rows",
    "validation sample",
    "row sample",
    "teacher",
    "start factors",
    "search",
    "sweep",
    "audit users",
    "audit student",
    "audit reference",
    "audit bootstrap",
]

STREAMS: Mapping[Stream, int] = {
    "order": 11,  # the order of the sequences in an epoch
    "windows": 12,  # where the windows of real sequences end
    "shift": 26,  # by how many places labelled rows are moved
    "dropout": 13,
    "weights": 14,  # first weights of a student that is trained and scored
    "teacher": 23,  # everything of a teacher run: its weights, order, windows and dropout
    "start factors": 22,  # latents and decoder of a start, where they are drawn
    "pool weights": 20,  # first weights of the outer loop's students: never those of a scored one
    "pool dropout": 25,  # what the outer loop's students drop at a step
    "outer batch": 15,  # the real sequences of an outer step
    "start weights": 16,  # whether and from which teacher run a student of the pool begins
    "start rows": 17,  # the real rows that synthetic sequences start from
    "validation sample": 18,  # the validation sequences that a look reads
    "search": 21,  # the configurations of a search that is ranked on several rows
    "sweep": 24,  # what `farzi sweep` tries next
    "audit users": 30,  # which training and held-out users an audit guesses at
    "audit student": 31,
    "audit reference": 32,  # which half of the users a reference model sees, and its training
    "audit bootstrap": 33,
    "row sample": 19,  # the real rows of a comparison's baselines
}


def stream(seed: int, name: Stream, *place: int) -> np.random.Generator:
    """A generator of its own for one purpose at one place.

    Args:
        seed: of the run, >= 0.
        name: the purpose, of `STREAMS`.
        place: where in the run, as numbers >= 0: an epoch, a step, a draw.

    Raises:
        KeyError: there is no such stream.

    Example:
        >>> from farzi.seeding import stream
        >>> a, b = (stream(0, name, 3).random() for name in ("order", "windows"))
        >>> a == stream(0, "order", 3).random(), a == b
        (True, False)
    """
    import numpy as np

    key = (STREAMS[name], len(place), *place)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def stream_seed(seed: int, name: Stream, *place: int) -> int:
    """A seed for a generator of torch, from the same streams: an int in [0, 2^63).

    Example:
        >>> from farzi.seeding import stream_seed
        >>> stream_seed(0, "weights") == stream_seed(0, "weights", 0)
        False
    """
    return int(stream(seed, name, *place).integers(2**63))
