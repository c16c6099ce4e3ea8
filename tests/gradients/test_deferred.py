"""Thin factors against dense gradients: `readout` inside `metagradient`, with every adjoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from farzi.metagrad import (
    Adam,
    Checkpointed,
    Direct,
    Reversible,
    Stored,
    metagradient,
    readout,
)

ADAM = Adam(lr=0.02, eps_root=1e-6)
SEQUENCES, LENGTH, TOKENS, WIDTH = 3, 4, 7, 2


def draw(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def problem(read: Callable[[Tensor, Tensor], Tensor]) -> tuple[Any, ...]:
    """A loss that reads P twice by `read`, once by another operation, and a second such tensor."""

    def inner(params: dict[str, Tensor], meta: dict[str, Tensor], step: int) -> Tensor:
        X = read(meta["P"], params["E"])
        Y = read(meta["P"], params["E"].square() @ params["A"])
        Z = read(meta["Q"], params["E"])
        return (torch.tanh(X) * Y + Z.sin()).square().mean() + 0.1 * (
            meta["P"].square() @ params["E"]
        ).mean() * (1 + step)

    def outer(params: dict[str, Tensor], meta: dict[str, Tensor]) -> Tensor:
        return params["E"].cos().sum() + read(meta["P"], params["E"]).sum()

    params = {"E": draw(TOKENS, WIDTH, seed=0), "A": draw(WIDTH, WIDTH, seed=1)}
    meta = {
        "P": draw(SEQUENCES, LENGTH, TOKENS, seed=2),
        "Q": draw(LENGTH, TOKENS, seed=3),
        "unused": draw(2, 2, seed=4),
    }
    return inner, outer, params, meta


@pytest.mark.parametrize("steps", [1, 2, 3, 9])
@pytest.mark.parametrize("adjoint", [Stored(), Checkpointed(slots=2)], ids=lambda a: a.name)
def test_thin_factors_equal_dense_gradients(steps: int, adjoint: Any) -> None:
    settings: dict[str, Any] = {"steps": steps, "optimizer": ADAM}
    dense = metagradient(*problem(torch.matmul), adjoint=Direct(), **settings)
    thin = metagradient(*problem(readout), adjoint=adjoint, **settings)
    for name, gradient in dense.meta_grads.items():
        torch.testing.assert_close(thin.meta_grads[name], gradient, rtol=1e-12, atol=1e-13)
    for name, gradient in dense.param_grads.items():
        torch.testing.assert_close(thin.param_grads[name], gradient, rtol=1e-12, atol=1e-13)


def test_direct_with_thin_factors() -> None:
    settings: dict[str, Any] = {"steps": 3, "optimizer": ADAM, "adjoint": Direct()}
    dense = metagradient(*problem(torch.matmul), **settings)
    thin = metagradient(*problem(readout), **settings)
    torch.testing.assert_close(thin.meta_grads, dense.meta_grads, rtol=1e-12, atol=1e-13)


def test_reversible_with_thin_factors() -> None:
    settings: dict[str, Any] = {"steps": 9, "optimizer": ADAM}
    dense = metagradient(*problem(torch.matmul), adjoint=Direct(arithmetic="fixed"), **settings)
    thin = metagradient(*problem(readout), adjoint=Reversible(), **settings)
    torch.testing.assert_close(thin.meta_grads, dense.meta_grads, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("adjoint", [Stored(), Reversible()], ids=lambda a: a.name)
def test_in_single_precision_the_kernels_agree_with_the_dense_path(adjoint: Any) -> None:
    def single(read: Callable[[Tensor, Tensor], Tensor]) -> tuple[Any, ...]:
        inner, outer, params, meta = problem(read)
        return inner, outer, *({k: v.float() for k, v in d.items()} for d in (params, meta))

    settings: dict[str, Any] = {"steps": 9, "optimizer": ADAM, "adjoint": adjoint}
    dense = metagradient(*single(torch.matmul), **settings)
    thin = metagradient(*single(readout), **settings)
    torch.testing.assert_close(thin.meta_grads, dense.meta_grads, rtol=1e-4, atol=1e-5)


def test_what_is_computed_from_meta_is_read_densely() -> None:
    def with_softmax(read: Callable[[Tensor, Tensor], Tensor]) -> tuple[Any, ...]:
        inner, outer, params, meta = problem(read)

        def softened(meta: dict[str, Tensor]) -> dict[str, Tensor]:
            return {**meta, "P": meta["P"].softmax(-1)}

        return (
            lambda p, m, step: inner(p, softened(m), step),
            lambda p, m: outer(p, softened(m)),
            params,
            meta,
        )

    settings: dict[str, Any] = {"steps": 5, "optimizer": ADAM}
    dense = metagradient(*with_softmax(torch.matmul), adjoint=Direct(), **settings)
    thin = metagradient(*with_softmax(readout), adjoint=Stored(), **settings)
    torch.testing.assert_close(thin.meta_grads, dense.meta_grads, rtol=1e-12, atol=1e-13)


def test_several_starts() -> None:
    inner, outer, params, meta = problem(readout)
    starts = {name: torch.stack([value, 0.5 * value]) for name, value in params.items()}
    settings: dict[str, Any] = {"steps": 4, "optimizer": ADAM, "adjoint": Stored()}
    batched = metagradient(inner, outer, starts, meta, batched=True, **settings)
    for start in range(2):
        one = {name: value[start] for name, value in starts.items()}
        alone = metagradient(inner, outer, one, meta, **settings)
        for name, gradient in alone.meta_grads.items():
            torch.testing.assert_close(
                batched.meta_grads[name][start], gradient, rtol=1e-11, atol=1e-12
            )


def test_memory_is_flat_in_the_number_of_steps() -> None:
    from farzi.metagrad.memory import peak_bytes

    def peak(steps: int) -> int:
        P = draw(200, 300, seed=0).softmax(-1)
        params = {"E": draw(300, 2, seed=1)}

        def inner(p: dict[str, Tensor], m: dict[str, Tensor], step: int) -> Tensor:
            return readout(m["P"], p["E"]).square().mean()

        with peak_bytes(torch.device("cpu")) as measured:
            metagradient(
                inner,
                lambda p, m: p["E"].sum(),
                params,
                {"P": P},
                steps=steps,
                optimizer=ADAM,
                adjoint=Checkpointed(slots=3),
            )
        return measured.num_bytes

    dense_bytes = 200 * 300 * 8
    assert peak(32) - peak(8) < 0.1 * dense_bytes
    assert peak(32) < 2 * dense_bytes


@pytest.mark.parametrize("steps", [1, 4, 9])
@pytest.mark.parametrize(
    "adjoint", [Stored(), Checkpointed(slots=2), Direct()], ids=lambda a: a.name
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_mini_batches_equal_dense_gradients(steps: int, adjoint: Any, dtype: torch.dtype) -> None:
    """Batches of different sizes, one with a row twice."""
    batches = [torch.tensor([2, 0]), torch.tensor([1]), torch.tensor([1, 1])]

    def batched(read: Callable[..., Tensor]) -> tuple[Any, ...]:
        def inner(params: dict[str, Tensor], meta: dict[str, Tensor], step: int) -> Tensor:
            rows = batches[step % 3]
            X = read(meta["P"], params["E"], rows)
            Y = read(meta["P"], params["E"].square() @ params["A"], rows)
            return (torch.tanh(X) * Y).square().mean()

        _, outer, params, meta = problem(torch.matmul)
        return inner, outer, *({k: v.to(dtype) for k, v in d.items()} for d in (params, meta))

    settings: dict[str, Any] = {"steps": steps, "optimizer": ADAM}
    dense = metagradient(*batched(lambda P, E, rows: P[rows] @ E), adjoint=Direct(), **settings)
    thin = metagradient(*batched(readout), adjoint=adjoint, **settings)
    close = (
        {"rtol": 1e-11, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
    )
    torch.testing.assert_close(thin.meta_grads, dense.meta_grads, **close)
    torch.testing.assert_close(thin.param_grads, dense.param_grads, **close)
