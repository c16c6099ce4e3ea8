"""`farzi train`: an ordinary model from an artifact or from real data."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from farzi.cli._common import DEFAULT_OUTPUT, Device, Output, Seed, SplitSeed, choose_device
from farzi.errors import SettingsError

__all__ = ["train"]


def train(
    artifact_or_source: str,
    /,
    *,
    out: Path,
    on: str | None = None,
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
    task: Literal["recommend", "language"] | None = None,
    data_root: Path | None = None,
    split: Literal["users", "leave-last-out"] = "users",
    seed: Seed = 0,
    split_seed: SplitSeed = 0,
    device: Device = "auto",
    force: bool = False,
    output: Output = DEFAULT_OUTPUT,
) -> None:
    """Train an ordinary model on an artifact or on a source.

    Training stops when the loss on the validation part no longer falls; the weights of the best
    look are written to OUT/weights.safetensors. An artifact is refused on another split than its
    own.

    Args:
        artifact_or_source: an artifact or run folder, or a source.
        out: folder for the weights.
        on: source that an artifact was distilled from; its own name without it.
        student: sasrec or transformer; the artifact's, or what fits the task, without it.
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
        task: what the source is for, where its name does not tell.
        data_root: folder of the known datasets; without it, the one that FARZI_DATA_ROOT names.
        split: how the source is split.
        force: replace weights that are there.

    Example:
        farzi train runs/ml-100k --data-root ~/datasets --out models/small
        farzi train ml-100k --data-root ~/datasets --student sasrec --width 32 --out models/full
    """
    from farzi.artifact import check_split, locate_artifact, read_artifact
    from farzi.data import prepare
    from farzi.evaluation import sequences_of, validation_loss
    from farzi.models import build_student
    from farzi.models.weights import save_weights
    from farzi.training import Batches, RealBatches, SyntheticBatches, TrainSettings
    from farzi.training import train as train_student

    weights = out / "weights.safetensors"
    if weights.exists() and not force:
        raise SettingsError(f"--out {out}: weights are there already; --force replaces them.")
    chosen_device, _ = choose_device(device)
    artifact = None
    if _is_artifact(artifact_or_source):
        artifact = read_artifact(locate_artifact(Path(artifact_or_source)))
        source = artifact.source
        split_seed = int(source["split_seed"])
        split = "leave-last-out" if source["split_kind"] == "leave-last-out" else "users"
    data = prepare(
        on or (str(artifact.source["name"]) if artifact else artifact_or_source),
        task=task,
        data_root=data_root,
        split=split,
        split_seed=split_seed,
        vocabulary_size=_vocabulary_size(artifact),
    )
    settings: dict[str, Any] = {
        "name": "transformer" if data.task == "language" else "sasrec",
        "context_length": context_length,
        "width": 32,
    }
    batches: Batches
    if artifact is not None:
        check_split(
            artifact,
            fingerprint=data.fingerprint,
            split_kind=data.split_kind,
            split_seed=data.split_seed,
            train_users_hash=data.train_users_hash,
        )
        settings |= dict(artifact.recipe["student"])
        recipe_batch = int(artifact.recipe["batch_size"])
        synthetic = artifact.synthetic
        batches = SyntheticBatches(synthetic, batch_size or recipe_batch, seed)
        lr = lr or float(artifact.recipe["lr"])
        cap, look = 500, 10
    else:
        batches = RealBatches(sequences_of(data, "train"), context_length, batch_size or 64, seed)
        cap, look = 80 * batches.steps_per_epoch, batches.steps_per_epoch
    chosen = {
        "name": student,
        "width": width,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "conv_size": conv_size,
    }
    settings |= {name: value for name, value in chosen.items() if value is not None}
    settings |= {"num_tokens": data.vocabulary.size, "dropout": dropout}
    model = build_student(settings)
    held_out = sequences_of(data, "validation")
    cap = max_steps or cap
    output.say(data.protocol_line(model.context_length))
    with output.progress("train") as bar:
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
            on_look=lambda step, params, loss: bar(step, cap, f"validation loss {loss:.3f}"),
        )
    provenance = {
        "source": data.name,
        "fingerprint": data.fingerprint,
        "split_kind": data.split_kind,
        "split_seed": data.split_seed,
        "train_users_hash": data.train_users_hash,
        "distilled": artifact is not None,
        "vocabulary_size": data.protocol.get("vocabulary_size"),
    }
    save_weights(weights, model, trained.params, provenance)
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


def _is_artifact(text: str) -> bool:
    folder = Path(text)
    return (folder / "farzi.json").is_file() or (folder / "artifact" / "farzi.json").is_file()


def _vocabulary_size(artifact: Any) -> int | None:
    if artifact is None:
        return None
    size = artifact.source["protocol"].get("vocabulary_size")
    return None if size is None else int(size)
