"""The adjoint is chosen from the memory there is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from farzi.errors import MemoryBudgetError, NotReversibleError
from farzi.metagrad.adjoints.base import Adjoint, Forward, Plan, Report
from farzi.metagrad.adjoints.checkpointed import Checkpointed
from farzi.metagrad.adjoints.reversible import Reversible
from farzi.metagrad.adjoints.stored import Stored
from farzi.metagrad.inner_loop import InnerLoop, positive_int
from farzi.metagrad.memory import available_bytes
from farzi.metagrad.trajectory import check_reversible

__all__ = ["Auto"]

_SHARE = 0.5
_MOST_RECOMPUTED = 2.0


@dataclass(frozen=True)
class Auto:
    """Choose from the memory there is, and say why in `stats.reason`.

    `Stored` where its states fit; else `Checkpointed` where they fit with no step taken more than
    twice on average; else `Reversible` where the optimiser can be undone; else `Checkpointed` with
    as many slots as fit.

    Args:
        budget_bytes: what the trajectory may take; None for half of the memory available when
            called.

    Raises:
        MemoryBudgetError: not even one state fits.
    """

    budget_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.budget_bytes is not None:
            positive_int(self.budget_bytes, "budget_bytes")

    @property
    def name(self) -> str:
        """Name in `stats`."""
        return "Auto"

    def plan(self, loop: InnerLoop) -> Plan:
        """What the chosen adjoint will take."""
        return self.choose(loop)[0].plan(loop)

    def forward(self, loop: InnerLoop, report: Report) -> Forward:
        """Choose, and run the choice."""
        adjoint, reason = self.choose(loop)
        report.adjoint = adjoint.name
        report.notes.append(reason)
        return adjoint.forward(loop, report)

    def choose(self, loop: InnerLoop) -> tuple[Adjoint, str]:
        """The adjoint for `loop`, and why."""
        budget = self.budget_bytes
        if budget is None:
            available = available_bytes(loop.layout.device)
            if available is None:
                return Stored(), "chosen because the memory available is not known"
            budget = int(available * _SHARE)
        allowed = f"{_readable(budget)} allowed"
        length = loop.steps - loop.begin
        chosen = Stored()
        stored = chosen.plan(loop).state_bytes
        if stored > budget:
            lean = Stored(spare_bytes=0).plan(loop).state_bytes
            chosen = Stored(spare_bytes=max(0, min(chosen.spare_bytes, budget - lean)))
            stored = chosen.plan(loop).state_bytes
        if stored <= budget:
            return chosen, f"chosen because every state fits: {_readable(stored)} of {allowed}"
        too_big = f"every state takes {_readable(stored)} of {allowed}"
        slots = min(budget // loop.start.num_bytes, length)
        checkpointed = Checkpointed(slots=max(slots, 1))
        repeats = (length + checkpointed.plan(loop).recomputed_steps) / length
        summary = f"{slots} states fit, {repeats:.1f} runs of each step"
        if slots >= 1 and repeats <= _MOST_RECOMPUTED:
            return checkpointed, f"chosen because {too_big}; {summary}"
        try:
            check_reversible(loop)
            reversible = Reversible().plan(loop).state_bytes
            if reversible <= budget:
                return Reversible(), f"chosen because {too_big} and undoing {_readable(reversible)}"
            cannot = f"undoing takes {_readable(reversible)}"
        except NotReversibleError as error:
            cannot = str(error)
        if slots >= 1:
            return checkpointed, f"chosen because {too_big}; {summary}; {cannot}"
        raise MemoryBudgetError(
            f"no adjoint fits: one state takes {_readable(loop.start.num_bytes)} of {allowed}; "
            "use Checkpointed(on='disk') or a larger budget."
        )


def _readable(num_bytes: int) -> str:
    if num_bytes <= 0:
        return "0 B"
    power = min(int(math.log(num_bytes, 1024)), 4)
    return f"{num_bytes / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
