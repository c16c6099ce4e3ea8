"""Compiling, caching and doing without the kernels."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from farzi import native

COMPILER = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Each test loads the kernels anew."""
    native._load.cache_clear()
    yield
    native._load.cache_clear()


@needs_compiler
def test_the_kernels_compile_without_a_warning(tmp_path: Path) -> None:
    flags = ["-Wall", "-Wextra", "-Werror", *native.FLAGS]
    assert COMPILER is not None
    command = [COMPILER, *flags, "-x", "c", "-", "-o", str(tmp_path / "k.so"), "-lm"]
    subprocess.run(command, input=native.source(), text=True, check=True)


@needs_compiler
def test_the_library_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert native.status().startswith("compiled")
    (library,) = (tmp_path / "farzi" / "kernels").iterdir()
    written = library.stat().st_mtime_ns
    native._load.cache_clear()
    assert native.kernels_for() is not None
    assert library.stat().st_mtime_ns == written


@pytest.mark.parametrize("obstacle", ["off", "no compiler", "broken compiler", "no cache"])
def test_without_the_kernels_torch_runs(
    obstacle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if obstacle == "off":
        monkeypatch.setenv("FARZI_NATIVE", "0")
    elif obstacle == "no compiler":
        monkeypatch.setattr(shutil, "which", lambda name: None)
    elif obstacle == "broken compiler":
        broken = tmp_path / "cc"
        broken.write_text("#!/bin/sh\n[ $1 = --version ] || { echo 'no such flag' >&2; exit 1; }\n")
        broken.chmod(0o755)
        monkeypatch.setattr(shutil, "which", lambda name: str(broken))
    else:
        (tmp_path / "farzi").write_text("a file where the folder should be")
    assert native.kernels_for(torch.zeros(2)) is None
    assert not native.status().startswith("compiled")
    if obstacle == "broken compiler":
        assert "no such flag" in native.status()


def test_other_dtypes_take_the_torch_path() -> None:
    assert native.kernels_for(torch.zeros(1), torch.zeros(1, dtype=torch.float64)) is None


@needs_compiler
@pytest.mark.parametrize("sizes", [(1, 1, 1), (5, 19, 7), (64, 64, 300), (13, 100, 129)])
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("add", [False, True])
def test_product(sizes: tuple[int, int, int], transpose: bool, add: bool) -> None:
    kernels = native.kernels_for()
    assert kernels is not None
    rows, columns, depth = sizes
    A = torch.randn(depth, rows).T if transpose else torch.randn(rows, depth)
    B, out = torch.randn(depth, columns), torch.randn(rows, columns)
    expected = A.double() @ B.double() + (out.double() if add else 0)
    kernels.product(A, B, out, add=add)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-4)


@needs_compiler
def test_threads_change_rounding_only() -> None:
    script = """
import torch
from farzi.models.fused.soft_head import _cross_entropy
generator = torch.Generator().manual_seed(0)
H, E = (torch.randn(s, 8, generator=generator).requires_grad_() for s in (300, 50))
loss = _cross_entropy(H, E, torch.zeros_like(H), torch.full((300,), 1 / 300))
first = torch.autograd.grad(loss, (H, E), create_graph=True)
second = torch.autograd.grad(sum(g.square().sum() for g in first), (H, E))
print(*(f"{x.double().norm().item():.4e}" for x in (*first, *second)))
"""
    answers = set()
    for threads in ("1", "2", "3"):
        settings = {**os.environ, "OMP_NUM_THREADS": threads}
        done = subprocess.run(
            [sys.executable, "-c", script], env=settings, capture_output=True, text=True, check=True
        )
        answers.add(done.stdout)
    assert len(answers) == 1
