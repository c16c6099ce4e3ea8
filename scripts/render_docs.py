"""Fill the generated parts of README.md, ARCHITECTURE.md, docs/ and benchmarks/README.md.

    python scripts/render_docs.py            write them
    python scripts/render_docs.py --check    fail where one is out of date

A part stands between `<!-- KIND:NAME -->` and `<!-- /KIND:NAME -->`:

    table:NAME    experiments/results/NAME.json, a comparison as `farzi compare --json` prints it
    engines:NAME  benchmarks/results/NAME.json, as benchmarks/bench_engines.py writes it
    tree:folders  the folders and top modules of src/farzi, with the first lines of their docstrings
    tree:files    every module, likewise

No number in the documentation is typed.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PART = re.compile(r"(<!-- (table|tree|engines):([\w.-]+) -->\n)(.*?)(<!-- /\2:\3 -->)", re.DOTALL)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Fill the generated parts of the documentation.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if out of date")
    check = parser.parse_args(arguments).check
    stale = [path for path in documents(ROOT) if fill_document(path, ROOT, write=not check)]
    for path in stale:
        print(f"{path.relative_to(ROOT)}: {'out of date: make docs' if check else 'written'}")
    return int(check and bool(stale))


def documents(root: Path) -> list[Path]:
    return [
        *sorted(root.glob("*.md")),
        *sorted(root.glob("docs/**/*.md")),
        *sorted(root.glob("benchmarks/*.md")),
    ]


def fill_document(path: Path, root: Path, *, write: bool) -> bool:
    """Render a document's parts; return whether that changes it."""

    def render(part: re.Match[str]) -> str:
        opening, kind, name, _, closing = part.groups()
        render_body = {"tree": render_tree, "engines": render_engines}.get(kind, render_result)
        body = render_body(root, name)
        return f"{opening}\n{body}\n\n{closing}"

    text = path.read_text()
    filled = PART.sub(render, text)
    if write and filled != text:
        path.write_text(filled)
    return filled != text


# --------------------------------------------------------------------------------------- results


def render_result(root: Path, name: str) -> str:
    path = root / "experiments" / "results" / f"{name}.json"
    if not path.exists():
        return f"*Not run yet: {path.relative_to(root)} is not there.*"
    return render_comparison(json.loads(path.read_text()))


def render_comparison(result: Mapping[str, Any]) -> str:
    """Return one comparison as Markdown: the table, what is paired, the ratios, the protocol."""
    metrics = list(dict.fromkeys(name for row in result["rows"] for name in row["metrics"]))
    head = ["", "sequences", "tokens", "bytes", *metrics, "runs"]
    lines = [table_line(head), table_line(["---", *("---:" for _ in head[1:])])]
    for row in result["rows"]:
        sizes = [f"{row[size]:,}" for size in ("sequences", "tokens", "bytes")]
        cells = [score(row["metrics"].get(name)) for name in metrics]
        lines.append(table_line([row["name"], *sizes, *cells, str(row["num_runs"])]))
    notes = [paired(item) for item in result.get("paired", [])]
    notes += [ratio(name, value) for name, value in result.get("ratios", {}).items()]
    if notes:
        lines += ["", *(f"- {note}" for note in notes)]
    return "\n".join([*lines, "", result["protocol_line"]])


def render_engines(root: Path, name: str) -> str:
    """Return time, memory and agreement of every engine, peers against the fastest of them."""
    result = json.loads((root / "benchmarks" / "results" / f"{name}.json").read_text())
    rows = [row for row in result["rows"] if row["installed"]]
    head = [
        "steps",
        "engine",
        "loss",
        "ms a step",
        "against fastest peer",
        "peak MB",
        "gradient error",
    ]
    lines = [table_line(head), table_line(["---:", "---", "---", *("---:" for _ in head[3:])])]
    for row in rows:
        peers = [
            peer["ms_per_step"]
            for peer in rows
            if peer["steps"] == row["steps"] and not peer["engine"].startswith("farzi")
        ]
        ratio_to_peer = f"{min(peers) / row['ms_per_step']:.2f}x" if peers else ""
        error = row["gradient_error"]
        lines.append(
            table_line(
                [
                    str(row["steps"]),
                    row["engine"],
                    row["head"],
                    f"{row['ms_per_step']:.1f}",
                    ratio_to_peer,
                    f"{row['peak_bytes'] / 1e6:.0f}",
                    "" if error is None else f"{error:.1e}",
                ]
            )
        )
    versions = ", ".join(f"{key} {value}" for key, value in result["versions"].items())
    note = (
        f"{result['date']}, {result['hardware']}, {result['threads']} threads; median of "
        f"{result['timed_calls']} calls in turns; {versions}."
    )
    return "\n".join([*lines, "", note])


def table_line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def score(value: Mapping[str, float | None] | None) -> str:
    """Return mean and spread: `0.182 ± 0.004`, or the mean of a single run."""
    if value is None or value["mean"] is None:
        return ""
    spread = value.get("std")
    return number(value["mean"]) + (f" ± {number(spread)}" if spread else "")


def number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"


def paired(item: Mapping[str, Any]) -> str:
    difference, low, high = (f"{item[key]:+.4f}" for key in ("difference", "low", "high"))
    return f"{item['a']} - {item['b']}, {item['metric']}: {difference} [{low}, {high}]"


def ratio(name: str, value: float | Mapping[str, float]) -> str:
    if isinstance(value, Mapping):
        return f"{name}: " + ", ".join(f"{metric} {number(r)}" for metric, r in value.items())
    return f"{name}: {number(value)}"


# ------------------------------------------------------------------------------------------ tree


def render_tree(root: Path, name: str) -> str:
    lines = [
        f"{indent}{label:{28 - len(indent)}}{clause}".rstrip()
        for indent, label, clause in tree_entries(root, files=name == "files")
    ]
    return "\n".join(["```", "src/farzi/", *lines, "```"])


def tree_entries(root: Path, *, files: bool) -> Iterator[tuple[str, str, str]]:
    """Yield indentation, name and clause of each entry, the lowest layer first."""
    package = root / "src" / "farzi"
    layers = import_layers(root)
    for layer in reversed(layers):
        folder = package / layer
        if (folder / "__init__.py").exists():
            yield "  ", f"{layer}/", first_line(folder / "__init__.py")
            if files:
                yield from folder_entries(folder, "    ")
        elif (package / f"{layer}.py").exists():
            yield "  ", f"{layer}.py", first_line(package / f"{layer}.py")


def folder_entries(folder: Path, indent: str) -> Iterator[tuple[str, str, str]]:
    for path in sorted(folder.iterdir()):
        if (path / "__init__.py").exists():
            yield indent, f"{path.name}/", first_line(path / "__init__.py")
            yield from folder_entries(path, indent + "  ")
        elif path.suffix == ".py" and path.name != "__init__.py":
            yield indent, path.name, first_line(path)


def import_layers(root: Path) -> list[str]:
    """Return the layers of the import contract, the highest first."""
    settings = tomllib.loads((root / "pyproject.toml").read_text())
    contracts = settings["tool"]["importlinter"]["contracts"]
    (house,) = (contract for contract in contracts if contract["type"] == "layers")
    return [layer.strip("()") for layer in house["layers"]]


def first_line(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    return docstring.partition("\n")[0].removesuffix(".")


if __name__ == "__main__":
    sys.exit(main())
