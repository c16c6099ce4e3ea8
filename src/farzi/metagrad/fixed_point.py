"""Exact, invertible fixed-point arithmetic.

A state is a vector of int64 counts of a quantum, a power of two for each tensor. Adding a rounded
increment is undone by subtracting it. A decay is

    y = x - round(c x),    c = C / 2^s = 1 - decay,

computed exactly in integers. For c < 1/2 at most two x give one y, and they are neighbours; where
two do, one bit says which it was. The derivation is in `docs/maths.md`.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from farzi.errors import NonFiniteError, SaturationError
from farzi.metagrad.flat import Layout

__all__ = [
    "BitStack",
    "Decay",
    "Fixed",
    "GroupedDecay",
    "coarsened",
    "quantised",
    "refined",
    "rounded",
]

_SPLIT = 31
_LOW = (1 << _SPLIT) - 1
_LARGEST_REVERSIBLE = 0.4
_HEADROOM_BITS = 6
_MOST_BITS = 60
_LEAST_RELATIVE = 2.0**-20


@dataclass(frozen=True)
class Decay:
    """The rational rate c = numerator / 2^shift by which a decay takes away.

    Attributes:
        numerator: below 2^31, so that products with half of an int64 fit.
        shift: between 31 and 61.
    """

    numerator: int
    shift: int

    @classmethod
    @functools.lru_cache(maxsize=64)
    def of(cls, rate: float) -> Decay | None:
        """The nearest such rate (relative error below 2^-30); None where it is 0."""
        if rate == 0.0:
            return None
        if not 0.0 < rate <= 1.0:
            raise ValueError(f"a decay must take away from 0 to all of its state, got {rate!r}.")
        shift = min(max(_SPLIT - 1 - math.floor(math.log2(rate)), _SPLIT), 61)
        return cls(round(math.ldexp(rate, shift)), shift)

    @property
    def rate(self) -> float:
        """The fraction taken away."""
        return math.ldexp(self.numerator, -self.shift)

    @property
    def reversible(self) -> bool:
        """Whether one bit is enough to undo it."""
        return self.rate < _LARGEST_REVERSIBLE * (1 - 2.0**-29)

    @property
    def range_bits(self) -> int:
        """Bits of magnitude up to which `undo`'s first guess is off by one at most."""
        if self.rate >= 1.0:
            return _MOST_BITS
        kept = self.rate / (1 - self.rate)
        return min(_MOST_BITS, 51 - math.ceil(math.log2(kept)))

    def apply(self, x: Tensor) -> Tensor:
        """`x - floor(c x + 1/2)`, exact for |x| < 2^62."""
        half = 1 << (self.shift - 1)
        low = (x & _LOW).mul_(self.numerator).add_(half).bitwise_right_shift_(_SPLIT)
        taken = (x >> _SPLIT).mul_(self.numerator).add_(low)
        return torch.sub(x, taken.bitwise_right_shift_(self.shift - _SPLIT), out=taken)

    def apply_keeping(self, x: Tensor, bits: BitStack) -> Tensor:
        """`apply`, and a bit onto `bits` for each element whose neighbour gives the same."""
        offset = (1 << (self.shift - 1)) + self.numerator
        phase = (x * self.numerator).add_(offset).bitwise_and_((1 << self.shift) - 1)
        ambiguous = phase.masked_select(phase < 2 * self.numerator)
        bits.push(ambiguous < self.numerator)
        return self.apply(x)

    def undo(self, y: Tensor, bits: BitStack) -> Tensor:
        """The x whose `apply_keeping` gave `y`, with the bits it kept."""
        kept = (1 << self.shift) - self.numerator
        ratio = self.numerator / kept
        x = y.double().mul_(ratio).round_().to(torch.int64).add_(y)
        rest = (y << self.shift).add_(1 << (self.shift - 1)).sub_(x * kept)
        too_low, too_high = rest >= kept, rest < 0
        x.add_(too_low).add_(too_high, alpha=-1)
        rest.sub_(too_low * kept).add_(too_high * kept)
        ambiguous = rest < self.numerator
        lower = bits.pop(int(ambiguous.sum()), y.device)
        return x.sub_(torch.zeros_like(x).masked_scatter_(ambiguous, lower.to(x.dtype)))


