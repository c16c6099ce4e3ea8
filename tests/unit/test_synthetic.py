"""Synthetic sequences by hand: soft tokens, soft labels, lengths, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from farzi import synthetic
from farzi.models.fused.factored import FactoredTokens
from farzi.synthetic import SyntheticSequences

LOG3 = math.log(3)
LATENT = torch.tensor([[[0.0], [1.0]], [[-1.0], [2.0]], [[1.0], [0.0]]])  # S = 3, L = 2, K = 1
DECODER = torch.tensor([[LOG3, 0.0]])  # V = 2: odds of 3 to the power of Z


def first_column(soft):
    return [[round(float(value), 6) for value in row] for row in soft[..., 0]]


def test_soft_tokens_by_hand() -> None:
    few = SyntheticSequences(LATENT, DECODER)
    assert first_column(few.tokens()) == [[0.5, 0.75], [0.25, 0.9], [0.75, 0.5]]
    torch.testing.assert_close(few.tokens().sum(-1), torch.ones(3, 2))
    assert few.labels() is None
    assert few.mask() is None
    assert (few.num_sequences, few.length, few.num_tokens) == (3, 2, 2)
    assert not few.has_hard_tokens


def test_a_temperature_divides_the_logits() -> None:
    half = SyntheticSequences(2 * LATENT, DECODER, 2 * LATENT, temperature=2.0)
    assert first_column(half.tokens()) == [[0.5, 0.75], [0.25, 0.9], [0.75, 0.5]]
    assert first_column(half.labels()) == first_column(half.tokens())
    warm = SyntheticSequences(LATENT, DECODER, temperature=0.5)
    assert first_column(warm.tokens()) == [[0.5, 0.9], [0.1, round(81 / 82, 6)], [0.9, 0.5]]


def test_indices_choose_and_order() -> None:
    few = SyntheticSequences(LATENT, DECODER, -LATENT, torch.tensor([1, 2, 0]))
    chosen = torch.tensor([2, 0])
    assert first_column(few.tokens(chosen)) == [[0.75, 0.5], [0.5, 0.75]]
    assert first_column(few.labels(chosen)) == [[0.25, 0.5], [0.5, 0.25]]
    assert few.mask(chosen).tolist() == [[False, False], [True, False]]
    assert few.mask().tolist() == [[True, False], [True, True], [False, False]]
    assert few.mask().device == few.lengths.device


def test_hard_tokens_are_read_as_they_are() -> None:
    hard = torch.tensor([[1, 0], [0, 0], [1, 1]])
    few = SyntheticSequences(hard, DECODER, LATENT)
    assert few.has_hard_tokens
    assert few.tokens() is hard
    assert few.tokens(torch.tensor([2])).tolist() == [[1, 1]]
    assert few.probabilities(torch.tensor([0])).tolist() == [[[0.0, 1.0], [1.0, 0.0]]]
    assert few.probabilities().dtype == DECODER.dtype
    soft = SyntheticSequences(LATENT, DECODER)
    assert torch.equal(soft.probabilities(), soft.tokens())
    assert first_column(few.labels()) == [[0.5, 0.75], [0.25, 0.9], [0.75, 0.5]]
    assert set(few.factors()) == {"decoder", "labels"}
    moved = few.with_factors({"decoder": 2 * DECODER, "labels": LATENT + 1})
    assert moved.latent is hard
    assert torch.equal(moved.label_latent, LATENT + 1)


def test_bytes_are_those_of_every_factor() -> None:
    lengths = torch.tensor([1, 2, 2])
    assert SyntheticSequences(LATENT, DECODER).num_bytes == 4 * (6 + 2)
    assert SyntheticSequences(LATENT, DECODER, LATENT, lengths).num_bytes == 4 * 14 + 8 * 3
    assert SyntheticSequences(LATENT.double(), DECODER.double()).num_bytes == 8 * 8


def test_factors_come_and_go_by_name() -> None:
    few = SyntheticSequences(LATENT, DECODER, -LATENT, torch.tensor([1, 2, 2]), temperature=3.0)
    factors = few.factors()
    assert {name: factor.data_ptr() for name, factor in factors.items()} == {
        "latent": few.latent.data_ptr(),
        "decoder": few.decoder.data_ptr(),
        "labels": few.label_latent.data_ptr(),
    }
    other = few.with_factors({name: factor + 1 for name, factor in factors.items()})
    assert torch.equal(other.latent, LATENT + 1)
    assert torch.equal(other.decoder, DECODER + 1)
    assert torch.equal(other.label_latent, 1 - LATENT)
    assert (other.lengths is few.lengths, other.temperature) == (True, 3.0)
    assert set(SyntheticSequences(LATENT, DECODER).factors()) == {"latent", "decoder"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((LATENT[0], DECODER), r"^`latent` must be \(S, L, K\), .* got shape \(2, 1\)\.$"),
        ((torch.zeros(3, 2, 1, 1), DECODER), "^`latent` must be"),
        ((torch.zeros(3, 2, 1, dtype=torch.int64), DECODER, LATENT), "^`latent` must be"),
        ((LATENT, DECODER[0]), r"^`decoder` must be \(K, V\) with K = 1, got shape \(2,\)\.$"),
        ((LATENT, DECODER.T), r"^`decoder` must be \(K, V\) with K = 1, got shape \(2, 1\)\.$"),
        ((torch.zeros(3, 2, dtype=torch.int64), DECODER), "^`label_latent` must be given"),
        ((LATENT, DECODER, LATENT[:2]), r"^`label_latent` must be \(3, 2, 1\), got \(2, 2, 1\)\.$"),
        ((torch.zeros(3, 2, 4), DECODER, LATENT), r"^`latent` must be \(3, 2, 1\)"),
        ((LATENT, DECODER, None, torch.ones(2)), r"^`lengths` must be \(3,\), got \(2,\)\.$"),
        ((LATENT, DECODER, None, None, 0.0), r"^`temperature` must be > 0, got 0\.0\.$"),
        ((LATENT, DECODER, None, None, math.nan), "^`temperature` must be > 0, got nan"),
    ],
)
def test_shapes_that_do_not_fit_are_named(arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SyntheticSequences(*arguments)


@pytest.mark.parametrize("indices", [None, torch.tensor([2, 0])])
@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("labelled", [False, True])
def test_what_is_read_is_formed_where_it_is_small(monkeypatch, indices, hard, labelled) -> None:
    """Three sequences of four tokens over five: a batch of n has n * 20 elements."""
    draw = torch.Generator().manual_seed(0)
    latent = torch.randint(5, (3, 4)) if hard else torch.randn(3, 4, 2, generator=draw)
    labels = torch.randn(3, 4, 2, generator=draw) if labelled or hard else None
    few = SyntheticSequences(latent, torch.randn(2, 5, generator=draw), labels, temperature=0.5)
    elements = 20 * (3 if indices is None else 2)
    monkeypatch.setattr(synthetic, "MOST_FORMED", elements)
    tokens, read = few.to_read(indices)
    assert torch.equal(tokens, few.tokens(indices))
    if labels is None:
        assert read is None
    else:
        assert torch.equal(read, few.labels(indices))

    monkeypatch.setattr(synthetic, "MOST_FORMED", elements - 1)
    table = torch.randn(5, 3, generator=draw)
    tokens, read = few.to_read(indices)
    if hard:
        assert torch.equal(tokens, few.tokens(indices))
    else:
        assert isinstance(tokens, FactoredTokens)
        torch.testing.assert_close(tokens.read(table), few.tokens(indices) @ table)
    if labels is None:
        assert read is None
    else:
        assert isinstance(read, FactoredTokens)
        torch.testing.assert_close(read.read(table), few.labels(indices) @ table)
