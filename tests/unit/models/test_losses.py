"""The one loss and the one scoring function, for heads of every kind."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from farzi.data.sequences import Sequences
from farzi.distill.teachers import mean_logits
from farzi.evaluation import validation_loss
from farzi.metagrad import Adam, Direct, Stored, metagradient, readout
from farzi.models import Head, SASRec, embedded_loss, hidden_states, logits, sequence_loss
from farzi.models.fused.soft_head import embed, target_loss

TOKENS, LENGTH = 11, 6


@dataclasses.dataclass(frozen=True)
class Toy:
    """A causal model of two matrices with every kind of head: tied or not, with or without bias."""

    tied: bool
    bias: bool
    embedding_width: int = 8
    width: int = 8
    num_tokens: int = TOKENS
    context_length: int = LENGTH

    def init(self, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Any:
        shapes = {
            "embedding": (self.num_tokens, self.embedding_width),
            "mix": (self.embedding_width, self.width),
        }
        if not self.tied:
            shapes["head"] = (self.num_tokens, self.width)
        if self.bias:
            shapes["bias"] = (self.num_tokens,)
        return {
            name: torch.randn(shape, generator=generator, dtype=dtype)
            for name, shape in shapes.items()
        }

    def embedding(self, params: Any) -> Tensor:
        table: Tensor = params["embedding"]
        return table

    def hidden(self, params: Any, embedded: Tensor, generator: Any = None) -> Tensor:
        return (embedded @ params["mix"]).cumsum(-2).tanh()

    def head(self, params: Any) -> Head:
        return Head(params["embedding" if self.tied else "head"], params.get("bias"))

    def settings(self) -> dict[str, Any]:
        return {"name": "toy"}


STUDENTS = [
    Toy(tied=True, bias=False),
    Toy(tied=True, bias=True),
    Toy(tied=False, bias=False, embedding_width=5),
    Toy(tied=False, bias=True, embedding_width=24, width=3),
    Toy(tied=False, bias=True, embedding_width=1, width=13),
]


@pytest.fixture(params=STUDENTS, ids=str)
def student(request: pytest.FixtureRequest) -> Toy:
    toy: Toy = request.param
    return toy


def parameters(student: Any, seed: int = 0, dtype: torch.dtype = torch.float64) -> Any:
    return student.init(torch.Generator().manual_seed(seed), dtype)


def soft(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(*shape, generator=generator, dtype=torch.float64)).softmax(-1)


def textbook(student: Any, params: Any, tokens: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy against soft targets as usually written, from the scores."""
    scores = logits(student, params, hidden_states(student, params, tokens))
    nll = -(targets * scores.log_softmax(-1)).sum(-1)
    return nll[mask].mean()


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("masked", [False, True])
def test_the_loss_is_the_textbook_cross_entropy(
    student: Toy, masked: bool, smoothing: float
) -> None:
    params = parameters(student)
    hard = torch.arange(18).view(3, 6) * 5 % TOKENS
    mask = torch.arange(6).expand(3, 6) < torch.tensor([[6], [4], [3]]) if masked else None
    everywhere = torch.ones(3, 6, dtype=torch.bool) if mask is None else mask
    for tokens in (hard, soft(3, 6, TOKENS, seed=1)):
        one_hot = torch.nn.functional.one_hot(hard, TOKENS).double()
        P = tokens if tokens.is_floating_point() else one_hot
        Q = soft(3, 6, TOKENS, seed=2)
        smooth_P, smooth_Q = ((1 - smoothing) * x + smoothing / TOKENS for x in (P, Q))
        torch.testing.assert_close(
            sequence_loss(student, params, tokens, mask=mask, smoothing=smoothing),
            textbook(student, params, tokens[:, :-1], smooth_P[:, 1:], everywhere[:, 1:]),
        )
        torch.testing.assert_close(
            sequence_loss(student, params, tokens, labels=Q, mask=mask, smoothing=smoothing),
            textbook(student, params, tokens, smooth_Q, everywhere),
        )


