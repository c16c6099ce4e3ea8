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
    "Adagrad",
    "Adam",
    "AdamW",
    "Elementwise",
    "Hyper",
    "HyperSetting",
    "HyperValue",
    "Optimizer",
    "RMSprop",
    "Scheduled",
    "WholeUpdate",
]

HyperValue: TypeAlias = float | Tensor
"""A hyper-parameter at one step: a float, or a tensor of shape () where a gradient is wanted."""

Scheduled: TypeAlias = float | Tensor | Callable[[int], float]
"""A float, a tensor of shape () or (steps,), or a function of the step that losses see."""

HyperSetting: TypeAlias = Scheduled | Mapping[str, Scheduled]
"""A hyper-parameter as given: for all tensors, or by name.

The keys of a mapping are tensors' names, modules (`"head"` is for `head.weight`), or patterns
(`"*.bias"`); the first that matches counts, and `"*"` stands for the rest.
"""

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
    def hyper(self) -> Mapping[str, HyperSetting]:
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
    def hyper(self) -> Mapping[str, HyperSetting]:
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


def _hyper(optimizer: object, names: tuple[str, ...]) -> dict[str, HyperSetting]:
    return {name: getattr(optimizer, name) for name in names}


def _is_zero(value: HyperSetting) -> bool:
    return isinstance(value, int | float) and value == 0.0


def _with_l2_decay(grad: Tensor, param: Tensor, hyper: Hyper) -> Tensor:
    """Gradient of the loss plus `weight_decay / 2 * |param|^2`."""
    weight_decay = hyper["weight_decay"]
    return grad if _is_zero(weight_decay) else grad + weight_decay * param


def _decayed_gradient(
    grad: Tensor, param: Tensor, _: Accumulators, hyper: Hyper, step: int
) -> Tensor:
    return _with_l2_decay(grad, param, hyper)


def _moments(l2_decay: bool) -> tuple[Accumulator, Accumulator]:
    """The two moments of Adam, of the gradient with or without L2 decay."""

    def first(grad: Tensor, param: Tensor, _: Accumulators, hyper: Hyper, step: int) -> Tensor:
        h = _with_l2_decay(grad, param, hyper) if l2_decay else grad
        return (1 - hyper["b1"]) * h

    def second(grad: Tensor, param: Tensor, _: Accumulators, hyper: Hyper, step: int) -> Tensor:
        h = _with_l2_decay(grad, param, hyper) if l2_decay else grad
        return (1 - hyper["b2"]) * torch.square(h)

    return (
        Accumulator("m", lambda hyper, step: hyper["b1"], first),
        Accumulator("v", lambda hyper, step: hyper["b2"], second),
    )


