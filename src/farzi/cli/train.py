"""`farzi train`: an ordinary model from an artifact or from real data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from farzi.cli._common import DEFAULT_OUTPUT, Device, Output, Seed, choose_device
from farzi.cli._source import DEFAULT_READING, On, Reading
from farzi.errors import SettingsError

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
    dropout: float = 0.0,
    lr: float | None = None,
    batch_size: int | None = None,
    max_steps: int | None = None,
    patience: int = 6,
    reading: Reading = DEFAULT_READING,
    seed: Seed = 0,
    split_seed: Annotated[int | None, Parameter(help="Seed of the data split.")] = None,
    device: Device = "auto",
    force: bool = False,
    output: Output = DEFAULT_OUTPUT,
) -> None:
    """Train an ordinary model on an artifact or on a source.

    Training stops when the loss on the validation part no longer falls; the weights of the best
    look are written to OUT/weights.safetensors, beside the original ids of its tokens:
    `farzi.load_model(OUT)` is a torch module that scores histories in those ids. An
    artifact is refused on another split than its own.

    Args:
        artifact_or_source: an artifact or run folder, or a source.
        out: folder for the weights.
        student: sasrec, gru4rec, fmlp, transformer or rnn; the artifact's without it.
        width: model width.
        num_layers: blocks.
        num_heads: attention heads.
        conv_size: positions that a causal convolution of the input reads; 0: no convolution.
        context_length: on a source: tokens the model reads; on an artifact it is the artifact's.
        dropout: dropout rate.
        smoothing: label smoothing.
        lr: step size.
        batch_size: sequences a step.
        max_steps: the cap.
        patience: looks without improvement after which it stops.
        force: replace weights that are there.

    Example:
        farzi train runs/ml-100k --out models/small
        farzi train ml-100k --data-root ~/datasets --student sasrec --width 32 --out models/full
    """
    from farzi.artifact import check_split, locate_artifact, read_artifact
    from farzi.data import prepare
    from farzi.evaluation import sequences_of, validation_loss
    from farzi.models import student_from
    from farzi.provenance import is_run, read_again, remembered_by, source_record, write_origin
    from farzi.trained import save_model
    from farzi.training import Batches, RealBatches, SyntheticBatches, TrainSettings
    from farzi.training import train as train_student

    weights = out / "weights.safetensors"
    if weights.exists() and not force:
        raise SettingsError(f"--out {out}: weights are there already; --force replaces them.")
    for name, number in {"width": width, "num_layers": num_layers, "num_heads": num_heads}.items():
        if number is not None and number < 1:
            raise ValueError(f"`{name}` must be an int >= 1, got {number}.")
    chosen_device, _ = choose_device(device)
    artifact = None
    asked = reading.asked | ({} if split_seed is None else {"split_seed": split_seed})
    if is_run(artifact_or_source):
        remembered = remembered_by(artifact_or_source)
        artifact = read_artifact(locate_artifact(Path(artifact_or_source)))
        data = read_again(remembered, on, **asked)
    elif on is not None:
        raise SettingsError(f"--on {on}: {artifact_or_source} is the source itself.")
    else:
        data = prepare(artifact_or_source, **asked)
    name = "transformer" if data.task == "language" else "sasrec"
    sizes: dict[str, Any] = {"context_length": context_length, "width": 32}
    batches: Batches
    if artifact is not None:
        check_split(
            artifact,
            fingerprint=data.fingerprint,
            split_kind=data.split_kind,
            split_seed=data.split_seed,
            train_users_hash=data.train_users_hash,
        )
        sizes |= artifact.recipe["student"]
        name = sizes.pop("name")
        recipe_batch = int(artifact.recipe["batch_size"])
        synthetic = artifact.synthetic
        batches = SyntheticBatches(synthetic, batch_size or recipe_batch, seed)
        lr = lr or float(artifact.recipe["lr"])
        cap, look = 500, 10
    else:
        batches = RealBatches(sequences_of(data, "train"), context_length, batch_size or 64, seed)
        cap, look = 80 * batches.steps_per_epoch, batches.steps_per_epoch
    asked_sizes = {
        "width": width,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "conv_size": conv_size,
    }
    model = student_from(
        student or name,
        {**sizes, "num_tokens": data.vocabulary.size, "dropout": dropout},
        {name: value for name, value in asked_sizes.items() if value is not None},
    )
    held_out = sequences_of(data, "validation")
    cap = max_steps or cap
    output.say(data.protocol_line(model.context_length))
    for warning in data.warnings:
        output.say(f"warning: {warning}")
    looks: list[float] = []
    with output.progress("train") as bar:

        def progress(step: int, loss: float, _: float) -> None:
            looked = f", validation loss {looks[-1]:.3f}" if looks else ""
            bar(step, cap, f"training loss {loss:.3f}{looked}")

        trained = train_student(
            model,
            batches,
            TrainSettings(
                lr=lr or 0.01,
                max_steps=cap,
                eval_every=look,
                patience=patience,
                smoothing=smoothing,
                seed=seed,
            ),
            lambda params: validation_loss(model, params, held_out),
            device=chosen_device,
            on_look=lambda step, params, loss: looks.append(loss),
            progress=progress,
        )
    provenance = source_record(data) | {"distilled": artifact is not None}
    save_model(out, model, trained.params, data.vocabulary, provenance)
    write_origin(out, data.origin)
    payload = {
        "weights": str(weights),
        "steps": trained.step,
        "validation_loss": trained.loss,
        "stopped": trained.stopped,
        "protocol_line": data.protocol_line(model.context_length),
    }
    output.result(
        payload,
        text=f"validation loss {trained.loss:.4f} after {trained.step} steps "
        f"(stopped by {trained.stopped})\n{weights}",
    )
