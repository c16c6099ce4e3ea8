"""`farzi evaluate`: the metrics of a model, the protocol spelled out."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from farzi.cli._common import DEFAULT_OUTPUT, Device, Output
from farzi.cli._source import DEFAULT_READING, On, Reading

__all__ = ["evaluate"]


def evaluate(
    model: Path,
    /,
    *,
    on: On = None,
    student: str | None = None,
    part: Literal["validation", "test"] = "test",
    reading: Reading = DEFAULT_READING,
    device: Device = "auto",
    output: Output = DEFAULT_OUTPUT,
) -> None:
    """Score a model on a source, the protocol spelled out.

    The model remembers its source and how that was read. It is scored on the split it was trained
    on, never on another: there some of its training users would be among those it is scored on.
    Every event and every token that follows another is scored once, however long its sequence.

    Args:
        model: folder or weights file that `farzi train` wrote.
        student: the model, where it is one of your own: my_models.py:make or hf:config.json.
        part: which part to score; choose on validation, and look at test once.

    Example:
        farzi evaluate models/small
        farzi evaluate models/small --part validation --json
    """
    from farzi.api import evaluate as score

    scores = score(model, on=on, student=student, part=part, device=device, **reading.asked)
    payload = {
        "metrics": dict(scores.metrics),
        "counts": dict(scores.counts),
        "part": scores.part,
        "protocol_line": scores.protocol_line,
    }
    rows = [f"{name:24} {value:.4f}" for name, value in scores.metrics.items()]
    rows += [f"{name.replace('_', ' '):24} {count:,}" for name, count in scores.counts.items()]
    output.result(payload, text="\n".join([scores.protocol_line, *rows]))
