"""Several teachers' mean prediction along real rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from farzi.distill.starts.base import DECODER_RMS, StartInputs, StartRows, fit_latents
from farzi.distill.starts.rows import Rows
from farzi.distill.teachers import mean_logits
from farzi.errors import SettingsError
from farzi.models import Params, Student
from farzi.synthetic import SyntheticSequences

__all__ = ["TeacherStart", "teacher_start"]


@dataclass(frozen=True)
class TeacherStart:
    """Real rows whose labels are what teachers predict along them.

    Args:
        rows: which real rows.
        tokens: `soft`: latents are fitted to the rows' tokens, and learnt; `ids`: the tokens stay
            as they are, and the labels and the decoder alone are learnt. Ids take fewer bytes, and
            a step on them less time; they need labels.
    """

    name: ClassVar[str] = "teacher"
    needs_teachers: ClassVar[bool] = True

    rows: StartRows = "auto"
    tokens: Literal["soft", "ids"] = "soft"

    @property
    def suggests(self) -> Mapping[str, Any]:
        """Nothing."""
        return {}

    def check(self, inputs: StartInputs) -> tuple[str, ...]:
        """Raise where there are too few real rows, or ids without labels."""
        if self.tokens == "ids" and not inputs.labels:
            raise SettingsError("`start.tokens` must be soft where tokens are labels as well.")
        inputs.rows(self.rows)
        return ()

    def __call__(self, inputs: StartInputs) -> SyntheticSequences:
        """Real rows of training users, labelled by the teachers."""
        teachers = inputs.teachers
        start = teacher_start(
            inputs.teacher,
            teachers,
            inputs.rows(self.rows),
            inputs.latent_dim,
            labels=inputs.labels,
            hard=self.tokens == "ids",
        )
        return inputs.at_temperature(start)


@torch.no_grad()
def teacher_start(
    student: Student | Sequence[Student],
    teachers: Sequence[Params],
    rows: Rows,
    latent_dim: int,
    *,
    labels: bool,
    hard: bool = False,
) -> SyntheticSequences:
    """The teachers' predictions along real rows: hidden states times embedding tables.

    Exact where the rank is the sum of their widths or more; below, the leading factors of their
    mean logits. With labels the tokens are fitted to the real ones and the predictions become the
    labels.

    Args:
        student: the teachers' architecture, one for all or one for each.
        teachers: weights of each.
        rows: real rows of training users.
        latent_dim: rank K.
        labels: whether labels are kept apart from tokens.
        hard: keep the rows' tokens as ids; needs `labels`.
    """
    length = rows.tokens.shape[1] if labels else rows.tokens.shape[1] - 1
    hidden, table = mean_logits(student, teachers, rows.tokens[:, :length])
    if latent_dim < table.shape[1]:
        latent, decoder = _leading_factors(hidden, table, rows.mask[:, :length], latent_dim)
    else:
        extra = latent_dim - table.shape[1]
        latent = torch.nn.functional.pad(hidden, (0, extra))
        decoder = torch.nn.functional.pad(table.T, (0, 0, 0, extra)).contiguous()
    scale = DECODER_RMS / decoder.square().mean().sqrt()
    latent, decoder = latent / scale, decoder * scale
    if labels:
        tokens = rows.tokens if hard else fit_latents(decoder, rows.tokens)
        return SyntheticSequences(tokens, decoder, latent, rows.lengths)
    first = fit_latents(decoder, rows.tokens[:, :1])
    return SyntheticSequences(torch.cat([first, latent], 1), decoder, lengths=rows.lengths)


def _leading_factors(
    hidden: Tensor, table: Tensor, mask: Tensor, rank: int
) -> tuple[Tensor, Tensor]:
    """Rank-K factors of the logits, centred over tokens, as seen at the real positions.

    With E = Q R, the logits H E^T = (H R^T) Q^T are as far apart as H R^T, so the directions
    come from an SVD of W columns.
    """
    basis, triangle = torch.linalg.qr(table - table.mean(0))
    seen = hidden @ triangle.T
    directions = torch.linalg.svd(seen[mask], full_matrices=False).Vh[:rank]
    return seen @ directions.T, directions @ basis.T
