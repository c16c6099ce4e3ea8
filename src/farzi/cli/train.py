"""`farzi train`: an ordinary model from an artifact or from real data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from farzi.cli._common import DEFAULT_OUTPUT, Device, Output, Seed
from farzi.cli._source import DEFAULT_READING, On, Reading

__all__ = ["train"]


def train(
    artifact_or_source: str,
    /,
    *,
    out: Path,
    on: On = None,
    student: str | None = None,
    width: int | None = None,
    num_layers: int | None = None,
    num_heads: int | None = None,
    conv_size: int | None = None,
    context_length: int = 50,
    smoothing: float = 0.0,
    dropout: float | None = None,
    lr: float | None = None,
    weight_decay: float | None = None,
    batch_size: int | None = None,
    max_steps: int | None = None,
    schedule: Literal["constant", "linear"] = "constant",
    shift: int = 0,
    patience: int = 6,
    reading: Reading = DEFAULT_READING,
    seed: Seed = 0,
    split_seed: Annotated[
        int | None, Parameter(help="Seed of the data split.", env_var="FARZI_SPLIT_SEED")
    ] = None,
    device: Device = "auto",
    force: bool = False,
    output: Output = DEFAULT_OUTPUT,
) -> None:
    """Train an ordinary model on an artifact or on a source.

    Training stops when the loss on the validation part no longer falls, or at the end of its
    schedule; the weights of the best look are written to OUT/weights.safetensors, beside the
    original ids of its tokens: `farzi.load_model(OUT)` is a torch module that scores histories in
    those ids. An artifact is refused on another split than its own.

    Args:
        artifact_or_source: an artifact or run folder, or a source.
        out: folder for the weights.
        student: sasrec, gru4rec, fmlp, transformer or rnn; a model of your own: my_models.py:make,
            or hf:config.json; the artifact's without it.
        width: model width.
        num_layers: blocks.
        num_heads: attention heads.
        conv_size: positions that a causal convolution of the input reads; 0: no convolution.
        context_length: on a source: tokens the model reads; on an artifact it is the artifact's.
        dropout: dropout rate; without it the artifact's, or what a model of your own has.
        smoothing: label smoothing.
        lr: step size of AdamW; without it the artifact's where Adam or AdamW was its inner
            optimiser, else 0.01.
        batch_size: sequences a step.
        max_steps: the cap.
        schedule: of the step size; linear: it falls to nothing at --max-steps, where training ends.
        shift: on an artifact with labels: places by which half of its rows are moved at most at a
            step, anew each time; it may help where a few long rows stand for much data.
        patience: looks without improvement after which it stops, where the step size is constant.
        force: replace weights that are there.

    Example:
        farzi train runs/ml-100k --out models/small
        farzi train ml-100k --data-root ~/datasets --student sasrec --width 32 --out models/full
    """
    from farzi.api import train as train_model

    asked = reading.asked | ({} if split_seed is None else {"split_seed": split_seed})
    with output.progress("train") as bar:
        trained = train_model(
            artifact_or_source,
            out,
            on=on,
            student=student,
            width=width,
            num_layers=num_layers,
            num_heads=num_heads,
            conv_size=conv_size,
            context_length=context_length,
            dropout=dropout,
            smoothing=smoothing,
            lr=lr,
            weight_decay=weight_decay,
            batch_size=batch_size,
            max_steps=max_steps,
            schedule=schedule,
            shift=shift,
            patience=patience,
            seed=seed,
            device=device,
            overwrite=force,
            progress=bar,
            **asked,
        )
    payload = {
        "weights": str(trained.weights),
        "steps": trained.step,
        "validation_loss": trained.loss,
        "seconds": trained.seconds,
        "stopped": trained.stopped,
        "protocol_line": trained.protocol_line,
    }
    output.result(
        payload,
        text=f"validation loss {trained.loss:.4f} after {trained.step} steps "
        f"(stopped by {trained.stopped})\n{trained.weights}",
    )
