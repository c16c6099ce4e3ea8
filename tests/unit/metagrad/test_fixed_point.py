"""Fixed-point decays: exact, monotone, and undone bit for bit."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from farzi.metagrad.fixed_point import BitStack, Decay, quantised, rounded
from farzi.metagrad.flat import Layout

RATES = [1e-8, 1e-5, 0.001, 0.05, 0.1, 0.2, 0.3, 0.399]


def numbers(bits: int) -> torch.Tensor:
    """Integers of every magnitude up to 2^bits, of both signs, and every small one."""
    draw = torch.Generator().manual_seed(0)
    sizes = 2.0 ** (bits * torch.rand(20_000, generator=draw, dtype=torch.float64))
    signs = torch.randint(0, 2, (20_000,), generator=draw) * 2 - 1
    return torch.cat([torch.arange(-2000, 2001), sizes.to(torch.int64) * signs])


@pytest.mark.parametrize("rate", [*RATES, 0.5, 0.9, 1.0])
def test_decay_is_exact(rate: float) -> None:
    decay = Decay.of(rate)
    assert decay is not None
    assert decay.rate == pytest.approx(rate, rel=2**-30)
    x = numbers(60)[::37]
    for before, after in zip(x.tolist(), decay.apply(x).tolist(), strict=True):
        taken = Fraction(decay.numerator, 1 << decay.shift) * before
        assert after == before - (taken + Fraction(1, 2)).__floor__()


@pytest.mark.parametrize("rate", RATES)
def test_decay_is_undone(rate: float) -> None:
    decay = Decay.of(rate)
    assert decay is not None
    assert decay.reversible
    bits = BitStack(100)
    states = [numbers(decay.range_bits)]
    for _ in range(5):
        states.append(decay.apply_keeping(states[-1], bits))
        assert torch.equal(states[-1], decay.apply(states[-2]))
    for expected, given in zip(reversed(states[:-1]), reversed(states[1:]), strict=True):
        assert torch.equal(decay.undo(given, bits), expected)
    assert bits.empty


@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_bits_kept(rate: float) -> None:
    """Two in every 1/rate neighbours share a result: 2 * rate bits a decay."""
    decay = Decay.of(rate)
    assert decay is not None
    bits = BitStack(1)
    decay.apply_keeping(torch.arange(100_000), bits)
    assert bits.num_bytes * 8 == pytest.approx(2 * rate * 100_000, rel=1e-3)


def test_no_decay() -> None:
    assert Decay.of(0.0) is None
    with pytest.raises(ValueError, match="from 0 to all"):
        Decay.of(1.5)


@pytest.mark.parametrize("block_bytes", [1, 3, 64])
def test_bit_stack_gives_back_what_was_pushed(block_bytes: int) -> None:
    draw = torch.Generator().manual_seed(1)
    stack = BitStack(block_bytes)
    pushed = [torch.randint(0, 2, (n,), generator=draw).bool() for n in (0, 1, 8, 9, 0, 40, 3, 0)]
    for bits in pushed:
        stack.push(bits)
    for bits in reversed(pushed):
        assert torch.equal(stack.pop(bits.numel(), bits.device), bits)
    assert stack.empty


def test_quanta_suit_each_tensor() -> None:
    tensors = {
        "big": torch.tensor([3e4, -1.0]),
        "small": torch.tensor([2e-3, 1e-5]),
        "zero": torch.zeros(2),
    }
    layout = Layout.of(tensors)
    flat = layout.flatten(tensors)
    fixed = quantised(flat, [3e4, 2e-3, 0.0], layout, 54)
    assert torch.equal(fixed.values, flat)
    big, small, zero = (part[0].item() for part in layout.split(fixed.quantum))
    assert small < big == zero
    counts, largest = rounded(fixed, flat)
    assert torch.equal(counts.to(torch.int64), fixed.counts)
    assert largest == fixed.bound < fixed.limit