@dataclass(frozen=True)
class GroupedDecay:
    """Decays that differ between the groups of a vector, with the methods of one `Decay`.

    Args:
        decays: of each group; None where nothing is taken away.
        sizes: elements of each group.
    """

    decays: tuple[Decay | None, ...]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, rates: tuple[float, ...], sizes: tuple[int, ...]) -> Decay | GroupedDecay | None:
        """The decay for these rates: one where they are the same, None where all are 0."""
        if len(set(rates)) == 1:
            return Decay.of(rates[0])
        return cls(tuple(map(Decay.of, rates)), sizes)

    @property
    def rate(self) -> float:
        """The least fraction that is taken away of any group."""
        return min(0.0 if decay is None else decay.rate for decay in self.decays)

    @property
    def range_bits(self) -> int:
        """The least of the groups' own."""
        return min(decay.range_bits for decay in self.decays if decay is not None)

    def apply(self, x: Tensor) -> Tensor:
        """`Decay.apply` of each group."""
        parts = zip(x.split_with_sizes(list(self.sizes)), self.decays, strict=True)
        return torch.cat([part if decay is None else decay.apply(part) for part, decay in parts])

    def apply_keeping(self, x: Tensor, bits: BitStack) -> Tensor:
        """`Decay.apply_keeping` of each group, the first first."""
        parts = zip(x.split_with_sizes(list(self.sizes)), self.decays, strict=True)
        return torch.cat(
            [part if decay is None else decay.apply_keeping(part, bits) for part, decay in parts]
        )

    def undo(self, y: Tensor, bits: BitStack) -> Tensor:
        """The x whose `apply_keeping` gave `y`: its bits are taken off in reverse order."""
        parts = list(zip(y.split_with_sizes(list(self.sizes)), self.decays, strict=True))
        undone = [part if decay is None else decay.undo(part, bits) for part, decay in parts[::-1]]
        return torch.cat(undone[::-1])


