"""Mutation testing: run mutmut over what scores, trains and splits, and write docs/mutation.md.

    python scripts/mutation.py run [MODULE ...]     mutants of these modules (all), one at a time
    python scripts/mutation.py report               the page, from the results that are there

Each survivor is matched with a reason in tests/mutation.toml by the change that it makes. The
script fails where less than 85 % of the mutants of a module are killed, or a survivor has no
reason.
"""

from __future__ import annotations

import ast
import difflib
import json
import math
import os
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
REASONS = ROOT / "tests" / "mutation.toml"
PAGE = ROOT / "docs" / "mutation.md"
GOAL = 0.85
KILLED = ("killed", "timeout", "segfault")


class Mutant(NamedTuple):
    """One change of one function, and what the tests said of it."""

    module: str
    function: str
    status: str
    removed: str
    added: str


def modules() -> list[str]:
    """What pyproject.toml says is mutated, as dotted names."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    paths = settings["tool"]["mutmut"]["only_mutate"]
    return [path.removeprefix("src/").removesuffix(".py").replace("/", ".") for path in paths]


def run(chosen: list[str]) -> None:
    """Run mutmut, one module and one process at a time, without the kernels: torch says the same.

    mutmut runs pytest several times in one process, which their loader does not expect.
    """
    for module in chosen:
        print(f"[mutate] {module}", flush=True)
        command = ["mutmut", "run", "--max-children", "1", f"{module}.x*"]
        subprocess.run(
            [str(Path(sys.executable).with_name(command[0])), *command[1:]],
            cwd=ROOT,
            env={**os.environ, "FARZI_NATIVE": "0", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            check=True,
        )


def results() -> list[Mutant]:
    """Every mutant that has been tried."""
    from mutmut.stats import status_by_exit_code

    found = []
    for module in modules():
        file = ROOT.joinpath("mutants", "src", *module.split(".")).with_suffix(".py")
        if not file.is_file():
            continue
        codes = json.loads(file.with_name(f"{file.name}.meta").read_text(encoding="utf-8"))
        text = file.read_text(encoding="utf-8")
        lines, places = text.splitlines(), _functions(ast.parse(text))
        for name, code in codes["exit_code_by_key"].items():
            status, plain = status_by_exit_code[code], name.rpartition(".")[2]
            sides = ("", "")
            if status not in (*KILLED, "not checked"):
                original = plain.rpartition("_")[0] + "_orig"
                sides = _change(*(lines[slice(*places[each])] for each in (original, plain)))
            found.append(Mutant(module, _function(plain), status, *sides))
    return found


def _functions(tree: ast.Module) -> dict[str, tuple[int, int]]:
    """First line after the `def` line and last line of every function, for a slice."""
    return {
        node.name: (node.lineno, node.end_lineno or node.lineno)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    }


def _change(original: list[str], mutant: list[str]) -> tuple[str, str]:
    """What was taken away and what stands there now."""
    removed, added = [], []
    for line in difflib.ndiff(original, mutant):
        side = {"- ": removed, "+ ": added}.get(line[:2])
        if side is not None:
            side.append(line[2:].strip())
    return " ".join(removed), " ".join(added)


def _function(name: str) -> str:
    """`Class.method` or the function's name, from mutmut's."""
    plain = name.rpartition("__mutmut_")[0]
    if plain.startswith("xǁ"):
        return ".".join(plain.split("ǁ")[1:])
    return plain.removeprefix("x_")


def reason_of(mutant: Mutant, rules: list[dict[str, str]]) -> str | None:
    """The reason of the first rule whose `function` and `change` match."""
    change = f"{mutant.removed} -> {mutant.added}"
    for rule in rules:
        place = f"{mutant.module}.{mutant.function}"
        if re.search(rule.get("function", ""), place) and re.search(rule["change"], change):
            return rule["reason"]
    return None


def page(found: list[Mutant], rules: list[dict[str, str]]) -> tuple[str, list[str]]:
    """The page and what is wrong with the result."""
    lines = [
        "# Mutation testing",
        "",
        "`make mutate` changes one thing at a time in the code that scores, trains and splits",
        "(an operator, a number, an argument, a text) and runs the tests that reach it; a change",
        "that no test notices survives. mutmut makes the changes",
        "([pyproject.toml](../pyproject.toml) names the modules); functions with decorators,",
        f"properties among them, are left out. The goal is {GOAL:.0%} of each module. This page is",
        "written by [scripts/mutation.py](../scripts/mutation.py) from the tool's result; the",
        "reasons are in [tests/mutation.toml](../tests/mutation.toml).",
        "",
        "| module | tried | killed | survived | no test | killed of tried | not tried |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    problems = []
    by_module: dict[str, list[Mutant]] = defaultdict(list)
    for mutant in found:
        by_module[mutant.module].append(mutant)
    for module, mutants in by_module.items():
        tried = [mutant for mutant in mutants if mutant.status not in ("not checked", "skipped")]
        untried = len(mutants) - len(tried)
        if untried:
            problems.append(f"{module}: {untried} mutants have not been tried.")
        killed = sum(mutant.status in KILLED for mutant in tried)
        unreached = sum(mutant.status == "no tests" for mutant in tried)
        share = killed / len(tried) if tried else math.nan
        if share < GOAL:
            problems.append(f"{module}: {share:.1%} killed, less than {GOAL:.0%}.")
        lines.append(
            f"| `{module}` | {len(tried)} | {killed} | {len(tried) - killed - unreached} "
            f"| {unreached} | {'' if math.isnan(share) else f'{share:.1%}'} | {untried} |"
        )
    survivors = [mutant for mutant in found if mutant.status not in (*KILLED, "not checked")]
    lines += ["", "## Survivors", ""]
    grouped: dict[tuple[str, str], list[Mutant]] = defaultdict(list)
    for mutant in survivors:
        reason = reason_of(mutant, rules)
        if reason is None:
            problems.append(
                f"{mutant.module}.{mutant.function}: no reason for "
                f"{mutant.removed} -> {mutant.added}"
            )
        grouped[mutant.module, reason or "No reason given."].append(mutant)
    for module in by_module:
        groups = {key[1]: group for key, group in grouped.items() if key[0] == module}
        if groups:
            lines += [f"### `{module}`", ""]
        for reason, group in groups.items():
            lines += [f"{reason}", ""]
            lines += [
                f"- `{mutant.function}`: {_code(mutant.removed)} became {_code(mutant.added)}"
                for mutant in group
            ]
            lines.append("")
    return "\n".join(lines).rstrip() + "\n", problems


def _code(text: str) -> str:
    fence = "``" if "`" in text else "`"
    space = " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}" if text else "nothing"


def main(arguments: list[str]) -> int:
    """Run, report, or both."""
    if not arguments or arguments[0] not in ("run", "report"):
        print(__doc__, file=sys.stderr)
        return 2
    if arguments[0] == "run":
        run(arguments[1:] or modules())
    rules = tomllib.loads(REASONS.read_text(encoding="utf-8"))["survivor"]
    text, problems = page(results(), rules)
    PAGE.write_text(text, encoding="utf-8")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main(sys.argv[1:]))
