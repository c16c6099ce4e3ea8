"""A run at work, or done, in a terminal: what `farzi watch` redraws."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farzi.data.files import read_json
from farzi.errors import DataError
from farzi.report.facts import read_records

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["RunView", "render", "spark", "view_run"]

_BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class RunView:
    """Where a run stands.

    Attributes:
        name: of its source, with its split.
        step: outer steps taken.
        steps: outer steps in all, or None where the settings do not say.
        step_s: seconds of an outer step, of late.
        fresh: validation loss of fresh students at each look.
        outer: the outer loss of each step.
        gradients: norm of the meta-gradient by block, of each step.
        agreement: mean cosine between students by block, of each step.
        finished: whether its artifact is there.
        age_s: seconds since it was last heard of, or None before that.
    """

    name: str
    step: int
    steps: int | None
    step_s: float | None
    fresh: tuple[float, ...]
    outer: tuple[float, ...]
    gradients: Mapping[str, tuple[float, ...]]
    agreement: Mapping[str, tuple[float, ...]]
    finished: bool
    age_s: float | None

    @property
    def left_s(self) -> float | None:
        """Seconds until the last outer step, at the pace of late."""
        if self.finished or self.steps is None or self.step_s is None:
            return None
        return max(0, self.steps - self.step) * self.step_s


def view_run(run: Path) -> RunView:
    """Read where a run stands from its folder.

    Raises:
        DataError: there is no run.
    """
    try:
        record = read_json(run / "settings.json")
    except FileNotFoundError:
        raise DataError(f"{run}: there is no run here (settings.json is missing).") from None
    except (OSError, ValueError):
        raise DataError(f"{run / 'settings.json'}: cannot be read.") from None
    if not isinstance(record, dict) or not isinstance(record.get("settings", {}), dict):
        raise DataError(f"{run / 'settings.json'}: holds no settings.")
    file = run / "metrics.jsonl"
    records = read_records(file)
    steps = [entry for entry in records if "outer_loss" in entry or "ages" in entry]
    taken = _numbers(steps, "wall_s")[-10:]
    return RunView(
        name=f"{record.get('source', run.name)}, split seed {record.get('split_seed', 0)}",
        step=max((entry["step"] for entry in records), default=0),
        steps=_outer_steps(record.get("settings", {})),
        step_s=sum(taken) / len(taken) if taken else None,
        fresh=_numbers(records, "fresh_loss"),
        outer=_numbers(records, "outer_loss"),
        gradients=_blocks(steps, "gradient_norm"),
        agreement=_blocks(steps, "agreement"),
        finished=(run / "artifact" / "farzi.json").is_file(),
        age_s=time.time() - file.stat().st_mtime if file.is_file() else None,
    )


def _outer_steps(settings: Mapping[str, Any]) -> int | None:
    outer = settings.get("outer")
    found = outer.get("steps") if isinstance(outer, Mapping) else settings.get("outer_steps")
    return found if isinstance(found, int) else None


def _blocks(records: Sequence[Mapping[str, Any]], name: str) -> dict[str, tuple[float, ...]]:
    found: dict[str, list[float]] = {}
    for record in records:
        blocks = record.get(name)
        if isinstance(blocks, Mapping):
            for block in blocks:
                found.setdefault(block, []).extend(_numbers([blocks], block))
    return {block: tuple(values) for block, values in found.items() if values}


def _numbers(records: Sequence[Mapping[str, Any]], name: str) -> tuple[float, ...]:
    """The numbers of that name, NaN among them, which a diverged run has."""
    values = [record.get(name) for record in records]
    return tuple(
        value if isinstance(value, float) else float(str(value))  # an absurd one is infinite
        for value in values
        if isinstance(value, int | float) and not isinstance(value, bool)
    )


def render(view: RunView) -> RenderableType:
    """A view as something `rich` prints."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    head = Table.grid(padding=(0, 2))
    head.add_row(
        Text(view.name, style="bold"),
        ProgressBar(total=view.steps or 1, completed=view.step, width=28),
        Text(_progress(view)),
    )
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="dim")
    for name, values, words in _lines(view):
        rows.add_row(name, spark(values), words)
    return Group(head, Text(""), rows)


def _progress(view: RunView) -> str:
    parts = [f"{view.step:,}" if view.steps is None else f"{view.step:,}/{view.steps:,}"]
    if view.finished:
        return f"{parts[0]}, finished"
    if not view.fresh:
        return f"{parts[0]}, preparing: teachers and start"
    if view.left_s is not None:
        parts.append(f"{_duration(view.left_s)} left")
    if view.age_s is not None:
        parts.append(f"heard of {_duration(view.age_s)} ago")
    return ", ".join(parts)


def _lines(view: RunView) -> list[tuple[str, Sequence[float], str]]:
    rows: list[tuple[str, Sequence[float], str]] = []
    if view.fresh:
        words = f"{view.fresh[-1]:.4f}  best {min(view.fresh):.4f}  start {view.fresh[0]:.4f}"
        rows.append(("fresh students' loss", view.fresh, words))
    if view.outer:
        rows.append(("outer loss", view.outer, f"{view.outer[-1]:.4f}"))
    for block, norms in view.gradients.items():
        rows.append((f"gradient norm, {block}", norms, f"{norms[-1]:.3g}"))
    for block, cosines in view.agreement.items():
        rows.append((f"agreement, {block}", cosines, f"{cosines[-1]:+.2f}"))
    return rows


def spark(values: Sequence[float], width: int = 40) -> str:
    """Values as a line of bars, the last ones where there are more than fit.

    Example:
        >>> from farzi.report.live import spark
        >>> spark([0, 1, 2, 3, 7])
        '▁▂▃▄█'
        >>> spark([2.0, 2.0])
        '▁▁'
    """
    kept = [value for value in values if value - value == 0][-width:]
    if not kept:
        return ""
    low, high = min(kept), max(kept)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((value - low) * scale)] for value in kept)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
