"""The same calls on every device: on CUDA what they give on CPU, and bit for bit the same again.

The tests run on CPU everywhere, so that they are known to be right before there is a GPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from farzi.distill import distill
from farzi.metagrad import (
    SGD,
    Adam,
    AdamW,
    Auto,
    Checkpointed,
    CompiledLoss,
    Direct,
    Reversible,
    Stored,
    metagradient,
)
from farzi.models import SASRec, sequence_loss
from toy import SMALL, toy_data

ADAM = Adam(lr=0.01, eps_root=1e-8)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
ADJOINTS = [
    Direct(),
    Stored(),
    Stored(graphs=True),
    Checkpointed(slots=4),
    Checkpointed(slots=4, on="cpu"),
    Checkpointed(slots=4, on="disk"),
    Reversible(),
    Auto(),
]


def on(device: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.to(device) for name, x in tensors.items()}


class Task:
    """A SASRec student on dense soft tokens, judged on hard ones: what is distilled."""

    def __init__(self, device: str, dtype: torch.dtype, *, wide: bool = False) -> None:
        sizes = (1683, 50, 64, 25) if wide else (40, 8, 16, 6)
        num_tokens, length, width, num = sizes
        draw = torch.Generator().manual_seed(0)
        self.student = SASRec(num_tokens=num_tokens, context_length=length, width=width)
        self.params = on(device, self.student.init(draw, dtype))
        P = torch.randn(num, length, num_tokens, generator=draw, dtype=dtype).softmax(-1)
        self.meta = {"tokens": P.to(device)}
        self.hard = torch.randint(num_tokens, (8, length), generator=draw).to(device)

    def inner(self, params: Any, meta: Any, step: int) -> Tensor:
        return sequence_loss(self.student, params, meta["tokens"])

    def outer(self, params: Any, meta: Any) -> Tensor:
        return sequence_loss(self.student, params, self.hard)

    def call(self, inner: Any = None, **settings: Any) -> Any:
        settings = {"optimizer": ADAM, "adjoint": Stored(), **settings}
        return metagradient(inner or self.inner, self.outer, self.params, self.meta, **settings)


@pytest.fixture
def repeatable() -> Any:
    """What `Reversible` needs on CUDA: kernels whose bits do not depend on timing."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("adjoint", ADJOINTS, ids=str)
def test_every_adjoint_gives_what_cpu_gives(
    adjoint: Any, device: str, repeatable: None, relative_error: Callable[..., float]
) -> None:
    arithmetic = "fixed" if isinstance(adjoint, Reversible) else "float"
    expected = Task("cpu", torch.float64).call(steps=20, adjoint=Direct(arithmetic=arithmetic))
    result = Task(device, torch.float64).call(steps=20, adjoint=adjoint)
    assert result.value.device.type == device
    for gradients in (result.meta_grads, result.param_grads, result.final_params):
        assert all(x.device.type == device for x in gradients.values())
    moved = type("Moved", (), {})()
    for kind in ("meta_grads", "param_grads", "hyper_grads"):
        setattr(moved, kind, on("cpu", getattr(result, kind)))
    assert relative_error(moved, expected) < (1e-6 if arithmetic == "fixed" else 1e-9)


@pytest.mark.parametrize("device", DEVICES)
def test_reversible_arrives_at_the_start_in_float32(device: str, repeatable: None) -> None:
    task = Task(device, torch.float32)
    first, again = (task.call(steps=200, adjoint=Reversible()) for _ in range(2))
    torch.testing.assert_close(first.meta_grads, again.meta_grads, rtol=0, atol=0)
    expected = task.call(steps=200, adjoint=Direct(arithmetic="fixed"))
    ours, theirs = (x.meta_grads["tokens"] for x in (first, expected))
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-3


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("optimizer", [ADAM, AdamW(lr=0.01, eps_root=1e-8), SGD(0.1, 0.9)], ids=str)
def test_a_batch_of_starting_points(optimizer: Any, device: str, repeatable: None) -> None:
    task = Task(device, torch.float64)
    alone = task.params
    task.params = {name: torch.stack([x, 0.9 * x]) for name, x in alone.items()}
    together = task.call(steps=6, optimizer=optimizer, batched=True)
    for n, factor in enumerate((1.0, 0.9)):
        task.params = {name: factor * x for name, x in alone.items()}
        one = task.call(steps=6, optimizer=optimizer)
        torch.testing.assert_close(
            together.meta_grads["tokens"][n], one.meta_grads["tokens"], rtol=1e-8, atol=1e-12
        )


@pytest.mark.parametrize("device", DEVICES)
def test_dropout_by_seed_is_the_same_again(device: str) -> None:
    task = Task(device, torch.float64)

    def inner(params: Any, meta: Any, step: int) -> Tensor:
        kept = (torch.rand(meta["tokens"].shape[:2], device=device) < 0.8).unsqueeze(-1)
        return sequence_loss(task.student, params, meta["tokens"] * kept)

    stored, again = (
        task.call(inner, steps=9, seed=3, adjoint=adjoint)
        for adjoint in (Stored(), Checkpointed(slots=2))
    )
    torch.testing.assert_close(stored.meta_grads, again.meta_grads, rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")
def test_cuda_graphs_are_faster_and_as_exact() -> None:
    task = Task("cuda", torch.float32, wide=True)
    compiled = CompiledLoss(lambda params, meta, inputs: task.inner(params, meta, 0))

    def seconds(inner: Any) -> float:
        task.call(inner, steps=8)
        torch.cuda.synchronize()
        began = time.perf_counter()
        task.call(inner, steps=64)
        torch.cuda.synchronize()
        return time.perf_counter() - began

    eager, graphed = seconds(task.inner), seconds(compiled)
    print(f"CUDA, 64 steps: eager {eager:.3f} s, compiled {graphed:.3f} s")
    assert graphed < eager
    expected, result = (task.call(inner, steps=64) for inner in (task.inner, compiled))
    ours, theirs = (x.meta_grads["tokens"] for x in (result, expected))
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-3


@pytest.mark.gpu
def test_tf32_is_off_and_costs_accuracy_when_on() -> None:
    assert torch.get_float32_matmul_precision() == "highest"
    exact = Task("cuda", torch.float64, wide=True).call(steps=16).meta_grads["tokens"]
    errors = {}
    for precision in ("highest", "high"):
        torch.set_float32_matmul_precision(precision)
        try:
            found = Task("cuda", torch.float32, wide=True).call(steps=16).meta_grads["tokens"]
        finally:
            torch.set_float32_matmul_precision("highest")
        errors[precision] = float((found - exact).norm() / exact.norm())
    print(f"error against float64: {errors}")
    assert errors["highest"] < errors["high"]
    assert errors["highest"] < 1e-3


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.gpu)])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.filterwarnings("ignore")
def test_a_distillation_runs_on_the_device(tmp_path: Path, device: str, compiled: bool) -> None:
    settings = SMALL.with_values({"inner.compiled": compiled})
    data = toy_data(tmp_path)
    outcome = distill(data, tmp_path / "run", settings, device=device)
    assert outcome.artifact is not None
    assert outcome.best_loss <= outcome.start_loss