def _adam_delta(accumulators: Accumulators, hyper: Hyper, step: int) -> Tensor:
    c1 = 1 - hyper["b1"] ** step
    c2 = 1 - hyper["b2"] ** step
    s = torch.sqrt(accumulators["v"] / c2 + hyper["eps_root"])
    return accumulators["m"] * (hyper["lr"] / c1) / (s + hyper["eps"])


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

    Every one is a `HyperSetting`: a float, a tensor of shape () or (steps,), a function of the
    step, or a mapping of these by name of tensors.

    Example:
        >>> from farzi.metagrad import Adam
        >>> Adam(lr=0.01).hyper["b2"]
        0.999
    """

    lr: HyperSetting = 1e-3
    b1: HyperSetting = 0.9
    b2: HyperSetting = 0.999
    eps: HyperSetting = 1e-8
    eps_root: HyperSetting = 0.0
    weight_decay: HyperSetting = 0.0

    accumulators: ClassVar[tuple[Accumulator, ...]] = _moments(l2_decay=True)

    @property
    def hyper(self) -> dict[str, HyperSetting]:
        """Hyper-parameters by name."""
        return _hyper(self, ("lr", "b1", "b2", "eps", "eps_root", "weight_decay"))

    def delta(
        self, accumulators: Accumulators, grad: Tensor, param: Tensor, hyper: Hyper, step: int
    ) -> Tensor:
        """What is subtracted from the parameter."""
        return _adam_delta(accumulators, hyper, step)


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019), as `torch.optim.AdamW`.

    Args:
        lr: learning rate.
        b1, b2: decays of the two moments, in [0, 1).
        eps: added to the root.
        eps_root: added under the root.
        weight_decay: a step takes `lr * weight_decay` of the parameter away.

    Every one is a `HyperSetting`, as in `Adam`.

    Example:
        >>> from farzi.metagrad import AdamW
        >>> AdamW(lr=0.5, weight_decay=0.1).decoupled_decay({"lr": 0.5, "weight_decay": 0.1}, 1)
        0.05
    """

    lr: HyperSetting = 1e-3
    b1: HyperSetting = 0.9
    b2: HyperSetting = 0.999
    eps: HyperSetting = 1e-8
    eps_root: HyperSetting = 0.0
    weight_decay: HyperSetting = 1e-2

    accumulators: ClassVar[tuple[Accumulator, ...]] = _moments(l2_decay=False)

    @property
    def hyper(self) -> dict[str, HyperSetting]:
        """Hyper-parameters by name."""
        return _hyper(self, ("lr", "b1", "b2", "eps", "eps_root", "weight_decay"))

    def delta(
        self, accumulators: Accumulators, grad: Tensor, param: Tensor, hyper: Hyper, step: int
    ) -> Tensor:
        """What is subtracted from the parameter."""
        return _adam_delta(accumulators, hyper, step)

    def decoupled_decay(self, hyper: Hyper, step: int) -> HyperValue:
        """The fraction of the parameter that a step takes away."""
        return hyper["lr"] * hyper["weight_decay"]


@dataclass(frozen=True)
class SGD:
    """Gradient descent, as `torch.optim.SGD` with no dampening.

    Args:
        lr: learning rate.
        momentum: decay of the velocity, in [0, 1). The float 0 keeps no velocity at all, and
            `hyper_grads` then has no `momentum`; a tensor 0 keeps both.
        weight_decay: L2 decay, added to the gradient.
        nesterov: step along the gradient plus the decayed velocity.

    Every one but `nesterov` is a `HyperSetting`, as in `Adam`.

    Example:
        >>> from farzi.metagrad import SGD
        >>> [accumulator.name for accumulator in SGD(lr=0.1, momentum=0.9).accumulators]
        ['velocity']
    """

    lr: HyperSetting = 1e-3
    momentum: HyperSetting = 0.0
    weight_decay: HyperSetting = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        if self.nesterov and _is_zero(self.momentum):
            raise ValueError("`momentum` must be above 0 with `nesterov=True`, got 0.")

    @property
    def hyper(self) -> dict[str, HyperSetting]:
        """Hyper-parameters by name."""
        names = (
            ("lr", "weight_decay")
            if _is_zero(self.momentum)
            else ("lr", "momentum", "weight_decay")
        )
        return _hyper(self, names)

    @property
    def accumulators(self) -> tuple[Accumulator, ...]:
        """The velocity, unless momentum is the float 0."""
        if _is_zero(self.momentum):
            return ()
        return (Accumulator("velocity", lambda hyper, step: hyper["momentum"], _decayed_gradient),)

    def delta(
        self, accumulators: Accumulators, grad: Tensor, param: Tensor, hyper: Hyper, step: int
    ) -> Tensor:
        """What is subtracted from the parameter."""
        if _is_zero(self.momentum):
            return hyper["lr"] * _with_l2_decay(grad, param, hyper)
        velocity = accumulators["velocity"]
        if self.nesterov:
            h = _with_l2_decay(grad, param, hyper)
            return hyper["lr"] * (h + hyper["momentum"] * velocity)
        return hyper["lr"] * velocity


def _square(grad: Tensor, param: Tensor, _: Accumulators, hyper: Hyper, step: int) -> Tensor:
    return torch.square(_with_l2_decay(grad, param, hyper))