@pytest.mark.parametrize("labelled", [False, True])
def test_meta_gradients_through_any_head_are_autograds(student: Toy, labelled: bool) -> None:
    meta = {"tokens": soft(4, LENGTH, TOKENS, seed=1)}
    if labelled:
        meta["labels"] = soft(4, LENGTH, TOKENS, seed=2)
    rows = [torch.tensor([0, 2]), torch.tensor([3, 1])]
    hard = torch.arange(12).view(2, 6) % TOKENS

    def inner(params: Any, meta: Any, step: int) -> Tensor:
        return sequence_loss(
            student,
            params,
            meta["tokens"],
            labels=meta.get("labels"),
            read=lambda P, table: readout(P, table, rows[step % 2]),
        )

    def plain(params: Any, meta: Any, step: int) -> Tensor:
        few = {name: P[rows[step % 2]] for name, P in meta.items()}
        tokens = few["tokens"]
        if labelled:
            everywhere = torch.ones(2, 6, dtype=torch.bool)
            return textbook(student, params, tokens, few["labels"], everywhere)
        return textbook(
            student, params, tokens[:, :-1], tokens[:, 1:], torch.ones(2, 5, dtype=torch.bool)
        )

    results = [
        metagradient(
            loss,
            lambda params, meta: sequence_loss(student, params, hard),
            parameters(student),
            meta,
            steps=7,
            optimizer=Adam(lr=0.02, eps_root=1e-9),
            adjoint=adjoint,
        )
        for loss, adjoint in ((inner, Stored()), (plain, Direct()))
    ]
    for name, expected in results[1].meta_grads.items():
        # Rows of soft tokens sum to 1, so a gradient for one counts up to a constant.
        actual, expected = (
            x - x.mean(-1, keepdim=True) for x in (results[0].meta_grads[name], expected)
        )
        assert expected.abs().max() > 1e-4
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


def test_a_tied_head_gives_the_bits_of_the_plain_formula() -> None:
    student = SASRec(num_tokens=TOKENS, context_length=LENGTH, width=8)
    params = {
        name: value.requires_grad_()
        for name, value in parameters(student, dtype=torch.float32).items()
    }
    table, leaves = params["embedding"], list(params.values())
    tokens, labels = (soft(3, LENGTH, TOKENS, seed=seed).float() for seed in (1, 2))
    for targets in (None, labels):
        Y = None if targets is None else embed(targets, table)  # first: gradients add up in order
        X = embed(tokens, table)
        if Y is None:
            X, Y = X[:, :-1], X[:, 1:]
        expected = target_loss(student.hidden(params, X), table, Y)
        loss = sequence_loss(student, params, tokens, labels=targets)
        assert loss == expected
        pairs = zip(
            torch.autograd.grad(loss, leaves), torch.autograd.grad(expected, leaves), strict=True
        )
        assert all(torch.equal(a, b) for a, b in pairs)


def test_evaluation_scores_through_the_head(student: Toy) -> None:
    params = parameters(student)
    sequences = Sequences.from_lists([[1, 2, 3, 4, 5, 6], [7, 8, 9]])
    tokens = [torch.from_numpy(sequences[i][None].astype("int64")) for i in range(2)]
    losses = [
        textbook(
            student,
            params,
            each[:, :-1],
            torch.nn.functional.one_hot(each[:, 1:], TOKENS).double(),
            torch.ones(1, each.shape[1] - 1, dtype=torch.bool),
        )
        for each in tokens
    ]
    expected = float((5 * losses[0] + 2 * losses[1]) / 7)
    assert validation_loss(student, params, sequences) == pytest.approx(expected, rel=1e-12)


def test_teachers_may_be_of_several_architectures() -> None:
    students = [*STUDENTS, SASRec(num_tokens=TOKENS, context_length=LENGTH, width=8)]
    teachers = [parameters(each, seed) for seed, each in enumerate(students)]
    tokens = torch.arange(12).view(2, 6) % TOKENS
    hidden, table = mean_logits(students, teachers, tokens)
    scores = [
        logits(each, params, hidden_states(each, params, tokens))
        for each, params in zip(students, teachers, strict=True)
    ]
    torch.testing.assert_close(hidden @ table.T, torch.stack(scores).mean(0))


def test_labels_are_read_through_the_heads_table() -> None:
    student = STUDENTS[3]
    params = parameters(student)
    tokens, labels = soft(2, 4, TOKENS, seed=1), soft(2, 4, TOKENS, seed=2)
    embedded = embed(tokens, student.embedding(params))
    targets = embed(labels, student.head(params).table)
    assert embedded.shape[-1] != targets.shape[-1]
    torch.testing.assert_close(
        embedded_loss(student, params, embedded, targets),
        sequence_loss(student, params, tokens, labels=labels),
    )
