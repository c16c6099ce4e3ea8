"""What the engine watches while it runs a loss."""

from __future__ import annotations

import contextlib
import functools
import math
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_map_only

from farzi.errors import (
    InPlaceError,
    NonDeterministicError,
    NonFiniteError,
    NotTwiceDifferentiableError,
    StochasticLossError,
)
from farzi.metagrad.flat import Layout

__all__ = [
    "AT_ITS_EDGE",
    "NO_SECOND_DERIVATIVE",
    "LightMode",
    "LossLog",
    "OrdinaryCopies",
    "all_finite",
    "check_finite",
    "dense_parts",
    "first_evaluation",
    "not_finite",
    "ordinary_modes",
    "overflow",
    "seeded",
    "translated",
]

AT_ITS_EDGE = (
    "a root, logarithm, power or division in it is at the edge of its domain: keep it away from "
    "there, as sqrt(x + 1e-12) does."
)
NO_SECOND_DERIVATIVE = (
    "a norm, root or power in it is where it has a gradient but no second derivative, as a norm "
    "has at 0: keep it away from there, as sqrt(x.square().sum() + 1e-12) does."
)
_NO_INFERENCE = "Inference tensors cannot be saved for backward"

_IN_PLACE = ("in-place operation", "inplace operation", "modified inplace")
_ONCE_ONLY = (
    "derivative for aten::",
    "derivative for '",
    "once_differentiable",
    "support double backward",
    "double backwards",
)
_INSTEAD = {
    "rnn": "call the layer within torch.backends.cudnn.flags(enabled=False), on CPU within "
    "torch.backends.mkldnn.flags(enabled=False)",
    "attention": "for attention use torch.nn.attention.sdpa_kernel(SDPBackend.MATH) or plain "
    "matrix products",
    "dot_product": "for attention use torch.nn.attention.sdpa_kernel(SDPBackend.MATH) or plain "
    "matrix products",
    "embedding_bag": "use Embedding and a mean or a sum over its rows",
    "cdist": "write the distances out, as (x[:, None] - y).square().sum(-1)",
    "ctc": "write the recursion out with logsumexp",
}
"""What to use in place of an operation that has one derivative only, by a part of its name."""


def _instead(message: str) -> str:
    lower = message.lower()
    advice = next((advice for part, advice in _INSTEAD.items() if part in lower), None)
    return advice or "write that operation with others that autograd differentiates twice"


@contextlib.contextmanager
def translated(step: int) -> Iterator[None]:
    """Turn autograd's own complaints into the errors of the contract."""
    try:
        yield
    except RuntimeError as error:
        message = str(error)
        fact = message.splitlines()[0]
        if any(phrase in message for phrase in _IN_PLACE):
            raise InPlaceError(
                f"the inner loss changes a tensor in place at step {step} ({fact}); "
                "use the out-of-place operation.",
                step=step,
            ) from error
        if _NO_INFERENCE in message:
            raise ValueError(
                f"the loss hands a tensor that was made inside torch.inference_mode to a function "
                f"of its own at step {step}; clone that tensor outside of it first."
            ) from error
        if any(phrase in message for phrase in _ONCE_ONLY):
            raise NotTwiceDifferentiableError(
                f"the inner loss has no second derivative at step {step} ({fact}); "
                f"{_instead(message)}.",
                step=step,
            ) from error
        raise


def _generators(device: torch.device) -> list[torch.Generator]:
    generators = [torch.default_generator]
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        generators.append(torch.cuda.default_generators[index])
    return generators


def _mixed(seed: int, step: int) -> int:
    """A 63-bit seed from (seed, step), by the finaliser of splitmix64."""
    mask = (1 << 64) - 1
    z = (seed * 0x9E3779B97F4A7C15 + (step + 1) * 0xD1B54A32D192ED03) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return (z ^ (z >> 31)) >> 1


@contextlib.contextmanager
def seeded(seed: int | None, place: tuple[int, ...], device: torch.device) -> Iterator[None]:
    """Run with torch's generators seeded from `seed` and the place; put them back afterwards."""
    if seed is None:
        yield
        return
    generators = _generators(device)
    states = [generator.get_state() for generator in generators]
    try:
        for generator in generators:
            generator.manual_seed(functools.reduce(_mixed, place, seed))
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def _torch_random_state(device: torch.device) -> list[Tensor]:
    return [generator.get_state() for generator in _generators(device)]


