"""Stopping within one inner step, wherever a distillation is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from farzi.training import Batch, Batches

__all__ = ["ShouldStop", "StopRequested", "WatchedBatches", "never", "stop_if_asked"]

ShouldStop = Callable[[], bool]


class StopRequested(Exception):
    """Raised between two inner steps where a stop was asked for; nothing is left half done."""


def never() -> bool:
    """No stop is asked for."""
    return False


def stop_if_asked(should_stop: ShouldStop) -> None:
    """Raise `StopRequested` where a stop was asked for."""
    if should_stop():
        raise StopRequested


@dataclass(frozen=True)
class WatchedBatches:
    """Batches of a training run that say before each step that it begins.

    Args:
        batches: what the run reads.
        on_step: called with the step, from 0.
    """

    batches: Batches
    on_step: Callable[[int], None]

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every sequence is read about once."""
        return self.batches.steps_per_epoch

    def __call__(self, step: int) -> Batch:
        """The batch of step `step`, from 0."""
        self.on_step(step)
        return self.batches(step)
