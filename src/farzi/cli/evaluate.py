"""`farzi evaluate`: the metrics of a model, the protocol spelled out."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from farzi.cli._common import DEFAULT_OUTPUT, Device, Output, choose_device
from farzi.cli._source import DEFAULT_READING, On, Reading

__all__ = ["evaluate"]


def evaluate(
    model: Path,
    /,
    *,
    on: On = None,
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
        part: which part to score; choose on validation, and look at test once.

    Example:
        farzi evaluate models/small
        farzi evaluate models/small --part validation --json
    """
    from farzi.errors import ArtifactError
    from farzi.evaluation import evaluate as score
    from farzi.models.weights import load_weights
    from farzi.provenance import read_again, remembered_by_weights

    path = model / "weights.safetensors" if model.is_dir() else model
    student, params, provenance = load_weights(path)
    data = read_again(remembered_by_weights(path, provenance), on, **reading.asked)
    if provenance.get("train_users_hash") != data.train_users_hash:
        raise ArtifactError(
            f"{path}: trained on other users than {data.name}'s split {data.split_seed} holds for "
            "training, so its scores would not be of held-out users."
        )
    chosen, _ = choose_device(device)
    scores = score(student, {name: value.to(chosen) for name, value in params.items()}, data, part)
    line = data.protocol_line(student.context_length)
    for warning in data.warnings:
        output.say(f"warning: {warning}")
    payload = {
        "metrics": scores.as_dict(),
        "counts": scores.counts,
        "part": part,
        "protocol_line": line,
    }
    rows = [f"{name:24} {value:.4f}" for name, value in scores.metrics.items()]
    rows += [f"{name.replace('_', ' '):24} {count:,}" for name, count in scores.counts.items()]
    output.result(payload, text="\n".join([line, *rows]))
