"""The inner optimisers, one pure elementwise definition each.

An optimiser declares its accumulators in order. At step t (from 1), each becomes

    a_t = decay * a_{t-1} + increment(g_t, w_{t-1}, earlier accumulators at t, hyper, t)

and the parameter becomes

    w_t = (1 - decoupled_decay) * w_{t-1} - delta(accumulators at t, g_t, w_{t-1}, hyper, t).

The float update, the fixed-point update, its inverse and the vector-Jacobian product are all
derived from that one definition (`farzi.metagrad.update`, `farzi.metagrad.fixed_point`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

__all__ = [
    "SGD",
    "Accumulator",
    "Accumulators",
    "Adam",
    "Elementwise",
    "Hyper",
    "HyperValue",
    "Optimizer",
    "WholeUpdate",
]

HyperValue: TypeAlias = float | Tensor
"""A hyper-parameter as given: a float, or a tensor of shape () or (steps,)."""

Hyper: TypeAlias = Mapping[str, HyperValue]
"""The hyper-parameters of one step: floats, or tensors of shape () where a gradient is wanted."""

Accumulators: TypeAlias = Mapping[str, Tensor]
"""Accumulators by name, each of the parameter's shape."""


@dataclass(frozen=True)
class Accumulator:
    """One accumulator of an optimiser: `a <- decay * a + increment`.

    Args:
        name: its key in `state`.
        decay: (hyper, step) -> scalar; 1.0 for a plain sum.
        increment: (grad, param, earlier accumulators, hyper, step) -> tensor, elementwise and pure.
            The earlier accumulators are those declared before this one, already at this step.
        initial: value before the first step.
    """

    name: str
    decay: Callable[[Hyper, int], HyperValue]
    increment: Callable[[Tensor, Tensor, Accumulators, Hyper, int], Tensor]
    initial: float = 0.0


@runtime_checkable
class Elementwise(Protocol):
    """An optimiser given by its accumulators and `delta`.

    It may also have `decoupled_decay(hyper, step)`: the fraction of the parameter that a step takes
    away besides `delta`.
    """

    @property
    def hyper(self) -> Mapping[str, HyperValue]:
        """Hyper-parameters by name; `hyper_grads` has the same keys."""
        ...

    @property
    def accumulators(self) -> tuple[Accumulator, ...]:
        """Accumulators in the order in which a step computes them."""
        ...

    def delta(
        self, accumulators: Accumulators, grad: Tensor, param: Tensor, hyper: Hyper, step: int
    ) -> Tensor:
        """What is subtracted from the parameter."""
        ...