@dataclass(frozen=True)
class Adagrad:
    """Adagrad (Duchi et al., 2011), as `torch.optim.Adagrad`, with `eps_root` inside the root.

    Args:
        lr: learning rate.
        lr_decay: the rate of step t is `lr / (1 + (t - 1) * lr_decay)`.
        eps: added to the root.
        eps_root: added under the root.
        weight_decay: L2 decay, added to the gradient.
        initial_accumulator_value: start of the sum of squares; not differentiated.

    The others are each a `HyperSetting`, as in `Adam`.
    """

    lr: HyperSetting = 1e-2
    lr_decay: HyperSetting = 0.0
    eps: HyperSetting = 1e-10
    eps_root: HyperSetting = 0.0
    weight_decay: HyperSetting = 0.0
    initial_accumulator_value: float = 0.0

    @property
    def hyper(self) -> dict[str, HyperSetting]:
        """Hyper-parameters by name."""
        return _hyper(self, ("lr", "lr_decay", "eps", "eps_root", "weight_decay"))

    @property
    def accumulators(self) -> tuple[Accumulator, ...]:
        """The sum of squared gradients."""
        initial = self.initial_accumulator_value
        return (Accumulator("sum", lambda hyper, step: 1.0, _square, initial),)

    def delta(
        self, accumulators: Accumulators, grad: Tensor, param: Tensor, hyper: Hyper, step: int
    ) -> Tensor:
        """What is subtracted from the parameter."""
        rate = hyper["lr"] / (1 + (step - 1) * hyper["lr_decay"])
        root = torch.sqrt(accumulators["sum"] + hyper["eps_root"])
        return rate * _with_l2_decay(grad, param, hyper) / (root + hyper["eps"])


def _mean_square(grad: Tensor, param: Tensor, _: Accumulators, hyper: Hyper, step: int) -> Tensor:
    return (1 - hyper["alpha"]) * torch.square(_with_l2_decay(grad, param, hyper))


def _scaled_gradient(
    grad: Tensor, param: Tensor, earlier: Accumulators, hyper: Hyper, step: int
) -> Tensor:
    root = torch.sqrt(earlier["v"] + hyper["eps_root"])
    return _with_l2_decay(grad, param, hyper) / (root + hyper["eps"])


@dataclass(frozen=True)
class RMSprop:
    """RMSprop (Tieleman and Hinton, 2012), as `torch.optim.RMSprop`, with `eps_root` in the root.

    Args:
        lr: learning rate.
        alpha: decay of the mean square, in [0, 1).
        eps: added to the root.
        eps_root: added under the root.
        weight_decay: L2 decay, added to the gradient.
        momentum: decay of the velocity, in [0, 1). The float 0 keeps no velocity at all, and
            `hyper_grads` then has no `momentum`.

    Every one is a `HyperSetting`, as in `Adam`.
    """

    lr: HyperSetting = 1e-2
    alpha: HyperSetting = 0.99
    eps: HyperSetting = 1e-8
    eps_root: HyperSetting = 0.0
    weight_decay: HyperSetting = 0.0
    momentum: HyperSetting = 0.0

    @property
    def hyper(self) -> dict[str, HyperSetting]:
        """Hyper-parameters by name."""
        names = ("lr", "alpha", "eps", "eps_root", "weight_decay")
        return _hyper(self, names if _is_zero(self.momentum) else (*names, "momentum"))

    @property
    def accumulators(self) -> tuple[Accumulator, ...]:
        """The mean square, and the velocity unless momentum is the float 0."""
        mean_square = Accumulator("v", lambda hyper, step: hyper["alpha"], _mean_square)
        if _is_zero(self.momentum):
            return (mean_square,)
        return (
            mean_square,
            Accumulator("velocity", lambda hyper, step: hyper["momentum"], _scaled_gradient),
        )

    def delta(
        self, accumulators: Accumulators, grad: Tensor, param: Tensor, hyper: Hyper, step: int
    ) -> Tensor:
        """What is subtracted from the parameter."""
        if _is_zero(self.momentum):
            return hyper["lr"] * _scaled_gradient(grad, param, accumulators, hyper, step)
        return hyper["lr"] * accumulators["velocity"]
