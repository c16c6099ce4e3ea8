"""Nothing is required that is not imported, and nothing imported that is not required."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import farzi

SOURCE = Path(farzi.__file__).parent
PROJECT = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())

# What a distribution is imported as, where that is not its name.
IMPORTED_AS = {
    "ibis-framework": {"ibis"},
    "pytorch": {"torch"},
    "tensorboard": {"torch.utils.tensorboard"},
}
# Comes with a requirement: ibis-framework[duckdb] (which writes SQL with sqlglot), pyspark, torch.
COMES_WITH = {"duckdb", "pandas", "py4j", "sqlglot"}
# Read where the caller has it already: a table in memory.
CALLERS_OWN = {"polars"}


def imports() -> set[str]:
    """Every module that the package imports, anywhere in it."""
    found: set[str] = set()
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module)
    return found


def modules(requirement: str) -> set[str]:
    """What a requirement is imported as."""
    name = re.match(r"[A-Za-z0-9_-]+", requirement)[0]
    extra = re.search(r"\[(\w+)\]", requirement)
    also = {extra[1]} if extra else set()
    return IMPORTED_AS.get(name, {name.replace("-", "_")}) | also


def is_imported(module: str, found: set[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for name in found)


def test_every_requirement_is_imported() -> None:
    found = imports()
    for requirement in PROJECT["project"]["dependencies"]:
        assert any(is_imported(module, found) for module in modules(requirement)), requirement


def test_every_extra_has_code_behind_it() -> None:
    found = imports()
    for extra, requirements in PROJECT["project"]["optional-dependencies"].items():
        if extra in ("dev", "fuzz"):
            continue
        known = {module for requirement in requirements for module in modules(requirement)}
        assert any(is_imported(module, found) for module in known), extra


def test_every_import_is_required() -> None:
    named = PROJECT["project"]["dependencies"] + [
        requirement
        for extra, requirements in PROJECT["project"]["optional-dependencies"].items()
        if extra not in ("dev", "fuzz")
        for requirement in requirements
    ]
    known = {module.partition(".")[0] for requirement in named for module in modules(requirement)}
    known |= set(sys.stdlib_module_names) | COMES_WITH | CALLERS_OWN | {"farzi"}
    assert {name.partition(".")[0] for name in imports()} - known == set()
