"""Any `torch.nn.Module` as a student: its embedding and its head are found, its body is called.

In a copy of the module, the token embedding is replaced by a layer that returns the rows it is
given, and the head by one that records its input. So soft tokens can enter and hidden states can
leave without a change to the module's code. Its weights are passed with
`torch.func.functional_call`.

When a student is made, it is tested in float64 on a few random tokens, because each of these would
otherwise lead to a wrong number without an error: its scores must equal the module's, no position
may read a later one, no sequence may read another one, no buffer may change, and the second
derivative must be right.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from farzi.errors import SettingsError
from farzi.models.base import Head, Params

__all__ = ["ModuleStudent", "from_module", "name_of", "try_out"]

Takes = Literal["tokens", "inputs_embeds"]

_SCORES = (
    "scores must come from an nn.Linear with as many outputs as there are tokens, whose weight may "
    "be the embedding's; or the module returns hidden states as wide as its embedding."
)

_RATES = ("dropout", "dropout_p", "dropout_prob", "attention_dropout", "p")
"""Attributes in which modules keep a dropout rate; `p` is that of `nn.Dropout` alone."""


@dataclass(frozen=True, eq=False)
class ModuleStudent:
    """A student that is a module of the user's own. Made by `from_module`.

    Args:
        make: gives the module with fresh weights, drawn from torch's global generator.
        context_length: longest sequence it reads, L.
        embedding_name: name of its token embedding.
        head_name: name of the linear layer that scores; None where the module returns hidden states
            that the embedding scores.
        dropout: rate of all its dropout layers; None leaves them as they are.
        takes: how it is called: with token ids, or with `inputs_embeds=` alone.
        kind: what `settings` calls it.
    """

    make: Callable[[], nn.Module]
    context_length: int
    embedding_name: str
    head_name: str | None = None
    dropout: float | None = None
    takes: Takes = "tokens"
    kind: str = "module"
    _bodies: dict[Any, _Body] = field(default_factory=dict, init=False, repr=False)

    name: ClassVar[None] = None  # it is no built-in student

    @property
    def num_tokens(self) -> int:
        """Vocabulary size V."""
        return self._body(torch.float32, "cpu").num_tokens

    @property
    def width(self) -> int:
        """Width W of the hidden states."""
        return self._body(torch.float32, "cpu").width

    def init(
        self, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> dict[str, Tensor]:
        """The module's own first weights, drawn from `generator`."""
        with _drawing_from(generator):
            module = self.make()
        return {
            name: value.detach().to(dtype).clone()
            for name, value in module.named_parameters()
            if value.requires_grad
        }

    def embedding(self, params: Params) -> Tensor:
        """The table (V, E) of the token embedding."""
        return params[self._body_for(params).table_name]

    def hidden(
        self, params: Params, embedded: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """What the module hands to its head (B, L, W), with `embedded` for its embedding."""
        body = self._body_for(params)
        if generator is None:
            return body(params, embedded, training=False)
        with _drawing_from(generator, embedded.device):
            return body(params, embedded, training=True)

    def head(self, params: Params) -> Head:
        """The module's head, or its embedding where they are tied."""
        body = self._body_for(params)
        return Head(
            params[body.weight_name], None if body.bias_name is None else params[body.bias_name]
        )

    def settings(self) -> dict[str, str | int | float]:
        """Sizes and a fingerprint; nothing of its code."""
        shapes = self._body(torch.float32, "cpu").shapes
        return {
            "name": self.kind,
            "num_tokens": self.num_tokens,
            "context_length": self.context_length,
            "width": self.width,
            "num_parameters": sum(shape.numel() for shape in shapes.values()),
            "fingerprint": self.fingerprint,
        }

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the parameters' names and shapes and of what the module computes of them.

        Weights and tokens are a fixed pattern, and four digits count, so that it is the same on
        every machine and another one as soon as the code computes something else.
        """
        shapes = self._body(torch.float64, "cpu").shapes
        params = {}
        for place, (name, shape) in enumerate(sorted(shapes.items())):
            pattern = torch.arange(shape.numel(), dtype=torch.float64).mul(1 + place).sin()
            params[name] = (0.5 + pattern).view(shape)
        tokens = torch.arange(min(self.context_length, 8)) % self.num_tokens
        with torch.no_grad():
            hidden = self.hidden(params, self.embedding(params)[tokens][None])
            scores = self.head(params).scores(hidden)
        values = [f"{float(x):.3e}" for x in (scores.mean(), scores.std(), hidden.std())]
        record = json.dumps([values, sorted((name, list(x)) for name, x in shapes.items())])
        return hashlib.sha256(record.encode()).hexdigest()[:16]

    @property
    def not_compiled(self) -> str | None:
        """Why `torch.compile` cannot take its inner steps; None where nothing is known."""
        for name, each in self._body(torch.float32, "cpu").module.named_modules():
            if isinstance(each, nn.RNNBase):
                return f"torch compiles no {type(each).__name__}, which its layer {name!r} is"
        return None

    def _body_for(self, params: Params) -> _Body:
        one = next(iter(params.values()))
        return self._body(one.dtype, one.device)

    def _body(self, dtype: torch.dtype, device: torch.device | str) -> _Body:
        key = dtype, torch.device(device)
        if key not in self._bodies:
            with _drawing_from(torch.Generator().manual_seed(0)):
                module = self.make()
            body = _Body(module, self.embedding_name, self.head_name, self.takes)
            if self.dropout is not None:
                _set_dropout(body.module, self.dropout)
            body.module.to(device=device, dtype=dtype)
            self._bodies[key] = body
        return self._bodies[key]


def from_module(
    module: nn.Module | Callable[[], nn.Module],
    context_length: int,
    *,
    embedding: str | None = None,
    head: str | None = None,
    dropout: float | None = None,
) -> ModuleStudent:
    """A student out of any module that turns token ids (B, L) into scores (B, L, V).

    It needs a token embedding (`nn.Embedding`) and a body; scores come from an `nn.Linear` with V
    outputs, whose weight may be the embedding's, or the module returns hidden states (B, L, E) that
    the embedding scores. Dropout, LayerNorm, recurrent layers (`batch_first=True`) and attention
    work as they are: torch's attention runs in the form that can be differentiated twice.

    Args:
        module: a function that makes the module with fresh weights, or a module whose layers all
            have `reset_parameters`.
        context_length: longest sequence that it is to read, L.
        embedding: name of the token embedding, where there are several.
        head: name of the linear layer that scores, where there are several.
        dropout: rate of all its dropout layers in training; None leaves them as they are.

    Raises:
        SettingsError: embedding or head are not found; or a trial on random tokens shows that a
            position reads later ones, that sequences of a batch read each other, that scores are
            changed after the head, that a buffer changes, or that there is no second derivative.

    Cost:
        A trial of a few calls, once. Every later call sets the module's parameters anew.

    Example:
        >>> import torch
        >>> from farzi.models import from_module
        >>> class Tagger(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.embedding = torch.nn.Embedding(10, 4)
        ...         self.body = torch.nn.LSTM(4, 6, batch_first=True)
        ...         self.scores = torch.nn.Linear(6, 10)
        ...     def forward(self, tokens):
        ...         return self.scores(self.body(self.embedding(tokens))[0])
        >>> student = from_module(Tagger, context_length=5)
        >>> student.num_tokens, student.width
        (10, 6)
        >>> sorted(student.init(torch.Generator().manual_seed(0)))[:2]
        ['body.bias_hh_l0', 'body.bias_ih_l0']
    """
    make: Callable[[], nn.Module] = (
        _fresh_copies(module) if isinstance(module, nn.Module) else module
    )
    with _drawing_from(torch.Generator().manual_seed(0)):
        example: Any = make()
    if not isinstance(example, nn.Module):
        kind = type(example).__name__
        raise SettingsError(f"student: the function must return a torch.nn.Module, got {kind}.")
    embedding_name = _find_embedding(example, embedding)
    head_name = _find_head(example, embedding_name, head)
    student = ModuleStudent(make, context_length, embedding_name, head_name, dropout)
    try_out(student, example)
    return student


# ---------------------------------------------------------------------------------- the body


class _Given(nn.Module):
    """Stands for the embedding: returns what it was handed."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight
        self.given: Tensor | None = None

    def forward(self, tokens: Tensor) -> Tensor:
        """The rows that the student was given for these tokens."""
        if self.given is None or tokens.shape != self.given.shape[:-1]:
            raise SettingsError("student: the embedding is called more than once, or in pieces.")
        given, self.given = self.given, None
        return given


class _Noting(nn.Module):
    """Stands for the head: notes the hidden states, and scores nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: Tensor | None = None

    def forward(self, hidden: Tensor) -> Tensor:
        """The hidden states themselves."""
        self.noted = hidden
        return hidden


class _Body:
    """A module with its embedding and head taken out.

    Attributes:
        module: what is left of it.
        shapes: of its trainable parameters, by name.
        table_name: the embedding's parameter.
        weight_name: the head's, which is `table_name` where they are tied.
        bias_name: the head's bias, or None.
        width: of the hidden states.
        num_tokens: rows of the embedding.
    """

    def __init__(
        self, module: nn.Module, embedding_name: str, head_name: str | None, takes: Takes
    ) -> None:
        names = {id(value): name for name, value in module.named_parameters()}
        self.shapes = {
            name: value.shape for name, value in module.named_parameters() if value.requires_grad
        }
        table = module.get_submodule(embedding_name)
        assert isinstance(table, nn.Embedding)
        self.num_tokens, self.width = table.num_embeddings, table.embedding_dim
        self.table_name = self.weight_name = names[id(table.weight)]
        self.bias_name: str | None = None
        self._given, self._noting = _Given(table.weight), _Noting()
        if head_name is not None:
            head = module.get_submodule(head_name)
            assert isinstance(head, nn.Linear)
            self.width, self.weight_name = head.in_features, names[id(head.weight)]
            self.bias_name = None if head.bias is None else names[id(head.bias)]
            _replace(module, head_name, self._noting)
        _replace(module, embedding_name, self._given)
        self._takes, self._has_head = takes, head_name is not None
        self.module = module
        read = {name for name, _ in module.named_parameters()}
        self._outside = set(self.shapes) - read

    def __call__(self, params: Params, embedded: Tensor, *, training: bool) -> Tensor:
        """Hidden states (B, L, W)."""
        if self.module.training != training:
            self.module.train(training)
        inside = {name: value for name, value in params.items() if name not in self._outside}
        arguments: tuple[Tensor, ...] = ()
        keywords: dict[str, Any] = {"inputs_embeds": embedded, "use_cache": False}
        if self._takes == "tokens":
            zeros = torch.zeros(embedded.shape[:-1], dtype=torch.int64, device=embedded.device)
            arguments, keywords = (zeros,), {}
            self._given.given = embedded
        with _twice_differentiable(embedded.device):
            output = functional_call(self.module, inside, arguments, keywords)
        hidden, self._noting.noted = self._noting.noted, None
        if not self._has_head:
            hidden = _first_tensor(output)
        if hidden is None:
            raise SettingsError(f"student: the module does not call its head; {_SCORES}")
        return hidden


def _replace(module: nn.Module, name: str, other: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(module.get_submodule(parent), child, other)


def _first_tensor(output: Any) -> Tensor:
    """The scores, or states, in what a module returns."""
    output = getattr(output, "logits", output)
    output = output[0] if isinstance(output, tuple | list) else output
    if not isinstance(output, Tensor):
        kind = type(output).__name__
        raise SettingsError(f"student: the module must return a tensor, got {kind}.")
    return output


@contextlib.contextmanager
def _twice_differentiable(device: torch.device) -> Iterator[None]:
    """In here torch's attention and recurrent layers run in forms with a second derivative."""
    if torch.compiler.is_compiling():
        with sdpa_kernel(SDPBackend.MATH):
            yield
        return
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            if device.type == "cuda":
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextlib.contextmanager
def _drawing_from(generator: torch.Generator, device: torch.device | str = "cpu") -> Iterator[None]:
    """In here torch's global generators are seeded from `generator`; afterwards as before."""
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    devices = [device] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def _set_dropout(module: nn.Module, rate: float) -> None:
    for each in module.modules():
        for name in _RATES:
            if name == "p" and not isinstance(each, nn.modules.dropout._DropoutNd):
                continue
            if isinstance(getattr(each, name, None), float):
                setattr(each, name, rate)


# ------------------------------------------------------------------------- finding the parts


def _fresh_copies(module: nn.Module) -> Callable[[], nn.Module]:
    """A function that copies `module` and draws all its weights anew."""
    for name, each in module.named_modules():
        resets = any(hasattr(each, reset) for reset in ("reset_parameters", "_reset_parameters"))
        for own, value in each.named_parameters(recurse=False):
            same_everywhere = bool((value == value.flatten()[0]).all())
            if value.requires_grad and not resets and not same_everywhere:
                full = f"{name}.{own}" if name else own
                raise SettingsError(
                    f"student: nothing draws the parameter {full!r} anew; give a function that "
                    "makes the module in place of the module."
                )

    def make() -> nn.Module:
        fresh = copy.deepcopy(module)
        for each in fresh.modules():
            for reset in ("reset_parameters", "_reset_parameters"):
                if hasattr(each, reset):
                    getattr(each, reset)()
                    break
        return fresh

    return make


def _find_embedding(module: nn.Module, name: str | None) -> str:
    found: dict[str, nn.Embedding] = {
        name: each for name, each in module.named_modules() if isinstance(each, nn.Embedding)
    }
    if name is not None:
        if name not in found:
            raise SettingsError(f"student: {name!r} is no nn.Embedding of it; {_list(found)}.")
        return name
    if not found:
        raise SettingsError("student: there is no nn.Embedding in it to read tokens through.")
    if len(found) > 1:
        most = max(each.num_embeddings for each in found.values())
        linear = {each.out_features for each in module.modules() if isinstance(each, nn.Linear)}
        scored = [own for own, each in found.items() if each.num_embeddings in linear]
        largest = [own for own, each in found.items() if each.num_embeddings == most]
        if len(scored) == 1:
            return scored[0]
        if scored or len(largest) > 1:
            raise SettingsError(
                f"student: which embedding reads the tokens? {_list(found)}; say embedding=NAME."
            )
        return largest[0]
    return next(iter(found))


def _find_head(module: nn.Module, embedding_name: str, name: str | None) -> str | None:
    table: Any = module.get_submodule(embedding_name)
    layers: dict[str, nn.Linear] = {
        own: each for own, each in module.named_modules() if isinstance(each, nn.Linear)
    }
    if name is not None:
        if name not in layers:
            raise SettingsError(f"student: {name!r} is no nn.Linear of it; {_list(layers)}.")
        return name
    found = [own for own, each in layers.items() if each.out_features == table.num_embeddings]
    found = [own for own in found if layers[own].weight is table.weight] or found
    if len(found) > 1:
        raise SettingsError(
            f"student: which layer scores the tokens? {', '.join(found)}; say head=NAME."
        )
    return found[0] if found else None


def name_of(module: nn.Module, part: Any, kind: type[nn.Module]) -> str:
    """The name of a part of a module.

    Raises:
        SettingsError: it is of another kind, or none of its parts.
    """
    if isinstance(part, kind):
        for name, each in module.named_modules():
            if each is part:
                return str(name)
    raise SettingsError(f"student: it has no nn.{kind.__name__} of its own where one is needed.")


def _list(found: Mapping[str, Any]) -> str:
    return f"there are {', '.join(found)}" if found else "there is none"


# ------------------------------------------------------------------------------ trying it out


def try_out(student: ModuleStudent, module: nn.Module) -> None:
    """Refuse what would train, or be scored, in silence as something else than `module`.

    Args:
        student: made of the module.
        module: as it was made, with embedding and head in their places; it is changed.

    Raises:
        SettingsError: what is wrong, and where there is one, a way out.
    """
    length = max(2, min(student.context_length, 8))
    if student.context_length < 2:
        raise ValueError(f"`context_length` must be an int >= 2, got {student.context_length}.")
    draw = torch.Generator().manual_seed(0)
    module.double()
    params = {
        name: value.detach().clone()
        for name, value in module.named_parameters()
        if value.requires_grad
    }
    tokens = torch.randint(0, student.num_tokens, (3, length), generator=draw)
    table = student.embedding(params)
    layer = module.get_submodule(student.embedding_name)
    if getattr(layer, "max_norm", None) is not None:
        raise SettingsError(
            f"student: max_norm of {student.embedding_name!r} changes weights as they are read; "
            "leave it out."
        )
    if student.head(params).weight.shape[0] != student.num_tokens:
        raise SettingsError(
            f"student: its head scores {student.head(params).weight.shape[0]:,} tokens and its "
            f"embedding reads {student.num_tokens:,}."
        )
    _check_full_length(student, params, table)
    hidden = _states(student, params, table[tokens])
    _check_scores(student, module, params, tokens, hidden)
    _check_reach(student, params, table, tokens, hidden)
    _check_buffers(student, params, table[tokens])
    _check_second_derivative(student, params, table[tokens])


def _states(student: ModuleStudent, params: Params, embedded: Tensor) -> Tensor:
    hidden = student.hidden(params, embedded)
    if student.head_name is None and hidden.shape[-1] != student.width:
        raise SettingsError(f"student: the module returns {tuple(hidden.shape)}: {_SCORES}")
    if hidden.shape != (*embedded.shape[:-1], student.width):
        raise SettingsError(
            f"student: its head is given {tuple(hidden.shape)}, where (B, L, W) is "
            f"{(*embedded.shape[:-1], student.width)}; every position must be scored, batch first."
        )
    return hidden


@torch.no_grad()
def _check_scores(
    student: ModuleStudent, module: nn.Module, params: Params, tokens: Tensor, hidden: Tensor
) -> None:
    """Our scores must be the module's, up to a constant at every position."""
    ours = student.head(params).scores(hidden).log_softmax(-1)
    module.eval()
    with _twice_differentiable(tokens.device):
        keywords = {"use_cache": False} if student.takes == "inputs_embeds" else {}
        output = _first_tensor(module(tokens, **keywords))
    if student.head_name is None and output.shape == hidden.shape:
        output = student.head(params).scores(output)
    if output.numel() != ours.numel():
        raise SettingsError(
            f"student: the module returns {tuple(output.shape)} for tokens "
            f"{tuple(tokens.shape)}: {_SCORES}"
        )
    theirs = output.reshape(ours.shape).log_softmax(-1)
    if (ours - theirs).abs().max() > 1e-4:
        raise SettingsError(
            "student: the module's scores are not its head's on its embedding's rows: it changes "
            "them afterwards, or reads token ids past the embedding (a padding mask does); take "
            "that out."
        )


@torch.no_grad()
def _check_reach(
    student: ModuleStudent, params: Params, table: Tensor, tokens: Tensor, hidden: Tensor
) -> None:
    """No position may read a later one, no sequence another, with dropout or without."""
    size = hidden.abs().max()
    others = torch.arange(len(tokens)) != 0
    for seed in (None, 0):

        def states(tokens: Tensor, seed: int | None = seed) -> Tensor:
            generator = None if seed is None else torch.Generator().manual_seed(seed)
            return student.hidden(params, table[tokens], generator)

        before = states(tokens)
        for cut in range(1, tokens.shape[1]):
            changed = tokens.clone()
            changed[:, cut:] = (changed[:, cut:] + 1) % student.num_tokens
            if (states(changed)[:, :cut] - before[:, :cut]).abs().max() > 1e-5 * size:
                raise SettingsError(
                    f"student: it is not causal: token {cut + 1} changes what it says of token "
                    f"{cut} and before; give it a causal mask"
                    + ("." if seed is None else ", in training as well (batch norm has none).")
                )
        changed = tokens.clone()
        changed[0] = (changed[0] + 1) % student.num_tokens
        if (states(changed)[others] - before[others]).abs().max() > 1e-5 * size:
            raise SettingsError(
                "student: sequences of a batch read one another: is batch_first=True missing?"
            )


def _check_full_length(student: ModuleStudent, params: Params, table: Tensor) -> None:
    tokens = torch.zeros(1, student.context_length, dtype=torch.int64)
    try:
        with torch.no_grad():
            student.hidden(params, table[tokens])
    except SettingsError:
        raise
    except Exception as error:
        raise SettingsError(
            f"student: it fails on {student.context_length} tokens: {_line(error)}"
        ) from error


@torch.no_grad()
def _check_buffers(student: ModuleStudent, params: Params, embedded: Tensor) -> None:
    body = student._body_for(params).module
    before = {name: value.clone() for name, value in body.named_buffers()}
    student.hidden(params, embedded, torch.Generator().manual_seed(0))
    after = dict(body.named_buffers())
    for name, value in before.items():
        if name not in after or not torch.equal(after[name], value):
            raise SettingsError(
                f"student: its buffer {name!r} changes when it is called, so that a training run "
                "is no function of its weights and data; use LayerNorm, or a layer without one."
            )


def _check_second_derivative(student: ModuleStudent, params: Params, embedded: Tensor) -> None:
    """The second derivative along one direction must be there, and that of differences."""
    at = {"": embedded, **params}
    draw = torch.Generator().manual_seed(1)
    along = {
        name: torch.randn(x.shape, generator=draw, dtype=x.dtype) * (x.std() + 1e-3)
        for name, x in at.items()
    }

    def slope(step: float, *, derived: bool = False) -> tuple[Tensor, Tensor | None]:
        """First derivative at a place along the direction; and its own, by autograd."""
        place = {name: (x + step * along[name]).requires_grad_() for name, x in at.items()}
        weights = {name: x for name, x in place.items() if name}
        hidden = student.hidden(weights, place[""])
        value = student.head(weights).scores(hidden).square().sum()
        first = torch.autograd.grad(
            value, list(place.values()), create_graph=derived, allow_unused=True
        )
        total = sum(
            (x * along[name]).sum() for name, x in zip(place, first, strict=True) if x is not None
        )
        if not derived:
            return torch.as_tensor(total), None
        second = torch.autograd.grad(
            torch.as_tensor(total), list(place.values()), allow_unused=True
        )
        own = sum(
            (x * along[name]).sum() for name, x in zip(place, second, strict=True) if x is not None
        )
        return torch.as_tensor(total).detach(), torch.as_tensor(own)

    step = 1e-4
    with torch.enable_grad():
        try:
            first, second = slope(0.0, derived=True)
        except RuntimeError as error:
            raise SettingsError(
                f"student: it has no second derivative: {_line(error)}; write that part in plain "
                "torch operations."
            ) from error
        numeric = (slope(step)[0] - slope(-step)[0]) / (2 * step)
    assert second is not None
    if (second - numeric).abs() > 0.02 * numeric.abs() + 1e-3 * first.abs():
        raise SettingsError(
            f"student: its second derivative is wrong or missing in parts ({float(second):.3g} "
            f"where differences give {float(numeric):.3g}); write every part in plain torch "
            "operations, without once_differentiable."
        )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
