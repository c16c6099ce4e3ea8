"""How fast the machine was while a student was trained."""

from __future__ import annotations

import statistics
import time

import torch

from farzi.models import SASRec, sequence_loss

__all__ = ["Pace"]


class Pace:
    """Processor seconds of a fixed piece of training, taken again and again beside a run.

    Processor time leaves out what other processes compute, but not that they share caches and
    memory: beside a second run a step has been seen to take twice as long. Rows of one table may be
    trained hours apart, so each run says how fast its machine was.

    Example:
        >>> from farzi.experiments.pace import Pace
        >>> pace = Pace()
        >>> pace.seconds is None
        True
        >>> pace.take()
        >>> pace.seconds > 0
        True
    """

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self._student = SASRec(num_tokens=1500, context_length=50, width=32)
        drawn = self._student.init(generator)
        self._params = {name: value.requires_grad_() for name, value in drawn.items()}
        self._tokens = torch.randint(1500, (8, 51), generator=generator)
        self._taken: list[float] = []

    @property
    def seconds(self) -> float | None:
        """The mean of what was taken; None where nothing was."""
        return statistics.fmean(self._taken) if self._taken else None

    def take(self) -> None:
        """Take the time of one step; the first one is taken twice, the second time to count."""
        for _ in range(1 if self._taken else 2):
            started = time.process_time()
            with torch.enable_grad():
                loss = sequence_loss(self._student, self._params, self._tokens, once=True)
                torch.autograd.grad(loss, list(self._params.values()))
            spent = time.process_time() - started
        self._taken.append(spent)
