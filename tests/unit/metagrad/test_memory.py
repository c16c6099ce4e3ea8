"""Memory: nothing is left behind, and `Reversible` hardly grows with the number of steps."""

from __future__ import annotations

import gc
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from farzi.metagrad import Adam, Checkpointed, Direct, Reversible, Stored, metagradient
from farzi.metagrad.inner_loop import inner_loop
from farzi.metagrad.memory import peak_bytes

ADAM = Adam(lr=0.003, eps_root=1e-6)
ADJOINTS = [
    Direct(),
    Stored(),
    Checkpointed(slots=2),
    Checkpointed(slots=2, on="disk"),
    Reversible(),
]


def run(net: Any, **settings: Any) -> Any:
    return metagradient(net.inner, net.outer, net.params, net.meta, optimizer=ADAM, **settings)


@pytest.fixture
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def num_tensors() -> int:
    return sum(issubclass(type(o), Tensor) for o in gc.get_objects())


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("adjoint", ADJOINTS, ids=lambda a: f"{a.name}-{getattr(a, 'on', '')}")
def test_a_call_leaves_no_tensor_to_the_garbage_collector(
    adjoint: Any, net: Callable[..., Any]
) -> None:
    run(net(), steps=4, adjoint=adjoint)
    gc.collect()
    before = num_tensors()
    run(net(), steps=4, adjoint=adjoint)
    assert num_tensors() == before


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@pytest.mark.parametrize("adjoint", [Stored(), Reversible()], ids=lambda a: a.name)
def test_a_thousand_calls_take_no_more_memory(adjoint: Any, net: Callable[..., Any]) -> None:
    problem = net(width=8)
    for _ in range(200):
        run(problem, steps=1, adjoint=adjoint)
    gc.collect()
    before = resident_bytes()
    for _ in range(1000):
        run(problem, steps=1, adjoint=adjoint)
    gc.collect()
    assert resident_bytes() - before < 2**20


def test_memory_grows_as_planned(net: Callable[..., Any]) -> None:
    problem = net()

    def peak(adjoint: Any, steps: int) -> int:
        with peak_bytes(torch.device("cpu")) as measured:
            run(problem, steps=steps, adjoint=adjoint)
        return measured.num_bytes

    def planned(adjoint: Any, steps: int) -> int:
        loop = inner_loop(problem.inner, problem.params, problem.meta, steps=steps, optimizer=ADAM)
        return adjoint.plan(loop).state_bytes

    for adjoint in (Stored(), Checkpointed(slots=5), Checkpointed()):
        growth = planned(adjoint, 80) - planned(adjoint, 20)
        slack = 0.05 * planned(adjoint, 20)
        assert peak(adjoint, 80) - peak(adjoint, 20) == pytest.approx(growth, rel=0.1, abs=slack)
    numel = 16 * 64 + 64 * 4
    reversible = (peak(Reversible(), 300) - peak(Reversible(), 100)) / 200
    gradients_of_the_hyper_parameters = 8 * len(ADAM.hyper)
    assert reversible - gradients_of_the_hyper_parameters < 0.03 * numel


@pytest.mark.slow
def test_ten_thousand_steps_are_undone_exactly() -> None:
    """A student of 200 k parameters; the start is recovered or the call raises."""
    width, items, length, rows = 64, 2200, 20, 8
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw) * 0.05

    params = {
        "items": normal(items, width),
        "mix": normal(length, length),
        "up": normal(width, 4 * width),
        "down": normal(4 * width, width),
        "gain": torch.ones(width),
    }
    meta = {"soft": torch.softmax(normal(rows, length, items) * 40, -1)}

    def inner(params: dict[str, Tensor], meta: dict[str, Tensor], step: int) -> Tensor:
        tokens = meta["soft"] @ params["items"]
        hidden = tokens + torch.tril(params["mix"]) @ tokens
        hidden = hidden + torch.nn.functional.gelu(hidden @ params["up"]) @ params["down"]
        hidden = torch.nn.functional.layer_norm(hidden, (width,), params["gain"])[:, :-1]
        logits = hidden @ params["items"].T
        return (torch.logsumexp(logits, -1) - (hidden * tokens[:, 1:]).sum(-1)).mean()

    def outer(params: dict[str, Tensor], meta: dict[str, Tensor]) -> Tensor:
        return inner(params, {"soft": meta["soft"].roll(1, 0)}, 0)

    def state_bytes(steps: int) -> int:
        result = metagradient(
            inner,
            outer,
            params,
            meta,
            steps=steps,
            optimizer=Adam(lr=1e-4, eps_root=1e-8),
            adjoint=Reversible(),
        )
        assert torch.isfinite(result.meta_grads["soft"]).all()
        return result.stats.state_bytes

    numel = sum(tensor.numel() for tensor in params.values())
    slope = (state_bytes(10_000) - state_bytes(1000)) / 9000 / numel
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{numel} parameters: {slope:.4f} bytes a parameter a step, peak {peak / 2**20:.0f} MiB")
    assert slope <= 0.03
    assert peak < 2**30
