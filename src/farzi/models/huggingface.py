"""A causal language model of `transformers` as a student, from its configuration alone."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from farzi.errors import SettingsError
from farzi.models.module import ModuleStudent, name_of, try_out

__all__ = ["from_huggingface"]


def from_huggingface(
    config: str | os.PathLike[str] | Any,
    context_length: int,
    *,
    num_tokens: int | None = None,
    dropout: float | None = None,
) -> ModuleStudent:
    """A student with the architecture that a configuration of `transformers` describes.

    Weights are drawn anew, as `transformers` draws them: what a folder holds of pretrained ones is
    not read. Nothing is downloaded, and no code that a configuration points to is run. The model
    is given `inputs_embeds` and runs with eager attention, which has a second derivative.

    Args:
        config: a `config.json`, a folder that holds one, or a configuration object.
        context_length: longest sequence that it is to read, L; also its number of positions.
        num_tokens: vocabulary size V in place of the configuration's.
        dropout: rate of all its dropout layers in training; None leaves them as they are.

    Raises:
        SettingsError: transformers is missing, the configuration cannot be read or is of no causal
            language model, or a trial refuses the model (see `from_module`).

    Example:
        >>> from transformers import GPT2Config
        >>> from farzi.models import from_huggingface
        >>> config = GPT2Config(n_embd=8, n_layer=1, n_head=2)
        >>> student = from_huggingface(config, context_length=6, num_tokens=30)
        >>> student.num_tokens, student.width
        (30, 8)
    """
    try:
        import transformers
    except ImportError:
        raise SettingsError(
            "student: models of transformers need it installed: pip install 'farzi[hf]'."
        ) from None
    own = _read(config) if isinstance(config, str | os.PathLike) else copy.deepcopy(config)
    own.max_position_embeddings = context_length
    if num_tokens is not None:
        own.vocab_size = num_tokens
    for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(own, token, None)  # of another vocabulary
    setattr(own, "dtype" if hasattr(own, "dtype") else "torch_dtype", torch.float32)

    models: Any = transformers.AutoModelForCausalLM

    def make() -> nn.Module:
        model: nn.Module = models.from_config(copy.deepcopy(own), attn_implementation="eager")
        return model

    try:
        example: Any = make()
    except (ValueError, TypeError, AttributeError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SettingsError(f"student: {own.model_type!r} cannot be made: {reason}") from error
    student = ModuleStudent(
        make,
        context_length,
        name_of(example, example.get_input_embeddings(), nn.Embedding),
        name_of(example, example.get_output_embeddings(), nn.Linear),
        dropout,
        takes="inputs_embeds",
        kind="huggingface",
    )
    try_out(student, example)
    return student


def _read(place: str | os.PathLike[str]) -> Any:
    """The configuration in a file or folder."""
    from transformers import AutoConfig

    path = Path(place)
    path = path / "config.json" if path.is_dir() else path
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"student: {path}: {error.strerror}.") from None
    except ValueError as error:
        raise SettingsError(f"student: {path} is no JSON: {error}.") from None
    kind = values.pop("model_type", None) if isinstance(values, dict) else None
    if not isinstance(kind, str):
        raise SettingsError(f"student: {path} names no model_type, such as gpt2 or llama.")
    values.pop("auto_map", None)  # code that somebody else wrote
    try:
        return AutoConfig.for_model(kind, **values)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise SettingsError(f"student: {path} cannot be read as {kind}: {reason}") from error
