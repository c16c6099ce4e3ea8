"""Attacks that guess from a user's sequence whether it was among those distilled.

Each gives a score, higher for a likelier training user. The attacker has the artifact, the
sequence in question and, for two attacks, sequences of other users of the same source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["ATTACKS", "Evidence"]

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """What an attacker works out of every candidate, each (N,) unless said otherwise.

    Args:
        losses: mean loss a token, in nats, under students trained on the artifact.
        reference_losses: (R, N) under models trained on other real users; nan where a model was
            trained on the candidate itself.
        cosine: of the candidate and the synthetic sequence most like it.
        run: consecutive events of the candidate that one synthetic sequence repeats.
    """

    losses: Floats
    reference_losses: Floats
    cosine: Floats
    run: Floats


def loss(seen: Evidence) -> Floats:
    """Those are training users whose events the student predicts well (Yeom et al., 2018)."""
    return -seen.losses


def loss_ratio(seen: Evidence) -> Floats:
    """Those whom it predicts better than models do that never saw them (Ye et al., 2022)."""
    found: Floats = np.nanmean(seen.reference_losses, axis=0) - seen.losses
    return found


def likelihood_ratio(seen: Evidence) -> Floats:
    """The same, in standard deviations of those models: LiRA, offline (Carlini et al., 2022)."""
    spread = np.nanstd(seen.reference_losses, axis=0)
    # Few models tell little of one candidate's spread: half of it is everybody's.
    spread = np.sqrt((spread**2 + np.mean(spread**2)) / 2)
    found: Floats = loss_ratio(seen) / np.maximum(spread, 1e-9)
    return found


def nearest(seen: Evidence) -> Floats:
    """Those to whom a synthetic sequence lies near (Chen et al., 2020)."""
    return seen.cosine


def repeated_run(seen: Evidence) -> Floats:
    """Those of whom a synthetic sequence repeats many events in a row."""
    return seen.run


ATTACKS: Mapping[str, Callable[[Evidence], Floats]] = {
    "loss": loss,
    "loss ratio": loss_ratio,
    "likelihood ratio": likelihood_ratio,
    "nearest": nearest,
    "repeated run": repeated_run,
}
