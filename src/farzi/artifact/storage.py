"""How numbers stand on disk: float32, float16, or int8 with a scale a row; tokens as ids.

A row is the last axis: the K numbers of a place, the V numbers of a rank. In int8,

    scale = max |row| / 127, rounded up to 16 bits of precision;    stored = round(row / scale)

so every product stored * scale is exact in float32, and what has been read is written again as the
same bytes. Hard tokens, lengths and learned hyper-parameters are never rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from farzi.artifact.checks import short
from farzi.artifact.layout import SCALE_SUFFIX, TOKENS, Json
from farzi.errors import ArtifactError

__all__ = [
    "DTYPES",
    "FACTORS",
    "Dtype",
    "check_dtype",
    "pack",
    "rounded_to",
    "smallest_dtype",
    "unpack",
]

Dtype: TypeAlias = Literal["float32", "float16", "int8"]

DTYPES: tuple[Dtype, ...] = get_args(Dtype)
FACTORS = ("latent", "label_latent", "decoder")  # what a dtype is chosen for

_MOST = 127
_SMALLEST_SCALE = 2.0**-100


def check_dtype(dtype: Json) -> None:
    """Check how the factors are stored."""
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ArtifactError(f"`dtype` must be {', '.join(DTYPES)}, got {short(repr(dtype))}.")


def smallest_dtype(tensors: Mapping[str, Tensor]) -> Dtype:
    """Return float16 where it holds every factor, else float32.

    float16 changes soft tokens and labels by less than anything that training shows
    (docs/artifact.md).
    """
    largest = max(float(tensors[name].abs().max()) for name in FACTORS if name in tensors)
    return "float16" if largest < torch.finfo(torch.float16).max else "float32"


def pack(tensors: Mapping[str, Tensor], dtype: Dtype) -> dict[str, Tensor]:
    """Return tensors as they stand on disk.

    Args:
        tensors: as `Artifact.tensors` names them.
        dtype: of the factors.

    Raises:
        ArtifactError: a number is beyond what float16 holds.
    """
    packed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name == TOKENS:
            packed[name] = tensor.to(torch.int32)
        elif name not in FACTORS or dtype == "float32":
            packed[name] = tensor
        elif dtype == "float16":
            packed[name] = tensor.half()
            if not bool(torch.isfinite(packed[name]).all()):
                largest = float(tensor.abs().max())
                raise ArtifactError(f"`{name}` has {largest:.3g}, more than float16 holds (65504).")
        else:
            packed[name], packed[name + SCALE_SUFFIX] = _quantise(tensor)
    return packed


def unpack(stored: Mapping[str, Tensor], dtype: Dtype) -> dict[str, Tensor]:
    """Return the tensors that `pack` was given, rounded."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        if name == TOKENS:
            tensors[name] = tensor.long()
        elif name not in FACTORS or dtype == "float32":
            if not name.endswith(SCALE_SUFFIX):
                tensors[name] = tensor
        elif dtype == "float16":
            tensors[name] = tensor.float()
        else:
            tensors[name] = tensor.float() * stored[name + SCALE_SUFFIX].unsqueeze(-1)
    return tensors


def rounded_to(tensors: Mapping[str, Tensor], dtype: Dtype) -> dict[str, Tensor]:
    """Return tensors as they will be read again."""
    return unpack(pack(tensors, dtype), dtype)


def _quantise(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Return int8 and the float32 scale of each row."""
    most = tensor.detach().abs().amax(-1)
    scale = _round_up(most / _MOST).clamp_min(_SMALLEST_SCALE)
    stored = (tensor / scale.unsqueeze(-1)).round().to(torch.int8)
    # A row of zeros has one scale alone, so that it is the same bytes when it is written again.
    scale = torch.where(stored.abs().amax(-1) == 0, torch.ones_like(scale), scale)
    return stored, scale


def _round_up(values: Tensor) -> Tensor:
    """Return the next float32 >= that has 16 bits of precision, of values >= 0."""
    mantissa, exponent = torch.frexp(values)
    return torch.ldexp((mantissa * 2.0**16).ceil() / 2.0**16, exponent)
