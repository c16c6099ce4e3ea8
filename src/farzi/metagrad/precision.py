"""What lowers the precision inside a loss, and what that does to its gradient: measured, said once.

bfloat16 and float16 keep 8 and 11 bits of a number. One gradient stands that; a meta-gradient takes
second derivatives of it through many steps, and may be noise.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from farzi.metagrad.guards import LightMode

__all__ = ["LOW", "lowered_by", "said", "without_lowering"]

LOW = frozenset({torch.bfloat16, torch.float16})

_logger = logging.getLogger("farzi.metagrad")
_said: set[str] = set()


def lowered_by(dtypes: set[torch.dtype], device: torch.device) -> str | None:
    """What lowers the precision of a loss that made tensors of these dtypes; None for nothing."""
    low = sorted(str(dtype).removeprefix("torch.") for dtype in dtypes & LOW)
    if low:
        return f"{' and '.join(low)}, from autocast or a cast inside it"
    if device.type == "cuda" and torch.get_float32_matmul_precision() != "highest":
        return "TF32, which torch.set_float32_matmul_precision allows"
    return None


class _Full(LightMode):  # type: ignore[no-untyped-call]
    """Leaves out every cast to a lower precision."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._dtype = dtype

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map_only(torch.dtype, self._raised, (args, kwargs or {}))
        return func(*args, **kwargs)

    def _raised(self, dtype: torch.dtype) -> torch.dtype:
        return self._dtype if dtype in LOW else dtype


@contextlib.contextmanager
def without_lowering(dtype: torch.dtype) -> Iterator[None]:
    """Compute in `dtype` what would be computed in bfloat16, float16 or TF32."""
    given = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        with _Full(dtype):
            yield
    finally:
        torch.set_float32_matmul_precision(given)


def said(by: str, gradient: Tensor, full: Callable[[], Tensor]) -> str:
    """What is to be said of a loss whose precision is lowered; logged the first time.

    Args:
        by: what lowers it.
        gradient: its first gradient.
        full: computes the same gradient in full precision.
    """
    reference = full()
    size = torch.linalg.vector_norm(reference, dtype=torch.float64).item()
    wrong = torch.linalg.vector_norm(gradient - reference, dtype=torch.float64).item()
    share = wrong / size if size else 0.0
    message = (
        f"the inner loss computes in lower precision ({by}): its first gradient is off by "
        f"{share:.1e} of its norm, and a meta-gradient through many steps may be noise"
    )
    if by not in _said:
        _said.add(by)
        _logger.warning("%s; leave it out of the loss.", message)
    return message
