"""What every start is: where latents and decoder are before the first outer step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from farzi.data.prepared import PreparedData
from farzi.data.sequences import Sequences
from farzi.data.sources import Task
from farzi.distill.starts.rows import RowChoice, Rows, choose_rows
from farzi.distill.teachers import Omega
from farzi.errors import DataError
from farzi.models import Student
from farzi.seeding import stream
from farzi.synthetic import SyntheticSequences

__all__ = ["DECODER_RMS", "Start", "StartInputs", "StartRows", "fit_latents", "row_choice"]

DECODER_RMS = 0.27  # a decoder of this size and latents of size 1 to 10 move at a common rate

StartRows = Literal["auto", "ends", "joined", "pieces"]


@dataclass(frozen=True)
class StartInputs:
    """What a start may read: the sizes that are asked for, training users, and teachers.

    Args:
        data: the prepared source; its training part and its vocabulary only.
        train_sequences: its training sequences.
        student: architecture of the inner students.
        num_sequences: synthetic sequences S.
        length: their length L.
        latent_dim: rank K.
        labels: whether there are labels apart from the tokens.
        temperature: tau of the soft tokens.
        seed: of what is drawn.
        omega: teacher runs, where the start asks for them.
        drawn: rows that were drawn before.
    """

    data: PreparedData
    train_sequences: Sequences
    student: Student
    num_sequences: int
    length: int
    latent_dim: int
    labels: bool
    temperature: float
    seed: int
    omega: Omega | None = None
    drawn: dict[StartRows, Rows] = field(default_factory=dict, repr=False, compare=False)

    @property
    def num_tokens(self) -> int:
        """Vocabulary size V."""
        return self.data.vocabulary.size

    @property
    def teachers(self) -> tuple[dict[str, Tensor], ...]:
        """The best weights of every teacher run.

        Raises:
            DataError: there are no teacher runs.
        """
        if self.omega is None:
            raise DataError("this start needs teacher runs, and there are none.")
        return self.omega.teachers()

    @property
    def teacher(self) -> Student:
        """Architecture of the teachers, without dropout."""
        return self.student if self.omega is None else self.omega.student(self.student)

    def rows(self, how: StartRows = "auto") -> Rows:
        """Real rows of training users.

        Args:
            how: see `choose_rows`. `auto` joins whole sentences of a text; of event logs it takes
                pieces, or the ends of histories where tokens are labels as well.
        """
        if how in self.drawn:
            return self.drawn[how]
        self.drawn[how] = choose_rows(
            self.train_sequences,
            self.num_sequences,
            self.length,
            stream(self.seed, "start rows"),
            how=row_choice(how, self.data.task, self.labels),
        )
        return self.drawn[how]

    def at_temperature(self, start: SyntheticSequences) -> SyntheticSequences:
        """The same soft tokens and labels, of temperature 1, at the temperature that is asked for.

        `lengths` that leave nothing out are dropped.
        """
        if start.lengths is not None and bool((start.lengths == self.length).all()):
            start = replace(start, lengths=None)
        scaled = {
            name: factor * (self.temperature if name != "decoder" else 1.0)
            for name, factor in start.factors().items()
        }
        return replace(start.with_factors(scaled), temperature=self.temperature)


def row_choice(how: StartRows, task: Task, labels: bool) -> RowChoice:
    """Which rows `auto` means; see `StartInputs.rows`."""
    if how != "auto":
        return how
    if task == "language":
        return "joined"
    return "pieces" if labels else "ends"


class Start(Protocol):
    """Where the synthetic sequences begin: a frozen dataclass of its own choices.

    Attributes:
        name: what settings and the command line call it.
        needs_teachers: whether it reads models that were trained on real data.
    """

    name: ClassVar[str]
    needs_teachers: ClassVar[bool]

    @property
    def suggests(self) -> Mapping[str, Any]:
        """Settings that suit it, by dotted names; what is asked for goes before them.

        Raises:
            FarziError: what it begins from cannot be read.
        """
        ...

    def check(self, inputs: StartInputs) -> tuple[str, ...]:
        """Raise what `__call__` would, as far as that is known before any teacher is trained.

        Returns:
            What a reader of the result should be warned of, a line each.
        """
        ...

    def __call__(self, inputs: StartInputs) -> SyntheticSequences:
        """The sequences before the first outer step, on CPU.

        Raises:
            DataError: the source is too small for it.
        """
        ...


def fit_latents(
    decoder: Tensor, tokens: Tensor, *, steps: int = 150, lr: float = 0.3, decay: float = 1e-4
) -> Tensor:
    """Latents whose soft tokens are as near to `tokens` as the decoder lets them be.

    Minimises the cross-entropy plus `decay` times the squared norm, each position by itself.

    Args:
        decoder: M (K, V).
        tokens: int64 (S, L).
        steps: of Adam.
        lr: its step size.
        decay: keeps latents finite where a token can be had exactly.

    Returns:
        Z (S, L, K).

    Cost:
        steps times three products (S L, K) x (K, V), over distinct tokens only.
    """
    distinct, place = torch.unique(tokens, return_inverse=True)
    with torch.enable_grad():
        latent = torch.zeros(len(distinct), decoder.shape[0], requires_grad=True)
        optimizer = torch.optim.Adam([latent], lr)
        for _ in range(steps):
            logits = latent @ decoder
            own = logits.gather(1, distinct[:, None])[:, 0]
            loss = (logits.logsumexp(-1) - own).sum() + decay * latent.square().sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return latent.detach()[place]