@runtime_checkable
class WholeUpdate(Protocol):
    """An optimiser that does not fit `Elementwise`: it gives `update` alone, called once a tensor.

    It runs with every adjoint but `Reversible`, and in float arithmetic only.
    """

    @property
    def hyper(self) -> Mapping[str, HyperValue]:
        """Hyper-parameters by name; `hyper_grads` has the same keys."""
        ...

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the tensors it keeps per parameter; they start at zero."""
        ...

    def update(
        self, param: Tensor, state: Accumulators, grad: Tensor, hyper: Hyper, step: int
    ) -> tuple[Tensor, Accumulators]:
        """New parameter and state, pure and differentiable; `step` from 1."""
        ...


Optimizer: TypeAlias = Elementwise | WholeUpdate


def _hyper(optimizer: object, names: tuple[str, ...]) -> dict[str, HyperValue]:
    return {name: getattr(optimizer, name) for name in names}


def _with_l2_decay(grad: Tensor, param: Tensor, hyper: Hyper) -> Tensor:
    """Gradient of the loss plus `weight_decay / 2 * |param|^2`."""
    weight_decay = hyper["weight_decay"]
    if isinstance(weight_decay, float) and weight_decay == 0.0:
        return grad
    return grad + weight_decay * param


def _first_moment(grad: Tensor, param: Tensor, _: Accumulators, hyper: Hyper, step: int) -> Tensor:
    return (1 - hyper["b1"]) * _with_l2_decay(grad, param, hyper)


def _second_moment(grad: Tensor, param: Tensor, _: Accumulators, hyper: Hyper, step: int) -> Tensor:
    return (1 - hyper["b2"]) * torch.square(_with_l2_decay(grad, param, hyper))


def _adam_delta(accumulators: Accumulators, hyper: Hyper, step: int) -> Tensor:
    c1 = 1 - hyper["b1"] ** step
    c2 = 1 - hyper["b2"] ** step
    s = torch.sqrt(accumulators["v"] / c2 + hyper["eps_root"])
    return accumulators["m"] * (hyper["lr"] / c1) / (s + hyper["eps"])


_ADAM_ACCUMULATORS = (
    Accumulator("m", lambda hyper, step: hyper["b1"], _first_moment),
    Accumulator("v", lambda hyper, step: hyper["b2"], _second_moment),
)


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba, 2015), as `torch.optim.Adam`, with `eps_root` inside the root.

    `eps_root` > 0 makes the update differentiable where the second moment is 0, and smooths
    training (`docs/maths.md`). With 0 and a second moment of exactly 0 the engine raises
    `NonFiniteError`.

    Args:
        lr: learning rate.
        b1, b2: decays of the two moments, in [0, 1).
        eps: added to the root.
        eps_root: added under the root.
        weight_decay: L2 decay, added to the gradient.

    Every one is a float, or a tensor of shape () or (steps,).

    Example:
        >>> from farzi.metagrad import Adam
        >>> Adam(lr=0.01).hyper["b2"]
        0.999
    """

    lr: HyperValue = 1e-3
    b1: HyperValue = 0.9
    b2: HyperValue = 0.999
    eps: HyperValue = 1e-8
    eps_root: HyperValue = 0.0
    weight_decay: HyperValue = 0.0

    accumulators: ClassVar[tuple[Accumulator, ...]] = _ADAM_ACCUMULATORS

    @property
    def hyper(self) -> dict[str, HyperValue]:
        """Hyper-parameters by name."""
        return _hyper(self, ("lr", "b1", "b2", "eps", "eps_root", "weight_decay"))

    def delta(
        self, accumulators: Accumulators, grad: Tensor, param: Tensor, hyper: Hyper, step: int
    ) -> Tensor:
        """What is subtracted from the parameter."""
        return _adam_delta(accumulators, hyper, step)


@dataclass(frozen=True)
class SGD:
    """Gradient descent with (heavy-ball) momentum, as `torch.optim.SGD` with no dampening.

    Args:
        lr: learning rate.
        momentum: decay of the velocity, in [0, 1). The float 0 keeps no velocity at all, and
            `hyper_grads` then has no `momentum`; a tensor 0 keeps both.
        weight_decay: L2 decay, added to the gradient.

    Every one is a float, or a tensor of shape () or (steps,).

    Example:
        >>> from farzi.metagrad import SGD
        >>> [accumulator.name for accumulator in SGD(lr=0.1, momentum=0.9).accumulators]
        ['velocity']
    """

    lr: HyperValue = 1e-3
    momentum: HyperValue = 0.0
    weight_decay: HyperValue = 0.0

    @property
    def hyper(self) -> dict[str, HyperValue]:
        """Hyper-parameters by name."""
        names = ("lr", "momentum", "weight_decay") if self._has_velocity else ("lr", "weight_decay")
        return _hyper(self, names)

    @property
    def accumulators(self) -> tuple[Accumulator, ...]:
        """The velocity, unless momentum is the float 0."""
        return (_VELOCITY,) if self._has_velocity else ()

    @property
    def _has_velocity(self) -> bool:
        return isinstance(self.momentum, Tensor) or self.momentum != 0.0

    def delta(
        self, accumulators: Accumulators, grad: Tensor, param: Tensor, hyper: Hyper, step: int
    ) -> Tensor:
        """What is subtracted from the parameter."""
        if self._has_velocity:
            return hyper["lr"] * accumulators["velocity"]
        return hyper["lr"] * _with_l2_decay(grad, param, hyper)


_VELOCITY = Accumulator(
    "velocity",
    lambda hyper, step: hyper["momentum"],
    lambda grad, param, earlier, hyper, step: _with_l2_decay(grad, param, hyper),
)
