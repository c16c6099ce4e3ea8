"""What each part of farzi loads, seen in a child process."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ["torch", "duckdb", "ibis", "pandas", "pyarrow", "numpy"]
EVERY_DEPENDENCY_BUT_TORCH = [
    "cyclopts",
    "duckdb",
    "ibis",
    "jinja2",
    "pandas",
    "pyarrow",
    "pydantic",
    "rich",
]
BARE_MODULES = [
    "farzi.metagrad",
    "farzi.models",
    "farzi.synthetic",
    "farzi.metrics",
    "farzi.training",
    "farzi.evaluation",
    "farzi.artifact",
    "farzi.distill",
]


def run_python(code: str) -> str:
    """Run `code` in a fresh interpreter and return what it printed."""
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert child.returncode == 0, child.stderr
    return child.stdout


def test_importing_farzi_loads_nothing_heavy() -> None:
    loaded = run_python(f"import sys, farzi; print([m for m in {HEAVY} if m in sys.modules])")
    assert loaded.strip() == "[]"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_the_command_line_answers_without_loading_anything_heavy(arguments: list[str]) -> None:
    loaded = run_python(
        "import sys\n"
        "from farzi.cli import main\n"
        f"code = main({arguments})\n"
        "assert code == 0, code\n"
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )
    assert loaded.splitlines()[-1] == "[]"


def test_what_runs_on_a_bare_gpu_image() -> None:
    """With every dependency but torch, numpy and safetensors out of reach."""
    run_python(
        "import sys\n"
        f"for name in {EVERY_DEPENDENCY_BUT_TORCH}: sys.modules[name] = None\n"
        f"import {', '.join(BARE_MODULES)}"
    )
