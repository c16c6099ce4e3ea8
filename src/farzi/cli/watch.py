"""`farzi watch`: a run at work, redrawn in the terminal."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from farzi.cli._common import DEFAULT_OUTPUT, Output

__all__ = ["watch"]


def watch(
    run: Path,
    /,
    *,
    every: float = 2.0,
    once: bool = False,
    output: Output = DEFAULT_OUTPUT,
) -> None:
    """Watch a run: how far it is, its losses, gradients and agreement.

    The view is redrawn until the run has finished; Ctrl-C leaves it, and the run goes on. A run
    writes its records with every look and every tenth outer step.

    Args:
        run: a run's folder; it may have been begun a moment ago, or be finished.
        every: seconds between two looks.
        once: show where it stands now, and leave.

    Example:
        farzi watch runs/calls
        farzi watch runs/calls --once
    """
    from rich.console import Console
    from rich.live import Live

    from farzi.report.live import render, view_run

    if not every > 0:
        raise ValueError(f"`every` must be > 0, got {every}.")
    view = view_run(run)
    if once or output.json or not sys.stdout.isatty():
        payload = {
            "run": str(run),
            "step": view.step,
            "steps": view.steps,
            "fresh_loss": view.fresh[-1] if view.fresh else None,
            "best_loss": min(view.fresh, default=None),
            "seconds_left": view.left_s,
            "finished": view.finished,
        }
        output.result(payload, text=render(view))
        return
    with Live(render(view), console=Console(), auto_refresh=False) as live:
        while not view.finished:
            time.sleep(every)
            view = view_run(run)
            live.update(render(view), refresh=True)
