"""Tensors and a record in one safetensors file that says when a bit of it has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from farzi.data.columns import shorten
from farzi.data.files import check_regular
from farzi.errors import DataError

__all__ = ["digest_of", "load_sealed", "save_sealed", "write_text"]


def save_sealed(path: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write tensors and a JSON record with their hash, complete or not at all.

    Raises:
        DataError: the file cannot be written.
    """
    kept = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    text = json.dumps(record)
    draft = path.with_name(f".{path.name}")
    try:
        # One field: safetensors writes several in an order of its own, another each time.
        sealed = json.dumps({"record": text, "sha256": digest_of(kept, text)})
        save_file(kept, draft, metadata={"sealed": sealed})
        draft.rename(path)
    except (OSError, SafetensorError) as error:
        draft.unlink(missing_ok=True)
        raise DataError(f"{path}: cannot be written ({error}).") from None


def load_sealed(
    path: Path, device: torch.device | str = "cpu"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_sealed` wrote.

    Raises:
        DataError: the file is missing or damaged, or its hash is not that of its content.
    """
    try:
        check_regular(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        sealed = json.loads(metadata["sealed"])
        text, expected = sealed["record"], sealed["sha256"]
        record = json.loads(text)
        is_whole = digest_of(tensors, text) == expected
    except KeyError as error:
        raise DataError(f"{path}: the field {error} is missing.") from None
    except RecursionError:
        raise DataError(f"{path}: its record is nested too deep.") from None
    except (OSError, SafetensorError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        reason = shorten(str(error), 200)
        raise DataError(f"{path}: cannot be read ({reason}).") from None
    if not is_whole or not isinstance(record, dict):
        raise DataError(f"{path}: its content is not what was written: the hash differs.")
    return {name: value.to(device) for name, value in tensors.items()}, record


def write_text(path: Path, text: str) -> None:
    """Write a text file, complete or not at all.

    Raises:
        DataError: the file cannot be written.
    """
    draft = path.with_name(f".{path.name}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.rename(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise DataError(f"{path}: cannot be written ({error.strerror}).") from None


def digest_of(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """SHA-256 of tensors by name, type, shape and content, and of a text."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
