"""Meta-matching: the real loss of a student that was trained on synthetic sequences (Farzi)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from farzi.distill.problem import Member, Problem, Window
from farzi.distill.ranges import refuse, share
from farzi.distill.teachers import mean_logits
from farzi.models import Params, Student, sequence_loss
from farzi.seeding import stream
from farzi.synthetic import SyntheticSequences
from farzi.training import Batch

__all__ = ["MetaMatching", "Targets", "real_loss"]

Targets = Literal["teacher", "data"]


@dataclass(frozen=True)
class MetaMatching:
    """The loss on real data of students trained on the synthetic sequences.

        min over Z, M of  E_{theta_0 ~ Omega} [ L_D(theta_T) ],
        theta_{t+1} = Opt(theta_t, grad L_Dsyn(theta_t))

    with D the real data, Dsyn = softmax(Z M / tau), and Omega where students begin. The gradient
    goes through a window of the T steps, at any place of them (docs/decisions/student-pool.md).

    Args:
        targets: what predictions on real sequences are compared with: the next token as published
            (`data`), or the teachers' mean prediction (`teacher`).
        from_teachers: share of students begun from a teacher's early weights, not from fresh ones;
            1 is the published Omega, 0 is `random_matching`.

    References:
        Sachdeva et al. 2023, arXiv 2310.09983, equation 2.
    """

    name: ClassVar[str] = "meta_matching"
    goes_on: ClassVar[bool] = True

    targets: Targets = "data"
    from_teachers: float = 0.0

    def __post_init__(self) -> None:
        refuse(share(self, "from_teachers"))

    @property
    def needs_teachers(self) -> bool:
        """Whether it reads models that were trained on real data."""
        return self.targets == "teacher" or self.from_teachers > 0

    @property
    def begins_from_teachers(self) -> bool:
        """Whether students have weights of teachers, which must then be of their kind."""
        return self.from_teachers > 0

    def begin(self, problem: Problem, seed: int) -> Member:
        """A student with fresh weights, or with a teacher's early ones."""
        generator = stream(problem.seed, "start weights", seed)
        if problem.omega is not None and generator.random() < self.from_teachers:
            return Member(problem.on_device(problem.omega.sample(generator)), None, 0, seed)
        return problem.fresh_member(seed)

    def window(
        self, problem: Problem, member: Member, synthetic: SyntheticSequences, number: int
    ) -> Window:
        """The real loss after a window of inner steps, and its meta-gradient."""
        teachers = problem.teachers if self.targets == "teacher" else ()
        outer_loss = real_loss(
            problem.student, problem.real_batch(number), teachers, problem.teacher
        )
        return problem.differentiate(member, synthetic, outer_loss)


def real_loss(
    student: Student,
    batch: Batch,
    teachers: Sequence[Params] = (),
    teacher: Student | None = None,
) -> Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]:
    """A student's loss on real sequences, as an outer loss (params, meta) -> scalar.

    Args:
        student: the model.
        batch: real sequences.
        teachers: weights of models trained on real data. Where there are any, their mean prediction
            is the target instead of the next token: it says how likely every token was, so the
            gradient is less of a lottery, and it is what generalises of the data.
        teacher: their architecture; None: the student's.
    """
    if teachers:
        inputs = batch.formed[:, :-1]
        hidden, table = mean_logits(teacher or student, teachers, inputs)
        labels = (hidden @ table.T).softmax(-1)
        batch = Batch(inputs, labels, None if batch.mask is None else batch.mask[:, 1:])

    def outer_loss(params: Mapping[str, Tensor], meta: Mapping[str, Tensor]) -> Tensor:
        return sequence_loss(student, params, batch.tokens, labels=batch.labels, mask=batch.mask)

    return outer_loss