class BitStack:
    """A stack of bits, eight to a byte, in blocks that are given back as it shrinks.

    Args:
        block_bytes: size of a block; a push longer than that gets a block of its own.
    """

    def __init__(self, block_bytes: int) -> None:
        self._block_bytes = block_bytes
        self._blocks: list[Tensor] = []
        self._used: list[int] = []
        self._counts: list[int] = []

    def push(self, bits: Tensor) -> None:
        """Put a vector of bools on top."""
        count = bits.numel()
        num_bytes = -(-count // 8)
        padded = torch.zeros(num_bytes * 8, dtype=torch.uint8, device=bits.device)
        padded[:count] = bits
        weights = 1 << torch.arange(8, dtype=torch.uint8, device=bits.device)
        packed = padded.view(-1, 8).mul_(weights).sum(1, dtype=torch.uint8)
        if not self._blocks or self._used[-1] + num_bytes > self._blocks[-1].numel():
            size = max(self._block_bytes, num_bytes)
            self._blocks.append(torch.empty(size, dtype=torch.uint8, device=bits.device))
            self._used.append(0)
        start = self._used[-1]
        self._blocks[-1][start : start + num_bytes] = packed
        self._used[-1] += num_bytes

    def pop(self, count: int, device: torch.device) -> Tensor:
        """Take the last push, of `count` bits, off again."""
        num_bytes = -(-count // 8)
        while self._used and self._used[-1] == 0:
            self._blocks.pop()
            self._used.pop()
        if num_bytes == 0:
            return torch.zeros(0, dtype=torch.bool, device=device)
        if not self._used or self._used[-1] < num_bytes:
            return torch.zeros(count, dtype=torch.bool, device=device)
        self._used[-1] -= num_bytes
        start = self._used[-1]
        packed = self._blocks[-1][start : start + num_bytes]
        shifts = torch.arange(8, dtype=torch.uint8, device=device)
        return ((packed[:, None] >> shifts) & 1).view(-1)[:count].bool()

    @property
    def empty(self) -> bool:
        """Whether everything pushed was popped."""
        return not any(self._used)

    @property
    def num_bytes(self) -> int:
        """Bytes held."""
        return sum(block.numel() for block in self._blocks)


@dataclass(frozen=True)
class Fixed:
    """A flat vector in fixed point. Tensors are never changed in place.

    Attributes:
        counts: int64.
        quantum: the value of one count, per element, in the dtype of the parameters.
        bound: no |count| is above it.
        limit: the largest bound that may be decayed and undone.
    """

    counts: Tensor
    quantum: Tensor
    bound: float
    limit: float

    @property
    def values(self) -> Tensor:
        """As floats."""
        return self.counts.to(self.quantum.dtype).mul_(self.quantum)

    @property
    def num_bytes(self) -> int:
        """Bytes of the counts."""
        return self.counts.numel() * self.counts.element_size()


def _exponents(references: list[float], bits: int, dtype: torch.dtype) -> list[int]:
    """A power of two for each tensor, such that its reference magnitude takes `bits` bits.

    A tensor whose reference is 0 takes the largest one's; none is far below the largest.
    """
    largest = max(references) or 1.0
    most = 120 if dtype == torch.float32 else 900
    exponents = []
    for reference in references:
        magnitude = max(reference, largest * _LEAST_RELATIVE) if reference else largest
        exponents.append(min(max(math.ceil(math.log2(magnitude)) - bits, -most), most))
    return exponents


def quantised(values: Tensor, references: list[float], layout: Layout, range_bits: int) -> Fixed:
    """`values` rounded to quanta that suit each tensor's `references` magnitude."""
    exponents = _exponents(references, range_bits - _HEADROOM_BITS, layout.dtype)
    quantum = torch.cat(
        [
            torch.full((size,), math.ldexp(1.0, exponent), dtype=layout.dtype, device=layout.device)
            for size, exponent in zip(layout.sizes, exponents, strict=True)
        ]
    )
    counts = torch.round(values / quantum).to(torch.int64)
    bound = float(counts.abs().max()) if counts.numel() else 0.0
    return Fixed(counts, quantum, bound, math.ldexp(1.0, range_bits))


def rounded(fixed: Fixed, values: Tensor) -> tuple[Tensor, float]:
    """`values` as counts of `fixed`'s quanta, in floats, and the largest magnitude among them."""
    scaled = torch.round(values / fixed.quantum)
    return scaled, torch.linalg.vector_norm(scaled, math.inf).item()


def coarsened(
    fixed: Fixed, added: Tensor, layout: Layout, what: str, step: int
) -> tuple[Fixed, list[tuple[int, int, Tensor]]]:
    """Coarser quanta for the tensors that would leave the range when `added` (values) is added.

    Returns the coarser vector and, for each tensor that moved: its index, how many bits were
    shifted out, and those bits.
    """
    counts, quantum = fixed.counts.clone(), fixed.quantum.clone()
    lost = []
    room = math.ldexp(fixed.limit, -_HEADROOM_BITS)
    parts = zip(layout.names, *(layout.split(t) for t in (counts, quantum, added)), strict=True)
    bound = 0.0
    for index, (name, part, unit, more) in enumerate(parts):
        if part.numel() == 0:
            continue
        jump = (more.double() / unit.double()).abs().max().item()
        if not math.isfinite(jump):
            raise NonFiniteError(
                f"the update of {what} of `{name}` is not finite at step {step}.",
                step=step,
                tensor=name,
            )
        reach = part.abs().max().item() + jump + 1
        if reach > fixed.limit / 2:
            bits = math.ceil(math.log2(reach / room))
            if bits > 40:
                raise SaturationError(
                    f"{what} of `{name}` grew by 2^{bits} at step {step} and left its fixed-point "
                    f"range; "
                    "lower the learning rate or use Checkpointed().",
                    step=step,
                    tensor=name,
                )
            lost.append((index, bits, part & ((1 << bits) - 1)))
            part >>= bits
            unit *= math.ldexp(1.0, bits)
            reach = math.ldexp(reach, -bits) + 1
        bound = max(bound, reach)
    return replace(fixed, counts=counts, quantum=quantum, bound=bound), lost


def refined(counts: Tensor, lost: list[tuple[int, int, Tensor]], layout: Layout) -> Tensor:
    """The counts before `coarsened`."""
    counts = counts.clone()
    parts = layout.split(counts)
    for index, bits, low in lost:
        parts[index].bitwise_left_shift_(bits).add_(low)
    return counts
