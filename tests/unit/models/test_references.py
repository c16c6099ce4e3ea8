"""Each student's logits against the same model built of torch's own modules, with its weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from farzi.models import GRU4Rec, SASRec, Transformer, hidden_states, logits

TOKENS, LENGTH, WIDTH = 13, 7, 8


def drawn(student):
    """Weights away from their first values, so that biases and norms count as well."""
    generator = torch.Generator().manual_seed(0)
    params = student.init(generator)
    return {
        name: value + 0.1 * torch.randn(value.shape, generator=generator)
        for name, value in params.items()
    }


def tokens() -> Tensor:
    return torch.randint(0, TOKENS, (4, LENGTH), generator=torch.Generator().manual_seed(1))


def scores(student, params) -> Tensor:
    return logits(student, params, hidden_states(student, params, tokens()))


def recurrent(kind, params, num_layers: int):
    """torch's recurrent layers with our weights."""
    module = kind(WIDTH, WIDTH, num_layers, batch_first=True)
    theirs = {"input": "ih", "state": "hh"}
    module.load_state_dict(
        {
            f"{part}_{theirs[side]}_l{layer}": params[f"layers.{layer}.{side}.{part}"]
            for layer in range(num_layers)
            for side in theirs
            for part in ("weight", "bias")
        }
    )
    return module


def close(actual: Tensor, expected: Tensor) -> None:
    assert expected.std() > 0.1
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_gru4rec() -> None:
    student = GRU4Rec(TOKENS, LENGTH, WIDTH, num_layers=2)
    params = drawn(student)
    table = params["embedding"]
    states = recurrent(torch.nn.GRU, params, 2)(table[tokens()] * math.sqrt(WIDTH))[0]
    expected = (states @ params["out.weight"].T + params["out.bias"]) @ table.T
    close(scores(student, params), expected)


def encoder(params, student) -> Tensor:
    """torch's pre-norm encoder with our weights, under a causal mask."""
    table, x = params["embedding"], params["embedding"][tokens()] * math.sqrt(WIDTH)
    x = x + params["position"][:LENGTH]
    names = {
        "norm1": "norm1",
        "norm2": "norm2",
        "attention.out": "self_attn.out_proj",
        "feed_forward.up": "linear1",
        "feed_forward.down": "linear2",
    }
    for layer in range(student.num_layers):
        block = torch.nn.TransformerEncoderLayer(
            WIDTH,
            student.num_heads,
            student.expansion * WIDTH,
            dropout=0.0,
            activation=student.activation,
            batch_first=True,
            norm_first=True,
        )
        ours = f"blocks.{layer}."
        state = {
            f"{theirs}.{part}": params[f"{ours}{name}.{part}"]
            for name, theirs in names.items()
            for part in ("weight", "bias")
        }
        for part in ("weight", "bias"):
            state[f"self_attn.in_proj_{part}"] = params[f"{ours}attention.qkv.{part}"]
        block.load_state_dict(state)
        mask = torch.nn.Transformer.generate_square_subsequent_mask(LENGTH)
        x = block(x, src_mask=mask, is_causal=True)
    x = torch.nn.functional.layer_norm(x, (WIDTH,), params["norm.weight"], params["norm.bias"])
    return x @ table.T


def test_sasrec_and_the_transformer() -> None:
    for student in (
        SASRec(TOKENS, LENGTH, WIDTH, num_layers=2, num_heads=2),
        SASRec(TOKENS, LENGTH, WIDTH, activation="relu"),
        Transformer(TOKENS, LENGTH, WIDTH, num_layers=2, num_heads=4),
    ):
        params = drawn(student)
        close(scores(student, params), encoder(params, student))
