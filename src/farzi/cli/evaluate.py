"""`farzi evaluate`: the metrics of a model, the protocol spelled out."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from farzi.cli._common import DEFAULT_OUTPUT, Device, Output, choose_device

__all__ = ["evaluate"]


def evaluate(
    model: Path,
    /,
    *,
    on: str,
    part: Literal["validation", "test"] = "test",
    task: Literal["recommend", "language"] | None = None,
    data_root: Path | None = None,
    device: Device = "auto",
    output: Output = DEFAULT_OUTPUT,
) -> None:
    """Score a model on a source, the protocol spelled out.

    A model is scored on the split it was trained on, never on another: there some of its training
    users would be among those it is scored on.

    Args:
        model: folder or weights file that `farzi train` wrote.
        on: the source.
        part: which part to score; choose on validation, and look at test once.
        task: what the source is for, where its name does not tell.
        data_root: folder of the known datasets; without it, the one that FARZI_DATA_ROOT names.

    Example:
        farzi evaluate models/small --on ml-100k --data-root ~/datasets
    """
    from farzi.data import prepare
    from farzi.errors import ArtifactError
    from farzi.evaluation import evaluate as score
    from farzi.models.weights import load_weights

    path = model / "weights.safetensors" if model.is_dir() else model
    student, params, provenance = load_weights(path)
    data = prepare(
        on,
        task=task,
        data_root=data_root,
        split="leave-last-out" if provenance.get("split_kind") == "leave-last-out" else "users",
        split_seed=int(provenance.get("split_seed", 0)),
        vocabulary_size=provenance.get("vocabulary_size"),
    )
    if provenance.get("train_users_hash") != data.train_users_hash:
        raise ArtifactError(
            f"{path}: trained on other users than {data.name}'s split {data.split_seed} holds for "
            "training, so its scores would not be of held-out users."
        )
    chosen, _ = choose_device(device)
    scores = score(student, {name: value.to(chosen) for name, value in params.items()}, data, part)
    line = data.protocol_line(student.context_length)
    payload = {"metrics": scores.as_dict(), "part": part, "protocol_line": line}
    rows = [f"{name:20} {value:.4f}" for name, value in scores.metrics.items()]
    output.result(payload, text="\n".join([line, *rows]))
