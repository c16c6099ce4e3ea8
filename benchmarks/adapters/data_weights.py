"""Weights on training sequences, which Bergson can do too: every engine with the same plain loss.

The student of the workload learns from eight sequences of hard tokens, each with a weight; the
meta-gradient is that of the outer loss for the eight weights.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.adapters.torch_student import Params, Student, hidden, outer_loss, tensors
from benchmarks.workload import EPS_ROOT, LR, Run, Workload

SEQUENCES, OUTER_SEQUENCES = 8, 8


def weighted_loss(p: Params, tokens: Tensor, weight: Tensor) -> Tensor:
    """Hard cross-entropy of the next token, each sequence (of S, L) with its weight (S,)."""
    E = p["embedding"]
    logits = hidden(p, E[tokens])[:, :-1] @ E.T
    losses = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    return (weight[:, None] * losses.view(len(tokens), -1)).mean()


def build(workload: Workload, steps: int, engine: str) -> Run:
    """A call that gives the outer loss and its gradient for the weights."""
    params, _, tokens = tensors(workload)
    draw = torch.Generator().manual_seed(1)
    seen = torch.randint(0, len(params["embedding"]), (SEQUENCES, tokens.shape[1]), generator=draw)
    arguments = (params, seen, tokens[:OUTER_SEQUENCES], torch.ones(SEQUENCES), steps)
    if engine.startswith("farzi"):
        return _farzi(*arguments, engine)
    return {"autograd": _autograd, "torchopt": _torchopt, "bergson": _bergson}[engine](*arguments)


def _farzi(
    params: Params, seen: Tensor, held_out: Tensor, weight: Tensor, steps: int, engine: str
) -> Run:
    from farzi.metagrad import Adam, Checkpointed, CompiledLoss, Reversible, Stored, metagradient

    adjoints = {"Stored": Stored(), "Reversible": Reversible(), "Checkpointed": Checkpointed()}
    name, _, how = engine.removeprefix("farzi ").partition(", ")

    def loss(p, meta, step):
        return weighted_loss(p, seen, meta["weight"])

    inner = loss if how != "compiled" else _compiled(CompiledLoss, loss)

    def run():
        result = metagradient(
            inner,
            lambda p, meta: outer_loss(p, held_out),
            dict(params),
            {"weight": weight},
            steps=steps,
            optimizer=Adam(lr=LR, eps_root=EPS_ROOT),
            adjoint=adjoints[name],
        )
        return result.value.item(), result.meta_grads["weight"].numpy()

    return run


_PROGRAMS: dict[str, object] = {}


def _compiled(kind: Callable[..., object], loss: Callable[..., Tensor]) -> object:
    """One compiled loss for a process: what the first call compiles serves the others."""
    if "loss" not in _PROGRAMS:
        _PROGRAMS["loss"] = kind(lambda p, meta, inputs: loss(p, meta, 0))
    return _PROGRAMS["loss"]


def _autograd(params: Params, seen: Tensor, held_out: Tensor, weight: Tensor, steps: int) -> Run:
    def run():
        leaf = weight.clone().requires_grad_()
        w = {name: value.detach().requires_grad_() for name, value in params.items()}
        m = {name: torch.zeros_like(value) for name, value in w.items()}
        v = dict(m)
        for step in range(1, steps + 1):
            loss = weighted_loss(w, seen, leaf)
            grads = torch.autograd.grad(loss, list(w.values()), create_graph=True)
            for name, g in zip(list(w), grads, strict=True):
                m[name] = 0.9 * m[name] + 0.1 * g
                v[name] = 0.999 * v[name] + 0.001 * g * g
                root = (v[name] / (1 - 0.999**step) + EPS_ROOT).sqrt()
                w[name] = w[name] - LR * (m[name] / (1 - 0.9**step)) / (root + 1e-8)
        value = outer_loss(w, held_out)
        (gradient,) = torch.autograd.grad(value, leaf)
        return value.item(), gradient.numpy()

    return run


def _torchopt(params: Params, seen: Tensor, held_out: Tensor, weight: Tensor, steps: int) -> Run:
    import torchopt

    def run():
        leaf = weight.clone().requires_grad_()
        adam = torchopt.adam(lr=LR, eps_root=EPS_ROOT)
        w = {name: value.detach().requires_grad_() for name, value in params.items()}
        state = adam.init(w)
        for _ in range(steps):
            loss = weighted_loss(w, seen, leaf)
            grads = torch.autograd.grad(loss, list(w.values()), create_graph=True)
            updates, state = adam.update(dict(zip(w, grads, strict=True)), state, inplace=False)
            w = torchopt.apply_updates(w, updates, inplace=False)
        value = outer_loss(w, held_out)
        (gradient,) = torch.autograd.grad(value, leaf)
        return value.item(), gradient.numpy()

    return run


class _Weighted(Student):
    """The student as Bergson calls it: with a batch, for the loss."""

    def forward(self, input_ids: Tensor, weight: Tensor) -> Tensor:  # type: ignore[override]
        return weighted_loss(self.read(), input_ids, weight)


class _Batches:
    """What Bergson asks of a stream of batches."""

    device = torch.device("cpu")

    def __init__(self, tokens: Tensor, weights: Tensor, steps: int) -> None:
        self.tokens, self.weights, self.steps = tokens, weights, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        return {"input_ids": self.tokens, "weight": self.weights}

    @property
    def requires_grad(self) -> bool:
        return self.weights.requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.weights.requires_grad_(value)


def _bergson(params: Params, seen: Tensor, held_out: Tensor, weight: Tensor, steps: int) -> Run:
    import torchopt
    from bergson.magic.trainer import BackwardState, Trainer

    names = {name.replace(".", "_"): name for name in params}

    def run():
        student = _Weighted({name: value.clone() for name, value in params.items()}, "logsumexp")
        adam = torchopt.adam(lr=LR, eps_root=EPS_ROOT)
        trainer, state = Trainer.initialize(student, adam)
        data = _Batches(seen, weight.clone(), steps)
        with tempfile.TemporaryDirectory() as folder:
            state = trainer.train(state, data, save_dir=folder)
            state.detach_()
            state.requires_grad = True
            value = outer_loss({names[key]: x for key, x in state.params.items()}, held_out)
            grads = torch.autograd.grad(value, list(state.params.values()))
            rest = state.differentiable_tensors()[len(grads) :]
            back = BackwardState(
                dict(zip(state.params, grads, strict=True)),
                [torch.zeros_like(tensor) for tensor in rest],
                torch.zeros_like(data.weights),
            )
            gradient = trainer.backward(folder, data, back, state).weight_grads
        return value.item(), gradient.detach().numpy()

    return run
