"""How fast the machine was while a student was trained."""

from __future__ import annotations

import functools
import statistics
import time

import torch
from torch import Tensor

from farzi.models import SASRec, sequence_loss

__all__ = ["Pace"]


class Pace:
    """Processor seconds of a fixed piece of training, taken again and again beside a run.

    Processor time leaves out what other processes compute, but machines differ: the same training
    has taken twice as long on one as on another. Rows of one table may be trained on several, so
    each run says how fast its machine was.

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
        self._taken: list[float] = []

    @property
    def seconds(self) -> float | None:
        """The mean of what was taken; None where nothing was."""
        return statistics.fmean(self._taken) if self._taken else None

    def take(self) -> None:
        """Take the time of one step; the first one is taken twice, the second time to count."""
        student, params, tokens = _piece()
        for _ in range(1 if self._taken else 2):
            started = time.process_time()
            with torch.enable_grad():
                loss = sequence_loss(student, params, tokens, once=True)
                torch.autograd.grad(loss, list(params.values()))
            spent = time.process_time() - started
        self._taken.append(spent)


@functools.cache
def _piece() -> tuple[SASRec, dict[str, Tensor], Tensor]:
    """A small student, its weights and what it reads: the same in every process."""
    generator = torch.Generator().manual_seed(0)
    student = SASRec(num_tokens=1500, context_length=50, width=32)
    params = {name: value.requires_grad_() for name, value in student.init(generator).items()}
    return student, params, torch.randint(1500, (8, 51), generator=generator)
