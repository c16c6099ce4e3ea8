"""Writing an artifact, whole or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import safetensors.torch
import torch

from farzi.artifact.card import render_card
from farzi.artifact.contents import Artifact
from farzi.artifact.layout import (
    CARD,
    FILES,
    FORMAT_VERSION,
    HARD_TOKENS,
    ITEMS,
    MANIFEST,
    SETTINGS,
    SHAPE_NAMES,
    TENSORS,
)
from farzi.artifact.parquet import render_parquet
from farzi.artifact.storage import pack
from farzi.artifact.tokenizer import render_json, tokenizer_files
from farzi.data.files import replacing_folder
from farzi.errors import SettingsError

__all__ = ["check_writable", "hard_tokens", "is_ours", "write_artifact"]


def check_writable(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Refuse, before a long run, a place where `write_artifact` would refuse at its end.

    Raises:
        SettingsError: something is there that may not be overwritten.
    """
    target = Path(path)
    if not os.path.lexists(target):
        return
    is_artifact = (target / MANIFEST).is_file() and not target.is_symlink()
    if not (overwrite and is_artifact):
        what = "exists already" if is_artifact or not overwrite else "is not an artifact"
        raise SettingsError(f"{target}: {what}, and is not overwritten.")


def write_artifact(
    artifact: Artifact, path: str | os.PathLike[str], *, overwrite: bool = False
) -> Path:
    """Write an artifact, whole or not at all.

    The files are written to a new folder beside `path`, which then takes its name; an artifact that
    is there is exchanged for it in one step where the system can.

    Args:
        artifact: what to write.
        path: the folder to make; its parents are made too.
        overwrite: replace an artifact that is there. Anything else is never replaced.

    Returns:
        `path`.

    Raises:
        SettingsError: something is at `path`.

    Cost:
        Memory: the files' bytes, and one sequence's (L, V) probabilities at a time.
    """
    target = Path(path)
    check_writable(target, overwrite=overwrite)
    files = _render_files(_on_cpu(artifact).rounded())
    manifest = "".join(
        f"{hashlib.sha256(content).hexdigest()}  {name}\n"
        for name, content in sorted(files.items())
    )
    with replacing_folder(target, ours=is_ours) as draft:
        for name, content in {**files, MANIFEST: manifest.encode()}.items():
            file = draft / name
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
    return target


def is_ours(path: Path) -> bool:
    """Whether a file or folder may stand at the top of an artifact's folder."""
    return path.name in {name.partition("/")[0] for name in FILES}


def _render_files(artifact: Artifact) -> dict[str, bytes]:
    """Return the content of every file but the manifest, by name."""
    settings = {
        "format": "farzi",
        "format_version": FORMAT_VERSION,
        "shape": dict(
            zip(
                SHAPE_NAMES,
                (artifact.num_sequences, artifact.length, artifact.rank, artifact.vocabulary_size),
                strict=True,
            )
        ),
        "tokens": "hard" if artifact.has_hard_tokens else "soft",
        "dtype": artifact.dtype,
        "temperature": artifact.temperature,
        "recipe": artifact.recipe,
        "source": artifact.source,
        "scores": artifact.scores,
        "hard_token_seed": artifact.hard_token_seed,
    }
    hard = _render_hard_tokens(artifact)
    files = {
        TENSORS: safetensors.torch.save(
            # Copies: safetensors refuses tensors that share memory.
            {
                name: tensor.clone(memory_format=torch.contiguous_format)
                for name, tensor in pack(artifact.tensors, artifact.dtype).items()
            }
        ),
        SETTINGS: render_json(settings),
        HARD_TOKENS: hard,
        CARD: render_card(artifact, hard).encode(),
    }
    if artifact.source["task"] == "recommend":
        files[ITEMS] = render_parquet({"item_id": artifact.vocabulary})
    else:
        files |= tokenizer_files(artifact)
    return files


def _on_cpu(artifact: Artifact) -> Artifact:
    """Return the artifact on the CPU, whose arithmetic decides the hard tokens."""
    labels, lengths = artifact.label_latent, artifact.lengths
    return dataclasses.replace(
        artifact,
        latent=artifact.latent.detach().cpu(),
        decoder=artifact.decoder.detach().cpu(),
        label_latent=None if labels is None else labels.detach().cpu(),
        lengths=None if lengths is None else lengths.cpu(),
        learned={name: tensor.detach().cpu() for name, tensor in artifact.learned.items()},
    )


def hard_tokens(artifact: Artifact) -> Iterator[list[int]]:
    """Yield a token for each real place, a sequence at a time: the likeliest, or a drawn one."""
    generator = torch.Generator()
    if artifact.hard_token_seed is not None:
        generator.manual_seed(artifact.hard_token_seed)
    synthetic = artifact.synthetic
    lengths = [artifact.length] * artifact.num_sequences
    if artifact.lengths is not None:
        lengths = artifact.lengths.tolist()
    for index, length in enumerate(lengths):
        soft = synthetic.tokens(torch.tensor([index]))[0, :length].detach().cpu()
        if artifact.has_hard_tokens:
            yield soft.tolist()
        elif artifact.hard_token_seed is None:
            yield soft.argmax(dim=-1).tolist()
        else:
            yield torch.multinomial(soft, 1, generator=generator)[:, 0].tolist()


def _render_hard_tokens(artifact: Artifact) -> bytes:
    column = "item_ids" if artifact.source["task"] == "recommend" else "tokens"
    rows = [[artifact.vocabulary[token] for token in tokens] for tokens in hard_tokens(artifact)]
    return render_parquet({"sequence_id": list(range(len(rows))), column: rows})
