"""What the outer loop lowers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from farzi.models import Student, sequence_loss
from farzi.training import Batch

__all__ = ["meta_matching"]


def meta_matching(
    student: Student, batch: Batch
) -> Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]:
    """The trained student's loss on real sequences.

    Args:
        student: the model.
        batch: real sequences.

    Returns:
        An outer loss (params, meta) -> scalar for `farzi.metagrad.metagradient`.

    References:
        Sachdeva et al. 2023, arXiv 2310.09983, equation 2.
    """

    def outer_loss(params: Mapping[str, Tensor], meta: Mapping[str, Tensor]) -> Tensor:
        return sequence_loss(student, params, batch.tokens, mask=batch.mask)

    return outer_loss
