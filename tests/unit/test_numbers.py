"""Numbers in the documentation: none that was measured is typed by hand.

Tables and what else stands between generated markers is held by `scripts/render_docs.py --check`.
Here is the prose around them, and what the notebook, docs/experiments.md, says of a table that it
links.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs/experiments.md"
# Records of what was seen when something was decided, dated, and not kept up to date.
RECORDS = (NOTEBOOK, *sorted((ROOT / "docs/decisions").glob("*.md")))
GENERATED_PAGES = ("docs/mutation.md", "docs/results/")
UNITS = "%|s|seconds|ms|milliseconds|minutes|hours|kB|MB|GB|kiB|MiB|GiB|times|nats"
# A decimal number, or one with a unit that something is measured in.
NUMBER = re.compile(
    r"(?<![\w.])\d*\.\d+(?![\w.])"
    rf"|(?<![\w.,])\d[\d,]*(?= (?:{UNITS})(?!\w))"
    r"|(?<![\w.,])\d[\d,]*(?=%)"
)

# What is no measurement: versions, limits and settings that the code has, and what follows from
# a definition. Everything else has to come from a result file.
DEFINED = {
    "README.md": {"3.11", "20", "2.0", "95"},
    "docs/artifact.md": {"4"},
    "docs/choosing.md": {"0.02", "0.0001", "1.0", "0.9", "0.01", "0.1"},
    "docs/data.md": {"2", "20", "5"},
    "docs/engine.md": {"0.0253", "0.4"},
    "docs/gpu.md": {"20"},
    "docs/many-machines.md": {"2"},
    "docs/maths.md": {"2", "0.2", "0.002", "0.0253", "0.153", "0.4"},
    "docs/privacy.md": {"0.5"},
    "docs/results/index.md": {"95", "100"},
}


def prose(text: str) -> str:
    """The text with generated parts, code and the addresses of links made blank."""
    parts = (
        r"<!-- (\w+:[\w.-]+) -->.*?<!-- /\1 -->",
        r"```.*?```",
        r"`[^`\n]*`",
        r"(?<=\])\([^)]*\)",
    )
    for part in parts:
        text = re.sub(part, lambda found: "\n" * found[0].count("\n"), text, flags=re.DOTALL)
    return text


def numbers(text: str) -> Iterator[tuple[int, str]]:
    """Line and number of what looks measured."""
    for line, content in enumerate(prose(text).splitlines(), 1):
        yield from ((line, found[0]) for found in NUMBER.finditer(content))


def pages() -> list[str]:
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    found += [*ROOT.glob("benchmarks/*.md"), *ROOT.glob("experiments/*.md")]
    names = [
        str(path.relative_to(ROOT)) for path in found if path not in RECORDS and path.is_file()
    ]
    kept = ("CHANGELOG.md", "CITATION.md")
    return sorted(
        name
        for name in names
        if name not in kept
        and (name == "docs/results/index.md" or not name.startswith(GENERATED_PAGES))
    )


@pytest.mark.parametrize("page", pages())
def test_no_measured_number_is_typed(page: str) -> None:
    typed = [
        f"{page}:{line}: {number}"
        for line, number in numbers((ROOT / page).read_text())
        if number not in DEFINED.get(page, set())
    ]
    assert not typed, "take them from a result file, or name them in DEFINED: " + "; ".join(typed)


def test_what_is_named_as_defined_is_there() -> None:
    for page, defined in DEFINED.items():
        assert {number for _, number in numbers((ROOT / page).read_text())} == defined, page


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It is 1.4 times faster.", ["1.4"]),
        ("after 80 seconds, 12 % more, 3 MB and .97", ["80", "12", "3", ".97"]),
        ("95% of it", ["95"]),
        ("version 2 of `x 1.5`, 40 rows, [here](a.b/1.5)", []),
        ("<!-- table:x -->\n1.5\n<!-- /table:x -->\n2.5", ["2.5"]),
        ("1.2.3 and 2026-11-26", []),
    ],
)
def test_a_typed_number_is_found(text: str, found: list[str]) -> None:
    assert [number for _, number in numbers(text)] == found


# --------------------------------------------------------------------------------- the notebook


def linked(paragraph: str) -> list[str]:
    """Names of the experiments whose pages the paragraph links."""
    return [name for name in re.findall(r"\(results/([\w.-]+?)\.md", paragraph) if name != "index"]


def on_the_page(name: str) -> set[float]:
    """Numbers of an experiment: those on its page, its settings, and its finished cells' curves."""
    page = (ROOT / "docs/results" / f"{name}.md").read_text()
    page += (ROOT / "experiments" / f"{name}.toml").read_text()
    found = {float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*\.?\d*", page)}
    found |= {float(number) for number in re.findall(r"(?<!\d)\.\d+", page)}
    for cell in (ROOT / "experiments/results" / name / "cells").glob("distill.*.json"):
        found |= set(leaves(json.loads(cell.read_text())["result"]))
    return found


def leaves(value: object) -> Iterator[float]:
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from leaves(each)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def unknown(paragraph: str, known: set[float]) -> list[str]:
    """Decimal numbers of a paragraph that none of the known ones rounds to, as they are or in %."""
    said = [number for _, number in numbers(paragraph) if "." in number]
    return [
        number
        for number in said
        if not any(
            round(scale * value, len(number.partition(".")[2])) == float(number)
            for value in known
            for scale in (1, 100, 0.01)
        )
    ]


def paragraphs() -> list[str]:
    """A linked page speaks for its paragraph and for the list that follows."""
    parts = re.split(r"\n\s*\n(?!- )", NOTEBOOK.read_text())
    return [part for part in parts if linked(part)]


@pytest.mark.parametrize("paragraph", paragraphs(), ids=lambda text: text[2:40])
def test_what_the_notebook_says_of_a_table_stands_there(paragraph: str) -> None:
    known = set().union(*(on_the_page(name) for name in linked(paragraph)))
    assert not unknown(paragraph, known)


def test_a_number_that_is_not_in_the_table_is_found() -> None:
    known = {5.613, 0.8661, 24.2, 633.0}
    assert unknown("full data are at 5.613, `farzi` keeps .866, HR@10 is .242", known) == []
    assert unknown("full data are at 5.631, `farzi` keeps .876", known) == ["5.631", ".876"]