def _python_random_state() -> tuple[object, ...]:
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return (random.getstate(),)
    name, keys, *rest = numpy.random.get_state()
    return (random.getstate(), name, keys.tobytes(), *rest)


class LightMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A dispatch mode whose first use does not import `torch._dynamo`, which takes seconds.

    torch wraps every other mode so that dynamo does not trace it. A class that is used once dynamo
    is there has to let itself be wrapped.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class _WriteWatch(LightMode):  # type: ignore[no-untyped-call]
    """Calls `refuse` with any tensor that is written to and was not made under the watch."""

    def __init__(self, refuse: Callable[[Tensor], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._refuse = refuse
        self._own: dict[int, Any] = {}
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        storages = set()
        for index, argument in enumerate(func._schema.arguments):
            value = args[index] if index < len(args) else kwargs.get(argument.name)
            writes = argument.alias_info is not None and argument.alias_info.is_write
            for tensor in value if isinstance(value, list | tuple) else (value,):
                if isinstance(tensor, Tensor) and tensor.layout == torch.strided:
                    key = tensor.untyped_storage()._cdata
                    storages.add(key)
                    if writes and key not in self._own:
                        self._refuse(tensor)
        result = func(*args, **kwargs)
        for tensor in result if isinstance(result, list | tuple) else (result,):
            if isinstance(tensor, Tensor):
                self.dtypes.add(tensor.dtype)
                if tensor.layout != torch.strided:
                    continue
                storage = tensor.untyped_storage()
                if storage._cdata not in storages:
                    self._own[storage._cdata] = storage
        return result


class _WriteWatchBesideDynamo(_WriteWatch):  # type: ignore[no-untyped-call]
    """The same, out of dynamo's sight."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return super().__torch_dispatch__(func, types, args, kwargs)


@contextlib.contextmanager
def first_evaluation(
    param: Tensor, layout: Layout, meta: Mapping[str, Tensor], seed: int | None, step: int
) -> Iterator[set[torch.dtype]]:
    """Watch the inner loss once: no draws without a seed, no writes outside it.

    Gives the dtypes of the tensors that it makes.
    """

    def refuse(tensor: Tensor) -> None:
        storage = tensor.untyped_storage()._cdata
        name = None
        if storage == param.untyped_storage()._cdata:
            name = layout.name_at(int(tensor.storage_offset()) - int(param.storage_offset()))
        for key, value in meta.items():
            if storage == value.untyped_storage()._cdata:
                name = key
        what = f"`{name}`" if name else "a tensor that it closes over"
        raise InPlaceError(
            f"the inner loss changes {what} in place at step {step}; it must be pure (BatchNorm in "
            "training changes its buffers: put it in eval mode or take another norm).",
            step=step,
            tensor=name,
        )

    drawn = _python_random_state()
    torch_drawn = _torch_random_state(layout.device)
    watch = _WriteWatchBesideDynamo if "torch._dynamo" in sys.modules else _WriteWatch
    mode = watch(refuse)
    with mode:
        yield mode.dtypes
    if _python_random_state() != drawn:
        raise StochasticLossError(
            f"the inner loss drew from Python's or NumPy's global generator at step {step}; draw "
            "from a "
            "generator made from `step`.",
            step=step,
        )
    if seed is None and any(
        not torch.equal(a, b)
        for a, b in zip(torch_drawn, _torch_random_state(layout.device), strict=True)
    ):
        raise StochasticLossError(
            f"the inner loss drew from torch's global generator at step {step}; pass `seed=` "
            f"(dropout "
            "then draws the same at every evaluation of a step).",
            step=step,
        )


@contextlib.contextmanager
def ordinary_modes() -> Iterator[None]:
    """The same modes of torch wherever a call is made.

    No inference mode, which would leave out every graph; no autocast around the call, which would
    round what the losses compute (one inside a loss stays); no gradients but those asked for.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


class OrdinaryCopies(TorchFunctionMode):
    """Puts an ordinary copy in the place of each tensor made inside `torch.inference_mode`.

    Autograd refuses to save such a tensor, and a loss may close over some. Entered only once a loss
    has been seen to.
    """

    def __init__(self) -> None:
        super().__init__()
        self._needed = False
        self._copies: dict[int, tuple[Tensor, Tensor]] = {}

    def around(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """`function(*arguments)`, with copies once it is found that it needs them."""
        if not self._needed:
            try:
                return function(*arguments)
            except RuntimeError as error:
                if _NO_INFERENCE not in str(error):
                    raise
            self._needed = True
        with self:
            return function(*arguments)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map_only(Tensor, self._ordinary, (args, kwargs or {}))
        return func(*args, **kwargs)

    def _ordinary(self, tensor: Tensor) -> Tensor:
        if not tensor.is_inference():
            return tensor
        if id(tensor) not in self._copies:
            # Out of sight of the write watch: to change the copy is to change the loss's own.
            with _disable_current_modes():
                self._copies[id(tensor)] = tensor, tensor.clone()
        return self._copies[id(tensor)][1]


def dense_parts(
    parts: Sequence[Tensor | None], layout: Layout, step: int
) -> Sequence[Tensor | None]:
    """The parts of a gradient, or `NotTwiceDifferentiableError` where one is sparse."""
    for name, part in zip(layout.names, parts, strict=True):
        if part is not None and part.layout != torch.strided:
            raise NotTwiceDifferentiableError(
                f"the gradient of `{name}` is sparse at step {step}, as that of an embedding with "
                "sparse=True is, and has no derivative; make it with sparse=False.",
                step=step,
                tensor=name,
            )
    return parts


def all_finite(tensor: Tensor) -> bool:
    """Whether every element is finite; one pass where all are."""
    return math.isfinite(tensor.sum().item()) or bool(torch.isfinite(tensor).all())


def not_finite(what: str, advice: str, *, step: int, tensor: str | None) -> NonFiniteError:
    """The error for a value that is not finite, in the words of all of them."""
    of = "" if tensor is None else f" of `{tensor}`"
    return NonFiniteError(
        f"{what}{of} is not finite at step {step}; {advice}", step=step, tensor=tensor
    )


def check_finite(tensor: Tensor, layout: Layout, what: str, step: int, advice: str) -> None:
    """Raise `NonFiniteError` naming the first tensor of a flat vector that is not finite."""
    if all_finite(tensor):
        return
    name = layout.name_at(int((~torch.isfinite(tensor)).nonzero()[0]))
    raise not_finite(what, advice, step=step, tensor=name)


def overflow(layout: Layout) -> str:
    """What to do where a step at a finite gradient is not finite."""
    return (
        f"its gradient is finite, and the step leaves the range of {layout.dtype}: lower the "
        "learning rate, scale the loss down, raise eps where it is 0, or use float64."
    )


class LossLog:
    """The loss of every step at its first evaluation, to which later evaluations are compared.

    Args:
        first_step: number of the first step, for messages.
    """

    def __init__(self, first_step: int) -> None:
        self._first_step = first_step
        self._values: dict[tuple[int, int], float] = {}
        self._paths_differ = False

    def record(self, i: int, loss: Tensor, part: int = 0) -> None:
        """Note the loss of step i (of a part of it), or compare it with what was noted."""
        value = loss.item()
        step = self._first_step + i
        if not math.isfinite(value):
            raise NonFiniteError(f"the inner loss is {value} at step {step}.", step=step)
        noted = self._values.setdefault((i, part), value)
        if noted != value:
            raise NonDeterministicError(
                f"the inner loss of step {step} was {noted!r} and is {value!r} for the "
                "same inputs; make what it draws or reads a function of `step`.",
                step=step,
            )

    def agrees(self, i: int, loss: Tensor, part: int = 0) -> bool:
        """Whether step i's loss, evaluated on the way back, is what was noted."""
        noted = self._values.get((i, part))
        if self._paths_differ or noted is None or noted == loss.item():
            return True
        self._paths_differ = True
        return False
