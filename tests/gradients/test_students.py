"""Meta-gradients through every student, by every adjoint, against autograd through everything."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from farzi.metagrad import (
    Adam,
    Checkpointed,
    Direct,
    Reversible,
    Stored,
    metagradient,
    readout,
)
from farzi.models import (
    STUDENTS,
    build_student,
    embedded_loss,
    from_huggingface,
    from_module,
    sequence_loss,
)

TOKENS, LENGTH, STEPS = 7, 5, 20
SIZES = {"num_tokens": TOKENS, "context_length": LENGTH, "width": 4}
SETTINGS: dict[str, dict[str, Any]] = {name: {"name": name} for name in STUDENTS}
SETTINGS["rnn, untied gru"] = {"name": "rnn", "cell": "gru", "tied": False}


def problem(student: Any) -> tuple[Any, ...]:
    """Twenty steps on mini-batches of soft tokens and labels; the loss of real ones after them."""
    draw = torch.Generator().manual_seed(0)
    meta = {
        name: torch.randn(4, LENGTH, TOKENS, generator=draw, dtype=torch.float64).softmax(-1)
        for name in ("tokens", "labels")
    }
    real = torch.randint(0, TOKENS, (6, LENGTH + 1), generator=draw)
    orders = [torch.randperm(4, generator=draw)[:2] for _ in range(STEPS)]

    def inner(params: Any, meta: Any, step: int) -> Tensor:
        rows = orders[step]
        X = readout(meta["tokens"], student.embedding(params), rows)
        Y = readout(meta["labels"], student.head(params).table, rows)
        return embedded_loss(student, params, X, Y)

    def outer(params: Any, meta: Any) -> Tensor:
        return sequence_loss(student, params, real)

    return inner, outer, student.init(draw, torch.float64), meta


def check(student: Any) -> None:
    inner, outer, params, meta = problem(student)
    settings: dict[str, Any] = {"steps": STEPS, "optimizer": Adam(lr=0.02, eps_root=1e-8)}

    def run(adjoint: Any) -> Any:
        return metagradient(inner, outer, params, meta, adjoint=adjoint, **settings)

    direct, fixed = run(Direct()), run(Direct(arithmetic="fixed"))
    for adjoint, expected in (
        (Stored(), direct),
        (Checkpointed(slots=4), direct),
        (Reversible(), fixed),
    ):
        actual = run(adjoint)
        for name, gradient in expected.meta_grads.items():
            assert gradient.abs().max() > 1e-6
            error = (actual.meta_grads[name] - gradient).norm() / gradient.norm()
            assert error < 1e-9, (adjoint, name, float(error))


@pytest.mark.parametrize("name", SETTINGS)
def test_every_adjoint_agrees_with_direct(name: str) -> None:
    check(build_student({**SIZES, **SETTINGS[name]}))


class Own(torch.nn.Module):
    """A module of torch's own parts: an LSTM, then an encoder layer, an untied head."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(TOKENS, 3)
        self.lstm = torch.nn.LSTM(3, 4, batch_first=True)
        self.block = torch.nn.TransformerEncoderLayer(4, 2, 6, batch_first=True, norm_first=True)
        self.scores = torch.nn.Linear(4, TOKENS)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.lstm(self.table(tokens))[0]
        mask = torch.nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        return self.scores(self.block(x, src_mask=mask, is_causal=True))


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_every_adjoint_agrees_through_a_module() -> None:
    check(from_module(Own, LENGTH))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_every_adjoint_agrees_through_transformers(kind: str) -> None:
    transformers: Any = pytest.importorskip("transformers")
    config = {
        "gpt2": lambda: transformers.GPT2Config(n_embd=4, n_layer=1, n_head=2),
        "llama": lambda: transformers.LlamaConfig(
            hidden_size=4, intermediate_size=6, num_hidden_layers=1, num_attention_heads=2
        ),
    }[kind]()
    check(from_huggingface(config, LENGTH, num_tokens=TOKENS))
