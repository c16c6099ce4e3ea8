"""Each student's logits against the same model built of torch's own modules, with its weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from farzi.models import FMLP, RNN, GRU4Rec, SASRec, Transformer, hidden_states, logits
from farzi.models.fmlp import causal_filter

TOKENS, LENGTH, WIDTH = 13, 7, 8


def drawn(student):
    """Weights away from their first values, so that biases and norms count as well."""
    generator = torch.Generator().manual_seed(0)
    params = student.init(generator)
    return {
        name: value + 0.3 * torch.randn(value.shape, generator=generator)
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


def test_the_recurrent_language_model() -> None:
    for cell, kind in (("gru", torch.nn.GRU), ("lstm", torch.nn.LSTM)):
        for tied in (True, False):
            student = RNN(TOKENS, LENGTH, WIDTH, num_layers=2, cell=cell, tied=tied)
            params = drawn(student)
            table = params["embedding"]
            states = recurrent(kind, params, 2)(table[tokens()] * math.sqrt(WIDTH))[0]
            if tied:
                expected = states @ table.T
            else:
                expected = states @ params["head.weight"].T + params["head.bias"]
            close(scores(student, params), expected)


def test_fmlp() -> None:
    """Against sums over earlier positions, written out; and its norms and layers are torch's."""
    student = FMLP(TOKENS, LENGTH, WIDTH, num_layers=2)
    params = drawn(student)

    def norm(name: str, x: Tensor) -> Tensor:
        return torch.nn.functional.layer_norm(
            x, (WIDTH,), params[f"{name}.weight"], params[f"{name}.bias"]
        )

    x = norm("norm", params["embedding"][tokens()] + params["position"])
    for layer in range(2):
        block = f"blocks.{layer}"
        kernel = params[f"{block}.filter"]
        filtered = torch.stack(
            [sum(kernel[k] * x[:, t - k] for k in range(t + 1)) for t in range(LENGTH)], 1
        )
        x = norm(f"{block}.norm1", x + filtered)
        up, down = (f"{block}.feed_forward.{part}" for part in ("up", "down"))
        inner = torch.nn.functional.gelu(x @ params[f"{up}.weight"].T + params[f"{up}.bias"])
        fed = inner @ params[f"{down}.weight"].T + params[f"{down}.bias"]
        x = norm(f"{block}.norm2", x + fed)
    close(scores(student, params), x @ params["embedding"].T)


def test_at_the_last_position_a_circular_filter_is_a_causal_one() -> None:
    """What the causal form keeps of the published one."""
    generator = torch.Generator().manual_seed(0)
    x, kernel = (torch.randn(LENGTH, WIDTH, generator=generator) for _ in range(2))
    published = torch.fft.irfft(
        torch.fft.rfft(x, dim=0) * torch.fft.rfft(kernel, dim=0), LENGTH, dim=0
    )
    torch.testing.assert_close(causal_filter(x, kernel)[-1], published[-1])
    assert (causal_filter(x, kernel)[0] - published[0]).abs().max() > 0.1


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
