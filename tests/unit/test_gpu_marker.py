"""Every test that asks for CUDA is marked `gpu`, so that `pytest -m gpu` runs all of them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


def unmarked(source: str) -> list[str]:
    """Tests and lists of devices in a module that ask for CUDA without the marker, with lines."""
    if "cuda" not in source:
        return []
    return [
        f"line {node.lineno}" for node in ast.walk(_without_marked(source)) if _asks_for_cuda(node)
    ]


def _without_marked(source: str) -> ast.Module:
    """The module without what is marked, and without tests that say themselves what CUDA is."""

    class Marked(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST | None:
            marked = any(ast.unparse(each) == "pytest.mark.gpu" for each in node.decorator_list)
            pretends = "setattr('torch.cuda.is_available'" in ast.unparse(node)
            return None if marked or pretends else self.generic_visit(node)

        def visit_Call(self, node: ast.Call) -> ast.AST:
            if ast.unparse(node.func) == "pytest.param" and "mark.gpu" in ast.unparse(node):
                return ast.copy_location(ast.Constant(None), node)
            return self.generic_visit(node)

    return Marked().visit(ast.parse(source))


def _is_cuda(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and (node.value == "cuda" or node.value.startswith("cuda:"))
    )


def _asks_for_cuda(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        values = [*node.args, *(keyword.value for keyword in node.keywords)]
        return "torch.cuda." in called or called.endswith(".cuda") or any(map(_is_cuda, values))
    if isinstance(node, ast.List | ast.Tuple | ast.Set):  # of devices
        words = [each.value for each in node.elts if isinstance(each, ast.Constant)]
        return "cpu" in words and any(map(_is_cuda, node.elts))
    return False


def test_every_test_that_asks_for_cuda_is_marked() -> None:
    modules = sorted(path for path in TESTS.rglob("test_*.py") if path != Path(__file__))
    assert len(modules) > 50
    found = {
        str(path.relative_to(TESTS)): lines
        for path in modules
        if (lines := unmarked(path.read_text(encoding="utf-8")))
    }
    assert found == {}


MARK = "@pytest.mark.gpu\n"


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("def test_a():\n    x.cuda()\n", 1),
        ("def test_a():\n    torch.zeros(3, device='cuda:0')\n", 1),
        ("def test_a():\n    if not torch.cuda.is_available():\n        pytest.skip('none')\n", 1),
        ("@pytest.mark.skipif(not torch.cuda.is_available(), reason='')\ndef test_a(): pass", 1),
        ("@pytest.mark.parametrize('device', ['cpu', 'cuda'])\ndef test_a(device): pass\n", 1),
        ("DEVICES = ['cpu', pytest.param('cuda')]\n", 1),
        (f"{MARK}def test_a():\n    x.cuda()\n", 0),
        (f"{MARK}@pytest.mark.parametrize('n', [1])\ndef test_a(n):\n    x.cuda()\n", 0),
        ("DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)]\n", 0),
        (
            "@pytest.mark.parametrize('c', [0, pytest.param(1, marks=pytest.mark.gpu)])\n"
            "def test_a(c):\n    x.cuda()\n",
            1,
        ),
    ],
)
def test_what_is_found(source: str, count: int) -> None:
    assert len(unmarked(source)) == count
