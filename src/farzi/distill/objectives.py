"""What the outer loop lowers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from farzi.distill.initialise import mean_logits
from farzi.models import Params, Student, sequence_loss
from farzi.training import Batch

__all__ = ["meta_matching"]


def meta_matching(
    student: Student, batch: Batch, teachers: Sequence[Params] = ()
) -> Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]:
    """The trained student's loss on real sequences.

    Args:
        student: the model.
        batch: real sequences.
        teachers: weights of models trained on real data. Where there are any, their mean prediction
            is the target instead of the next token: it says how likely every token was, so the
            gradient is less of a lottery, and it is what generalises of the data.

    Returns:
        An outer loss (params, meta) -> scalar for `farzi.metagrad.metagradient`.

    References:
        Sachdeva et al. 2023, arXiv 2310.09983, equation 2.
    """
    if teachers:
        inputs = batch.tokens[:, :-1]
        hidden, table = mean_logits(student, teachers, inputs)
        labels = (hidden @ table.T).softmax(-1)
        batch = Batch(inputs, labels, None if batch.mask is None else batch.mask[:, 1:])

    def outer_loss(params: Mapping[str, Tensor], meta: Mapping[str, Tensor]) -> Tensor:
        return sequence_loss(student, params, batch.tokens, labels=batch.labels, mask=batch.mask)

    return outer_loss
